"""Write a network with shared weights as one small file, from which `load_network` makes it again, and expand one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import safetensors.torch
import torch
from torch import Tensor, nn

from netopsy.codec.file import SUFFIX, read_compressed, sizes, write_compressed
from netopsy.codec.huffman import WIDTHS, relative
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import EntropyCoder
from netopsy.errors import SettingsError, nearest
from netopsy.files import atomic_write
from netopsy.network.effective import EFFECTIVE
from netopsy.network.network import Network, tensor_state
from netopsy.network.preprocessing import FIELDS, Preprocessing
from netopsy.network.weights.weights import array_of, read_compressed_tensors, tensor_of

OWN = ("netopsy:", "torchvision:", "timm:", "hf:")
"""The sources that a file alone can name; code of the user's is not run because a file asks for it."""


def describe(network: Network) -> dict[str, str]:
    """The metadata of a safetensors file: architecture, its options, preprocessing, and names of one tensor.

    architecture: the source, such as `torchvision:resnet18`. options: a JSON object, `{"num_classes": 10}`.
    output: the key or number of the output that is examined, where one was chosen. tokenizer: the folder or file given.
    signature: where the network takes no image, its inputs as `Signature.record` has them.
    size, resize, mean, std, channels, scale, interpolation: as the fields of `Preprocessing`; numbers keep all digits.
    weights: `effective` where the architecture computes its weights and these are what it computed.
    tied: a JSON object, from further names of a tensor that the state dict holds several times to the name kept.
    dtypes: a JSON object, the type of each tensor that is not float32 or a plain integer, such as `bfloat16`.
    """
    source = str(network.provenance.get("source", network.name))
    metadata = {"architecture": source, "options": json.dumps(_options(network, source), sort_keys=True)}
    metadata |= {} if network.returned is None else {"output": str(network.returned)}
    metadata |= {"tokenizer": network.provenance["tokenizer"]} if "tokenizer" in network.provenance else {}
    if "effective_weights" in network.provenance:
        metadata["weights"] = EFFECTIVE
    state = tensor_state(network.module).items()
    kinds = {name: _kind(value) for name, value in state if not _needs_no_word(value.dtype)}
    for key, table in (("tied", aliases(network.module)), ("dtypes", kinds)):
        if table:
            metadata[key] = json.dumps(table, sort_keys=True)
    if isinstance(network.preprocessing, Preprocessing):
        return metadata | _fields(network.preprocessing)
    return metadata | {"signature": json.dumps(network.signature.record())}


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _needs_no_word(dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def aliases(module: nn.Module) -> dict[str, str]:
    """Names in the state dict of tensors that it holds under an earlier name too (tied weights)."""
    first: dict[int, str] = {}
    again: dict[str, str] = {}
    for name, tensor in tensor_state(module, keep_vars=True).items():
        if id(tensor) in first:
            again[name] = first[id(tensor)]
        first.setdefault(id(tensor), name)
    return again


def _options(network: Network, source: str) -> dict[str, Any]:
    options = dict(network.provenance.get("options", {}))
    rescales = getattr(network.module, "transform_input", None)
    if source.startswith("torchvision:") and isinstance(rescales, bool):
        options["transform_input"] = rescales  # torchvision's default depends on where the weights come from
    plain = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return plain if source.startswith(OWN) else {}


def _fields(preprocessing: Preprocessing) -> dict[str, str]:
    return {
        "size": "x".join(map(str, preprocessing.size)),
        "resize": "none" if preprocessing.resize is None else str(preprocessing.resize),
        "mean": ",".join(map(repr, preprocessing.mean)),
        "std": ",".join(map(repr, preprocessing.std)),
        "channels": str(preprocessing.channels),
        "scale": repr(preprocessing.scale),
        "interpolation": preprocessing.interpolation,
    }


OtherDtype = Literal["exact", "float16"]
ARRAY = np.ndarray[Any, np.dtype[Any]]


def expanded_network(
    network: Network, shared: Mapping[str, SharedTensor], other_dtype: OtherDtype = "exact"
) -> Network:
    """A copy of `network` with the weights that expanding its file gives, bit for bit; `network` stays as it is.

    shared: by the weights' names. kept: how all other values are held, see `others`.
    """
    check(network, shared)
    tensors = network.tensors
    changed = {name: torch.from_numpy(tensor.decode()) for name, tensor in shared.items()}
    for name, array in others(network, shared, other_dtype).items():
        if name in tensors:
            changed[name] = tensor_of(array, _kind(tensors[name]))
    return network.with_tensors(changed)


def others(network: Network, shared: Mapping[str, SharedTensor], other_dtype: OtherDtype = "exact") -> dict[str, ARRAY]:
    """The rest of the state dict as the file keeps it: biases, norms, running statistics, weights not shared.

    other_dtype: "exact", or "float16": floating-point tensors as IEEE 754 halves, but one with a value beyond 65504.
    Integers stay as they are. A tensor with several names is there once, under the first.
    """
    if other_dtype not in get_args(OtherDtype):
        raise SettingsError(f"other_dtype {other_dtype!r} is unknown; give one of {', '.join(get_args(OtherDtype))}.")
    again = aliases(network.module)
    state = tensor_state(network.module)
    return {
        name: _array(value, other_dtype) for name, value in state.items() if name not in shared and name not in again
    }


def check(network: Network, shared: Mapping[str, SharedTensor]) -> None:
    """Raise SettingsError unless each of `shared` stands for a parameter of the network, of the same shape."""
    tensors = network.tensors
    for name, tensor in shared.items():
        if name not in tensors:
            raise SettingsError(f"no parameter '{name}' in {network.name}; nearest: {nearest(name, tensors)}.")
        if tensor.shape != tuple(tensors[name].shape):
            raise SettingsError(
                f"shared weights of shape {tensor.shape} for {name}, which is {tuple(tensors[name].shape)}."
            )


def _array(value: Tensor, other_dtype: OtherDtype) -> ARRAY:
    array = array_of(value)
    if other_dtype == "float16" and value.is_floating_point() and array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.array_equal(np.isfinite(half), np.isfinite(array)):
            return half
    return array


def save_shared(
    network: Network,
    shared: Mapping[str, SharedTensor],
    path: str | Path,
    *,
    other_dtype: OtherDtype = "exact",
    coder: EntropyCoder = "ans",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write what `expanded_network(network, shared, other_dtype)` is to `path`, and return that.

    shared: by the weights' names; every other value of the state dict is kept as `others` says. settings: plain data
    that the file's header repeats, such as how the weights were chosen.
    """
    target = destination(path, SUFFIX, force=True)
    check(network, shared)
    header = {**(settings or {}), "kept": other_dtype, "coder": coder}
    return write_compressed(
        target, shared, others(network, shared, other_dtype), metadata=describe(network), settings=header, coder=coder
    )


def destination(path: str | Path, ending: str, *, force: bool) -> Path:
    """`path` as a file that can be written; SettingsError says why it cannot.

    ending: what its name must end in. force: whether a file that is there may be replaced.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        raise SettingsError(f"'{path}' is a folder; give the path of a file that ends in {ending}.")
    if not target.name.lower().endswith(ending) or target.name.lower() == ending:
        raise SettingsError(f"the file '{path}' must end in {ending}, so that it is known for what it is.")
    if not target.parent.is_dir():
        raise SettingsError(f"there is no folder '{target.parent}' to write '{target.name}' in; make it first.")
    if target.exists() and not force:
        raise SettingsError(f"'{path}' exists; give another path, or --force to replace it.")
    return target


def expand(path: str | Path, out: str | Path | None = None) -> dict[str, Tensor]:
    """The state dict that the compressed file `path` holds, on the CPU, each tensor in the type that its network has.

    A tensor that the network's state dict has under several names is there under each. out: a .safetensors file to
    write it to as well, with metadata from which `load_network(out)` builds the network; one that is there is replaced.
    Raises WeightsError where `path` is missing or damaged, SettingsError where `out` cannot be written.
    """
    target = None if out is None else destination(out, ".safetensors", force=True)
    if target is not None and target.name.lower().endswith(SUFFIX):
        raise SettingsError(
            f"'{out}' ends in {SUFFIX}, as compressed files do, and an expanded one is none; "
            "give another name that ends in .safetensors."
        )
    state, metadata = read_compressed_tensors(path)
    for name, stored in _read_aliases(metadata).items():
        if stored in state:
            state[name] = state[stored]
    if target is not None:
        _write(state, target, metadata)
    return state


def save_network(network: Network, path: Path) -> Path:
    """Write the state dict of `network` to the .safetensors file `path`, with what `load_network(path)` needs."""
    again = aliases(network.module)
    state = {name: value for name, value in tensor_state(network.module).items() if name not in again}
    _write(state, path, describe(network))
    return path


_CARRIED = ("architecture", "options", "weights", "output", "tokenizer", "signature")


def _read_aliases(metadata: dict[str, str]) -> dict[str, str]:
    try:
        names = json.loads(metadata.get("tied", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(names, dict):
        return {}
    return {name: stored for name, stored in names.items() if isinstance(stored, str)}


def _write(state: dict[str, Tensor], target: Path, metadata: dict[str, str]) -> None:
    header = {key: metadata[key] for key in (*_CARRIED, *FIELDS) if key in metadata}
    try:
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        with atomic_write(target) as part:
            safetensors.torch.save_file(tensors, part, metadata=header)
    except OSError as error:
        raise SettingsError(f"cannot write '{target}' ({error.strerror or error}); give another path.") from error
    except KeyError as error:  # a type that the format does not have
        raise SettingsError(f"a .safetensors file cannot hold values of type {error}; leave out `out`.") from error


OTHER, HEADER, ALL = "kept as they are", "header", "all"

COLUMNS: dict[str, Any] = {
    "layer": pl.String,
    "weights": pl.Int64,
    "kept": pl.Int64,
    "kept_share": pl.Float64,
    "entries": pl.Int64,
    "code_bits": pl.Float64,
    "gap_bits": pl.Float64,
    "bits_before": pl.Float64,
    "code_bits_after": pl.Float64,
    "gap_bits_after": pl.Float64,
    "bits_after": pl.Float64,
    "float32": pl.Int64,
    "bytes": pl.Int64,
    "share": pl.Float64,
    "ratio": pl.Float64,
}


def storage_table(path: str | Path) -> pl.DataFrame:
    """One row a layer in the order of the file, then `kept as they are`, `header` and `all`.

    weights, kept, kept_share: values, and those that are not zero. entries: of the table, 0.0 included.
    code_bits, gap_bits: before entropy coding, of each kept weight: log2 of the entries that are not 0.0, rounded up,
    and the relative index of the `WIDTHS` that is cheapest with its filler entries; bits_before: their sum.
    code_bits_after, gap_bits_after, bits_after: in the file, of each kept weight.
    float32: bytes at 4 a value. bytes: in the file, table included; they sum to the file's size, in the row `all`.
    share: bytes of float32. ratio: its inverse. A tensor that a state dict holds under several names counts once.
    """
    shared = read_compressed(path).shared
    rows, other, header = [], [], 0
    for row in sizes(path):
        if row["kind"] == "shared":
            rows.append(_layer(row, shared[row["name"]]))
        elif row["kind"] == "kept":
            other.append(row)
        else:
            header += row["bytes"]
    values, stored = (sum(row[key] for row in other) for key in ("values", "bytes"))
    weights, kept = (sum(row[key] for row in rows) for key in ("weights", "kept"))
    total = {"layer": ALL, "weights": weights + values, "kept": kept + sum(row["kept"] for row in other)}
    total |= _cost(4 * (weights + values), sum(row["bytes"] for row in rows) + stored + header)
    total["kept_share"] = total["kept"] / max(1, total["weights"])
    for key in ("code_bits", "gap_bits", "bits_before", "code_bits_after", "gap_bits_after", "bits_after"):
        total[key] = sum(row[key] * row["kept"] for row in rows) / max(1, kept)
    rows.append({"layer": OTHER, "weights": values, **_cost(4 * values, stored)})
    rows.append({"layer": HEADER, **_cost(0, header)})
    return pl.DataFrame([*rows, total], schema=COLUMNS)


def layer_name(weight: str) -> str:
    """The name of the layer that a weight belongs to, as `Layer.name` has it."""
    for ending in (".weight", "_weight"):
        if weight.endswith(ending):
            return weight.removesuffix(ending)
    return weight


def _layer(row: dict[str, Any], shared: SharedTensor) -> dict[str, Any]:
    kept = max(1, shared.kept)
    codes, gaps = bits_before(shared)
    return {
        "layer": layer_name(row["name"]),
        "weights": len(shared.codes),
        "kept": shared.kept,
        "kept_share": shared.kept / max(1, len(shared.codes)),
        "entries": len(shared.table),
        "code_bits": codes,
        "gap_bits": gaps,
        "bits_before": codes + gaps,
        "code_bits_after": 8 * row["codes"] / kept,
        "gap_bits_after": 8 * row["positions"] / kept,
        "bits_after": 8 * (row["codes"] + row["positions"]) / kept,
        **_cost(4 * len(shared.codes), row["bytes"]),
    }


def bits_before(shared: SharedTensor) -> tuple[float, float]:
    """Bits of code and of relative index for each kept weight, before entropy coding: `gap_cost` of whole bits."""
    used = len(shared.table) - (shared.zero is not None)
    return gap_cost(shared, math.ceil(math.log2(used)) if used > 1 else 0)


def gap_cost(shared: SharedTensor, width: int) -> tuple[float, float]:
    """Bits of value and of relative index for each kept weight, with a value of `width` bits and the best of `WIDTHS`.

    A gap of n bits reaches 2 ** n positions on; a longer one takes a filler, an entry with a value and a gap of its own
    (Han et al., Figure 2). A tensor without zeros needs no gaps.
    """
    if shared.zero is None or not shared.kept:
        return float(width), 0.0
    entries = {bits: len(relative(shared, bits)[0]) for bits in WIDTHS}
    best = min(WIDTHS, key=lambda bits: entries[bits] * (width + bits))
    return width * entries[best] / shared.kept, best * entries[best] / shared.kept


def _cost(before: int, after: int) -> dict[str, Any]:
    has_values = before > 0
    ratio = before / after if has_values and after else None
    return {"float32": before, "bytes": after, "share": after / before if has_values else None, "ratio": ratio}

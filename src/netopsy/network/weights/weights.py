"""Read the tensors of a weights file, safely."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import pickle
import re
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netopsy.codec.file import SUFFIX, is_compressed, read_compressed
from netopsy.errors import WeightsError
from netopsy.network.signature import Signature, read_signature

PICKLED = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLED, ".npz", ".onnx")
KINDS = ".safetensors, .pt/.pth/.th, .npz or .onnx"
INDEX = ".index.json"
_DEPTH = 8  # of nested tables in a checkpoint


@dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    label: how messages call it. tensors: by name, in the order of the file; the name of a tensor in a nested table
    begins with the table's keys (`ema.conv1.weight`). metadata: of a safetensors header. digest: SHA-256 of the file,
    None for a state dict in memory. uses: of an ONNX file only, its operators' tensors. operators: how often it has
    which operator.
    """

    label: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    digest: str | None = None
    uses: tuple[Any, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)

    @property
    def signature(self) -> Signature | None:
        """The network's inputs, where the header has them: a JSON object under `signature`."""
        try:
            return read_signature(json.loads(self.metadata.get("signature", "null")))
        except (ValueError, RecursionError):
            return None

    @property
    def tokenizer(self) -> str | None:
        """The folder or file of the network's tokenizer, where the header names one that is there."""
        return named_tokenizer(self.metadata)


def named_tokenizer(header: Mapping[str, str]) -> str | None:
    """The folder or file of a tokenizer that a header names, where it is there."""
    path = header.get("tokenizer")
    return path if path is not None and os.path.exists(path) else None


def read_weights(path: str | Path) -> Weights:
    """The tensors of `path`: safetensors, a PyTorch checkpoint (never an unrestricted pickle), `.npz` or `.onnx`.

    A `.index.json` names the files over which a network is spread, which lie beside it.
    Raises WeightsError where the file is missing, damaged, of another kind or holds no tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        if (path / "config.json").is_file():
            raise WeightsError(f"'{path}' is a folder of transformers; give hf:{path} as the network's source.")
        raise WeightsError(f"weights file '{path}' {what}; give the path of a {KINDS} file.")
    suffix = path.suffix.lower()
    files = [path]
    metadata: dict[str, str] = {}
    uses: tuple[Any, ...] = ()
    operators: Mapping[str, int] = {}
    if path.name.endswith(INDEX):
        files += _shards(path)
        tensors = {name: tensor for shard in files[1:] for name, tensor in read_weights(shard).tensors.items()}
    elif suffix == ".onnx":
        from netopsy.network.weights.onnx import read_onnx

        uses, tensors, operators = read_onnx(path)
    elif suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
    elif suffix in SUFFIXES:
        tensors = _npz(path) if suffix == ".npz" else _unpickle(path)
    elif suffix == ".pt2":
        raise _code_error(path, "an exported program (torch.export)", "torch.export.load")
    else:
        raise WeightsError(f"weights file '{path}' ends in '{suffix}'; Netopsy reads {KINDS}.")
    if not tensors:
        raise WeightsError(f"weights file '{path}' holds no tensors; save the network's state_dict() in it.")
    total = hashlib.sha256()
    for one in files:
        with one.open("rb") as file:
            total.update(file.read()) if len(files) > 1 else (total := hashlib.file_digest(file, "sha256"))
    return Weights(path.name, tensors, metadata, total.hexdigest(), uses, operators)


def nested_tensors(content: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested tables and lists, under the keys that lead to it, joined by points."""
    if isinstance(content, np.ndarray) and content.dtype.kind in "biuf":
        content = torch.from_numpy(np.array(content, order="C"))
    if isinstance(content, Tensor):
        if path:
            yield path, content.detach()
    elif isinstance(content, Mapping | list | tuple) and depth < _DEPTH:
        for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from nested_tensors(value, f"{path}.{key}" if path else str(key), depth + 1)


def _damage_error(path: Path, error: Exception) -> WeightsError:
    reason = (str(error).strip().splitlines() or [""])[0][:160].rstrip(".")
    if "pickle" in reason or not any(letter.isalpha() for letter in reason):
        reason = "its content is of another kind"
    return WeightsError(
        f"weights file '{path}' is damaged or not a {path.suffix} file ({reason}); fetch or save it again."
    )


def _code_error(path: Path, what: str, load: str) -> WeightsError:
    return WeightsError(
        f"weights file '{path}' is {what}: compiled code with its weights, which Netopsy does not run; where you trust "
        f"it, save {load}('{path.name}').state_dict() with torch.save and give that file."
    )


def _shards(path: Path) -> list[Path]:
    """The files that an index names, which lie beside it."""
    try:
        named = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({str(name) for name in named})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise _damage_error(path, error) from error
    if wrong := [name for name in names if Path(name).name != name or name.endswith(INDEX)]:
        raise WeightsError(f"'{path}' names '{wrong[0][:100]}', which is no file beside it; fetch the index again.")
    return [path.parent / name for name in names]


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if path.name.endswith(SUFFIX) or is_compressed(path):
        return read_compressed_tensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damage_error(path, error) from error


def read_compressed_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a compressed file in the types of its network, and its metadata. Errors: as `read_compressed`."""
    compressed = read_compressed(path)
    kinds = _table(compressed.metadata.get("dtypes", ""))
    return {name: tensor_of(array, kinds.get(name)) for name, array in compressed.state().items()}, compressed.metadata


def _table(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def array_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """`tensor` as an array that a compressed file keeps: complex numbers as pairs, types unknown to NumPy as bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.is_complex():
        return torch.view_as_real(tensor.resolve_conj()).numpy().copy()
    if tensor.dtype in _PLAIN:
        return tensor.numpy().copy()
    return tensor.view(_INTEGERS[tensor.element_size()]).numpy().copy()


def tensor_of(array: np.ndarray[Any, Any], dtype: Any = None) -> Tensor:
    """The tensor of type `dtype`, a torch type's name, that became `array`; by default halves become float32."""
    tensor = torch.from_numpy(array.copy())
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(kind, torch.dtype):
        return tensor.float() if tensor.dtype == torch.float16 else tensor
    if kind.is_complex and tensor.is_floating_point() and tensor.shape[-1:] == (2,):
        return torch.view_as_complex(tensor).to(kind)
    bits = kind not in _PLAIN and not kind.is_complex and tensor.dtype == _INTEGERS.get(kind.itemsize)
    return tensor.view(kind) if bits else tensor.to(kind)


_PLAIN = (
    *(torch.float16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
"""The types that a compressed file keeps as they are."""


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise _damage_error(path, error) from error


def _unpickle(path: Path) -> dict[str, Tensor]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in names:
            raise _code_error(path, "a TorchScript archive", "torch.jit.load")
        if "archive_format" in names or "serialized_exported_program.json" in archive.namelist():
            raise _code_error(path, "an exported program (torch.export)", "torch.export.load")
    try:
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in _harmless().items()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(
            r"GLOBAL ([\w.]+)|(?:got|function) <(?:class|built-in function|function) '?([\w.]+)", str(error)
        )
        if kind is None:
            raise _damage_error(path, error) from error
        raise WeightsError(
            f"weights file '{path}' holds Python objects, which Netopsy does not run ('{kind[1] or kind[2]}', as in a "
            f"whole module that was saved); where you trust it, load it with torch.load(..., weights_only=False) "
            f"yourself and give the module, or save its state_dict() alone."
        ) from error
    except Exception as error:
        # torch.load has no error type of its own: a cut or foreign file raises any of a dozen.
        raise _damage_error(path, error) from error
    if not isinstance(content, Mapping | list | tuple):
        raise WeightsError(f"weights file '{path}' holds a {type(content).__name__}; it must hold a state dict.")
    tensors = dict(nested_tensors(content))
    if not tensors and not isinstance(content, Mapping):
        raise WeightsError(f"weights file '{path}' holds a {type(content).__name__}; it must hold a state dict.")
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise WeightsError(f"weights file '{path}' holds no tensors (it holds {keys}); save a state_dict() in it.")
    return tensors


class _Settings:
    """Stands for the tables of settings of other libraries: what they held is kept as a plain table, or dropped."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _Dropped:
    """Stands for an object whose content no one asks for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _dtype(code: Any, *_: Any) -> np.dtype[Any]:
    """A NumPy type of plain numbers or text; one of objects would turn bytes of the file into addresses."""
    if not isinstance(code, str) or np.dtype(code).kind not in "biufcSU":
        raise pickle.UnpicklingError("GLOBAL numpy.dtype of another kind than numbers")
    return np.dtype(code)


def _scalar(dtype: Any, raw: Any) -> Any:
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufcSU" or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("GLOBAL numpy.scalar of another kind than numbers")
    return np.frombuffer(raw, dtype)[0]


def _empty_array(*_: Any) -> np.ndarray[Any, Any]:
    return np.zeros(0, np.int8)


def _harmless() -> dict[str, Any]:
    """What may stand in a checkpoint beside tensors and plain data, by name: each with what is made in its place."""
    plain: dict[str, Any] = {
        f"builtins.{kind.__name__}": kind for kind in (int, float, str, bool, list, tuple, dict, frozenset, slice)
    }
    plain |= {
        f"datetime.{name}": getattr(datetime, name) for name in ("datetime", "date", "time", "timedelta", "timezone")
    }
    plain |= {"argparse.Namespace": argparse.Namespace, "types.SimpleNamespace": types.SimpleNamespace}
    plain |= {"collections.defaultdict": _Settings, "typing.Any": _Dropped}
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath", "Path", "PurePath"):
            plain[f"{module}.{name}"] = PurePosixPath
        for name in ("WindowsPath", "PureWindowsPath"):
            plain[f"{module}.{name}"] = PureWindowsPath
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        plain |= {f"{module}.scalar": _scalar, f"{module}._reconstruct": _empty_array}
    plain |= {"numpy.ndarray": np.ndarray, "numpy.dtype": _dtype}
    for kind in map(type, map(np.dtype, ("?bBhHiIlLqQefdFDSU"))):
        plain[f"{kind.__module__}.{kind.__name__}"] = kind
    for name in _TABLES:
        plain[name] = _Settings
    for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata"):
        plain[f"omegaconf.{name}"] = _Dropped
    for kind_name in ("Any", "String", "Integer", "Float", "Boolean", "Enum", "Bytes", "Path"):
        plain[f"omegaconf.nodes.{kind_name}Node"] = _Dropped
    return plain


_TABLES = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
)
"""Tables of settings of training libraries."""

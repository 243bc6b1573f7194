"""Load a network: its architecture, its weights, its preprocessing, and a record of where each came from."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from netopsy.errors import NetopsyWarning, SettingsError, WeightsError, nearest
from netopsy.network.capture import forward_names, token_signature
from netopsy.network.effective import EFFECTIVE, fold_computed_weights, is_parametrized, remove_parametrizations
from netopsy.network.network import Network, tensor_state
from netopsy.network.preprocessing import FIELDS, Preprocessing, override, read_fields, read_size
from netopsy.network.signature import Signature, signature_of
from netopsy.network.sources.modules import is_lazy, open_tokenizer, padding_notes, run_lazy, runs, unwrap
from netopsy.network.sources.sources import (
    ModuleSource,
    Source,
    find_source,
    is_graph_path,
    is_weights_path,
    read_architecture,
)
from netopsy.network.weights.matching import check_values, choose_match, compare, fit_weights, match_in_order
from netopsy.network.weights.weights import Weights, named_tokenizer, nested_tensors, read_weights
from netopsy.settings import stream

_LARGEST_SIZE = 4096  # pixels of a side that a header may ask a network to be built for


def load_network(
    source: str | os.PathLike[str] | nn.Module,
    *,
    weights: str | os.PathLike[str] | Mapping[str, Any] | nn.Module | bool | None = None,
    state: str | None = None,
    match: Literal["name", "order"] = "name",
    seed: int = 0,
    output: str | int | None = None,
    example: Any = None,
    tokenizer: Any = None,
    download: bool = False,
    dtype: Literal["float32", "own"] = "float32",
    **preprocessing: Any,
) -> Network:
    """Load a network for examination; its module is in eval mode.

    source: `torchvision:NAME`, `timm:NAME`, `netopsy:NAME`, `hf:FOLDER` (of Hugging Face's
        transformers), `package.module:factory`; `onnx:FILE`, a graph (`shape`
        gives the sizes of a sample that it leaves open, `fixed` the values of inputs that are none); `FILE.pt2`, an
        exported program; a torch module (it is copied, and taken out of DataParallel, AveragedModel and
        torch.compile); or the path of a safetensors file whose metadata names its architecture.
    weights: None takes the shipped weights where there are any, those that a module or factory brings, else draws
        them; "random" always draws; True, "hub" or a hub's name (`IMAGENET1K_V2`, a timm tag) fetches; a path reads
        .safetensors, .pt/.pth/.th, .npz or .onnx; a state dict, a checkpoint in memory or a module gives its own.
    state: of a checkpoint that holds the network several times (`model` and `model_ema`), the key of the one to take.
    match: how the weights of a file find their places: by name, or one after the other, where another code base gave
        all of them other names; then the shapes must agree from the first to the last.
    seed: of random weights; their stream is Netopsy's own, so they are not those that `torch.manual_seed(seed)` gives.
    output: of a network that returns several tensors the one to examine, by its key or its number; by default the one
        called `logits`, else the first.
    example: a batch that the forward pass takes, where that is no image: a tensor or array, several in order, or a
        mapping by name, each (batch, ...); or Samples, whose first batch it is; or a `Signature`. By default one image.
    tokenizer: for a network that takes tokens: a folder with a tokenizer, a `tokenizer.json`, or one of transformers or
        tokenizers. Without an example the first argument of the forward pass then takes `length` (128) tokens.
    download: fetch the folder of `hf:ORG/NAME` from its hub.
    dtype: in which the network computes: float32, whatever its weights are; or `own`, the type of its weights, as
        float16 and bfloat16. Samples are turned into it.
    preprocessing: the fields of `Preprocessing`, each overriding what the weights or the architecture say, and the
        options of the architecture (`num_classes`, for some also `width` and others; for `hf:` the `head` and the
        `length` of samples). What is not given here is taken from a safetensors file's metadata where these name it.

    Raises NetworkError (no such network), WeightsError (no such weights, or they do not fit) and SettingsError (no
    such option, or out of range). `Network.provenance` records source, weights, digest, seed and who said what of
    the preprocessing. Weights of another floating type than float32 are turned into it, unless asked otherwise;
    masked and parametrised ones, and those that a module computes from others, into the effective weights that
    their operators multiply with. A NetopsyWarning, also in `Network.provenance["notes"]`, says what was chosen or
    left out on the way.
    """
    file = None
    if is_weights_path(source) and not is_graph_path(source):
        if weights is not None:
            raise SettingsError(f"the source '{source}' is a weights file itself; give the architecture as the source.")
        file = read_weights(source)  # type: ignore[arg-type]
        source = read_architecture(file, Path(source).expanduser().parent)  # type: ignore[arg-type]
        output = file.metadata.get("output") if output is None else output
    if dtype not in ("float32", "own"):
        raise SettingsError(f"dtype '{dtype}' must be float32, or own for the type of the weights.")
    origin = find_source(source, download=download, own_type=dtype == "own")
    hub, file = _choose_weights(weights, origin, file)
    header = origin.header if isinstance(origin, ModuleSource) else {}
    if tokenizer is None:
        tokenizer = named_tokenizer(header) if file is None or header else file.tokenizer
    tokens = None if tokenizer is None else open_tokenizer(tokenizer)
    length = preprocessing.pop("length", None) if tokens and "length" not in origin.options else None
    overrides, options = _sort_options(preprocessing, origin)
    if state is not None and (file is None or file.uses):
        raise SettingsError(f"state '{state}' chooses within a checkpoint; give one as weights, or leave state out.")
    options = _options_in_header(file, origin) | options
    size = _built_size(overrides, file)

    if match not in ("name", "order"):
        raise SettingsError(f"match '{match}' must be 'name' or 'order'.")

    def build(**more: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream("weights", seed))
            built = origin.build({**options, **more}, size, hub, file)
            if is_lazy(built):
                run_lazy(built, _read_example(example, built, overrides), origin.name)
            return built

    module = build()
    signature = _read_example(example, module, overrides)
    prepared, said_by = origin.preprocessing(module, hub, file)
    if signature is None and isinstance(prepared, Preprocessing) and not overrides:
        signature = None if file is None else file.signature
    if tokens is not None:
        known = signature or (prepared if isinstance(prepared, Signature) else token_signature(module, tokens, length))
        signature = replace(known if length is None else known.with_length(length), tokenizer=tokens)
    changed: Preprocessing | Signature = prepared
    if isinstance(prepared, Preprocessing):
        if file is not None:
            prepared, said_by = read_fields(prepared, said_by, file.metadata, file.label)
        prepared = _fit_depth(prepared, module, read_size(overrides["size"]) if "size" in overrides else prepared.size)
        changed = override(prepared, overrides)
    elif left := sorted(set(overrides) - ({"size"} if all(x.kind == "image" for x in prepared.inputs) else set())):
        inputs = ", ".join(map(str, prepared.inputs))
        raise SettingsError(f"{left[0]} is of pictures, and {origin.name} takes {inputs}; leave it out.")
    provenance: dict[str, Any] = {"source": origin.name, **_weights_record(origin, hub, file, seed, options)}
    if header:
        provenance["program"] = {key: text[:300] for key, text in sorted(header.items())}
    if file is not None and not origin.places_weights:
        module, more = _put(module, build, file, changed, origin, options, state, match)
        provenance |= more
    effective = remove_parametrizations(module)
    check_values(module, tensor_state(module), f"the weights of {origin.name}")
    if dtype == "own":
        if file is not None and not origin.places_weights:
            _take_type(module, file)
        kinds = _types(module) - {torch.float32}
        if kinds:
            provenance["computed_in"] = f"{_names(kinds)}, the type of the weights"
    elif kinds := _types(module) - {torch.float32}:
        _turn(module, kinds, torch.float32)
        provenance["computed_in"] = f"float32, the weights were given in {_names(kinds)}"
    if overrides:
        said_by += f"; given: {', '.join(sorted(overrides))}"
    taken = signature or changed
    shown = "the tokenizer given" if tokens is not None and example is None else "the example given"
    provenance["preprocessing"] = {**taken.record(), "from": said_by if signature is None else shown}
    if isinstance(tokenizer, str | os.PathLike):
        provenance["tokenizer"] = str(tokenizer)
    if output is not None:
        provenance["output"] = output
    notes = [*origin.notes, *provenance.get("notes", ()), *padding_notes(taken.signature)]
    if notes:
        provenance["notes"] = notes
    for note in notes:
        warnings.warn(f"{origin.name}: {note}.", NetopsyWarning, stacklevel=2)
    network = Network(name=origin.name, module=module, preprocessing=taken, provenance=provenance, returned=output)
    effective += fold_computed_weights(network)
    if effective or (file is not None and file.metadata.get("weights") == EFFECTIVE):
        network.provenance["effective_weights"] = effective
    return network


def _read_example(example: Any, module: nn.Module, overrides: Mapping[str, Any]) -> Signature | None:
    """The inputs that an example shows; None where there is none, or it shows an image like any other."""
    if example is None:
        return None
    if overrides:
        raise SettingsError(
            f"{', '.join(sorted(overrides))} describe an image, and an example is given; leave one of the two out."
        )
    if isinstance(example, Signature):
        return example
    if hasattr(example, "records"):  # Samples, which stand on a floor above
        if not hasattr(example.records, "signature"):
            return None
        example = example.records.signature()
    if isinstance(example, Signature):
        if len(example.inputs) > 1:
            return example
        entry = replace(example.inputs[0], name=(forward_names(module) or ("input",))[0])
        if entry.kind == "series" and len(entry.shape) == 1:  # one channel, with its axis where the module needs it
            shape = (1, *entry.shape)
            if not runs(module, entry.shape) and runs(module, shape):
                entry = replace(entry, shape=shape, length_axis=None if entry.length_axis is None else 1)
        return replace(example, inputs=(entry,))
    return signature_of(example, forward_names(module) or ("input",))


def _types(module: nn.Module) -> set[torch.dtype]:
    """The floating-point types of the parameters."""
    return {t.dtype for t in module.parameters() if t.is_floating_point()}


def _names(kinds: set[torch.dtype]) -> str:
    return ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def _turn(module: nn.Module, kinds: set[torch.dtype], kind: torch.dtype) -> None:
    """Turn parameters and buffers of some types into another, in place.

    A buffer of a type that no parameter has (a constant in float64, a table in float16) stays as it is.
    """
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if tensor.dtype in kinds:
                tensor.data = tensor.data.to(kind)


def _take_type(module: nn.Module, file: Weights) -> None:
    """Turn a module into the one floating-point type that the tensors of its file have."""
    kinds = {tensor.dtype for tensor in file.tensors.values() if tensor.is_floating_point()}
    if len(kinds) == 1:
        _turn(module, _types(module), kinds.pop())


def _sort_options(options: dict[str, Any], origin: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the preprocessing and those of the architecture; None counts as not given."""
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in FIELDS and name not in origin.options:
            allowed = (*FIELDS, *origin.options)
            raise SettingsError(
                f"no option '{name}' for {origin.name}; "
                f"nearest: {nearest(name, allowed, 1)}; all: {', '.join(allowed)}."
            )
    architecture = {name: value for name, value in options.items() if name in origin.options}
    return {name: value for name, value in options.items() if name not in architecture}, architecture


def _options_in_header(file: Weights | None, origin: Source) -> dict[str, Any]:
    """The options of the architecture that the header of a safetensors file names: a JSON object under `options`.

    A number larger than any extent of the file's tensors is passed over: no damaged header makes a network huge.
    """
    if file is None or "options" not in file.metadata:
        return {}
    try:
        header = json.loads(file.metadata["options"])
    except (ValueError, RecursionError):
        return {}
    largest = max((extent for tensor in file.tensors.values() for extent in tensor.shape), default=0)
    return {
        name: value
        for name, value in (header.items() if isinstance(header, dict) else ())
        if name in origin.options
        and (isinstance(value, bool | str) or (isinstance(value, int | float) and 0 <= value <= largest))
    }


def _built_size(overrides: dict[str, Any], file: Weights | None) -> tuple[int, int] | None:
    """The input size to build for: the one given, else that of a header which names the options too."""
    if "size" in overrides:
        return read_size(overrides["size"])
    if file is None or not {"size", "options"} <= set(file.metadata):
        return None
    try:
        size = read_size(file.metadata["size"])
    except SettingsError:
        return None
    return size if max(size) <= _LARGEST_SIZE else None


def _choose_weights(weights: Any, origin: Source, file: Weights | None) -> tuple[str | None, Weights | None]:
    """A name on a hub, or a file; both None for random weights or a module's own."""
    if file is not None:
        return None, file
    if weights is None:
        return None, read_weights(origin.shipped) if origin.shipped else None
    if isinstance(weights, nn.Module):
        weights = tensor_state(unwrap(weights)[0])
    if isinstance(weights, Mapping):
        return None, Weights("state dict", dict(nested_tensors(weights)))
    if weights is False or weights == "random":
        if origin.fresh != "random":
            raise WeightsError(
                f"{origin.name} brings {origin.fresh} weights; leave weights out, or give the path of a file."
            )
        return None, None
    if weights is True:
        return "hub", None
    if is_weights_path(weights):
        return None, read_weights(weights)
    if isinstance(weights, str) and weights:
        return weights, None
    raise WeightsError(
        f"weights {weights!r} must be the path of a file, a name on a hub, True, 'random' or a state dict."
    )


def _weights_record(
    origin: Source, hub: str | None, file: Weights | None, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    record: dict[str, Any] = {"options": options} if options else {}
    if file is not None:
        record |= {"weights": file.label, "weights_sha256": file.digest}
        if file.metadata:
            record["weights_metadata"] = {key: value[:300] for key, value in sorted(file.metadata.items())}
        return record
    if hub is not None:
        return record | {"weights": f"hub: {hub}"}
    return record | {"weights": origin.fresh} | ({} if origin.fresh == "the module's own" else {"seed": seed})


def _fit_depth(prepared: Preprocessing, module: nn.Module, size: tuple[int, int]) -> Preprocessing:
    """As many channels as the network's first convolution has, one being grey; mean and std become their own means.

    Convolutions may stand in another order than they run in: a number other than 1 has to run where three do not.
    """
    first = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.in_channels in (3, prepared.depth):
        return prepared
    depth = first.in_channels
    if depth != 1 and (runs(module, (prepared.depth, *size)) or not runs(module, (depth, *size))):
        return prepared
    mean, std = ((sum(values) / len(values),) * depth for values in (prepared.mean, prepared.std))
    return replace(prepared, channels="L" if depth == 1 else depth, mean=mean, std=std)


def _put(
    module: nn.Module,
    build: Any,
    file: Weights,
    prepared: Preprocessing | Signature,
    origin: Source,
    options: dict[str, Any],
    state: str | None,
    match: str,
) -> tuple[nn.Module, dict[str, Any]]:
    """`module` with the file's weights, rebuilt for another number of classes where only that differs."""
    record: dict[str, Any] = {}
    module = _in_form_of(file, module, prepared)
    if match == "order" and (in_order := match_in_order(file.tensors, module)) is not None:
        fit_weights(module, in_order, file.label, origin.name)
        return module, {"weights_matched": "in their order, as asked for"}
    tensors, said = _name_tensors(module, file, prepared, origin, state)
    classes = compare(module, tensors).classes
    if classes is not None and "num_classes" in origin.options and "num_classes" not in options:
        rebuilt = _in_form_of(file, build(num_classes=classes), prepared)
        renamed, said_then = _name_tensors(rebuilt, file, prepared, origin, state)
        if not compare(rebuilt, renamed):
            module, tensors, said = rebuilt, renamed, said_then
            record["num_classes"] = f"{classes}, from the shape of the classifier in {file.label}"
    why = ""
    if file.uses and compare(module, tensors):
        from netopsy.network.weights.onnx import explain_misfit

        why = explain_misfit(file.operators, module)
    fit_weights(module, tensors, file.label, origin.name, why)
    return module, record | said


def _in_form_of(file: Weights, module: nn.Module, prepared: Preprocessing | Signature) -> nn.Module:
    """`module` without masks and parametrisations where the file holds effective weights, else as it is."""
    if file.metadata.get("weights") == EFFECTIVE:
        remove_parametrizations(module)
        fold_computed_weights(Network("", module, prepared))
    elif is_parametrized(module):
        plain = copy.deepcopy(module)
        remove_parametrizations(plain)
        raw = tuple(set(module.state_dict()) - set(plain.state_dict()))
        if not any(name.endswith(raw) for name in file.tensors):
            return plain
    return module


def _name_tensors(
    module: nn.Module, file: Weights, prepared: Preprocessing | Signature, origin: Source, state: str | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The file's tensors under the module's names, and what the provenance says of how they were found."""
    if file.uses:
        from netopsy.network.weights.onnx import name_onnx

        tensors, how = name_onnx(file.uses, module, prepared, file.label)
        return _used(tensors, origin), {"weights_matched": how}
    match, notes = choose_match(file.tensors, module, file.label, state)
    how = f"by name, less the prefix '{match.prefix}'" if match.prefix else "by name"
    return _used(match.tensors, origin), {"weights_matched": how} | ({"notes": notes} if notes else {})


def _used(tensors: dict[str, Tensor], origin: Source) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(origin.unused)}

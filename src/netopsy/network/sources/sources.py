"""What a network's source names: a zoo entry, a factory of the user's, a module; torchvision and timm lie beside."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from netopsy.errors import MissingExtra, NetworkError, WeightsError, nearest
from netopsy.network.capture import read_program
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing, inputs_of, read_inputs
from netopsy.network.signature import Signature
from netopsy.network.sources.modules import (
    check_module,
    copy_module,
    graph_of_script,
    is_script,
    load_script,
    unwrap,
    what_instead,
)
from netopsy.network.weights.weights import INDEX, KINDS, SUFFIXES, Weights
from netopsy.network.zoo import ZOO, architecture

SHIPPED = Path(__file__).parents[1] / "shipped"
FORMS = (
    "torchvision:NAME, timm:NAME, netopsy:NAME, hf:FOLDER, onnx:FILE, FILE.pt2, package.module:factory, a weights file "
    "or a torch module"
)
GRAPHS = (".onnx", ".pt2")  # endings of files that hold a whole graph


class Source(Protocol):
    """Where a network comes from.

    name: as reports call it. options: names of the settings of the architecture. shipped: weights in the package.
    unused: beginnings of the names of tensors that serve training alone; a file may hold them.
    fresh: what the weights are called that `build` gives by itself. notes: what is to be said of the module built.
    places_weights: whether `build` puts the tensors of a file in place itself.
    """

    name: str
    options: tuple[str, ...]
    unused: tuple[str, ...]
    fresh: str
    notes: tuple[str, ...]
    places_weights: bool

    @property
    def shipped(self) -> Path | None: ...

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        """The module with fresh weights, or those of the hub; size and file tell what the user will put in."""
        ...

    def preprocessing(
        self, module: nn.Module, hub: str | None, file: Weights | None
    ) -> tuple[Preprocessing | Signature, str]:
        """What the input looks like, and who says so."""
        ...


class ZooSource:
    """`netopsy:NAME`."""

    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fresh = "random"
    places_weights = False

    def __init__(self, name: str) -> None:
        self.entry = architecture(name)
        self.name = f"netopsy:{name}"
        self.options = _keywords(self.entry.build)
        self.shipped = SHIPPED / self.entry.shipped if self.entry.shipped else None

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        _no_hub(self.name, hub)
        return _call(self.entry.build, options, self.name)

    def preprocessing(self, module: nn.Module, hub: str | None, file: Weights | None) -> tuple[Preprocessing, str]:
        return self.entry.preprocessing, f"the zoo's entry {self.name}"


class FactorySource:
    """`package.module:factory`, where the factory is a function or class that makes a module, or a module."""

    shipped: Path | None = None
    unused: tuple[str, ...] = ()
    places_weights = False

    def __init__(self, path: str, attribute: str) -> None:
        self.name = f"{path}:{attribute}"
        self.factory = _import(path, attribute)
        is_module = isinstance(self.factory, nn.Module)
        self.options = () if is_module else _keywords(self.factory)
        self.fresh = "the module's own" if is_module else "the factory's own"
        self.notes: tuple[str, ...] = ()

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        _no_hub(self.name, hub)
        module = self.factory
        if not isinstance(module, nn.Module):
            module = _exported_module(_call(self.factory, options, self.name))
        if not isinstance(module, nn.Module):
            raise NetworkError(f"{self.name} made a {type(module).__name__}; it must make a torch.nn.Module.")
        module, self.notes = open_module(module, self.name)
        return module

    def preprocessing(self, module: nn.Module, hub: str | None, file: Weights | None) -> tuple[Preprocessing, str]:
        return guess_preprocessing(module)


class ModuleSource:
    """A torch module at hand; it is copied, so that the user's own stays as it is."""

    options: tuple[str, ...] = ()
    shipped: Path | None = None
    unused: tuple[str, ...] = ()
    places_weights = False
    fresh = "the module's own"

    def __init__(
        self,
        module: nn.Module,
        name: str | None = None,
        example: Mapping[str, Tensor] | None = None,
        header: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self.header = header or {}
        inside = unwrap(module)[0]
        self.name = name or str(getattr(inside, "original_name", type(inside).__name__))
        self.notes: tuple[str, ...] = ()
        self.example = example

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        _no_hub(self.name, hub)
        module, self.notes = open_module(self.module, self.name)
        return module

    def preprocessing(
        self, module: nn.Module, hub: str | None, file: Weights | None
    ) -> tuple[Preprocessing | Signature, str]:
        if self.example is None:
            return guess_preprocessing(module)
        shown = inputs_of(self.example)
        described = read_inputs(self.header, shown.signature)
        return (shown, "the example that it was exported with") if described is None else (described, "its file")


class OnnxSource:
    """`onnx:FILE`: the graph of an ONNX file, with its weights."""

    options: tuple[str, ...] = ("shape", "fixed")
    shipped: Path | None = None
    unused: tuple[str, ...] = ()
    places_weights = False
    fresh = "the file's own"

    def __init__(self, path: str, own_type: bool = False) -> None:
        self.path, self.own_type = path, own_type
        self.name = f"onnx:{path}"
        self.notes: tuple[str, ...] = ()
        self.example: Mapping[str, Tensor] = {}

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        from netopsy.network.sources.onnx_graph import open_onnx

        _no_hub(self.name, hub)
        module, self.example = open_onnx(self.path, size=size, own_type=self.own_type, **options)
        self.notes = module.notes
        return module

    def preprocessing(
        self, module: nn.Module, hub: str | None, file: Weights | None
    ) -> tuple[Preprocessing | Signature, str]:
        return inputs_of(self.example), f"the inputs of {self.path}"


def open_module(given: nn.Module, name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of the module inside `given`, and what to say of it; NetworkError says why it cannot be examined."""
    module, notes = unwrap(given)
    if isinstance(module, torch.jit.ScriptModule):
        return graph_of_script(module, name), notes
    check_module(module, name)
    copied, further = copy_module(module)
    return copied, (*notes, *further)


def _exported_module(given: Any) -> Any:
    """The module of an exported program; anything else as it is."""
    return given.module() if isinstance(given, ExportedProgram) else given


def _program_source(
    program: ExportedProgram, name: str | None = None, header: Mapping[str, str] | None = None
) -> ModuleSource:
    """An exported program, with the inputs that it was exported with. header: of its file."""
    args, kwargs = program.example_inputs or ((), {})
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    example = dict(zip(names, (*args, *kwargs.values()), strict=False)) | dict(kwargs)
    tensors = bool(example) and all(isinstance(x, Tensor) and x.ndim for x in example.values())
    known = example if tensors and len(example) == len(names) else None
    return ModuleSource(program.module(), name, known, header)


def is_graph_path(value: object) -> bool:
    """Whether `value` names a file that holds a whole graph."""
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    return text.startswith("onnx:") or Path(text).suffix.lower() in GRAPHS or is_script(text)


def find_source(source: object, *, download: bool = False, own_type: bool = False) -> Source:
    """The source that `source` names; NetworkError gives the nearest names, or the forms that a source may take.

    download: fetch `hf:ORG/NAME` from its hub. own_type: of an ONNX file, half precision stays half.
    """
    if isinstance(source, ExportedProgram):
        return _program_source(source)
    if isinstance(source, str | os.PathLike) and is_graph_path(source):
        path = os.fspath(source)
        if Path(path).suffix.lower() == ".pt2" and not path.startswith("onnx:"):
            program, header = read_program(path)
            return _program_source(program, Path(path).name, header)
        if is_script(path):
            return ModuleSource(load_script(path), Path(path).name)
        return OnnxSource(path.removeprefix("onnx:"), own_type)
    if isinstance(source, nn.Module):
        return ModuleSource(source)
    if isinstance(source, Network):
        raise NetworkError(f"{source.name} is a network already; give it to the studies as it is.")
    if not isinstance(source, str):
        advice = what_instead(source) or f"this is a {type(source).__name__}"
        raise NetworkError(f"a network's source is {FORMS}; {advice}.")
    kind, _, name = source.partition(":")
    if download and kind != "hf":
        raise NetworkError(f"download fetches hf:ORG/NAME alone; for {source} give weights='hub' (--weights hub).")
    if kind == "hf" and name:
        from netopsy.network.sources.huggingface import HuggingFaceSource

        return HuggingFaceSource(name, download)
    if kind == "netopsy" and name:
        return ZooSource(name)
    if kind == "torchvision" and name:
        from netopsy.network.sources.torchvision import TorchvisionSource

        return TorchvisionSource(name)
    if kind == "timm" and name:
        from netopsy.network.sources.timm import TimmSource

        return TimmSource(name)
    if name and re.fullmatch(r"[\w.]+", kind) and name.isidentifier():
        return FactorySource(kind, name)
    zoo_names = [f"netopsy:{entry}" for entry in ZOO]
    raise NetworkError(
        f"no network '{source}'; write {FORMS}; nearest in the zoo: {nearest(f'netopsy:{source}', zoo_names)}."
    )


def is_weights_path(value: object) -> bool:
    """Whether `value` reads as the path of a weights file and not as a name."""
    return isinstance(value, os.PathLike) or (
        isinstance(value, str)
        and not value.startswith("hf:")
        and (
            Path(value).suffix.lower() in SUFFIXES or value.endswith(INDEX) or os.sep in value or Path(value).is_file()
        )
    )


def read_architecture(file: Weights, folder: Path) -> str:
    """The source that a file's own metadata names; a program (`NAME.pt2`) is looked for in `folder`.

    Raises NetworkError where it names none.
    """
    architecture_name = file.metadata.get("architecture", "")
    if re.fullmatch(r"[\w.+-]+\.pt2", architecture_name) and (folder / architecture_name).is_file():
        return str(folder / architecture_name)
    match = re.fullmatch(r"(netopsy|torchvision|timm)[: ](\S+)|(hf):(.+)", architecture_name)
    if match and match[3] and not _is_here(architecture_name):
        raise NetworkError(
            f"'{file.label}' belongs to {architecture_name[:200]}, which is not here; give the folder that its network "
            f"came from: load_network('hf:FOLDER', weights='{file.label}') (hf:FOLDER --weights {file.label})."
        )
    if not match:
        named = (
            f"names code of its own, '{architecture_name[:100]}',"
            if architecture_name
            else "does not name its architecture;"
        )
        raise NetworkError(
            f"'{file.label}' holds weights but {named} name it as the source ({FORMS}) and give the file as weights."
        )
    return ":".join(part for part in match.groups() if part)


def _is_here(folder: str) -> bool:
    """Whether a folder of transformers lies where its name says, or in the local cache of the hub."""
    from netopsy.network.sources.huggingface import HuggingFaceSource

    try:
        return bool(HuggingFaceSource(folder.removeprefix("hf:")).folder)
    except MissingExtra:
        raise
    except NetworkError:
        return False


def guess_preprocessing(module: nn.Module) -> tuple[Preprocessing, str]:
    """0..1 pixels, no mean; size and channels from the first layer where they show."""
    origin = "assumed (0..1, no mean)"
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            grey = layer.in_channels == 1
            return (Preprocessing(mean=(0.0,), std=(1.0,), channels="L") if grey else Preprocessing()), origin
        if isinstance(layer, nn.Linear):
            for channels, depth in (("L", 1), ("RGB", 3)):
                side = math.isqrt(layer.in_features // depth)
                if side * side * depth == layer.in_features:
                    zeros, ones = (0.0,) * depth, (1.0,) * depth
                    return Preprocessing((side, side), mean=zeros, std=ones, channels=channels), origin  # type: ignore[arg-type]
            break
    return Preprocessing(), origin


def _keywords(factory: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the keyword parameters of a factory."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def _call(factory: Callable[..., Any], options: dict[str, Any], name: str) -> Any:
    try:
        return factory(**options)
    except Exception as error:
        # a factory is the user's code, or an option is of the wrong kind: either is the user's to mend
        arguments = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
        raise NetworkError(f"{name} cannot be built with {arguments}: {type(error).__name__}: {error}") from error


def _import(path: str, attribute: str) -> Any:
    """`attribute` of the module `path`; the current folder counts as a place to import from."""
    added = os.getcwd()
    sys.path.insert(0, added)
    try:
        module = importlib.import_module(path)
    except Exception as error:
        raise NetworkError(f"cannot import '{path}': {type(error).__name__}: {error}; a source is {FORMS}.") from error
    finally:
        if added in sys.path:
            sys.path.remove(added)
    if not callable(getattr(module, attribute, None)):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise NetworkError(f"no factory '{attribute}' in {path}; nearest: {nearest(attribute, names) or 'none'}.")
    return getattr(module, attribute)


def _no_hub(name: str, hub: str | None) -> None:
    if hub is not None:
        raise WeightsError(f"{name} has no weights called '{hub}' on a hub; give the path of a {KINDS} file.")

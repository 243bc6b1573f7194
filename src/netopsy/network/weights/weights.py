"""Read the tensors of a weights file safely, and put them into a module or say why they do not fit."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netopsy.codec.file import SUFFIX, is_compressed, read_compressed
from netopsy.errors import WeightsError

PICKLED = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLED, ".npz", ".onnx")
KINDS = ".safetensors, .pt/.pth/.th, .npz or .onnx"
NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


@dataclass(frozen=True)
class Weights:
    """What a weights file holds.

    label: how messages call it. tensors: by name, in the order of the file. metadata: of a safetensors header.
    digest: SHA-256 of the file, None for a state dict in memory. uses: of an ONNX file only, its operators' tensors.
    """

    label: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    digest: str | None = None
    uses: tuple[Any, ...] = ()


def read_weights(path: str | Path) -> Weights:
    """The tensors of `path`: safetensors, a PyTorch state dict (never an unrestricted pickle), `.npz` or `.onnx`.

    Raises WeightsError where the file is missing, damaged, of another kind or holds no tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise WeightsError(f"weights file '{path}' {what}; give the path of a {KINDS} file.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise WeightsError(f"weights file '{path}' ends in '{suffix}'; Netopsy reads {KINDS}.")
    metadata: dict[str, str] = {}
    uses: tuple[Any, ...] = ()
    if suffix == ".onnx":
        from netopsy.network.weights.onnx import read_onnx

        uses, tensors = read_onnx(path)
    elif suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
    else:
        tensors = _npz(path) if suffix == ".npz" else _pickled(path)
    if not tensors:
        raise WeightsError(f"weights file '{path}' holds no tensors; save the network's state_dict() in it.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Weights(path.name, tensors, metadata, digest, uses)


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = (str(error).strip().splitlines() or [""])[0][:160].rstrip(".")
    if "pickle" in reason or not any(letter.isalpha() for letter in reason):
        reason = "its content is of another kind"
    return WeightsError(
        f"weights file '{path}' is damaged or not a {path.suffix} file ({reason}); fetch or save it again."
    )


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if path.name.endswith(SUFFIX) or is_compressed(path):
        compressed = read_compressed(path)
        return {name: torch.from_numpy(array) for name, array in compressed.state().items()}, compressed.metadata
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise _damaged(path, error) from error


def _pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise _damaged(path, error) from error
        raise WeightsError(
            f"weights file '{path}' holds Python objects, which Netopsy does not run; where you trust it, load it with "
            f"torch.load(..., weights_only=False) yourself and save its state_dict() alone."
        ) from error
    except Exception as error:
        # torch.load has no error type of its own: a cut or foreign file raises any of a dozen.
        raise _damaged(path, error) from error
    return _state_dict(content, path)


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, be it the checkpoint itself or one of its entries."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"weights file '{path}' holds a {type(content).__name__}; it must hold a state dict.")
    for nest in NESTS:
        inner = content.get(nest)
        if isinstance(inner, Mapping) and any(isinstance(value, Tensor | Mapping) for value in inner.values()):
            return _state_dict(inner, path)
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise WeightsError(f"weights file '{path}' holds no tensors (it holds {keys}); save a state_dict() in it.")
    return tensors


def strip_prefixes(tensors: dict[str, Tensor], names: set[str], depth: int = 3) -> dict[str, Tensor]:
    """`tensors` without the prefixes that wrappers add (`module.`, `_orig_mod.`), where more of `names` match so."""
    best = tensors
    for prefix in PREFIXES if depth else ():
        if any(name.startswith(prefix) for name in tensors):
            shorter = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            if len(shorter) == len(tensors):
                shorter = strip_prefixes(shorter, names, depth - 1)
                best = max(best, shorter, key=lambda found: len(names & found.keys()))
    return best


@dataclass(frozen=True)
class Mismatch:
    """Where a set of tensors and a module differ; `misshaped` holds (name, shape in the file, shape wanted)."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    @property
    def classes(self) -> int | None:
        """The number of classes of the file, where a classifier of another size is all that differs."""
        if self.missing or self.unexpected or not self.misshaped:
            return None
        given = {shape[:1] for _, shape, _ in self.misshaped}
        wanted = {shape[:1] for _, _, shape in self.misshaped}
        rest = all(shape[1:] == want[1:] for _, shape, want in self.misshaped)
        return given.pop()[0] if len(given) == len(wanted) == 1 and rest and () not in given | wanted else None

    def __str__(self) -> str:
        shapes = [f"{name} is {_by(shape)} and should be {_by(want)}" for name, shape, want in self.misshaped]
        parts = (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", shapes))
        return ", ".join(
            f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for word, names in parts
            if names
        )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def compare(module: nn.Module, tensors: Mapping[str, Tensor]) -> Mismatch:
    """How `tensors` differ from the module's state; counts of batches and tensors shared with others may be missing."""
    wanted = module.state_dict()
    given = set(tensors)
    shared = {t.data_ptr() for name, t in wanted.items() if name in given and t.numel()}
    missing = [
        name
        for name, t in wanted.items()
        if name not in given and not name.endswith("num_batches_tracked") and not (t.numel() and t.data_ptr() in shared)
    ]
    unexpected = [name for name in tensors if name not in wanted and not name.endswith("num_batches_tracked")]
    misshaped = [
        (name, tuple(tensors[name].shape), tuple(t.shape))
        for name, t in wanted.items()
        if name in given and tensors[name].shape != t.shape
    ]
    return Mismatch(missing, unexpected, misshaped)


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], label: str, name: str) -> None:
    """Copy `tensors` into `module`; WeightsError says what does not fit, what would, or what is not finite."""
    mismatch = compare(module, tensors)
    if mismatch:
        fitting = next(zoo_fits(tensors), None)
        advice = f"they fit netopsy:{fitting}" if fitting else "choose the architecture that they were trained for"
        if label.endswith(".onnx") and any(missing.endswith("running_var") for missing in mismatch.missing):
            advice = (
                "the export has folded batch normalisation into the convolutions, so export again in training mode "
                "with do_constant_folding=False"
            )
        raise WeightsError(f"weights '{label}' do not fit {name}: {mismatch}; {advice}.")
    for key, tensor in module.state_dict().items():
        if key in tensors and tensor.is_floating_point() and not tensors[key].is_floating_point():
            kind = str(tensors[key].dtype).removeprefix("torch.")
            raise WeightsError(f"weights '{label}' hold '{key}' as {kind}; save it as floating-point numbers.")
    check_values(module, tensors, f"weights '{label}'")
    module.load_state_dict(dict(tensors), strict=False)


def check_values(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError at the first parameter or running statistic with NaN, infinity or a negative variance."""
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in tensors.items():
        if not (name in learned or name.endswith(("running_mean", "running_var"))) or tensor.is_meta:
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise WeightsError(
                f"{what} hold NaN or infinity in '{name}' ({bad:,} of {tensor.numel():,} values); "
                f"the file is damaged or the training diverged, so take an earlier checkpoint."
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise WeightsError(f"{what} hold a negative variance in '{name}'; take an undamaged checkpoint.")


def zoo_fits(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of the zoo's networks that `tensors` fit."""
    from netopsy.network.zoo import ZOO, architecture

    for name in ZOO:
        with torch.device("meta"):
            module = architecture(name).build()
        wanted = {
            key: tuple(t.shape) for key, t in module.state_dict().items() if not key.endswith("num_batches_tracked")
        }
        stripped = strip_prefixes(dict(tensors), set(wanted))
        if wanted == {k: tuple(t.shape) for k, t in stripped.items() if not k.endswith("num_batches_tracked")}:
            yield name

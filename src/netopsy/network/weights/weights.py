"""Read the tensors of a weights file, safely."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netopsy.codec.file import SUFFIX, is_compressed, read_compressed
from netopsy.errors import WeightsError

PICKLED = (".pt", ".pth", ".th", ".bin", ".ckpt", ".tar")
SUFFIXES = (".safetensors", *PICKLED, ".npz", ".onnx")
KINDS = ".safetensors, .pt/.pth/.th, .npz or .onnx"
NESTS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")


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
        tensors = _npz(path) if suffix == ".npz" else _unpickle(path)
    if not tensors:
        raise WeightsError(f"weights file '{path}' holds no tensors; save the network's state_dict() in it.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Weights(path.name, tensors, metadata, digest, uses)


def _damage_error(path: Path, error: Exception) -> WeightsError:
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
        raise _damage_error(path, error) from error


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise _damage_error(path, error) from error


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise _damage_error(path, error) from error
        raise WeightsError(
            f"weights file '{path}' holds Python objects, which Netopsy does not run; where you trust it, load it with "
            f"torch.load(..., weights_only=False) yourself and save its state_dict() alone."
        ) from error
    except Exception as error:
        # torch.load has no error type of its own: a cut or foreign file raises any of a dozen.
        raise _damage_error(path, error) from error
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

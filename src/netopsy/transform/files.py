"""The file of a transform: one safetensors file, its steps as JSON in the metadata."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from netopsy.errors import TransformError
from netopsy.files import atomic_write
from netopsy.transform.coders import Coder, Floats, Levels, ProductCoder, Scalars, Signs
from netopsy.transform.steps import Project, Step, Take, UnitLength, kind_of

FORMAT, VERSION = "netopsy-transform", 1
KINDS: dict[str, type[Step | Coder]] = {
    kind.kind: kind for kind in (UnitLength, Take, Project, Floats, Levels, Signs, Scalars, ProductCoder)
}


def write(path: str | Path, steps: tuple[Step | Coder, ...], source: str) -> Path:
    """Write the steps; the file appears whole or not at all. Raises TransformError where it cannot be written."""
    path = Path(path)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    plain: list[dict[str, Any]] = []
    for i, step in enumerate(steps):
        values = {f.name: getattr(step, f.name) for f in fields(step)}  # type: ignore[arg-type]
        arrays |= {f"{i}.{name}": np.ascontiguousarray(v) for name, v in values.items() if isinstance(v, np.ndarray)}
        settings = {name: v for name, v in values.items() if not isinstance(v, np.ndarray)}
        plain.append({"kind": kind_of(step), **settings})
    metadata = {"format": FORMAT, "version": str(VERSION), "steps": json.dumps(plain), "source": source}
    try:
        with atomic_write(path) as part:
            safetensors.numpy.save_file(arrays, part, metadata)
    except (OSError, SafetensorError) as error:
        raise TransformError(
            f"cannot write the transform to '{path}' ({error}); give a file in a folder that exists."
        ) from error
    return path


def read_file(path: str | Path) -> tuple[tuple[Step | Coder, ...], str]:
    """The steps and the source of a file. Raises TransformError, in one sentence, for any other file."""
    path = Path(path)
    if not path.is_file():
        raise TransformError(f"no file '{path}'; give a transform that `Transform.save` or `netopsy transfer` wrote.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            version = _version(path, metadata)
            if version != VERSION:
                raise TransformError(
                    f"'{path}' is of version {version}, this Netopsy reads version {VERSION}; update Netopsy."
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise TransformError(f"'{path}' is damaged or no safetensors file ({error}); fetch or fit it again.") from error
    try:
        steps = tuple(_step(i, settings, arrays) for i, settings in enumerate(json.loads(metadata["steps"])))
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise TransformError(f"the steps of '{path}' are damaged ({error}); fetch or fit it again.") from error
    except TransformError as error:
        raise TransformError(f"'{path}' is damaged: {error}") from error
    if arrays:
        raise TransformError(
            f"'{path}' holds '{min(arrays)}', which no step uses: it is damaged or of a newer Netopsy; fetch it again."
        )
    return steps, metadata.get("source", "")


def _version(path: Path, metadata: dict[str, str]) -> int:
    if metadata.get("format") != FORMAT or not metadata.get("version", "").isdecimal() or "steps" not in metadata:
        raise TransformError(
            f"'{path}' is a safetensors file but no transform; `netopsy transfer --budget` writes one."
        )
    return int(metadata["version"])


def _step(i: int, settings: dict[str, Any], arrays: dict[str, Any]) -> Step | Coder:
    """The step that the settings and its own arrays (taken out of `arrays`) make up."""
    values = dict(settings)
    kind = KINDS[values.pop("kind")]
    mine = [name for name in arrays if name.startswith(f"{i}.")]
    return kind(**values, **{name.partition(".")[2]: arrays.pop(name) for name in mine})

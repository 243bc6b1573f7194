"""A fitted transform: features to a few bytes and back, with numpy alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from netopsy.errors import TransformError
from netopsy.files import atomic_write
from netopsy.transform.coders import UINT8, Coder, Floats, Levels, ProductCoder, Scalars, Signs
from netopsy.transform.steps import FLOAT32, FLOAT64, Project, Step, Take, UnitLength, kind_of

AT_ONCE = 1 << 20
"""Values that are worked on at once, in float64 (8 MB) and with each bit of their codes in a byte (16 MB at most)."""


@dataclass(frozen=True, eq=False)
class Transform:
    """Features squeezed into `bits` bits a vector: some steps, then a code.

    steps: any number of `Step`s, and a `Coder` last. source: what the features are, in words of the maker.

    A vector's codes are the same alone and in a batch (steps.py says how nearly so). Raises TransformError for steps
    that do not fit each other, for vectors of another size, NaN or infinite ones, and for bytes that are no codes.
    """

    steps: tuple[Step | Coder, ...]
    source: str = ""

    def __post_init__(self) -> None:
        *front, last = self.steps or (None,)
        if not isinstance(last, Coder) or not all(isinstance(step, Step) for step in front):
            kinds = ", ".join(map(kind_of, self.steps)) or "none"
            raise TransformError(f"the steps are {kinds}; give any number of steps and one code behind them.")
        for step, following in zip(self.steps, self.steps[1:], strict=False):
            if step.outputs != following.inputs:  # type: ignore[union-attr]
                raise TransformError(
                    f"the step '{step.kind}' gives {step.outputs} values, "  # type: ignore[union-attr]
                    f"the step '{following.kind}' behind it takes {following.inputs}; give steps of one size."
                )

    @property
    def coder(self) -> Coder:
        """The last step."""
        last = self.steps[-1]
        assert isinstance(last, Coder)
        return last

    @property
    def inputs(self) -> int:
        """Values of a feature vector, p."""
        return self.steps[0].inputs

    @property
    def outputs(self) -> int:
        """Values of a vector as it comes back, q."""
        return self.coder.inputs

    @property
    def bits(self) -> int:
        """Bits that a vector takes."""
        return self.coder.bits

    @property
    def bytes(self) -> int:
        """Bytes that a vector takes, ceil(bits / 8)."""
        return (self.bits + 7) // 8

    def __repr__(self) -> str:
        return f"Transform({self.describe()})"

    def transform(self, x: Any) -> FLOAT32:
        """The features (n, p), of any real type, as they come back from their codes, (n, q)."""
        return self.decode(self.encode(x))

    def encode(self, x: Any) -> UINT8:
        """The codes of features (n, p) of any real type, (n, bytes). Read in blocks, so that a memmap may be given."""
        rows = self._features(x)
        codes = np.empty((len(rows), self.bytes), np.uint8)
        for part in self._blocks(len(rows)):
            codes[part] = self.coder.encode(self._front(rows[part]))
        return codes

    def decode(self, codes: Any) -> FLOAT32:
        """The vectors of codes (n, bytes) uint8, (n, q)."""
        data = _array(codes, "codes")
        if data.ndim != 2 or data.dtype != np.uint8 or data.shape[1] != self.bytes:
            raise TransformError(f"codes are {data.dtype} {data.shape}; this transform takes uint8 (n, {self.bytes}).")
        out = np.empty((len(data), self.outputs), np.float32)
        for part in self._blocks(len(data)):
            out[part] = self.coder.decode(data[part])
        return out

    def describe(self) -> str:
        """One line: the steps, the size, and what it saves."""
        steps = ", ".join(step.describe() for step in self.steps)
        saved = f"{100 * (1 - self.bits / (32 * self.inputs)):.2f} % less than {self.inputs} 32-bit numbers"
        return f"{steps}: {self.bits} bits ({self.bytes} bytes) a vector, {saved}"

    def save(self, path: str | Path) -> Path:
        """Write it as one safetensors file, for `load_transform`."""
        return write(path, self.steps, self.source)

    def _front(self, x: Any) -> FLOAT32:
        values: FLOAT64 = np.asarray(x, np.float64)
        if not np.isfinite(values).all():
            raise TransformError("the features hold NaN or infinite values; leave those vectors out, or mend them.")
        for step in self.steps[:-1]:
            assert isinstance(step, Step)
            values = step.apply(values)
        largest = float(np.finfo(np.float32).max)
        return np.clip(values, -largest, largest).astype(np.float32)

    def _features(self, x: Any) -> np.ndarray[Any, Any]:
        rows = _array(x, "features")
        if rows.ndim != 2 or rows.shape[1] != self.inputs or rows.dtype.kind not in "fiub":
            raise TransformError(
                f"features are {rows.dtype} {rows.shape}; this transform takes real numbers (n, {self.inputs})"
                f"{', as x[None] for a single vector' if rows.shape == (self.inputs,) else ''}."
            )
        return rows

    def _blocks(self, n: int) -> Iterator[slice]:
        rows = max(1, AT_ONCE // max(self.inputs, self.outputs))
        return (slice(start, start + rows) for start in range(0, n, rows))


def load_transform(path: str | Path) -> Transform:
    """A transform that `Transform.save` wrote. Raises TransformError for a missing, damaged or foreign file."""
    steps, source = read_file(path)
    try:
        return Transform(steps, source)
    except TransformError as error:
        raise TransformError(f"'{path}' is damaged: {error}") from error


def _array(x: Any, what: str) -> np.ndarray[Any, Any]:
    try:
        return x if isinstance(x, np.ndarray) else np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TransformError(f"the {what} cannot be read as a numpy array ({error}); give one.") from error


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

"""What a network takes: named inputs, each with its shape, type and kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from netopsy.errors import SettingsError

MASK = "<mask>"
"""Before the name of a sequence, which places of it belong to a sample, bool (batch, length)."""

Arrays = dict[str, NDArray[Any]]

Kind = Literal["image", "tokens", "mask", "segments", "series", "vector", "array"]


@dataclass(frozen=True)
class Input:
    """One input of a network.

    name: of the argument of the forward pass. shape: of one sample, without the batch.
    dtype: of the values; floating-point ones come in the type of the network's parameters.
    kind: `image` (channel, height, width); `tokens`: numbers of a vocabulary (length,); `mask`: 1 at the places of a
        sample and 0 where it is padded (length,); `segments`: zeros (length,); `series`: (length,) or
        (channel, length); `vector`: (columns,); `array`: any other.
    length_axis: of `shape`, the axis along which samples differ in length and are padded at the end; None for none.
    sequence: of an encoder and a decoder, whose samples have two lengths, the one that goes along this axis: the name
        of the first input that it is the length of. Empty where all inputs of a network have one length.
    pixels: of an image, what black and white become.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    kind: Kind = "array"
    length_axis: int | None = None
    sequence: str = ""
    pixels: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise SettingsError(
                f"the kind of input {self.name} is '{self.kind}'; give one of {', '.join(get_args(Kind))}."
            )
        if any(size < 1 for size in self.shape):
            raise SettingsError(f"input {self.name} has the shape {self.shape}; every axis must be at least 1 long.")
        if self.length_axis is not None and not 0 <= self.length_axis < len(self.shape):
            raise SettingsError(f"input {self.name} has {len(self.shape)} axes and no axis {self.length_axis}.")

    @property
    def length(self) -> int | None:
        """How long the longest sample may be; None where all samples are of one shape."""
        return None if self.length_axis is None else self.shape[self.length_axis]

    def with_length(self, length: int) -> Input:
        """The same for samples of another greatest length."""
        if self.length_axis is None:
            return self
        shape = (*self.shape[: self.length_axis], length, *self.shape[self.length_axis + 1 :])
        return replace(self, shape=shape)

    def __str__(self) -> str:
        return (
            f"{self.name} ({'x'.join(map(str, self.shape)) or 'one number'}, {str(self.dtype).removeprefix('torch.')})"
        )


@dataclass(frozen=True)
class Signature:
    """The inputs of a network, in the order of its forward pass, and what text is turned into numbers with.

    tokenizer: a `netopsy.network.sources.huggingface_inputs.Tokenizer` for inputs of tokens, or None.
    """

    inputs: tuple[Input, ...]
    tokenizer: Any = None

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.inputs]
        if not names or len(set(names)) < len(names):
            raise SettingsError(f"the inputs are called {', '.join(names) or 'nothing'}; give each a name of its own.")
        pairs = {(entry.sequence, entry.length) for entry in self.inputs if entry.length is not None}
        if len(pairs) > len(self.lengths):
            raise SettingsError(
                f"the inputs {', '.join(map(str, self.inputs))} differ in their greatest length; give them one length, "
                "or those of the encoder and of the decoder a `sequence` each."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the inputs, as the nodes of the graph are called: a single one is `input`."""
        return ("input",) if len(self.inputs) == 1 else tuple(entry.name for entry in self.inputs)

    @property
    def length(self) -> int | None:
        """How long the longest sample may be; None where all samples are of one shape.

        Of several sequences that of the last, the decoder's, which the outputs go along.
        """
        return next(reversed(self.lengths.values()), None)

    @property
    def lengths(self) -> dict[str, int]:
        """How long each sequence may be, by its name: one for most networks, two for an encoder with a decoder."""
        return {entry.sequence: entry.length for entry in self.inputs if entry.length is not None}

    def is_written(self, sequence: str) -> bool:
        """Whether a sequence is the decoder's: the last of several."""
        return len(self.lengths) > 1 and sequence == next(reversed(self.lengths))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the first input, without the batch."""
        return self.inputs[0].shape

    @property
    def signature(self) -> Signature:
        return self

    def with_length(self, length: int, sequence: str | None = None) -> Signature:
        """The same for samples of another greatest length, or for another length of one sequence."""
        return replace(
            self,
            inputs=tuple(
                entry.with_length(length) if sequence in (None, entry.sequence) else entry for entry in self.inputs
            ),
        )

    def example(self, batch: int, like: nn.Module | None = None) -> dict[str, Tensor]:
        """A batch that any network with these inputs takes: zeros, and ones for masks.

        like: its first floating-point parameter gives the device, and the type of floating-point inputs.
        """
        tensor = None if like is None else next((p for p in like.parameters() if p.is_floating_point()), None)
        device = torch.device("cpu") if tensor is None else tensor.device
        values = {}
        for entry in self.inputs:
            dtype = tensor.dtype if tensor is not None and entry.dtype.is_floating_point else entry.dtype
            make = torch.ones if entry.kind == "mask" else torch.zeros
            values[entry.name] = make(batch, *entry.shape, dtype=dtype, device=device)
        return values

    def record(self) -> dict[str, Any]:
        """Plain data that tells these inputs from others."""
        inputs = {
            entry.name: {
                "shape": list(entry.shape),
                "dtype": str(entry.dtype).removeprefix("torch."),
                "kind": entry.kind,
                **({} if entry.length_axis is None else {"length_axis": entry.length_axis}),
                **({"sequence": entry.sequence} if entry.sequence else {}),
                **({"pixels": list(entry.pixels)} if entry.pixels != (0.0, 1.0) else {}),
            }
            for entry in self.inputs
        }
        return {"inputs": inputs, **({} if self.tokenizer is None else {"tokenizer": self.tokenizer.digest})}


def empty_arrays(signature: Signature, count: int) -> Arrays:
    """Arrays for a batch of `count` by the names of the inputs, and a `MASK` for each sequence of differing lengths."""
    arrays: Arrays = {
        name: np.empty((count, *entry.shape), _numpy_type(entry))
        for name, entry in zip(signature.names, signature.inputs, strict=True)
    }
    for sequence, length in signature.lengths.items():
        arrays[MASK + sequence] = np.empty((count, length), bool)
    return arrays


def _numpy_type(entry: Input) -> Any:
    """The type of an input's array; floating-point ones are float32, which a network turns into its own."""
    if entry.dtype.is_floating_point:
        return np.float32
    return torch.zeros((), dtype=entry.dtype).numpy().dtype


def signature_of(example: Any, names: Sequence[str] = ("input",)) -> Signature:
    """The inputs that `example` shows: a tensor or array, several, or a mapping by name, each with a batch in front.

    names: of the arguments, for an example that gives none.
    Integers count as tokens where they are rows of numbers, and `attention_mask` and `token_type_ids` are known. Tokens
    of two lengths, and those of inputs called `decoder_...`, are two sequences.
    """
    if isinstance(example, Mapping):
        values = dict(example)
    else:
        listed = list(example) if isinstance(example, list | tuple) else [example]
        if len(listed) > len(names):
            raise SettingsError(
                f"the example has {len(listed)} inputs and the forward pass takes {', '.join(names) or 'none'}."
            )
        values = dict(zip(names, listed, strict=False))
    inputs = []
    for name, value in values.items():
        tensor = torch.as_tensor(value)
        if tensor.ndim < 1 or not len(tensor):
            raise SettingsError(f"the example of input {name} has no batch; give an array of shape (batch, ...).")
        inputs.append(_input(str(name), tensor))
    return Signature(in_sequences(inputs))


def read_signature(record: Any) -> Signature | None:
    """The inputs that `Signature.record` wrote down; None where the record is damaged."""
    try:
        inputs = [
            Input(
                str(name),
                tuple(map(int, entry["shape"])),
                getattr(torch, str(entry["dtype"])),
                entry["kind"],
                entry.get("length_axis"),
                str(entry.get("sequence", "")),
                (float(entry.get("pixels", (0, 1))[0]), float(entry.get("pixels", (0, 1))[1])),
            )
            for name, entry in record["inputs"].items()
        ]
        if not all(isinstance(entry.dtype, torch.dtype) for entry in inputs):
            return None
        return Signature(tuple(inputs))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):  # a SettingsError is a ValueError
        return None


def in_sequences(inputs: Sequence[Input]) -> tuple[Input, ...]:
    """The inputs with their sequences named, where there are several: of other lengths, or a decoder's."""
    first: dict[tuple[bool, int], str] = {}
    for entry in inputs:
        if entry.length is not None:
            first.setdefault((entry.name.startswith("decoder_"), entry.length), entry.name)
    if len(first) < 2:
        return tuple(inputs)
    keys = [(entry.name.startswith("decoder_"), entry.length) for entry in inputs]
    return tuple(
        replace(entry, sequence=first[key]) if key in first else entry for entry, key in zip(inputs, keys, strict=True)
    )


_SEGMENTS = ("token_type_ids", "segment_ids")


def input_kind(name: str) -> Kind:
    """What rows of whole numbers are, by the name of the input: a mask, segments, else tokens."""
    return "mask" if name.endswith("mask") else "segments" if name in _SEGMENTS else "tokens"


def _input(name: str, tensor: Tensor) -> Input:
    shape = tuple(tensor.shape[1:])
    if not tensor.is_floating_point() and len(shape) == 1:
        return Input(name, shape, tensor.dtype, input_kind(name), 0)
    return Input(name, shape, torch.float32 if tensor.is_floating_point() else tensor.dtype, _kind(shape))


def _kind(shape: tuple[int, ...]) -> Kind:
    return "vector" if len(shape) == 1 else "series" if len(shape) == 2 else "image" if len(shape) == 3 else "array"

"""What excites a unit in samples that are no pictures: stretches of text, each token shaded, and rows of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import place_at, places
from netopsy.result import Passage
from netopsy.samples.samples import Samples

REACH = 12  # tokens shown before the one that is meant; half as many behind it
_COLUMNS = 24  # of a row that are shown
_BATCH = 32


def reads_passages(network: Network) -> bool:
    """Whether the network's samples are shown as text: tokens, or rows of a table."""
    return network.signature.inputs[0].kind in ("tokens", "vector")


def pieces_of(network: Network, samples: Samples, index: int, sequence: str = "") -> list[str]:
    """The sample at `index` as a list of texts: one a token, or one a column of a row.

    A token is the stretch of the text that it stands for, as far as the tokenizer tells, with the spaces before it;
    special ones, and tokens without a text, are written as the vocabulary has them. Longer texts end where the network
    stops reading. sequence: of an encoder and a decoder whose tokens are meant.
    """
    if network.signature.inputs[0].kind == "vector":
        return _columns(samples.read(index))
    value, signature = samples.read(index), network.signature
    if len(signature.lengths) > 1:
        return _tokens_along(network, samples, index, sequence)
    if isinstance(value, str) and signature.tokenizer is not None:
        ids, spans = tokens_of(signature.tokenizer, value, signature.length)
        names = [token_name(signature.tokenizer, number) for number in ids[: signature.length]]
        if spans is None:
            return names
        return _stretches(value, spans, names)
    (batch,) = samples.batches(network.preprocessing, 1, order=[index])
    real = slice(None) if batch.mask is None else batch.mask[0]
    return [f"{number} " for number in batch.images[0][real].reshape(-1).tolist()]


def _tokens_along(network: Network, samples: Samples, index: int, sequence: str) -> list[str]:
    """The tokens of one of several sequences; of the last where none is named."""
    (batch,) = samples.batches(network.preprocessing, 1, order=[index])
    sequence, entries = sequence or next(reversed(list(batch.masks))), network.signature.inputs
    name = next(entry.name for entry in entries if entry.kind == "tokens" and entry.sequence == sequence)
    numbers = batch.inputs[name][0][batch.masks[sequence][0]].tolist()
    tokenizer = network.signature.tokenizer
    return [f"{number} " if tokenizer is None else token_name(tokenizer, number) for number in numbers]


def _stretches(text: str, spans: Sequence[tuple[int, int]], names: Sequence[str]) -> list[str]:
    """The text of each token from where the one before it ends: many tokenizers leave spaces out of their spans.

    names: of the tokens that stand for no text of their own, as special ones and the later bytes of one character.
    """
    pieces, end = [], 0
    for name, (a, b) in zip(names, spans, strict=False):
        pieces.append(text[end:b] if b > max(a, end) else name)
        end = max(end, b)
    return pieces


def tokens_of(tokenizer: Any, text: str, length: int | None) -> tuple[Sequence[int], Sequence[tuple[int, int]] | None]:
    """The numbers of a text's tokens, and the characters (start, end) of each; None where the tokenizer tells none."""
    if hasattr(tokenizer, "align"):
        aligned = tokenizer.align([text], length)[0]
        return aligned.ids, aligned.spans
    return tokenizer.encode([text], length)[0], None


def token_name(tokenizer: Any, number: int) -> str:
    """One token of the vocabulary as text, with its leading space, which decoding it alone may drop."""
    text = tokenizer.decode([number]) if hasattr(tokenizer, "decode") else ""
    written = tokenizer.token(number) if hasattr(tokenizer, "token") else ""
    if written.startswith(_SPACES) and not text.startswith(" "):
        return " " + (text or written[1:]).lstrip("".join(_SPACES))
    return text or written or f"<{number}>"


_SPACES = ("▁", "Ġ")  # as SentencePiece and byte-level vocabularies write a space


def _columns(value: Any) -> list[str]:
    fields = value if isinstance(value, Mapping) else {"": value}
    pieces = []
    for name, values in fields.items():
        flat = np.asarray(values).reshape(-1)
        for i, number in enumerate(flat):
            label = name if len(flat) == 1 and name else f"{name}[{i}]"
            pieces.append(f"{label} {number:.4g}; " if flat.dtype.kind == "f" else f"{label} {number}; ")
    return pieces


def position_of(network: Network, node: Node, place: Sequence[int]) -> int | None:
    """The token of the input that a place of `node` belongs to; None where the node has no axis of tokens.

    Where the axis is shorter than the input's (behind a stride) the first token of the place's stretch.
    """
    axis, length = _token_axis(node), network.signature.lengths.get(node.sequence)
    if axis is None or length is None:
        return None
    return place[axis] * length // places(node)[axis]


def _token_axis(node: Node) -> int | None:
    """Which of a node's axes of places goes along the tokens; of several the first."""
    if not node.length_axes:
        return None
    kept = [axis for axis in range(1, len(node.full_shape)) if axis != node.channel_axis % len(node.full_shape)]
    return kept.index(node.length_axes[0])


@dataclass(frozen=True)
class Entry:
    """One stimulus to show: a channel of a node at a flat place of a sample, with the words that stand before it."""

    channel: int
    sample: int
    place: int
    note: str = ""


def passages(
    network: Network,
    samples: Samples,
    entries: Mapping[str, Sequence[Entry]],
    largest: Mapping[tuple[str, int], float] | None = None,
) -> dict[str, list[Passage]]:
    """The surroundings of each entry, by node, every token shaded by the unit's own value there.

    largest: what is shaded fully, by (node, channel); by default the largest magnitude in the passage.
    A sample is run once, however many entries share it. A node without an axis of tokens, and a row, has no shades.
    """
    by_sample: dict[int, list[tuple[str, int]]] = {}
    for node, rows in entries.items():
        for k, entry in enumerate(rows):
            by_sample.setdefault(entry.sample, []).append((node, k))
    shown: dict[str, dict[int, Passage]] = {node: {} for node in entries}
    shaded = [node for node in entries if _token_axis(network.nodes[node]) is not None]
    walk, order = plan(network, shaded) if shaded else None, sorted(by_sample)
    for batch in samples.batches(network.preprocessing, _BATCH, order=order) if order else ():
        values: dict[str, Tensor] = {}
        if walk is not None:
            with torch.inference_mode():
                values = walk.run(batch.to(network.device), batch=len(batch.indices))
        for row, sample in enumerate(batch.indices.tolist()):
            sequences = {network.nodes[node].sequence for node, _ in by_sample[sample]}
            pieces = {sequence: pieces_of(network, samples, sample, sequence) for sequence in sequences}
            for node, k in by_sample[sample]:
                entry = entries[node][k]
                reach = None if largest is None else largest.get((node, entry.channel))
                along = _along(network.nodes[node], values[node][row], entry) if node in values else None
                shown[node][k] = _passage(
                    network, network.nodes[node], pieces[network.nodes[node].sequence], entry, along, reach
                )
    return {node: [by_row[k] for k in range(len(by_row))] for node, by_row in shown.items()}


def _along(node: Node, value: Tensor, entry: Entry) -> list[float]:
    """The channel's values along the tokens, at the entry's place on any other axis."""
    maps = value.select(node.channel_axis % (value.ndim + 1) - 1, entry.channel)
    axis = _token_axis(node)
    assert axis is not None
    at = list(place_at(max(entry.place, 0), places(node)))
    index: Any = tuple(slice(None) if k == axis else p for k, p in enumerate(at))
    line: list[float] = maps[index].float().tolist()
    return line


def _passage(
    network: Network,
    node: Node,
    pieces: list[str],
    entry: Entry,
    along: list[float] | None,
    reach: float | None,
) -> Passage:
    mark = None if entry.place < 0 else position_of(network, node, place_at(entry.place, places(node)))
    if along is None or mark is None:
        cut = pieces[: _COLUMNS * (1 if mark is None else 2)]
        more = ("...",) if len(cut) < len(pieces) else ()
        return Passage((*cut, *more), (0.0,) * (len(cut) + len(more)), -1, entry.note)
    length = network.signature.lengths.get(node.sequence, len(pieces))
    first, end = max(0, mark - REACH), min(len(pieces), mark + REACH // 2 + 1)
    part = [along[k * len(along) // length] for k in range(first, end)]
    top = reach or max((abs(v) for v in part if math.isfinite(v)), default=0.0)
    shades = tuple(max(-1.0, min(1.0, v / top)) if top and math.isfinite(v) else 0.0 for v in part)
    return Passage(tuple(pieces[first:end]), shades, mark - first, entry.note)

"""The samples that excite units most where these are no images: tokens swapped one by one, or numbers climbed.

Tokens have no gradient. That of what the embedding gives for them says to first order what each swap would bring; the
most promising swaps are run in one batch, alone and several together, and the best of them are made (Ebrahimi et al.,
"HotFlip", 2018). Beside it the embedding itself is climbed, which is free of the vocabulary: what no text reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from netopsy.charts.passages import Entry, passages, position_of, token_name
from netopsy.engine.backproject.tree import Trunk
from netopsy.engine.interpreter import Plan, plan
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import place_at, places
from netopsy.pictures.mosaic import below, caption, waveform
from netopsy.result import Image, Panel, Passage, Texts
from netopsy.samples.samples import Samples
from netopsy.studies.maximize.ascend import generator
from netopsy.studies.maximize.target import Best, Target, token_steps
from netopsy.wording import listing, plural

_SWAPS = 16  # that are run in each step
_TOGETHER = (2, 4, 8, 16, 32)  # positions whose best swaps are run together
_PLACES, _TRIED = 4, 32  # positions, and tokens at each, that are tried where no estimated swap helps
_STEPS = 100  # of numbers
_RANGE = 1000  # samples whose range bounds the climb
_SIZE = 0.05  # a step, as a share of the range

RUNS: dict[str, Any] = {
    **{"unit": pl.String, "node": pl.String, "channel": pl.Int64, "place": pl.String, "climbed_at": pl.String},
    **{"way": pl.String, "run": pl.Int64, "state": pl.String, "start": pl.Float64, "reached": pl.Float64},
    **{"strongest": pl.Float64, "strongest_image": pl.Int64, "ratio": pl.Float64, "steps": pl.Int64},
    **{"text": pl.String},
}


@dataclass(frozen=True)
class Found:
    """One run: its way (`tokens`, `embeddings`, `values`), what it reached, and the sample itself.

    inputs: of the best sample, each (1, ...); of `embeddings` the source's value alone. ids: its tokens, if it has any.
    """

    target: Target
    way: str
    run: int
    start: float
    reached: float
    steps: int
    inputs: Mapping[str, Tensor]
    ids: tuple[int, ...] = ()


def search(
    network: Network,
    samples: Samples | None,
    targets: Sequence[Target],
    strongest: Sequence[Best | None],
    *,
    runs: int,
    steps: int | None,
    seed: int,
) -> list[Found]:
    """The runs of each unit. Without a place of its own a unit is maximised where the samples drive it most.

    The first run over tokens starts from the unit's strongest text, the others from random tokens.
    steps: None for 100 of numbers, and for as much of tokens as `token_steps` says.
    Raises SettingsError for tokens that no embedding turns into vectors.
    """
    limits = None if samples is None else _limits(network, samples)
    texts, climbs = token_steps(network, runs * len(targets), _SWAPS + len(_TOGETHER))
    found, place = [], current_workspace()
    for number, (target, best) in enumerate(zip(targets, strongest, strict=True)):
        searcher = _Search(network, target, best, samples)
        for run in range(runs):
            place.report("maximize", number * runs + run, runs * len(targets))
            numbers = generator(seed, str(target.unit), run)
            if searcher.tokens:
                found.append(searcher.swap(run, numbers, steps, None if steps else texts))
                found.append(searcher.climb_embedding(run, steps or climbs, numbers))
            else:
                found.append(searcher.climb(run, steps or _STEPS, numbers, limits))
    place.report("maximize", runs * len(targets), runs * len(targets))
    return found


def check_embedding(network: Network, source: Node) -> None:
    """Raise SettingsError where the flow back to tokens ends at a `source` that is no embedding of them."""
    if source.op != "placeholder" and source.operator != "embedding":
        raise SettingsError(
            f"the tokens of {network.name} go through '{source.operator}' and no embedding, so that no swap of tokens "
            "can be estimated; maximise another network's units."
        )


class _Search:
    """One unit: its value as a function of the inputs, or of what the embedding gives."""

    def __init__(self, network: Network, target: Target, best: Best | None, samples: Samples | None) -> None:
        self.network, self.target, self.samples, self.best = network, target, samples, best
        self.node = network.nodes[target.node]
        self.source = Trunk(network, target.node).source
        self.tokens = self.source.op != "placeholder"
        place = target.unit.place
        if best is not None and best.place >= 0 and target.centred and places(self.node):
            place = place_at(best.place, places(self.node))
        self.place = place
        self._plans: dict[tuple[str, ...], Plan] = {}
        self.base = self._base()

    def _base(self) -> dict[str, Tensor]:
        """The inputs to start from: the strongest sample's, else blank ones."""
        names, blank = self.network.signature.names, self.network.signature.example(1, self.network.module)
        if self.best is not None and self.samples is not None:
            (batch,) = self.samples.batches(self.network.preprocessing, 1, order=[self.best.image])
            return batch.to(self.network.device)
        return dict(zip(names, blank.values(), strict=True))

    def values(self, inputs: Mapping[str, Tensor], embedding: Tensor | None = None) -> Tensor:
        """(n,) of the unit; embedding: in the place of the source's value."""
        count = len(next(iter(inputs.values()))) if embedding is None else len(embedding)
        given = {k: v.expand(count, *v.shape[1:]) if len(v) == 1 else v for k, v in inputs.items()}
        if embedding is not None:
            given[self.source.name] = embedding
        key = tuple(given)
        if key not in self._plans:
            self._plans[key] = plan(self.network, [self.node.name], given=key)
        value = self._plans[key].run(given, batch=count)[self.node.name]
        rows = value.select(self.target.axis, self.target.unit.channel)
        if self.place is None:
            return rows.reshape(count, -1).mean(1).float()
        index: Any = (slice(None), *self.place)
        return rows[index].reshape(count).float()

    def _ids_name(self) -> str:
        kinds = zip(self.network.signature.names, self.network.signature.inputs, strict=True)
        return next(name for name, entry in kinds if entry.kind == "tokens")

    def _table(self) -> Tensor:
        check_embedding(self.network, self.source)
        weight: Any = self.source.args[0]
        return self.network.tensors[weight.target].detach()

    def _allowed(self, vocabulary: int) -> Tensor:
        """Which tokens may be put into a text: all but special ones and the padding."""
        tokenizer = self.network.signature.tokenizer
        barred = {*getattr(tokenizer, "special", ()), getattr(tokenizer, "pad", -1)}
        allowed = torch.ones(vocabulary, dtype=torch.bool)
        allowed[[number for number in barred if 0 <= number < vocabulary]] = False
        return allowed

    def _real(self) -> list[int]:
        """The positions that hold a token of the text, without special ones."""
        ids = self.base[self._ids_name()][0]
        if self.best is None:
            return list(range(len(ids)))
        mask, allowed = self._shown(ids[None]), self._allowed(len(self._table()))
        return [k for k in range(len(ids)) if mask[k] and allowed[int(ids[k])]]

    def _start(self, run: int, numbers: torch.Generator) -> Tensor:
        """The tokens of the strongest text, or random ones in their places."""
        ids, real = self.base[self._ids_name()].clone(), self._real()
        if run or self.best is None:
            choices = self._allowed(len(self._table())).nonzero()[:, 0]
            ids[0, real] = choices[torch.randint(len(choices), (len(real),), generator=numbers)].to(ids)
        return ids

    def swap(self, run: int, numbers: torch.Generator, steps: int | None, texts: int | None) -> Found:
        """Coordinate ascent over the tokens that reach the unit, in at most so many steps, and so many texts run."""
        table, name = self._table(), self._ids_name()
        allowed, real = self._allowed(len(table)), self._real()
        ids, choices = self._start(run, numbers), allowed.nonzero()[:, 0]
        with torch.no_grad():
            value = start = float(self.values({**self.base, name: ids}))
        made = spent = 0
        while made < (steps or math.inf) and spent < (texts or math.inf):
            with torch.enable_grad():
                embedding = table[ids].requires_grad_()
                slope = torch.autograd.grad(self.values(self.base, embedding).sum(), embedding, allow_unused=True)[0]
            if slope is None or not slope[0, real].any():
                break
            real = [k for k in real if slope[0, k].any()]
            gains = slope[0] @ table.T - (slope[0] * table[ids[0]]).sum(1, keepdim=True)
            gains = gains[real].masked_fill(~allowed.to(gains.device), -torch.inf)
            tried = self._promising(ids, gains, torch.tensor(real, device=ids.device))
            order = torch.randperm(len(real), generator=numbers)[:_PLACES].tolist()
            for candidates in [tried, *(self._at(ids, real[k], choices, numbers) for k in order)]:
                spent += len(candidates)
                with torch.no_grad():
                    reached = self.values({**self.base, name: candidates})
                top = int(reached.nan_to_num(-torch.inf).argmax())
                if float(reached[top]) > value:
                    break
            else:
                break
            ids, value, made = candidates[top : top + 1], float(reached[top]), made + 1
        inputs, text = {**self.base, name: ids}, ids[0][self._shown(ids)].tolist()
        return Found(self.target, "tokens", run, start, value, made, inputs, tuple(text))

    def _promising(self, ids: Tensor, gains: Tensor, real: Tensor) -> Tensor:
        """Texts with the swaps that promise most, one alone each, then the best of 2, 4, ... positions together.

        gains: (position, token), what each is estimated to bring at the positions `real`.
        """
        best = gains.flatten().topk(min(_SWAPS, gains.numel())).indices
        each, tokens = gains.max(1)
        order = each.argsort(descending=True)[: int((each > 0).sum())]
        sizes = [size for size in _TOGETHER if size <= len(order)]
        tried = ids.repeat(len(best) + len(sizes), 1)
        tried[torch.arange(len(best)), real[best // gains.shape[1]]] = (best % gains.shape[1]).to(ids)
        for row, size in enumerate(sizes, len(best)):
            tried[row, real[order[:size]]] = tokens[order[:size]].to(ids)
        return tried

    def _at(self, ids: Tensor, position: int, choices: Tensor, numbers: torch.Generator) -> Tensor:
        """The text with other tokens at one position: the estimate, which is local, may promise what does not come."""
        some = choices[torch.randperm(len(choices), generator=numbers)[:_TRIED]].to(ids)
        tried = ids.repeat(len(some), 1)
        tried[:, position] = some
        return tried

    def _shown(self, ids: Tensor) -> Tensor:
        pairs = zip(self.network.signature.names, self.network.signature.inputs, strict=True)
        masks = (self.base[name][0].bool() for name, entry in pairs if entry.kind == "mask")
        return next(masks, torch.ones_like(ids[0], dtype=torch.bool))

    def climb_embedding(self, run: int, steps: int, numbers: torch.Generator) -> Found:
        """Ascent on the embedding of the same text, within the range of the vocabulary's in every dimension."""
        table, ids = self._table(), self._start(run, numbers)
        low, high = table.aminmax(dim=0)
        x, start, reached = self._ascend(table[ids], low, high, steps, lambda x: self.values(self.base, x))
        return Found(self.target, "embeddings", run, start, reached, steps, {self.source.name: x})

    def climb(self, run: int, steps: int, numbers: torch.Generator, limits: tuple[Tensor, Tensor] | None) -> Found:
        """Ascent on the first input of real numbers from random values, within the samples' range."""
        name = self.source.name
        shape = self.base[name].shape
        low, high = limits or (torch.full(shape[1:], -1.0), torch.full(shape[1:], 1.0))
        low, high = (v.to(self.network.device) for v in (low, high))
        x = low + (high - low) * torch.rand(shape, generator=numbers).to(self.network.device)
        x, start, reached = self._ascend(x, low, high, steps, lambda x: self.values({**self.base, name: x}))
        return Found(self.target, "values", run, start, reached, steps, {**self.base, name: x})

    def _ascend(self, x: Tensor, low: Tensor, high: Tensor, steps: int, value_of: Any) -> tuple[Tensor, float, float]:
        """(the best point, value at the start, value there), by steps of one length along the gradient."""
        best, start, reached = x, math.nan, -math.inf
        for step in range(steps + 1):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                value = value_of(leaf).sum()
                slope = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
            number = float(value.detach())
            start = number if not step else start
            if number > reached:
                best, reached = x, number
            if slope is None or not slope.any():
                break
            x = x + _SIZE * (high - low) * slope / slope.square().mean().sqrt()
            x = torch.minimum(torch.maximum(x, low), high)
        return best, start, reached


def _limits(network: Network, samples: Samples) -> tuple[Tensor, Tensor]:
    """Least and largest value of each column of rows, or of each channel, over up to 1,000 samples."""
    lows, highs = [], []
    rows = network.signature.inputs[0].kind == "vector"
    for batch in samples.batches(network.preprocessing, 100, order=list(range(min(len(samples), _RANGE)))):
        values = batch.images.float()
        across = [0] if rows or values.ndim < 3 else [0, *range(2, values.ndim)]
        lows.append(values.amin(across, keepdim=True)[0])
        highs.append(values.amax(across, keepdim=True)[0])
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0)


def run_table(found: Sequence[Found], strongest: Mapping[str, Best | None], network: Network) -> pl.DataFrame:
    """A row a run; `ratio`: reached over the samples' strongest, null unless both are above 0. `text`: of tokens."""
    rows = []
    for one in found:
        unit, best = one.target.unit, strongest[str(one.target.unit)]
        ratio = one.reached / best.value if best is not None and min(best.value, one.reached) > 0 else None
        rows.append(
            {
                **{"unit": str(unit), "node": unit.node, "channel": unit.channel},
                "place": ":".join(map(str, unit.place or ())) or None,
                **{"climbed_at": one.target.node, "way": one.way, "run": one.run},
                "state": "risen" if one.reached > one.start else "not risen",
                **{"start": one.start, "reached": one.reached},
                "strongest": None if best is None else best.value,
                "strongest_image": None if best is None else best.image,
                **{"ratio": ratio, "steps": one.steps, "text": "".join(_pieces(network, one.ids)) if one.ids else None},
            }
        )
    return pl.DataFrame(rows, schema=RUNS)


def _pieces(network: Network, ids: Sequence[int]) -> list[str]:
    """Tokens as text, one by one."""
    tokenizer = network.signature.tokenizer
    if tokenizer is None:
        return [f"{number} " for number in ids]
    return [token_name(tokenizer, number) for number in ids]


def show(
    network: Network,
    samples: Samples | None,
    targets: Sequence[Target],
    strongest: Sequence[Best | None],
    found: Sequence[Found],
) -> tuple[dict[str, Texts], dict[str, Image]]:
    """Each unit's best runs beside its strongest sample: as text, or recordings as waves."""
    groups: dict[str, tuple[Passage, ...]] = {}
    waves, panels = [], []
    for target, best in zip(targets, strongest, strict=True):
        mine = sorted((f for f in found if f.target is target), key=lambda f: -f.reached)
        lines = []
        if best is not None and samples is not None and mine and mine[-1].way != "values":
            entry = Entry(target.unit.channel, best.image, best.place, f"real {best.value:.3g}")
            lines += passages(network, samples, {target.node: [entry]})[target.node]
        for one in mine:
            if one.ids:
                pieces = _pieces(network, one.ids)
                node = network.nodes[target.node]
                place = _Search(network, target, best, samples).place
                mark = None if place is None else position_of(network, node, place)
                mark, words = -1 if mark is None else mark, f"run {one.run} {one.reached:.3g}"
                lines.append(Passage(tuple(pieces), (0.0,) * len(pieces), mark, words))
            elif one.way == "values" and network.signature.inputs[0].kind == "vector":
                row = next(iter(one.inputs.values()))[0].tolist()
                columns = tuple(f"[{i}] {v:.3g}; " for i, v in enumerate(row))
                lines.append(Passage(columns, (0.0,) * len(row), -1, f"run {one.run} {one.reached:.3g}"))
            elif one.way == "values" and network.signature.inputs[0].kind == "series":
                wave = next(iter(one.inputs.values()))[0].detach().cpu().float().numpy()
                line = wave.reshape(-1, wave.shape[-1])
                left, right = target.box[1], target.box[3]
                drawn = waveform(line, line.shape[1], (left, right), (left + right - 1) // 2, (60, 360))
                panels.append(Panel(name := f"{target.unit} run {one.run}", (drawn,), f"{name}: {one.reached:.4g}"))
                waves.append(below([caption(panels[-1].caption, 360, 12), drawn], 2))
        if lines:
            groups[str(target.unit)] = tuple(lines)
    texts = {
        "texts": Texts(
            groups,
            "Samples that excite units most",
            "One block a unit: the strongest real sample, if it is text, then what each run reached. The framed token "
            "is where the unit is, the number its value.",
            "after Ebrahimi et al., 2018",
        )
    }
    image = Image(
        below(waves, 8) if waves else np.zeros((1, 1, 3), np.uint8),
        "Recordings that excite units most",
        "One wave a run, in the range of the samples; the unit sees the shaded part.",
        "after Erhan et al., 2009",
        alt=f"Waves of {plural(len(waves), 'run')}",
        panels=tuple(panels),
    )
    return (texts if groups else {}), ({"waves": image} if waves else {})


def sentences(runs: pl.DataFrame, samples: Samples | None) -> list[str]:
    """Plain sentences, the most important first."""
    if runs.is_empty():
        return ["No unit of the network can be maximised."]
    lines = []
    for way, words in (
        ("tokens", "Swapping tokens"),
        ("values", "Ascent within the samples' range"),
        ("embeddings", "Ascent on the embedding, which no text is bound to reach,"),
    ):
        part = runs.filter((pl.col("way") == way) & pl.col("strongest").is_not_null())
        if part.is_empty():
            continue
        best = part.group_by("unit", maintain_order=True).agg(pl.col("reached").max(), pl.col("strongest").first())
        above = best.filter(pl.col("reached") > pl.col("strongest"))
        noun = "sample" if samples is None else samples.noun
        examples = [f"{u} ({r:.3g} against {s:.3g})" for u, r, s in above.iter_rows()]
        lines.append(
            f"{words} takes {above.height} of {plural(best.height, 'unit')} above the strongest real {noun}"
            f"{': ' + listing(examples, 3) if examples else ''}."
        )
    still = runs.filter(pl.col("state") == "not risen")
    if still.height:
        lines.append(f"{plural(still.height, 'run')} of {runs.height} ended no higher than they began.")
    if samples is None:
        lines.append("No samples were given, so the values reached were compared with none.")
    return lines

"""What edits do to the outputs: the divergence from the unedited network's, which needs no labels, and the scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.sweep.edits import Variant, identity
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.sweep.score import judge, row
from netopsy.engine.workspace.fingerprint import conditions
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.prescribe.allocation.calibration import expected_drop, weighed

_COUNTS = ("divergence", "expected", "top1", "top5", "agreement", "loss", "losses", "gains")
BLOCK = 64  # images between two checkpoints


def divergence(
    plain: Float[Tensor, "n classes"], edited: Float[Tensor, "n classes"], multilabel: bool
) -> Float[Tensor, " n"]:
    """Kullback-Leibler divergence in nats of the edited outputs from the plain, float64; infinite where not finite.

    One class an image: of the softmax. Several labels: the sum over the labels, each a Bernoulli variable.
    """
    p, q = plain.double(), edited.double()
    if multilabel:
        on = torch.sigmoid(p)
        each = on * (F.logsigmoid(p) - F.logsigmoid(q)) + (1 - on) * (F.logsigmoid(-p) - F.logsigmoid(-q))
    else:
        p, q = F.log_softmax(p, 1), F.log_softmax(q, 1)
        each = p.exp() * (p - q)
    total = each.sum(1)
    return torch.where(total.isfinite(), total.clamp_min(0), torch.inf)


@torch.inference_mode()
def effects(
    network: Network, samples: Samples, variants: Sequence[Variant], label: str, heat: float = 1.0
) -> pl.DataFrame:
    """A row a variant: its settings, `divergence`, `expected`, `estimate` and the columns of `sweep`.

    divergence: mean over the images, in nats. expected: the drop expected of the outputs at the temperature `heat`,
    see `expected_drop`; estimate: of it and of the drop counted, see `weighed`. label: how the progress is called. In
    a workspace it goes on from the last block of images that was done.
    Errors: EditError for a variant that changes no weight.
    """
    rerun = Rerun(network, variants)
    block = min(BLOCK, rerun.block_size)
    spec = {
        **conditions(network, samples),
        "variants": [identity(variant) for variant in variants],
        "block": block,
        "heat": heat,
    }
    saved = current_workspace().checkpoint("effects", spec)
    done, state = saved.load()
    totals = state.get("totals", torch.zeros(len(variants), len(_COUNTS), dtype=torch.float64))
    groups = max(1, len(rerun.groups))
    for batch in samples.batches(network.preprocessing, block, start=done) if done < len(samples) else ():
        images, labels = batch.images.to(network.device), batch.labels.to(network.device)
        plain = rerun.plain.run({"input": images}, batch=len(images))[network.output].clone()
        before, seen, ran = judge(plain, labels), torch.zeros_like(totals), set[int]()

        def take(
            group: int,
            outputs: dict[int, Tensor],
            plain: Tensor = plain,
            labels: Tensor = labels,
            before: Any = before,
            seen: Tensor = seen,
            ran: set[int] = ran,
            done: int = done,
        ) -> None:
            for position, values in outputs.items():
                after = judge(values, labels)
                agree = (after.predicted == before.predicted) & (after.predicted >= 0)
                each = (
                    divergence(plain, values, samples.multilabel),
                    expected_drop(plain, before.predicted, after.predicted, heat, samples.multilabel),
                    *(after.top1, after.top5, agree, after.loss, before.top1 & ~after.top1, after.top1 & ~before.top1),
                )
                seen[position] = torch.stack([value.double().sum() for value in each]).cpu()
                ran.add(position)
            part = len(labels) * (group + 1) // groups
            current_workspace().report(label, done + part, len(samples))

        rerun.run(images, take, active=range(len(variants)))
        idle = set(range(len(variants))) - ran
        if idle:
            take(groups - 1, dict.fromkeys(idle, plain))
        totals = totals + seen
        done += len(images)
        saved.save(done, lambda totals=totals: {"totals": totals}, final=done == len(samples))  # type: ignore[misc]
    rows = []
    for variant, counts in zip(variants, totals.tolist(), strict=True):
        named = dict(zip(_COUNTS, counts, strict=True))
        away, expected = (named.pop(key) / len(samples) for key in ("divergence", "expected"))
        scores = row(**named, images=len(samples))
        estimate = weighed(scores["drop"], named["losses"] + named["gains"], len(samples), expected)
        rows.append({**variant.settings, "divergence": away, "expected": expected, "estimate": estimate, **scores})
    return pl.DataFrame(rows)

"""The scores of many edited versions of one network."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch

from netopsy.engine.edits import Edit, Replace, Shift, Variant, check_change, computed, edited
from netopsy.engine.score import judge, row
from netopsy.engine.walk import affected, boundary, plan
from netopsy.engine.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.samples import Samples

__all__ = ["Edit", "Replace", "Shift", "Variant", "score", "sweep"]


@torch.inference_mode()
def sweep(
    network: Network,
    samples: Samples,
    variants: Sequence[Variant],
    *,
    precision: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """One row a variant, in the order given: its settings, then its scores."""
    device = network.device
    weights, plans, given = [], [], set()
    for variant in variants:
        if variant.edit is None:
            weights.append({})
            plans.append(None)
            continue
        new = edited(variant.edit, computed(variant.edit, network.tensors), network.tensors)
        check_change(variant, new, network.tensors)
        weights.append(new)
        changed = affected(network, variant.edit.tensors)
        edges = boundary(network, changed)
        plans.append(plan(network, [network.output], given=edges))
        given.update(edges)
    base = plan(network, [network.output, *given])
    sums = [dict.fromkeys(("top1", "top5", "agreement", "loss", "losses", "gains"), 0.0) for _ in variants]
    done = 0
    for batch in samples.batches(network.preprocessing, batch_size or 64):
        images, labels = batch.images.to(device), batch.labels.to(device)
        values = base.run({"input": images}, batch=len(images))
        values["input"] = images
        plain = judge(values[network.output], labels)
        for total, new, step in zip(sums, weights, plans, strict=True):
            verdicts = plain
            if step is not None:
                edges = {node.meta["name"]: values[node.meta["name"]] for node in step.given}
                out = step.run(edges, batch=len(images), overrides=new)[network.output]
                verdicts = judge(out, labels)
            total["top1"] += int(verdicts.top1.sum())
            total["top5"] += int(verdicts.top5.sum())
            total["agreement"] += int(((verdicts.predicted == plain.predicted) & (plain.predicted >= 0)).sum())
            total["loss"] += float(verdicts.loss.sum())
            total["losses"] += int((plain.top1 & ~verdicts.top1).sum())
            total["gains"] += int((~plain.top1 & verdicts.top1).sum())
        done += len(images)
        current_workspace().report("sweep", done, len(samples))
    return pl.DataFrame(
        [{**variant.settings, **row(**total, images=len(samples))} for variant, total in zip(variants, sums, strict=True)]
    )


def score(network: Network, samples: Samples) -> pl.DataFrame:
    """One row: the scores of the unedited network."""
    return sweep(network, samples, [Variant({}, None)])

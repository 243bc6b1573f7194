"""Is any block more critical than another? The paper says no by eye; here are the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from netopsy.stats.hypothesis_tests import cochran_q, detectable, detectable_mean, friedman, holm, permutation_p
from netopsy.studies.triage.design import TriageRun, trials_by_block

IMAGES, SEEDS = "images (Cochran's Q)", "seeds (permutation)"
SCORES = "images (Friedman's test)"
TOGETHER = "seeds, all ways (permutation)"

_SCHEMA: dict[str, Any] = {
    "start": pl.String,
    "training": pl.String,
    "seed": pl.Int64,
    "over": pl.String,
    "blocks": pl.Int64,
    "spread": pl.Float64,
    "least_critical": pl.String,
    "most_critical": pl.String,
    "statistic": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "least_p": pl.Float64,
    "detectable": pl.Float64,
    "count": pl.Int64,
}


def criticality(run: TriageRun) -> pl.DataFrame:
    """The hypothesis that the accuracy does not depend on the block, for each start x training.

    over: `images (Cochran's Q)`, of each seed: whether these networks differ by more than which images were scored;
    `images (Friedman's test)`: the same of tasks whose score is not right or wrong;
    `seeds (permutation)`: whether the blocks differ by more than the seeds of the training do; `seeds, all ways
    (permutation)`: the same of each block's mean over all ways of training, one test, in the row `all`.
    spread: accuracy of the best block less that of the worst; statistic: Q; p_holm: p adjusted over all tests of its
    kind; least_p: the lowest that the test could have given; detectable: the difference between two blocks that it
    would find in 4 of 5 cases; count: images or seeds.
    """
    rows: list[dict[str, Any]] = []
    ways = list(dict.fromkeys((t.spec["start"], t.spec["training"]) for t in run.cells))
    seeds = list(run.parents)
    for start, training in ways:
        right_by_seed = {seed: trials_by_block(run, seed, start, training) for seed in seeds}
        for seed, right_of in right_by_seed.items():
            if len(right_of) > 1:
                stacked = np.stack([trial.right for trial in right_of.values()], 1)
                binary = all(trial.binary for trial in right_of.values())
                q, p = cochran_q(stacked) if binary else friedman(stacked)
                row = _row(
                    start, training, {name: t.score for name, t in right_of.items()}, IMAGES if binary else SCORES
                )
                rows.append(
                    row
                    | {"seed": seed, "statistic": q, "p": p, "detectable": detectable(stacked), "count": len(stacked)}
                )
        # only blocks that every seed came through can be set against each other
        blocks = [b.name for b in run.blocks if all(b.name in right_of for right_of in right_by_seed.values())]
        if len(seeds) > 1 and len(blocks) > 1:
            scores = np.array([[right_by_seed[seed][block].score for block in blocks] for seed in seeds])
            p, least = permutation_p(scores)
            row = _row(start, training, dict(zip(blocks, scores.mean(0), strict=True)), SEEDS)
            rows.append(row | {"p": p, "least_p": least, "detectable": detectable_mean(scores), "count": len(seeds)})
    rows += _together(run, seeds, ways)
    for kind in (IMAGES, SCORES, SEEDS, TOGETHER):
        own_rows = [row for row in rows if row["over"] == kind]
        for row, adjusted in zip(own_rows, holm([row["p"] for row in own_rows]), strict=True):
            row["p_holm"] = adjusted
    return pl.DataFrame(rows, schema=_SCHEMA)


def _together(run: TriageRun, seeds: list[int], ways: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The test of each block's mean accuracy over all ways; none of one seed, of one way or of one block."""
    right_by_seed = [[trials_by_block(run, seed, *way) for way in ways] for seed in seeds]
    blocks = [
        b.name for b in run.blocks if all(b.name in right_of for of_seed in right_by_seed for right_of in of_seed)
    ]
    if min(len(seeds), len(ways), len(blocks)) < 2:
        return []
    scores = np.array(
        [[np.mean([right_of[block].score for right_of in of_seed]) for block in blocks] for of_seed in right_by_seed]
    )
    p, least = permutation_p(scores)
    row = _row("all", "all", dict(zip(blocks, scores.mean(0), strict=True)), TOGETHER)
    return [row | {"p": p, "least_p": least, "detectable": detectable_mean(scores), "count": len(seeds)}]


def _row(start: str, training: str, accuracy: dict[str, float], over: str) -> dict[str, Any]:
    best, worst = max(accuracy, key=lambda b: accuracy[b]), min(accuracy, key=lambda b: accuracy[b])
    return dict.fromkeys(_SCHEMA) | {
        "start": start,
        "training": training,
        "over": over,
        "blocks": len(accuracy),
        "spread": float(accuracy[best] - accuracy[worst]),
        "least_critical": best,
        "most_critical": worst,
    }

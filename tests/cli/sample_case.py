"""A case with every kind of content, and names that try to break out of the page."""

from __future__ import annotations

import numpy as np
import polars as pl

from netopsy.charts import bars, curve, heatmap, histogram
from netopsy.result import MEASURE_SCHEMA, Alert, Atlas, Finding, Image, Level, Passage, Result, Sheet

EVIL = "</script><script>window.pwned=1</script><b>'\"&"


PROVENANCE = {
    "network": {"name": EVIL, "parameters": 1234, "digest": "ab"},
    "samples": {"name": "seven-hundred-images-of-a-thousand-classes", "count": 10, "classes": 10, "digest": "cd"},
    "versions": {"netopsy": "0.1.0"},
    "finished": "2026-01-01T00:00:00+00:00",
    "seconds": 1.5,
}


def evil_atlas() -> Atlas:
    """Two layers: 30 units with two patches of 4 x 6 pixels each; 3 units, one of a single stimulus, with two patches
    of 20 x 20 pixels and their reconstructions, on two sheets. The patch of rank r of unit c is of colour (8c, 0, r);
    unit c answers with c + 1 and c to images 0 and 1.
    """
    rows = [("conv1", c) for c in range(30)] + [(EVIL, c) for c in range(3)]
    units = pl.DataFrame(
        {
            "node": [node for node, _ in rows],
            "layer": ["conv1" if node == "conv1" else EVIL for node, _ in rows],
            "channel": [c for _, c in rows],
            "class": ["cat" if c % 2 else EVIL for _, c in rows],
            "activation": [c + 1.0 for _, c in rows],
            "share": [None if c == 1 else c / 30 for _, c in rows],
        }
    )
    entries = [(n, c, r) for n, c in rows for r in (1, 2) if (n, c, r) != (EVIL, 2, 2)]
    stimuli = pl.DataFrame(
        {
            "node": [n for n, _, _ in entries],
            "channel": [c for _, c, _ in entries],
            "rank": [r for _, _, r in entries],
            "value": [c + 2.0 - r for _, c, r in entries],
            "image": [r - 1 for _, _, r in entries],
            "class": [("cat" if c % 2 else EVIL) if r == 1 else "dog" for _, c, r in entries],
        }
    )
    small = np.zeros((30, 2, 4, 6, 3), np.uint8)
    small[..., 0] = 8 * np.arange(30)[:, None, None, None]
    small[..., 2] = np.arange(1, 3)[None, :, None, None]
    large = np.full((3, 4, 20, 20, 3), 128, np.uint8)
    sheets = {
        "conv1": (Sheet.of(small.reshape(-1, 4, 6, 3)),),
        EVIL: (Sheet.of(large[:2].reshape(-1, 20, 20, 3)), Sheet.of(large[2:].reshape(-1, 20, 20, 3))),
    }
    words = {"title": f"Atlas of {EVIL}", "reading": f"Read {EVIL}", "source": "Some paper, Figure 2"}
    return Atlas(units=units, stimuli=stimuli, sheets=sheets, top=2, rules={"conv1": "", EVIL: "masked"}, **words)


def evil_result(study: str = "noise") -> Result:
    """Charts of each kind, a picture, tables, findings; layer and class names are hostile."""
    layers = ["conv1", EVIL, "fc"]
    scores = pl.DataFrame(
        {
            "layer": [layer for layer in layers for _ in range(4)],
            "strength": [0.1, 0.2, 0.4, 0.8] * 3,
            "top1": np.linspace(0.9, 0.2, 12),
            "low": np.linspace(0.88, 0.15, 12),
            "high": np.linspace(0.92, 0.25, 12),
        }
    )
    bins = pl.DataFrame({"left": [0.0, 1.0], "right": [1.0, 2.0], "count": [3, 4]})
    words = {"title": f"Chart of {EVIL}", "reading": f"Read {EVIL}", "source": "Some paper, Figure 1"}
    return Result(
        study=study,
        question="How much noise can it take?",
        settings={"strengths": (0.1, 0.2), "layers": (EVIL,)},
        tables={"scores": scores, "long": pl.DataFrame({"n": range(1000), "x": [float("nan")] * 1000})},
        figures={
            "curve": curve(scores, "strength", "top1", color="layer", low="low", high="high", percent=True, **words),
            "map": heatmap(scores, "strength", "layer", "top1", percent=True, **words),
            "bars": bars(scores.head(4), "strength", "top1", **words),
            "histogram": histogram(bins, "left", "right", "count", **words),
        },
        images={"filters": Image(np.zeros((4, 6, 3), np.uint8), title=EVIL, reading=EVIL, alt=EVIL, zoom=4)},
        atlases={"atlas": evil_atlas()},
        findings=[f"The most fragile layer is {EVIL}.", "A second finding."],
        provenance=PROVENANCE,
    )


def evil_baseline(worst: Level = "error") -> Result:
    """A baseline of a network that branches: conv1 leads to a hostile layer and to "aux", and both to fc.

    worst: the level of the worst of its four alerts.
    """
    layers = ["conv1", EVIL, "aux", "fc"]
    measures = [(name, "parameters", 100.0 * k, None, None, "") for k, name in enumerate(layers)]
    measures += [(name, "macs", 900.0 - 300 * k, None, None, "") for k, name in enumerate(layers)]
    measures += [(name, "fragility", 0.1 * k, 0.1 * k - 0.02, 0.1 * k + 0.02, "noise") for k, name in enumerate(layers)]
    measures += [(EVIL, "bits", 8.0, None, None, "int8 per channel"), (EVIL, "dead", 3.0, None, None, "")]
    row = {"task": "classification", "unit": "top-1 accuracy", "score": 0.917, "score_low": 0.912, "score_high": 0.922}
    score = {
        **row,
        "top1": 0.917,
        "top5": 0.99,
        "images": 10000,
        "parameters": 269722,
        "bytes": 1083960,
        "macs": 41 * 10**6,
    }
    table = {
        "layer": layers,
        "kind": ["conv", "conv", "conv", "linear"],
        "inputs": [[], ["conv1"], ["conv1"], [EVIL, "aux"]],
        "units": [30, 3, 0, 0],
        "dead": [0, 2, 0, 0],
    }
    confusion = pl.DataFrame({"class": ["cat", EVIL], "predicted": [EVIL, "cat"], "images": [3, 2]})
    levels = ("note", "warning", worst, "warning")
    return Result(
        study="baseline",
        tables={"score": pl.DataFrame([score]), "layers": pl.DataFrame(table), "confusion": confusion},
        findings=[Finding(f"Told of {EVIL}.", 3.0), Finding("Too little to repeat.", 0.5)],
        alerts=[Alert(f"kind-{k}", level, f"Wrong with {EVIL}", "Mend it.", EVIL) for k, level in enumerate(levels)],
        measures=pl.DataFrame(measures, schema=MEASURE_SCHEMA, orient="row"),
        provenance=PROVENANCE,
    )


def evil_texts() -> Atlas:
    """A node of 130 units of texts, so that they lie in two files; unit c has the passages "<b> c.0" and "<b> c.1"."""
    units = pl.DataFrame({"node": ["mlp"] * 130, "channel": range(130)}).with_columns(
        pl.lit("mlp").alias("layer"), pl.lit(None, pl.String).alias("class"), activation=pl.col("channel") * 1.0
    )
    stimuli = units.select("node", "channel", "class").join(pl.DataFrame({"rank": [1, 2]}), how="cross")
    stimuli = stimuli.with_columns(value=pl.col("channel") - pl.col("rank") * 0.5, image=pl.col("rank"))
    texts = tuple(tuple(Passage(("<b> ", f"{c}.{r}"), (-0.3, 0.9), 1) for r in range(2)) for c in range(130))
    return Atlas(units, stimuli, {}, 2, {}, "Atlas of texts", "Read", texts={"mlp": texts}, noun="text")

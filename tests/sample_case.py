"""A case with every kind of content, and names that try to break out of the page."""

from __future__ import annotations

import numpy as np
import polars as pl

from netopsy.charts import bars, curve, heatmap, histogram
from netopsy.result import Image, Result

EVIL = "</script><script>window.pwned=1</script><b>'\"&"


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
        settings={"strengths": (0.1, 0.2), "layers": (EVIL,)},
        tables={"scores": scores, "long": pl.DataFrame({"n": range(1000), "x": [float("nan")] * 1000})},
        figures={
            "curve": curve(scores, "strength", "top1", color="layer", low="low", high="high", percent=True, **words),
            "map": heatmap(scores, "strength", "layer", "top1", percent=True, **words),
            "bars": bars(scores.head(4), "strength", "top1", **words),
            "histogram": histogram(bins, "left", "right", "count", **words),
        },
        images={"filters": Image(np.zeros((4, 6, 3), np.uint8), title=EVIL, reading=EVIL, alt=EVIL, zoom=4)},
        findings=[f"The most fragile layer is {EVIL}.", "A second finding."],
        provenance={
            "network": {"name": EVIL, "parameters": 1234, "digest": "ab"},
            "samples": {"name": "digits", "count": 10, "classes": 10, "digest": "cd"},
            "versions": {"netopsy": "0.1.0"},
            "finished": "2026-01-01T00:00:00+00:00",
            "seconds": 1.5,
        },
    )

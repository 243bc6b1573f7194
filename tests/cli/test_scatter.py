"""Scatter charts, and signs on heat maps: what is drawn is what the frame holds."""

from __future__ import annotations

import itertools
import re

import polars as pl

from netopsy.charts import heatmap, scatter
from netopsy.report.notebook import chart_svg

FRAME = pl.DataFrame(
    {"bits": [8, 64, 512, 4096], "score": [0.2, 0.5, 0.4, 0.9], "how": ["a", "a", "b", "b"], "more": [1, 2, 3, 4]}
)


def points(svg: str) -> list[tuple[float, float]]:
    """Places of the drawn points, those of the legend left out."""
    plot = svg.split("role-legend")[0]
    marks = plot.split("mark-symbol")[1]
    return [(float(x), float(y)) for x, y in re.findall(r'translate\(([\d.]+),([\d.]+)\)" d="', marks)]


def test_points_stand_at_their_values_on_a_logarithmic_axis() -> None:
    figure = scatter(FRAME, "bits", "score", title="t", reading="r", color="how", tips=("more",), log_x=True)
    placed = points(chart_svg(figure.spec))
    assert len(placed) == 4
    steps = [b[0] - a[0] for a, b in itertools.pairwise(placed)]
    assert max(steps) - min(steps) < 0.1  # a factor of 8 each
    heights = [y for _, y in placed]
    assert [heights.index(y) for y in sorted(heights, reverse=True)] == [0, 2, 1, 3]


def test_the_front_is_a_line_of_steps() -> None:
    front = FRAME.filter(pl.col("score") != 0.4)
    figure = scatter(FRAME, "bits", "score", title="t", reading="r", front=front, reference=0.9)
    svg = chart_svg(figure.spec)
    (line,) = re.findall(r'mark-line.*?<path[^>]* d="([^"]+)"', svg, re.S)
    assert len(re.findall(r"[ML]", line)) == 2 * front.height - 1
    assert "unedited" in svg


def test_signs_stand_in_their_cells_alone() -> None:
    cells = FRAME.with_columns(pl.Series("sign", ["●", None, "✕", None]))
    figure = heatmap(cells, "how", "bits", "score", title="t", reading="r", marks="sign")
    svg = chart_svg(figure.spec)
    assert (svg.count(">●<"), svg.count(">✕<")) == (1, 1)
    assert ">0.2<" not in svg.split("role-legend")[0]  # the values give way

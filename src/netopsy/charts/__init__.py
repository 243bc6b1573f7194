"""Charts that every study draws: polars frames in, `Figure` out. Imports no torch.

A chart holds its data, its reading and a description for screen readers, and no colours of the page: the report lays
a light or a dark theme over it (`netopsy.report.paper`). Categories keep the order in which they first appear, so
layers stay in the order of execution. Shares run from 0 to 1 and are shown in per cent with `percent=True`.
"""

from netopsy.charts.bars import bars, heatmap, histogram
from netopsy.charts.curve import curve
from netopsy.charts.dots import dots, scatter

__all__ = ["bars", "curve", "dots", "heatmap", "histogram", "scatter"]

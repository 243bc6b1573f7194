"""How varied the filters of each convolution are, and what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import torch
from scipy import stats

from netopsy import charts
from netopsy.errors import SettingsError
from netopsy.network.layers import CONVOLUTION_KINDS, Layer, filter_shape, filters_of
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.pictures.mosaic import grid, normalise_maps
from netopsy.result import Figure, Finding, Image, Panel, Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval, Length, PositiveInt, Unique
from netopsy.stats.pca import components_for, cumulative_share, eigenvalues
from netopsy.studies.study import Study, layer_measures
from netopsy.wording import chance, listing, percent, plural

DRAWN = 60  # points of a curve; the table holds all
SHEET = 640  # screen pixels that a sheet of filters fills, about


@dataclass(frozen=True)
class Filters(Study):
    """How varied the filters of each convolution are: principal components, and pictures (Lorieul et al., Figure 2).

    Each filter of a layer is one vector (depth per group times kernel). The eigenvalues of the covariance of a layer's
    filters about their mean, in descending order, give the cumulative share of variance alpha_k of the first k
    components (Equation 1; the sum over i < k is read with i from 0). n filters of d values have min(n - 1, d)
    components. A layer with few filters, or with small ones, has few components: compare layers by the share of them.

    shares: the shares of variance for which the components needed are counted.
    layer: the layer whose filters are drawn; the first convolution by default. A first layer of depth 3 is drawn in
        true colours, any other in gray: a row a filter, a column an input channel.
    most_filters, most_channels: how many filters and input channels a gray picture shows at most.

    Tables: `components` (needed for each share), `variance` (alpha_k for every k).
    """

    name: ClassVar[str] = "filters"

    shares: Annotated[tuple[float, ...], Interval(gt=0, le=1), Length(1), Unique()] = (0.5, 0.9, 0.99)
    layer: str | None = None
    most_filters: PositiveInt = 64
    most_channels: PositiveInt = 32

    def check_on(self, network: Network) -> None:
        self._choose_layer(network, network.select(kind="conv"))

    def run(self, network: Network, samples: Samples | None) -> Result:
        """Take the filters of `network` apart; needs no images."""
        convolutions = [layer for layer in network.layers if layer.kind in CONVOLUTION_KINDS]
        pictured = self._choose_layer(network, convolutions)
        curves = {layer.name: variance_shares(network, layer) for layer in convolutions}
        tables = {"components": self._components(convolutions, curves), "variance": _variance(curves)}
        return self.result(
            tables=tables,
            figures=_figures(tables, self.shares),
            images={} if pictured is None else {"filters": self._picture(network, pictured)},
            measures=_measures(curves),
            findings=self._findings(network, tables["components"]),
        )

    def _choose_layer(self, network: Network, convolutions: Sequence[Layer]) -> Layer | None:
        if self.layer is None:
            return next(iter(convolutions), None)
        chosen = network.layer(self.layer)
        if chosen.kind not in CONVOLUTION_KINDS:
            names = [layer.name for layer in convolutions]
            raise SettingsError(
                f"layer '{self.layer}' of {network.name} is a {chosen.kind} layer and has no filters; "
                f"its convolutions: {listing(names) or 'none'}."
            )
        return chosen

    def _components(self, convolutions: Sequence[Layer], curves: dict[str, np.ndarray]) -> pl.DataFrame:
        """layer, filters, dimensions, components, then for each share components_50 and, of all of them, share_50."""
        rows: list[dict[str, Any]] = []
        for layer in convolutions:
            alpha = curves[layer.name]
            filters, *rest = filter_shape(layer)
            count = len(alpha) - 1
            row: dict[str, Any] = {"layer": layer.name, "filters": filters, "dimensions": int(np.prod(rest))}
            row["components"] = count
            for share in self.shares:
                needed = None if np.isnan(alpha[-1]) else components_for(alpha, share)
                row[f"components_{_percent(share)}"] = needed
                row[f"share_{_percent(share)}"] = None if needed is None else needed / count
            rows.append(row)
        counts = ("filters", "dimensions", "components")
        columns: dict[str, Any] = {"layer": pl.String} | dict.fromkeys(counts, pl.Int64)
        for share in self.shares:
            columns |= {f"components_{_percent(share)}": pl.Int64, f"share_{_percent(share)}": pl.Float64}
        return pl.DataFrame(rows, schema=columns)

    def _picture(self, network: Network, layer: Layer) -> Image:
        weight = network.tensors[layer.weight].detach().to("cpu", torch.float32)
        filters = filters_of(layer, weight).numpy()
        number, depth = filters.shape[:2]
        filters = filters.reshape(number, depth, *_square(filters.shape[2:]))
        first = layer.nodes[0] == network.layers[0].nodes[0]
        taken = network.preprocessing
        if first and isinstance(taken, Preprocessing) and depth == taken.depth == 3:
            colours = filters[:, ::-1] if taken.channels == "BGR" else filters
            squares, columns = normalise_maps(colours).transpose(0, 2, 3, 1), None
            how = "one square per filter, in the colours it answers to"
            title = f"The {plural(number, 'filter')} of {layer.name}"
        elif depth == 1:
            squares, columns = normalise_maps(filters)[:, 0], None
            how = "one square per filter"
            title = f"The {plural(number, 'filter')} of {layer.name}"
        else:
            few = normalise_maps(filters)[: self.most_filters, : self.most_channels]
            squares, columns = few.reshape(-1, *few.shape[2:]), few.shape[1]
            how = "one row per filter, one column per input channel"
            title = (
                f"{few.shape[0]} of {plural(number, 'filter')} of {layer.name}, {few.shape[1]} of "
                f"{plural(depth, 'channel')}"
            )
        reading = f"{how[0].upper()}{how[1:]}; mid-gray is 0, and each filter is scaled to its own largest weight."
        sheet = grid(squares, columns)
        zoom = max(1, min(12, SHEET // max(sheet.shape[:2])))
        panel = Panel(layer.name, tuple(squares), columns=columns or 0)
        return Image(
            sheet,
            title,
            reading,
            "after Lorieul et al., Section II.B",
            alt=f"{title}: {how}",
            zoom=zoom,
            panels=(panel,),
        )

    def _findings(self, network: Network, table: pl.DataFrame) -> list[Finding]:
        if table.is_empty():
            return [Finding(f"{network.name} has no convolution, and so no filters to compare.", 0.0)]
        share = min(self.shares, key=lambda s: abs(s - 0.9))
        needed, part = f"components_{_percent(share)}", f"share_{_percent(share)}"
        varied = table.drop_nulls(part).sort(part, maintain_order=True)
        findings = []
        if varied.height:
            low, high = varied.row(0, named=True), varied.row(-1, named=True)
            names = listing(varied.filter(pl.col(part) == low[part])["layer"].to_list(), 3)
            text = (
                f"The filters of {names} are the most alike: {low[needed]} of {low['components']} components "
                f"({percent(low[part])}) hold {percent(share)} of their variance"
            )
            if high[part] > low[part]:
                text += f"; {high['layer']} needs {percent(high[part])}"
            findings.append(Finding(f"{text}.", min(5.0, share / max(0.01, low[part]) - 1)))
        if varied.height >= 4:
            findings += _trend(table.drop_nulls(part), part, share)
        single = table.filter(pl.col(part).is_null())["layer"].to_list()
        if single:
            text = f"The filters of {listing(single)} do not vary: there is one, or all are alike."
            findings.append(Finding(text, 1.0))
        return findings


def variance_shares(network: Network, layer: Layer) -> np.ndarray:
    """Equation 1 for one convolution: float64 (components + 1,), from 0 to 1."""
    filters = filters_of(layer, network.tensors[layer.weight].detach())
    return cumulative_share(eigenvalues(filters.flatten(1)))


def _variance(curves: dict[str, np.ndarray]) -> pl.DataFrame:
    """layer, k, position (k over the number of components), variance (alpha_k); null where there is no variance."""
    frames = []
    for name, alpha in curves.items():
        k = np.arange(len(alpha))
        position = k / max(len(alpha) - 1, 1)
        frames.append(pl.DataFrame({"layer": [name] * len(k), "k": k, "position": position, "variance": alpha}))
    empty = pl.DataFrame(schema={"layer": pl.String, "k": pl.Int64, "position": pl.Float64, "variance": pl.Float64})
    return pl.concat([empty, *frames]).fill_nan(None)


def _figures(tables: dict[str, pl.DataFrame], shares: tuple[float, ...]) -> dict[str, Figure]:
    points = tables["variance"].drop_nulls("variance")
    if points.is_empty():
        return {}
    # evenly spread ranks, always with the first and the last
    stride = (pl.len().over("layer") - 1).clip(1, None) / (DRAWN - 1)
    keep = (pl.len().over("layer") <= DRAWN) | ((pl.col("k") / stride).round() != ((pl.col("k") - 1) / stride).round())
    thin = points.filter(keep)
    share = min(shares, key=lambda s: abs(s - 0.9))
    return {
        "variance": charts.curve(
            thin,
            "position",
            "variance",
            color="layer",
            percent=True,
            percent_x=True,
            points=False,
            title="Variance of the filters in their first principal components",
            reading="The sooner a layer's curve rises, the more alike its filters are; a diagonal means no likeness.",
            source="Lorieul et al., Figure 2 and Equation 1",
            x_title="share of components kept",
            y_title="share of variance",
        ),
        "components": charts.bars(
            tables["components"].drop_nulls(f"share_{_percent(share)}"),
            "layer",
            f"share_{_percent(share)}",
            percent=True,
            title=f"Components needed for {_percent(share)} % of the variance",
            reading="One bar per layer, in order of execution: the share of its components that the variance needs.",
            source="after Lorieul et al., Figure 2",
            value_title="share of components",
        ),
    }


def _trend(rows: pl.DataFrame, part: str, share: float) -> list[Finding]:
    """Whether deeper layers need a larger share of their components (Spearman's rank correlation with depth)."""
    test = stats.spearmanr(np.arange(rows.height), rows[part].to_numpy())
    rank, p = float(test.statistic), float(test.pvalue)
    if not p < 0.05:
        return []
    word = "grow more varied" if rank > 0 else "grow more alike"
    text = (
        f"Filters {word} with depth: the share of components needed for {percent(share)} of their variance "
        f"{'rises' if rank > 0 else 'falls'} (rank correlation {rank:+.2f} over {plural(rows.height, 'layer')}, "
        f"{chance(p)})."
    )
    return [Finding(text, abs(rank) * (rows.height - 1) ** 0.5 / 1.96)]


_FIRST = 0.1  # of the components


def _measures(curves: dict[str, np.ndarray]) -> pl.DataFrame:
    """The share of variance that the first tenth of each layer's components explains, between whole ones in line."""
    rows = [
        (name, float(np.interp(_FIRST * (len(alpha) - 1), np.arange(len(alpha)), alpha)), None, None, "")
        for name, alpha in curves.items()
        if len(alpha) > 1 and not np.isnan(alpha[-1])
    ]
    return layer_measures("variance", rows)


def _square(kernel: Sequence[int]) -> tuple[int, int]:
    """A kernel of one, two or three dimensions as (height, width)."""
    if len(kernel) == 1:
        return 1, kernel[0]
    return int(np.prod(kernel[:-1])), kernel[-1]


def _percent(share: float) -> str:
    return f"{100 * share:g}"

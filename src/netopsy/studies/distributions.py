"""How the weights and biases of a network are distributed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import torch

from netopsy import charts
from netopsy.network.activations import ELEMENTWISE, SAME
from netopsy.network.layers import CONVOLUTION_KINDS, Layer, filters_of
from netopsy.network.network import Network
from netopsy.result import Figure, Finding, Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval
from netopsy.stats.describe import describe, histogram
from netopsy.stats.fits import FEWEST, Density, Fit, fit_all
from netopsy.studies.study import Study
from netopsy.wording import alike, listing, number, percent, plural

REACH = 5.0  # standard deviations on either side of the mean that the bins cover
GROUPS = {"all conv": CONVOLUTION_KINDS} | {f"all {kind}": (kind,) for kind in ("linear", "recurrent", "embedding")}
SHOWN = 24  # layers drawn; the tables hold all
LINE = 41  # points of a fitted line

MOMENTS = {
    "layer": pl.String,
    "part": pl.String,
    "values": pl.Int64,
    "mean": pl.Float64,
    "std": pl.Float64,
    "skewness": pl.Float64,
    "kurtosis": pl.Float64,
    "minimum": pl.Float64,
    "maximum": pl.Float64,
    "zeros": pl.Float64,
}
FITS = {
    "layer": pl.String,
    "part": pl.String,
    "fit": pl.String,
    "location": pl.Float64,
    "scale": pl.Float64,
    "shape": pl.Float64,
    "log_likelihood": pl.Float64,
    "bic": pl.Float64,
    "ks": pl.Float64,
    "best": pl.Boolean,
}
BINS = {
    "layer": pl.String,
    "part": pl.String,
    "left": pl.Float64,
    "right": pl.Float64,
    "count": pl.Int64,
    "density": pl.Float64,
}


@dataclass(frozen=True)
class Distributions(Study):
    """How weights and biases are distributed, layer by layer (Lorieul et al., Figures 1 and 3).

    Each layer's weights and biases, and those of all convolutions, linear layers, recurrent weights and embeddings
    together (`all conv`, `all linear`, `all recurrent`, `all embedding`): population moments (kurtosis in excess of
    the normal's 3), share of exact zeros, a histogram, and normal, Laplace and skew-normal densities fitted by maximum
    likelihood. The best fit has the lowest Bayesian information criterion; `ks` is the Kolmogorov-Smirnov distance.

    bins: bins of equal width within 5 standard deviations of the mean; what lies beyond has one more at each end.

    Tables: `moments`, `fits`, `histograms`, and `outliers`: the output and input channels whose largest weight is more
    than 6 standard deviations of its layer's weights from 0, which one scale a layer or a channel stores badly.
    """

    name: ClassVar[str] = "distributions"

    bins: Annotated[int, Interval(ge=2, le=100_000)] = 100

    def run(self, network: Network, samples: Samples | None) -> Result:
        """Describe the weights of `network`; needs no images."""
        moments: list[dict[str, Any]] = []
        fits: list[dict[str, Any]] = []
        bins: list[dict[str, Any]] = []
        for layer, part, values in _parts(network):
            values.sort()
            about = describe(values)
            keys = {"layer": layer, "part": part}
            moments.append(keys | asdict(about))
            fits += [keys | row for row in _fit_rows(fit_all(values, about))]
            edges, counts = histogram(values, about.mean, REACH * about.std, self.bins)
            widths = np.diff(edges)
            density = np.divide(counts / len(values), widths, out=np.full(len(widths), np.nan), where=widths > 0)
            rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), density.tolist(), strict=True)
            bins += [keys | {"left": a, "right": b, "count": c, "density": d} for a, b, c, d in rows]
        tables = {
            "moments": pl.DataFrame(moments, schema=MOMENTS).fill_nan(None),
            "fits": pl.DataFrame(fits, schema=FITS),
            "histograms": pl.DataFrame(bins, schema=BINS).fill_nan(None),
            "outliers": outliers(network),
        }
        return self.result(tables=tables, figures=_figures(network, tables), findings=_findings(network, tables))


OUTLIER = 6.0  # standard deviations of a layer's weights
OUTLIERS = {
    "layer": pl.String,
    "axis": pl.String,
    "channel": pl.Int64,
    "largest": pl.Float64,
    "sigmas": pl.Float64,
    "over_median": pl.Float64,
}


def outliers(network: Network) -> pl.DataFrame:
    """The channels with a weight beyond OUTLIER standard deviations of their layer, by layer, the largest first.

    axis: `output` or `input` channels of the layer. largest: magnitude of the channel's largest weight, in `sigmas`
    standard deviations and over the median of all channels' largest. Channels of zeros alone are not counted there.
    """
    frames = [pl.DataFrame(schema=OUTLIERS)]
    for layer in network.layers:
        values = network.tensors[layer.weight].detach().double()
        sigma = float(values.std(correction=0))
        if values.ndim < 2 or not sigma > 0:
            continue
        filters = filters_of(layer, values).abs()
        sides = {"output": filters.flatten(1).amax(1)}
        if layer.groups == 1:
            sides["input"] = filters.transpose(0, 1).flatten(1).amax(1)
        for axis, largest in sides.items():
            beyond = (largest > OUTLIER * sigma).nonzero()[:, 0]
            rows = {
                "layer": [layer.name] * len(beyond),
                "axis": [axis] * len(beyond),
                "channel": beyond.tolist(),
                "largest": largest[beyond].tolist(),
                "sigmas": (largest[beyond] / sigma).tolist(),
                "over_median": (largest[beyond] / largest[largest > 0].median()).tolist(),
            }
            frames.append(pl.DataFrame(rows, schema=OUTLIERS).sort("largest", descending=True, maintain_order=True))
    return pl.concat(frames)


def _parts(network: Network) -> Iterator[tuple[str, str, np.ndarray]]:
    """(layer or group, part, a fresh copy of its values), one at a time."""
    for part in ("weights", "biases"):
        for group, kinds in GROUPS.items():
            chosen = [layer for layer in network.layers if layer.kind in kinds]
            values = _values(network, chosen, part)
            if len(values):
                yield group, part, values
        for layer in network.layers:
            values = _values(network, [layer], part)
            if len(values):
                yield layer.name, part, values


def _values(network: Network, layers: Sequence[Layer], part: str) -> np.ndarray:
    tensors = network.tensors
    names = dict.fromkeys(layer.weight if part == "weights" else layer.bias for layer in layers)
    parts = [tensors[name].detach().reshape(-1) for name in names if name is not None]
    if not parts:
        return np.empty(0, np.float32)
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in parts) else torch.float32
    return torch.cat([tensor.to("cpu", wide) for tensor in parts]).numpy()


def _fit_rows(fits: Sequence[Fit]) -> list[dict[str, Any]]:
    best = min((fit.bic for fit in fits), default=None)
    return [
        {
            "fit": fit.density.label,
            "location": fit.density.location,
            "scale": fit.density.scale,
            "shape": fit.density.shape,
            "log_likelihood": fit.log_likelihood,
            "bic": fit.bic,
            "ks": fit.ks,
            "best": fit.bic == best,
        }
        for fit in fits
    ]


def _figures(network: Network, tables: dict[str, pl.DataFrame]) -> dict[str, Figure]:
    linear, recurrent, embedding = (
        [layer.name for layer in network.layers if layer.kind == kind] for kind in ("linear", "recurrent", "embedding")
    )
    conv = [layer.name for layer in network.layers if layer.kind in CONVOLUTION_KINDS]
    source = "Lorieul et al., Figure {}"
    figures = {
        "groups": _histograms(tables, list(GROUPS), "All layers of a kind together", source.format(1)),
        "linear": _histograms(tables, linear, "Weights of the linear layers", source.format(3)),
        "recurrent": _histograms(tables, recurrent, "Recurrent weights", f"after {source.format(3)}"),
        "embedding": _histograms(tables, embedding, "Embeddings", f"after {source.format(3)}"),
        "conv": _histograms(tables, conv, "Weights of the convolutions", f"after {source.format(3)}"),
    }
    layers = tables["moments"].filter(~pl.col("layer").is_in(list(GROUPS)) & (pl.col("part") == "weights"))
    if layers.height > 1:
        figures["std"] = charts.curve(
            layers,
            "layer",
            "std",
            title="Standard deviation of the weights",
            zero=True,
            reading="One point per layer, in order of execution: the lower, the closer its weights lie together.",
            source="after Lorieul et al., Section II.A",
            y_title="standard deviation",
        )
        figures["skewness"] = charts.curve(
            layers.drop_nulls("skewness"),
            "layer",
            "skewness",
            title="Skewness of the weights",
            reference=0.0,
            reference_label="symmetric",
            reading="Above the dashed line a layer's long tail is on the positive side, below it on the negative side.",
            source="after Lorieul et al., Section II.C",
        )
    return {name: figure for name, figure in figures.items() if figure is not None}


def _histograms(tables: dict[str, pl.DataFrame], layers: list[str], title: str, source: str) -> Figure | None:
    """Small histograms of the weights of `layers` under their fitted densities, without the outermost, wider bins."""
    weights = pl.col("part") == "weights"
    widths = pl.col("right") - pl.col("left")
    bins = tables["histograms"].filter(weights & pl.col("layer").is_in(layers)).drop_nulls("density")
    bins = bins.filter(widths <= 1.001 * widths.median().over("layer"))
    present = bins["layer"].unique(maintain_order=True).to_list()
    if not present:
        return None
    first_layers = present[:SHOWN]
    bins = bins.filter(pl.col("layer").is_in(first_layers))
    fits = tables["fits"].filter(weights & pl.col("layer").is_in(first_layers))
    spans = {layer: (part["left"].min(), part["right"].max()) for (layer,), part in bins.group_by("layer")}
    more = f" The first {SHOWN} of {plural(len(present), 'layer')}." if len(present) > SHOWN else ""
    return charts.histogram(
        bins,
        "left",
        "right",
        "density",
        facet="layer",
        fits=_lines(fits, spans) if fits.height else None,
        title=title,
        reading=f"Bars: density of the weights. Lines: the fitted densities.{more}",
        source=source,
        x_title="weight",
    )


def _lines(fits: pl.DataFrame, spans: dict[Any, Any]) -> pl.DataFrame:
    rows = []
    for row in fits.iter_rows(named=True):
        density = Density(row["fit"], row["location"], row["scale"], row["shape"])
        low, high = spans[row["layer"]]
        at = np.linspace(low, high, LINE)
        height = density.law.pdf(at)
        rows += [(row["layer"], row["fit"], x, y) for x, y in zip(at.tolist(), height.tolist(), strict=True)]
    return pl.DataFrame(rows, schema=["layer", "fit", "x", "y"], orient="row")


def _findings(network: Network, tables: dict[str, pl.DataFrame]) -> list[Finding]:
    weights = tables["moments"].filter(pl.col("part") == "weights")
    if weights.is_empty():
        return [Finding(f"{network.name} has no convolution and no linear layer, and so no weights to describe.", 0.0)]
    rows = {row["layer"]: row for row in weights.iter_rows(named=True)}
    layers = weights.filter(~pl.col("layer").is_in(list(GROUPS)))
    findings = [*_zeros(layers), *_outliers(tables["outliers"]), *_spread(layers)]
    findings += [*_best(tables["fits"], layers), *_skewness(network, rows)]
    flat = layers.filter(pl.col("std") == 0)["layer"].to_list()
    if flat:
        findings.append(Finding(f"All weights are equal in {listing(flat)}, so no density is fitted there.", 5.0))
    unfitted = layers.filter((pl.col("std") > 0) & ~pl.col("layer").is_in(tables["fits"]["layer"].unique().to_list()))
    if unfitted.height:
        names = listing(unfitted["layer"].to_list())
        findings.append(Finding(f"Fewer than {FEWEST} distinct weights in {names}, so no density is fitted there."))
    return findings


def _zeros(layers: pl.DataFrame) -> list[Finding]:
    """Whether the network was pruned."""
    pruned = layers.filter(pl.col("zeros") > 0.01)
    if pruned.is_empty():
        return []
    names = alike(pruned["layer"].to_list(), pruned["zeros"].to_list())
    top = percent(float(pruned["zeros"].to_numpy().max()))
    most = f"{top} ({listing(names, 3)})" if pruned.height == 1 else f"at most {top} ({listing(names, 3)})"
    where = plural(pruned.height, "layer")
    text = f"The network looks pruned: over 1 % of the weights are exactly zero in {where}, {most}."
    return [Finding(text, 5.0)]


def _outliers(table: pl.DataFrame) -> list[Finding]:
    """Which channel stands out most."""
    if table.is_empty():
        return []
    top = table.sort("sigmas", descending=True, maintain_order=True).row(0, named=True)
    where = plural(table["layer"].n_unique(), "layer")
    text = (
        f"{plural(table.height, 'channel')} in {where} {'has' if table.height == 1 else 'have'} a weight beyond "
        f"{OUTLIER:g} standard deviations of the layer; the farthest is {top['axis']} channel {top['channel']} of "
        f"{top['layer']} ({number(top['sigmas'])}). Store such layers with one scale per channel."
    )
    return [Finding(text, min(5.0, top["sigmas"] / OUTLIER))]


def _spread(layers: pl.DataFrame) -> list[Finding]:
    """How far the spread of the weights differs between layers."""
    spreads = layers.filter(pl.col("std") > 0).sort("std", maintain_order=True)
    if spreads.height < 2:
        return []
    low, high = spreads[[0, -1]].iter_rows(named=True)
    ratio = high["std"] / low["std"]
    text = (
        f"The weights of {high['layer']} spread {number(ratio)} times as widely as those of {low['layer']} (standard "
        f"deviation {number(high['std'])} and {number(low['std'])})."
    )
    return [Finding(text, min(5.0, ratio / 10))]


def _best(fits: pl.DataFrame, layers: pl.DataFrame) -> list[Finding]:
    """Which density fits the most layers' weights best, and how far off it is."""
    chosen = pl.col("layer").is_in(layers["layer"].to_list())
    best = fits.filter((pl.col("part") == "weights") & pl.col("best") & chosen)
    if best.is_empty():
        return []
    counts = best.group_by("fit").agg(pl.len(), pl.col("ks").median()).sort("len", "fit", descending=[True, False])
    top = counts.filter(pl.col("len") == counts["len"][0])
    off = f"median Kolmogorov-Smirnov distance {number(float(top['ks'].to_numpy().mean()))}"
    many = f"{top['len'][0]} of {plural(best.height, 'layer')}"
    if best.height == 1:
        return [Finding(f"A {top['fit'][0]} density fits the weights best ({off.removeprefix('median ')}).", 0.5)]
    if top.height > 1:
        return [Finding(f"Densities of {listing(top['fit'].to_list())} kind fit best in {many} each ({off}).", 0.5)]
    return [Finding(f"A {top['fit'][0]} density fits the weights of {many} best ({off}).", 0.5)]


def _skewness(network: Network, rows: dict[str, Any]) -> list[Finding]:
    """Whether the skewness of the linear layers changes from the first to the last."""
    linear = [layer.name for layer in network.layers if layer.kind == "linear"]
    values = [(name, rows[name]["skewness"]) for name in linear if rows[name]["skewness"] is not None]
    if len(values) < 2:
        return []
    (first, low), (last, high) = values[0], values[-1]
    if abs(high - low) < 0.05:
        return []
    verb = "rises" if high > low else "falls"
    text = f"The skewness of the linear layers {verb} from {low:+.2f} ({first}) to {high:+.2f} ({last})."
    return [Finding(text + _cause(network, [name for name, _ in values]), min(5.0, abs(high - low)))]


def _cause(network: Network, names: Sequence[str]) -> str:
    """Whether this network can tell closeness to the output from the activation function, which the paper asks."""
    behind = [_function_behind(network, network.layer(name)) for name in names]
    words = f"{behind[-1]} behind it" if behind[-1] else "no activation function behind it"
    if len(set(behind)) == 1:
        return f" All of them have {words.replace(' it', ' them')}, so that is not what makes the difference."
    if behind[-1] not in behind[:-1]:
        return f" {names[-1]} alone has {words} and is nearest to the output: this network cannot tell which counts."
    return ""


_PASSED = SAME | {"batch_norm", "layer_norm", "view", "reshape", "flatten", "unsafe_view"}


def _function_behind(network: Network, layer: Layer) -> str:
    """The activation function that a layer's values go into, through norms and reshapes; empty where there is none."""
    node = network.nodes[layer.nodes[-1]]
    while len(node.users) == 1:
        node = node.users[0]
        if node.operator.rstrip("_") in ELEMENTWISE:
            return node.operator.rstrip("_")
        if node.operator not in _PASSED:
            break
    return ""

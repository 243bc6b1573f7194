"""Priors: what trained networks say of the weights of a new one, and the networks that are drawn from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import polars as pl
import safetensors.numpy
import torch
from jaxtyping import Float32
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from netopsy.errors import SettingsError, WeightsError
from netopsy.files import atomic_write
from netopsy.network.network import Network, check_network
from netopsy.settings import stream
from netopsy.stats.kmeans1d.kmeans1d import kmeans1d
from netopsy.weight_priors.laws import (
    ROWS,
    STAGES,
    Basis,
    Law,
    Scale,
    fit_bases,
    fit_laws,
    fit_scales,
    interpolate,
    measure,
    random_components,
    similar_role,
    stage_of,
    width_rows,
)
from netopsy.weight_priors.places import Place, name_of, places_of
from netopsy.weight_priors.training import LogPrior, Term
from netopsy.wording import listing, number, percent, plural

Part = Literal["weights", "biases", "norms"]
Target = TypeVar("Target", Network, nn.Module)
FORMAT = "priors/1"
WEIGHTS_ALONE: tuple[Part, ...] = ("weights",)
_READ = (SafetensorError, OSError, LookupError, ValueError, TypeError)


def priors(networks: Network | nn.Module | Sequence[Network | nn.Module]) -> Priors:
    """What one trained network, or several of a family, say of the weights of a new one.

    Motive: Lorieul et al., Section I: "a priori knowledge to facilitate the training of new networks".
    networks: as `load_network` gives them, or plain torch modules, whose layers are taken in the order of their making.
    Errors: SettingsError for no network, one without layers, and weights that are not finite.

    >>> from netopsy import load_network, priors
    >>> priors(load_network("netopsy:digits-a")).bases["3x3"].directions.shape
    (9, 9)
    """
    some = [networks] if isinstance(networks, Network | nn.Module | str) else list(networks)
    if not some:
        raise SettingsError("priors of no network; give one, or several.")
    rows, samples, covariances = [], [], []
    names = [name_of(network) for network in some]
    for at, network in enumerate(some):
        if not isinstance(network, nn.Module):
            check_network(network, "networks")
        name = names[at] if names.count(names[at]) == 1 else f"{names[at]} ({at + 1})"
        tensors = dict((network.module if isinstance(network, Network) else network).named_parameters())
        for place in places_of(network):
            weight = tensors[place.name]
            if not weight.is_floating_point() or not weight.numel():
                continue
            if not bool(weight.isfinite().all()):
                raise SettingsError(f"{place.name} of {name} holds NaN or infinite values; mend the weights.")
            row, sample, covariance = measure(name, place, weight)
            rows.append(row)
            samples.append(sample)
            covariances.append(covariance)
    bases = fit_bases(rows, covariances)
    layers = pl.DataFrame(rows, schema=ROWS).fill_nan(None)
    return Priors(
        tuple(layers["network"].unique(maintain_order=True)), layers, fit_laws(rows, samples), fit_scales(rows), bases
    )


@dataclass(frozen=True, repr=False)
class Prediction:
    """What the priors say of one parameter: mean, standard deviation, law, basis and variances along it, or None."""

    place: Place
    mean: float
    std: float
    law: Law
    basis: Basis | None
    variances: np.ndarray | None
    prunable: float | None


@dataclass(frozen=True, repr=False)
class Priors:
    """What trained networks say of the weights of a new one. `priors(network)` makes it, `Priors.load` reads it.

    networks: their names.
    layers: a row a parameter: network, parameter, role (see `Place`), depth (0..1), fan_in, fan_out, values, mean, std,
        skewness, kurtosis (in excess of the normal's 3), zeros (share that is exactly 0), prunable (share of the
        smallest weights that hold 1 % of the sum of squares: a target for pruning), he and glorot (std over that of He
        et al., 2015, sqrt(2 / fan_in), and of Glorot & Bengio, 2010), filters, components (that hold 1, 2, ... 100 %
        of the variance of the filters: Lorieul et al., Equation 1), kernel and spectrum (variances along its basis).
    laws: of each role in each third of the depth. scales: of each role. bases: by kernel size, shared by all networks.

    What is said of a parameter of another network is found at its relative depth: log gain (std over fan_in to the
    scale's exponent), mean and spectrum are interpolated between the layers of a role, then averaged over networks.
    """

    networks: tuple[str, ...]
    layers: pl.DataFrame
    laws: tuple[Law, ...]
    scales: tuple[Scale, ...]
    bases: dict[str, Basis]

    def law(self, role: str, depth: float) -> Law:
        """The law of a role at a depth: of its third of the depth, else of the nearest third that has one."""
        wanted = STAGES.index(stage_of(depth))
        laws = [law for law in self.laws if law.role == role]
        if not laws:
            raise SettingsError(f"no law of role '{role}'; there are {', '.join(self.roles)}.")
        return min(laws, key=lambda law: abs(STAGES.index(law.stage) - wanted))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that have a law."""
        return tuple(dict.fromkeys(law.role for law in self.laws))

    def predict(self, target: Network | nn.Module) -> pl.DataFrame:
        """What the priors say of each parameter of `target`: parameter, role, depth, fan_in, source (the role that its
        law is of), family, mean, std, he (std over He's), prunable, basis; nulls where they say nothing.
        """
        rows = []
        for place in places_of(target):
            said = self._prediction(place)
            row: dict[str, Any] = {"parameter": place.name, "role": place.role, "depth": place.depth}
            row |= {"fan_in": place.fan_in} | dict.fromkeys(
                ("source", "family", "mean", "std", "he", "prunable", "basis")
            )
            if said is not None:
                row |= {"source": said.law.role, "family": said.law.family, "mean": said.mean, "std": said.std}
                row["basis"] = None if said.basis is None else said.basis.kernel
                if place.layer is not None:
                    row |= {"he": said.std / math.sqrt(2 / place.fan_in), "prunable": said.prunable}
            rows.append(row)
        kinds = dict.fromkeys(("depth", "mean", "std", "he", "prunable"), pl.Float64) | {"fan_in": pl.Int64}
        return pl.DataFrame(rows, schema_overrides=kinds | dict.fromkeys(("source", "family", "basis"), pl.String))

    def initialise(
        self, target: Target, *, seed: int = 0, basis: bool = True, parts: Collection[Part] = WEIGHTS_ALONE
    ) -> Target:
        """Draw the weights of `target` from the priors; each layer's from a random stream of its own.

        A torch module is changed in place and returned, as the functions of `torch.nn.init` do; of a `Network`, which
        is never changed, a copy comes back. What the priors say nothing of stays as it is: `predict` tells.

        basis: draw the coordinates of each filter (slice) along the principal directions, with their variances, not the
            weights themselves; the standard deviation of the layer is the same. parts: weights, biases, norms.
        """
        drawn = dict(self._draw(target, seed, basis, parts))
        if isinstance(target, Network):
            copied = target.with_tensors(drawn)
            copied.provenance |= {"weights": "priors", "priors": list(self.networks), "seed": seed}
            return copied
        parameters = dict(target.named_parameters())
        with torch.no_grad():
            for name, values in drawn.items():
                parameters[name].copy_(values)
        return target

    def regulariser(
        self,
        target: Network | nn.Module,
        *,
        strength: float = 1.0,
        basis: bool = False,
        parts: Collection[Part] = WEIGHTS_ALONE,
    ) -> LogPrior:
        """`strength` times minus the log prior of the parameters of `target`, in nats, for `fit(penalty=...)`.

        With strength 1 `fit` seeks the weights of largest posterior probability. Normal laws of mean 0 are then a
        weight decay of 1 / (samples std^2), with each layer's own standard deviation.
        """
        if not strength > 0 or not math.isfinite(strength):
            raise SettingsError(f"strength {strength!r} of the regulariser must be a number above 0.")
        terms = []
        for said in self._predictions(target, parts):
            along = said.basis is not None and basis
            directions = torch.from_numpy(said.basis.directions).float() if along and said.basis else None
            variances = None if not along else torch.from_numpy(said.variances).float()
            family, shape = said.law.family, said.law.shape
            terms.append(Term(said.place.name, family, shape, said.mean, said.std, directions, variances))
        return LogPrior(tuple(terms), strength)

    def codebook(self, role: str, k: int = 32, depth: float = 0.5) -> Float32[np.ndarray, " k"]:
        """The `k` values that stand for weights of mean 0 and standard deviation 1 with the least error, ascending.

        32 cost AlexNet no accuracy (Lorieul et al., Figure 6).
        """
        return kmeans1d(self.law(role, depth).quantiles, k).centroids

    def codebook_constraint(
        self, target: Network | nn.Module, k: int = 32, *, parts: Collection[Part] = WEIGHTS_ALONE
    ) -> dict[str, Float32[Tensor, " k"]]:
        """The values that each parameter of `target` may take, for `fit(codebooks=...)`: its training goes on in "a
        quantized space of weights" (Lorieul et al., Section III.D)."""
        levels = {}
        for said in self._predictions(target, parts):
            values = said.mean + said.std * self.codebook(said.law.role, k, said.place.depth).astype(np.float64)
            levels[said.place.name] = torch.from_numpy(np.unique(values.astype(np.float32)))
        return levels

    def width_plan(self, target: Network | nn.Module | None = None, *, share: float = 0.9) -> pl.DataFrame:
        """How many filters the spectra ask for: "a smaller number of filters" (Lorieul et al., Section II.B).

        A row a layer of `target`, else of the networks themselves: network, parameter, role, depth, width (filters or
        neurons), components (that hold the `share` of the variance), random (that as many random filters need), asked:
        width times components over random, rounded up, at most the width. The last layer, whose width is that of the
        answer, and layers whose spectrum is too large or without meaning are left out.

        share: in whole per cent, 0.01 to 0.99.
        """
        percentile = round(100 * share)
        if not 1 <= percentile <= 99 or abs(100 * share - percentile) > 1e-9:
            raise SettingsError(f"share {share!r} of the variance must be 0.01 to 0.99, in whole per cent.")
        rows = width_rows(self.layers, percentile)
        if target is not None:
            known, rows = rows, []
            for place in places_of(target):
                role = similar_role(place.role, self.roles)
                some = [row for row in known if row["role"] == role]
                if place.layer is None or place.depth == 1 or not some or place.role.startswith("depthwise"):
                    continue
                width = math.prod(place.layer.weight_shape) // place.fan_in
                expected = random_components(width, place.fan_in, percentile / 100)
                ratio = float(interpolate(some, [row["ratio"] for row in some], place.depth))
                row = {"network": name_of(target), "parameter": place.name, "role": place.role, "depth": place.depth}
                rows.append(row | {"width": width, "components": ratio * expected, "random": expected, "ratio": ratio})
        columns = {"network": pl.String, "parameter": pl.String, "role": pl.String, "depth": pl.Float64}
        columns |= {"width": pl.Int64, "components": pl.Float64, "random": pl.Float64, "ratio": pl.Float64}
        frame = pl.DataFrame(rows, schema=columns)
        return frame.with_columns(asked=(pl.col("width") * pl.col("ratio") - 1e-9).ceil().cast(pl.Int64)).drop("ratio")

    def tables(self) -> dict[str, pl.DataFrame]:
        """`parameters` (the rows of `layers` without lists), `laws`, `scales`, `spectra` (of the bases), `widths`."""
        laws = [{k: v for k, v in asdict(law).items() if k != "quantiles"} for law in self.laws]
        floats = dict.fromkeys(("shape", "ks", "kurtosis", "low", "high"), pl.Float64)
        spectra = [
            {"kernel": basis.kernel, "direction": i + 1, "variance": v / len(basis.variances), "layers": basis.layers}
            for basis in self.bases.values()
            for i, v in enumerate(basis.variances.tolist())
        ]
        schema = {"kernel": pl.String, "direction": pl.Int64, "variance": pl.Float64, "layers": pl.Int64}
        return {
            "parameters": self.layers.drop("components", "spectrum"),
            "laws": pl.DataFrame(laws, schema_overrides=floats, infer_schema_length=None).fill_nan(None),
            "scales": pl.DataFrame([asdict(scale) for scale in self.scales], schema_overrides=floats).fill_nan(None),
            "spectra": pl.DataFrame(spectra, schema=schema),
            "widths": self.width_plan(),
        }

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, which `load` reads: bases and quantiles as tensors, all else as JSON."""
        arrays = {f"basis {kernel} directions": np.ascontiguousarray(b.directions) for kernel, b in self.bases.items()}
        arrays |= {f"basis {kernel} variances": basis.variances for kernel, basis in self.bases.items()}
        arrays |= {f"quantiles {i}": law.quantiles for i, law in enumerate(self.laws)}
        content = {
            "networks": self.networks,
            "layers": self.layers.to_dict(as_series=False),
            "laws": [{k: v for k, v in asdict(law).items() if k != "quantiles"} for law in self.laws],
            "scales": [asdict(scale) for scale in self.scales],
            "bases": {kernel: basis.layers for kernel, basis in self.bases.items()},
        }
        text = json.dumps(content)
        metadata = {"format": FORMAT, "content": text, "digest": _digest(text, arrays)}
        with atomic_write(path) as part:
            safetensors.numpy.save_file(arrays, part, metadata=metadata)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Priors:
        """Read what `save` wrote. WeightsError where the file is missing, damaged or another one."""
        try:
            with safe_open(path, "np") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            if header["format"] != FORMAT or header["digest"] != _digest(header["content"], arrays):
                raise ValueError
            content = json.loads(header["content"])
            laws = tuple(Law(**law, quantiles=arrays[f"quantiles {i}"]) for i, law in enumerate(content["laws"]))
            bases = {
                kernel: Basis(kernel, arrays[f"basis {kernel} directions"], arrays[f"basis {kernel} variances"], count)
                for kernel, count in content["bases"].items()
            }
            layers = pl.DataFrame(content["layers"], schema=ROWS)
            return cls(tuple(content["networks"]), layers, laws, tuple(Scale(**s) for s in content["scales"]), bases)
        except FileNotFoundError:
            raise WeightsError(f"no file {path}; `priors(network).save(path)` writes one.") from None
        except _READ as error:
            raise WeightsError(f"{path} holds no priors, or is damaged; write it again by Priors.save.") from error

    def __repr__(self) -> str:
        lines = [
            f"Priors of {listing(list(self.networks), 3)}, {plural(int(self.layers['values'].sum()), 'parameter')}"
        ]
        width = max(map(len, self.roles), default=0)
        for role in self.roles:
            rows = self.layers.filter(pl.col("role") == role)
            families = list(dict.fromkeys(law.family for law in self.laws if law.role == role))
            if rows["he"].null_count():
                mean = float(rows["mean"].mean())  # type: ignore[arg-type]
                spread = f"mean {number(mean)}, standard deviation {number(float(rows['std'].mean()))}"  # type: ignore[arg-type]
            else:
                low, middle, high = (float(rows["he"].quantile(q)) for q in (0, 0.5, 1))  # type: ignore[arg-type]
                spread = f"standard deviation {number(middle)} of He's ({number(low)} to {number(high)})"
            lines.append(f"  {role:<{width}}  {plural(rows.height, 'tensor')}, {' or '.join(families)}, {spread}")
        for basis in self.bases.values():
            share = percent(float(basis.variances[0]) / len(basis.variances))
            lines.append(f"  filters of {basis.kernel}: {len(basis.variances)} directions, the first holds {share}")
        return "\n".join(lines)

    def _draw(
        self, target: Network | nn.Module, seed: int, basis: bool, parts: Collection[Part]
    ) -> Iterator[tuple[str, Tensor]]:
        parameters = dict((target.module if isinstance(target, Network) else target).named_parameters())
        for said in self._predictions(target, parts):
            shape = parameters[said.place.name].shape
            generator = torch.Generator().manual_seed(stream(f"prior of {said.place.name}", seed))
            if basis and said.basis is not None and said.variances is not None:
                size = len(said.variances)
                coordinates = said.law.draw((math.prod(shape) // size, size), generator).double()
                values = coordinates * np.sqrt(said.variances) @ torch.from_numpy(said.basis.directions).T
            else:
                values = said.law.draw(shape, generator).double()
            yield said.place.name, (said.mean + said.std * values).reshape(shape).to(parameters[said.place.name])

    def _predictions(self, target: Network | nn.Module, parts: Collection[Part]) -> list[Prediction]:
        allowed = get_args(Part)
        wrong = [part for part in ((parts,) if isinstance(parts, str) else parts) if part not in allowed]
        if wrong or not parts:
            raise SettingsError(f"parts {wrong or 'none'} are unknown; give one or more of {', '.join(allowed)}.")
        places = [place for place in places_of(target) if place.part in parts]
        said = [prediction for place in places if (prediction := self._prediction(place)) is not None]
        if not said:
            raise SettingsError(
                f"these priors say nothing of the {' and '.join(parts)} of {name_of(target)}: they know "
                f"{', '.join(self.roles)}; take priors of a network with such layers."
            )
        return said

    def _prediction(self, place: Place) -> Prediction | None:
        role = similar_role(place.role, self.roles)
        if role is None:
            return None
        rows = [r for r in self.layers.iter_rows(named=True) if r["role"] == role and r["std"] > 0]
        exponent = next(scale.exponent for scale in self.scales if scale.role == role)
        gains = [math.log(row["std"]) - exponent * math.log(row["fan_in"]) for row in rows]
        std = math.exp(interpolate(rows, gains, place.depth) + exponent * math.log(place.fan_in))
        relative = exponent != 0  # a mean of weights shrinks with them, that of a norm's scale is near 1
        means = [row["mean"] / row["std"] if relative else row["mean"] for row in rows]
        mean = float(interpolate(rows, means, place.depth)) * (std if relative else 1)
        basis = self.bases.get(place.kernel) if place.kernel else None
        variances = None
        if basis is not None:
            some = [r for r in self.layers.iter_rows(named=True) if r["kernel"] == place.kernel and r["spectrum"]]
            variances = interpolate(some, [row["spectrum"] for row in some], place.depth)
            variances = variances * len(variances) / variances.sum()
        shares = [row["prunable"] for row in rows]
        prunable = None if None in shares else float(interpolate(rows, shares, place.depth))
        return Prediction(place, mean, std, self.law(role, place.depth), basis, variances, prunable)


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode() + arrays[name].tobytes())
    return state.hexdigest()

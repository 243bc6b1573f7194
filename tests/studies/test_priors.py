"""Priors: laws that were put in come out, draws have them, the basis is orthonormal, training keeps to them."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats
from torch import nn

import netopsy
from netopsy import Network, Preprocessing, Priors, Recipe, fit, load_samples, priors, workspace
from netopsy.errors import SettingsError, WeightsError
from netopsy.studies.priors import WeightPriors
from netopsy.weight_priors.laws import Law, random_components, standard_density
from netopsy.weight_priors.places import places_of
from netopsy.weight_priors.training import LogPrior, Term, log_density
from networks import loaded, noise_images, shipped
from patients import PATIENTS, patient

WIDTHS = (64, 24, 96, 16, 128, 32, 80, 20, 10)


def stack(exponent: float = -0.5, gain: float = 1.0, law: str = "normal", seed: int = 0) -> nn.Module:
    """Linear layers of widths that do not follow the depth, with std = gain * fan_in ** exponent."""
    generator = np.random.default_rng(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(WIDTHS):
        linear = nn.Linear(inputs, outputs)
        unit = {"normal": stats.norm(), "Laplace": stats.laplace(scale=math.sqrt(0.5))}[law]
        values = unit.rvs(size=(outputs, inputs), random_state=generator)
        values = (values - values.mean()) / values.std() * gain * inputs**exponent
        linear.weight.data = torch.from_numpy(values.astype(np.float32))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def convolutions(weight: torch.Tensor) -> nn.Module:
    """A first convolution on the image, and one with this weight (filters, 4, 3, 3)."""
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, len(weight), 3, padding=1, bias=False))
    module[1].weight.data = weight.clone()
    return nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(len(weight), 3))


def network_of(module: nn.Module) -> Network:
    return Network("net", module, Preprocessing(size=(8, 8), mean=(0.5,), std=(0.5,), channels="L"))


@pytest.fixture(scope="module")
def digits() -> Priors:
    return priors(shipped("a"))


@pytest.mark.parametrize("law", ["normal", "Laplace"])
@pytest.mark.parametrize("exponent", [-0.5, -0.9])
def test_laws_that_were_put_in_come_out(law: str, exponent: float) -> None:
    known = priors(stack(exponent, 1.7, law))
    scale = next(scale for scale in known.scales if scale.role == "linear")
    assert scale.exponent == pytest.approx(exponent, abs=1e-4) and scale.low <= exponent + 1e-4
    assert {one.family for one in known.laws if one.role == "linear"} == {law}
    module = nn.Sequential(nn.Linear(50, 300), nn.ReLU(), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 40))
    known.initialise(module)
    for layer in (module[0], module[2], module[4]):
        expected = 1.7 * layer.in_features**exponent
        error = (5 if law == "Laplace" else 2) ** 0.5 / (2 * layer.weight.numel() ** 0.5)  # of a standard deviation
        assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=4 * error)


def test_the_same_architecture_gets_each_layers_variance(digits: Priors) -> None:
    network = shipped("a")
    before = network.digest
    drawn = digits.initialise(network, seed=3)
    assert network.digest == before and drawn.digest != before
    for layer in network.layers:
        old, new = (net.tensors[layer.weight].detach().double() for net in (network, drawn))
        kurtosis = 6.0  # of the heaviest law that is drawn
        error = math.sqrt((kurtosis + 2) / (4 * old.numel()))
        assert float(new.std() / old.std()) == pytest.approx(1, abs=4 * error), layer.name
    kept = [name for name in network.tensors if name not in {layer.weight for layer in network.layers}]
    assert all(torch.equal(network.tensors[name], drawn.tensors[name]) for name in kept)


def test_seeds_repeat_and_modules_are_changed_in_place(digits: Priors) -> None:
    first, second = (nn.Sequential(nn.Conv2d(8, 8, 3), nn.Linear(8, 4)) for _ in range(2))
    assert digits.initialise(first, seed=1) is first
    digits.initialise(second, seed=1)
    assert torch.equal(first[0].weight, second[0].weight) and torch.equal(first[1].weight, second[1].weight)
    assert not torch.equal(digits.initialise(second, seed=2)[0].weight, first[0].weight)
    bias = first[1].bias.clone()
    assert torch.equal(digits.initialise(first, parts=["weights"])[1].bias, bias)
    assert not torch.equal(digits.initialise(first, parts=["biases"])[1].bias, bias)
    norm = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    digits.initialise(norm, parts=("norms",))
    assert not torch.equal(norm[1].weight, torch.ones(8)) and torch.equal(norm[1].running_mean, torch.zeros(8))


@pytest.mark.parametrize(("family", "shape"), [("normal", None), ("Laplace", None), ("skew normal", 4.0)])
def test_draws_and_densities_of_each_family_agree(family: str, shape: float | None) -> None:
    density = standard_density(family, shape)
    assert density.law.mean() == pytest.approx(0, abs=1e-12) and density.law.std() == pytest.approx(1)
    law = Law("linear", "early", family, shape, 0.0, 0.0, 1, np.zeros(1, np.float32))
    values = law.draw((20_000,), torch.Generator().manual_seed(0)).double().numpy()
    assert stats.kstest(values, density.law.cdf).pvalue > 1e-3
    at = torch.linspace(-3, 3, 13)
    assert np.allclose(log_density(at, family, shape).numpy(), density.law.logpdf(at.double().numpy()), atol=1e-5)


def test_the_basis_is_orthonormal_and_draws_have_its_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(9, 9, generator=generator).double()
    covariance = mixing @ mixing.T
    covariance *= 9 / covariance.trace()
    slices = torch.randn(40_000, 9, generator=generator).double() @ torch.linalg.cholesky(covariance).T
    known = priors(convolutions(slices.float().reshape(10_000, 4, 3, 3)))
    basis = known.bases["3x3"]
    assert np.allclose(basis.directions.T @ basis.directions, np.eye(9), atol=1e-12)
    assert basis.variances.mean() == pytest.approx(1) and (np.diff(basis.variances) <= 0).all()
    assert np.allclose(basis.directions * basis.variances @ basis.directions.T, covariance, atol=0.06)
    target = convolutions(torch.zeros(5_000, 4, 3, 3))
    drawn = known.initialise(target)[0][1].weight.detach().reshape(-1, 9).double()
    drawn /= drawn.std()
    assert np.allclose((drawn.T @ drawn / len(drawn)).numpy(), covariance, atol=0.08)
    plain = known.initialise(target, basis=False)[0][1].weight.detach().reshape(-1, 9).double()
    assert np.allclose(np.corrcoef(plain.T.numpy()), np.eye(9), atol=0.05)
    assert known.bases["3x3 of 1"].layers == 1  # of filters on the image, on their own


def test_several_networks_share_a_basis_and_are_averaged() -> None:
    small, large = stack(gain=1.0), stack(gain=4.0)
    both = priors([small, large])
    assert both.networks == ("Sequential (1)", "Sequential (2)")
    std = dict(both.predict(small).filter(role="linear").select("parameter", "std").rows())
    for name, weight in small.named_parameters():
        if name.endswith("weight"):
            assert std[name] == pytest.approx(2 * float(weight.detach().double().std(correction=0)))


@pytest.mark.parametrize(("filters", "dimensions"), [(64, 576), (64, 64), (200, 40)])
def test_random_filters_need_what_marchenko_and_pastur_say(filters: int, dimensions: int) -> None:
    draws = np.random.default_rng(0).standard_normal((20, filters, dimensions))
    values = [np.sort(np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2)[::-1] for x in draws]
    needed = np.mean([np.interp(0.9, np.cumsum(v) / v.sum(), np.arange(1, len(v) + 1)) for v in values])
    assert random_components(filters, dimensions, 0.9) == pytest.approx(needed, abs=1.0)


def test_widths_follow_the_rank() -> None:
    torch.manual_seed(0)
    narrow = (torch.randn(64, 8) @ torch.randn(8, 36)).reshape(64, 4, 3, 3)
    plan = priors(convolutions(narrow)).width_plan(share=0.99)
    row = plan.filter(pl.col("parameter") == "0.1.weight").row(0, named=True)
    assert row["width"] == 64 and row["components"] <= 8 and row["asked"] <= 64 * 8 / row["random"] + 1
    full = priors(convolutions(torch.randn(64, 4, 3, 3))).width_plan(share=0.9)
    assert full.filter(pl.col("parameter") == "0.1.weight")["asked"].item() >= 58
    twice = priors(convolutions(narrow)).width_plan(convolutions(torch.zeros(128, 4, 3, 3)), share=0.99)
    assert twice.filter(pl.col("parameter") == "0.1.weight")["asked"].item() == pytest.approx(2 * row["asked"], abs=1)


def test_a_normal_prior_is_weight_decay() -> None:
    torch.manual_seed(0)
    network, samples = network_of(convolutions(torch.randn(6, 4, 3, 3))), noise_images(32, 8, 3)
    gray = netopsy.Samples("gray", netopsy.samples.images.ArrayImages(_gray()), samples.labels, samples.classes)
    weights = [layer.weight for layer in network.layers]
    penalty = LogPrior(tuple(Term(name, "normal", None, 0.0, 0.5) for name in weights))
    recipe = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05}
    with_prior = fit(network, gray, Recipe(**recipe), penalty=penalty).network
    with_decay = fit(network, gray, Recipe(**recipe, weight_decay=1 / (32 * 0.25))).network
    without = fit(network, gray, Recipe(**recipe)).network
    for name in weights:
        assert torch.allclose(with_prior.tensors[name], with_decay.tensors[name], atol=1e-5)
        assert not torch.allclose(with_prior.tensors[name], without.tensors[name], atol=1e-3)


def _gray() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)


def test_the_regulariser_is_the_log_density_along_the_basis(digits: Priors) -> None:
    network = shipped("a")
    parameters = {name: parameter.detach() for name, parameter in network.module.named_parameters()}
    plain, along = digits.regulariser(network), digits.regulariser(network, basis=True)
    said = digits.predict(network).filter(parameter="fc.weight").row(0, named=True)
    law = digits.law("linear", 1.0)
    values = (parameters["fc.weight"].detach().double().numpy() - said["mean"]) / said["std"]
    expected = -(law.density.law.logpdf(values) - math.log(said["std"])).sum()
    alone = LogPrior(tuple(term for term in plain.terms if term.name == "fc.weight"))
    assert float(alone(parameters)) == pytest.approx(expected, rel=1e-4)
    assert float(along(parameters)) < float(plain(parameters))  # it knows more
    drawn = {name: p.detach() for name, p in digits.initialise(network).module.named_parameters()}
    assert float(along(drawn)) < float(along({n: p + p.std() for n, p in drawn.items()}))
    assert plain.digest != along.digest == digits.regulariser(network, basis=True).digest


def test_training_stays_in_the_codebook_and_moves_codes(digits: Priors, tmp_path: Path) -> None:
    network, samples = shipped("a"), load_samples("digits", count=64)
    start = digits.initialise(network, seed=1)
    books = digits.codebook_constraint(network, 8)
    assert set(books) == {layer.weight for layer in network.layers}
    recipe = Recipe(epochs=2, batch_size=32, learning_rate=0.05)
    with workspace(tmp_path):
        history = fit(start, samples, recipe, codebooks=books)
        again = fit(start, samples, recipe, codebooks=books)
    assert history.network.digest == again.network.digest
    halfway = {name: (book[1:] + book[:-1]) / 2 for name, book in books.items()}
    moved = 0
    for name, book in books.items():
        weight = history.network.tensors[name]
        assert torch.isin(weight, book).all() and len(weight.unique()) > 2
        moved += int((weight != book[torch.bucketize(start.tensors[name].contiguous(), halfway[name])]).sum())
    assert moved > 100
    for wrong, message in (
        ({"nosuch": books["fc.weight"]}, "no parameter 'nosuch'"),
        ({"fc.weight": torch.tensor([1.0])}, "at least 2"),
        ({"fc.weight": torch.tensor([1.0, 0.0])}, "ascending"),
    ):
        with pytest.raises(SettingsError, match=message):
            fit(start, samples, recipe, codebooks=wrong)


def test_a_codebook_is_the_kmeans_of_the_weights() -> None:
    network = stack(law="Laplace")
    known = priors(network)
    weights = [part.weight.detach().numpy() for part in network if isinstance(part, nn.Linear)]
    middle = [w.ravel() * w.shape[1] ** 0.5 for i, w in enumerate(weights) if 1 / 3 <= i / 7 < 2 / 3]
    values = np.concatenate(middle)
    want = netopsy.kmeans1d(values, 4).centroids
    assert np.allclose(known.codebook("linear", 4), want, atol=0.08)


def test_a_file_keeps_all_and_damage_is_refused(digits: Priors, tmp_path: Path) -> None:
    path = digits.save(tmp_path / "digits.safetensors")
    back = Priors.load(path)
    assert back.layers.equals(digits.layers) and repr(back) == repr(digits)
    network = shipped("a")
    assert back.initialise(network).digest == digits.initialise(network).digest
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(bytes(content))
    other = tmp_path / "other.txt"
    other.write_text("no priors")
    for wrong in (damaged, other, tmp_path / "missing"):
        with pytest.raises(WeightsError, match=r"Priors\.save|priors\(network\)\.save"):
            Priors.load(wrong)


def test_what_is_not_known_is_said(digits: Priors) -> None:
    for call, message in (
        (lambda: priors([]), "no network"),
        (lambda: priors("resnet"), "load_network"),
        (lambda: digits.initialise(nn.ReLU()), "no convolution"),
        (lambda: digits.initialise(nn.Sequential(nn.Embedding(5, 4))), "say nothing"),
        (lambda: digits.initialise(nn.Linear(3, 3), parts=("heads",)), "unknown"),
        (lambda: digits.width_plan(share=0.123), "whole per cent"),
        (lambda: digits.regulariser(nn.Linear(3, 3), strength=0), "above 0"),
        (lambda: digits.law("depthwise 3x3", 0.5), "no law of role"),
    ):
        with pytest.raises(SettingsError, match=message):
            call()
    table = digits.predict(nn.Sequential(nn.Embedding(5, 4), nn.Conv2d(3, 4, 5), nn.Linear(4, 2)))
    assert table["source"].to_list()[:3] == [None, "conv 3x3", "linear"]


def test_modules_are_read_as_their_graphs_are() -> None:
    for name in ("netopsy:digits-a", "netopsy:resnet20_projection"):
        network = loaded(name)
        by_graph, by_module = ({place.name: place for place in places_of(x)} for x in (network, network.module))
        assert by_graph.keys() == by_module.keys()
        for key, place in by_graph.items():
            other = by_module[key]
            assert (place.role, place.fan_in, place.fan_out, place.kernel) == (
                *(other.role, other.fan_in, other.fan_out, other.kernel),
            )
            assert place.depth == other.depth


@pytest.mark.slow
@pytest.mark.parametrize("name", PATIENTS)
def test_every_kind_of_network_has_priors_that_draw_it(name: str) -> None:
    network, _ = patient(name)
    known = priors(network)
    drawn = known.initialise(network)
    for layer in network.layers:
        old, new = network.tensors[layer.weight].detach().double(), drawn.tensors[layer.weight].detach().double()
        if old.std() > 0:
            assert not torch.equal(old, new) and new.isfinite().all()
            assert float(new.std() / old.std()) == pytest.approx(1, abs=0.15 + 6 / old.numel() ** 0.5)


def test_the_study_writes_priors_that_load() -> None:
    result = netopsy.studies.study.perform(WeightPriors(), shipped("a"))
    assert Priors.load(result.artifacts["priors"]).roles == priors(shipped("a")).roles
    assert set(result.tables) == {"parameters", "laws", "scales", "spectra", "widths", "codebooks"}
    assert set(result.figures) == {"scale", "widths", "spectra"} and result.images["basis"].pixels.ndim == 2
    row = result.tables["parameters"].filter(parameter="fc.weight").row(0, named=True)
    assert row["he"] == pytest.approx(row["std"] / math.sqrt(2 / 64))
    assert row["glorot"] == pytest.approx(row["std"] / math.sqrt(2 / (64 + 10)))
    with pytest.raises(SettingsError, match="whole per cent"):
        WeightPriors(share=0.123)


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "priors.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    exec(compile(code, "docs/priors.md", "exec", dont_inherit=True), names)
    coarse = names["coarse"]
    assert all(len(coarse.tensors[layer.weight].unique()) <= 32 for layer in coarse.layers)

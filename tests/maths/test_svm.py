"""Linear machines against LIBLINEAR, their certificates, and the ways in which they share work."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from netopsy.errors import SettingsError
from netopsy.stats.svm import fit as reductions
from netopsy.stats.svm.fit import fit_nested, fit_svm
from netopsy.stats.svm.model import Piece, Svm, certify, signs
from networks import trained_resnet20


def unit(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).float()


def blobs(n: int = 300, p: int = 40, classes: int = 4, *, sparse: bool = False, seed: int = 0):
    """Features (n, p) of overlapping classes, rectified, and their labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, n)
    x = draw.normal(size=(classes, p))[labels] + 2 * draw.normal(size=(n, p)) - (2.0 if sparse else 0.0)
    return unit(np.maximum(x, 0)), torch.from_numpy(labels)


def digits():
    x, y = load_digits(return_X_y=True)
    return unit(x[:600]), torch.from_numpy(y[:600])


def primal(x, y, machines: Svm, c: float, loss: str) -> np.ndarray:
    """The objective as LIBLINEAR states it, in numpy."""
    x, y = x.double().numpy(), y.double().numpy()
    w, b = machines.weights.double().numpy(), machines.bias.double().numpy()
    excess = np.maximum(0, 1 - y * (x @ w + b))
    return 0.5 * (w**2).sum(0) + 0.5 * b**2 + c * (excess**2 if loss == "squared_hinge" else excess).sum(0)


def liblinear(x, labels, classes: int, c: float, loss: str) -> np.ndarray:
    """LIBLINEAR's own least objective of each class."""
    model = LinearSVC(C=c, loss=loss, tol=1e-8, dual=loss == "hinge", max_iter=2_000_000, random_state=0)
    values = []
    for k in range(classes):
        target = np.where(labels.numpy() == k, 1, -1)
        model.fit(x.double().numpy(), target)
        w = torch.from_numpy(model.coef_.T.copy())
        machines = Svm(w, torch.from_numpy(model.intercept_), torch.zeros(1), torch.zeros(1), 0)
        values.append(primal(x, torch.from_numpy(target)[:, None], machines, c, loss)[0])
    return np.array(values)


@pytest.mark.parametrize("c", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("data", ["digits", "dense", "sparse"])
def test_objectives_equal_those_of_liblinear(data: str, c: float) -> None:
    x, labels = digits() if data == "digits" else blobs(sparse=data == "sparse")
    assert ((x == 0).float().mean() > 0.8) == (data == "sparse")
    classes = int(labels.max()) + 1
    y = signs(labels, classes)
    machines = fit_svm(x, y, c=c, tolerance=1e-8)
    ours = primal(x, y, machines, c, "squared_hinge")
    np.testing.assert_allclose(ours, liblinear(x, labels, classes, c, "squared_hinge"), rtol=1e-6)
    np.testing.assert_allclose(machines.objective, ours, rtol=1e-12)
    assert machines.gap.max() <= 1e-8


@pytest.mark.parametrize("c", [1e-2, 1.0, 1e2])
def test_hinge_objectives_equal_those_of_liblinear(c: float) -> None:
    x, labels = blobs(n=150, p=12, classes=3)
    y = signs(labels, 3)
    machines = fit_svm(x, y, c=c, loss="hinge", tolerance=1e-7)
    np.testing.assert_allclose(primal(x, y, machines, c, "hinge"), liblinear(x, labels, 3, c, "hinge"), rtol=1e-6)
    assert machines.gap.max() <= 1e-7


@cache
def features_of_resnet20(shared: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors behind the last pooling for 400 digits, and their labels."""
    import netopsy
    from netopsy.engine.interpreter import plan

    network, samples = trained_resnet20(shared), netopsy.load_samples("digits", count=400)
    walk = plan(network, ("view",))
    with torch.inference_mode():
        parts = [
            walk.run({"input": batch.images}, batch=len(batch.indices))["view"].clone()
            for batch in samples.batches(network.preprocessing, 50)
        ]
    return unit(torch.cat(parts).numpy()), torch.from_numpy(samples.labels)


@pytest.mark.real
@pytest.mark.parametrize("c", [1e-2, 1.0, 1e2])
def test_objectives_on_features_of_a_real_network_equal_those_of_liblinear(shared: Path, c: float) -> None:
    x, labels = features_of_resnet20(shared)
    machines = fit_svm(x, signs(labels, 10), c=c, tolerance=1e-8)
    np.testing.assert_allclose(machines.objective, liblinear(x, labels, 10, c, "squared_hinge"), rtol=1e-6)


def test_the_loss_is_curved_at_support_vectors_alone_and_the_hinge_only_at_the_margin() -> None:
    dual = torch.tensor([[0.0], [0.5], [1.0]])
    assert Piece(2.0).inside(dual).flatten().tolist() == [False, True, True]
    assert Piece(2.0, top=1.0).inside(dual).flatten().tolist() == [False, True, False]


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_the_certificate_holds_for_any_coefficients(loss: str) -> None:
    x, labels = blobs()
    y, c = signs(labels, 4), 0.7
    best = fit_svm(x, y, c=c, loss=loss, tolerance=1e-8).objective
    draw = torch.Generator().manual_seed(0)
    for size in (0.0, 1e-3, 1.0, 30.0):
        coefficients = torch.randn(41, 4, generator=draw) * size
        dual = None if loss == "squared_hinge" else torch.rand(len(x), 4, generator=draw) * c
        proof = certify(x, y, coefficients, c, dual)
        given = Svm(coefficients[:-1], coefficients[-1], best, best, 0)
        np.testing.assert_allclose(proof.objective, primal(x, y, given, c, loss), rtol=1e-10)
        assert (proof.objective * (1 - proof.gap) <= best * (1 + 1e-8)).all()
        assert (proof.gap > 0).all()


def test_fits_in_float32_are_certified_and_near_the_optimum() -> None:
    x, labels = digits()
    y = signs(labels, 10)
    quick, best = fit_svm(x, y), fit_svm(x, y, tolerance=1e-9)
    assert quick.weights.dtype == torch.float32
    assert quick.gap.max() <= 1e-4
    above = quick.objective / best.objective - 1
    assert (above >= -1e-9).all() and (above <= quick.gap + 1e-9).all()


@pytest.mark.parametrize("rubbish", [float("nan"), 1e30])
def test_a_start_that_leads_nowhere_is_solved_again_cold_in_float64(rubbish: float) -> None:
    x, labels = blobs()
    y = signs(labels, 4)
    good = fit_svm(x, y)
    weights = good.weights.clone()
    weights[:, 1] = rubbish
    start = Svm(weights, good.bias, good.objective, good.gap, 0)
    machines = fit_svm(x, y, start=start)
    assert machines.refits == 1
    assert machines.gap.max() <= 1e-4
    np.testing.assert_allclose(machines.objective, good.objective, rtol=2e-4)


def test_a_warm_start_saves_steps_and_changes_no_objective() -> None:
    x, labels = digits()
    y = signs(labels, 10)
    cold = fit_svm(x, y)
    rounded = (x * 16).round() / 16
    warm, fresh = fit_svm(rounded, y, start=cold), fit_svm(rounded, y)
    assert warm.steps < fresh.steps
    np.testing.assert_allclose(warm.objective, fresh.objective, rtol=1e-4)


@pytest.mark.parametrize("p", [30, 900])
@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
def test_nested_fits_equal_fits_of_their_own(p: int, loss: str) -> None:
    x, labels = blobs(n=120, p=p, classes=3)
    y = signs(labels, 3)
    sizes = [p // 10, p // 3, p // 2, p]
    assert reductions.pays(120, sizes, 3) == (p == 900)
    nested = dict(fit_nested(x, y, sizes, loss=loss, tolerance=1e-6))
    assert list(nested) == sizes
    for size, machines in nested.items():
        alone = fit_svm(x[:, :size].contiguous(), y, loss=loss, tolerance=1e-6)
        assert machines.weights.shape == (size, 3)
        assert machines.gap.max() <= 1e-6
        np.testing.assert_allclose(machines.objective, alone.objective, rtol=2e-6)
        torch.testing.assert_close(machines.scores(x[:, :size]), alone.scores(x[:, :size]), atol=2e-2, rtol=0)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_reduced_features_have_the_same_scores(kind: torch.dtype) -> None:
    x = blobs(n=60, p=500)[0].to(kind)
    reduced = reductions.reduction(x)
    coefficients = torch.cat([x.T @ torch.randn(60, 2, dtype=kind), torch.randn(1, 2, dtype=kind)])
    there = reduced.forth(coefficients)
    tight = {"atol": 1e-3 if kind is torch.float32 else 1e-9, "rtol": 1e-4}
    torch.testing.assert_close(reduced.features @ there[:-1], x @ coefficients[:-1], **tight)
    torch.testing.assert_close(x @ reduced.back(there)[:-1], x @ coefficients[:-1], **tight)


def test_many_dimensions_of_large_mean_are_solved_in_float32() -> None:
    x, labels = blobs(n=80, p=3000, classes=3)
    y = signs(labels, 3)
    assert reductions.pays(80, [3000], 3)
    machines = fit_svm(x + 0.3, y)
    assert not machines.refits
    np.testing.assert_allclose(machines.objective, fit_svm(x + 0.3, y, tolerance=1e-8).objective, rtol=1e-4)


def test_equal_samples_with_many_dimensions_are_no_obstacle() -> None:
    x, labels = blobs(n=50, p=2000, classes=2)
    x, labels = torch.cat([x, x]), torch.cat([labels, labels])
    machines = fit_svm(x, signs(labels, 2))
    assert machines.gap.max() <= 1e-4
    plain = fit_svm(x[:, : x.shape[1]].double().float(), signs(labels, 2), tolerance=1e-7)
    np.testing.assert_allclose(machines.objective, plain.objective, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_features_give_every_sample_the_same_scores(value: float) -> None:
    x, y = torch.full((40, 8), value), signs(torch.arange(40) % 4, 4)
    machines = fit_svm(x, y, tolerance=1e-7)
    scores = machines.scores(x)
    assert (scores == scores[0]).all()
    # one variable a class: f = s b with s = 1 + |x|^2; 10 samples at +1, 30 at -1, all of them support vectors
    s = 1 + 8 * value**2
    torch.testing.assert_close(scores[0].double(), torch.full((4,), -40 * s / (1 + 80 * s)).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 8, 10])
def test_features_whose_squares_leave_float32_are_fitted(seed: int) -> None:
    """Of numbers whose last bits are erased 2^-63 is left; LAPACK finds no eigenvectors of its squares in float32."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.full((250, 64), 2.0**-63)
    x[torch.randint(250, (20,), generator=draw), torch.randint(64, (20,), generator=draw)] = 0
    y = signs(torch.arange(250) % 3, 3)
    machines = fit_svm(x, y)
    alone = fit_svm(torch.zeros(250, 1), y)
    assert bool((machines.gap <= 1e-4).all())
    torch.testing.assert_close(machines.objective, alone.objective, rtol=1e-4, atol=0)
    torch.testing.assert_close(machines.bias, alone.bias, rtol=1e-2, atol=1e-4)


def test_a_class_in_all_samples_or_in_none_is_fitted() -> None:
    x, _ = blobs(n=50, p=10)
    y = torch.stack([torch.ones(50), -torch.ones(50)], 1)
    machines = fit_svm(x, y)
    assert machines.gap.max() <= 1e-4
    assert (machines.scores(x)[:, 0] > 0.8).all() and (machines.scores(x)[:, 1] < -0.8).all()


def test_signs_of_indices_and_of_rows() -> None:
    assert signs(torch.tensor([1, 0]), 3).tolist() == [[-1, 1, -1], [1, -1, -1]]
    assert signs(np.array([[0.0, 1.0], [1.0, 1.0]], np.float32), 2).tolist() == [[-1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"c": 0.0}, "positive number"),
        ({"c": float("nan")}, "positive number"),
        ({"loss": "logistic"}, "squared_hinge or hinge"),
        ({"tolerance": 0.0}, "between 0 and 1"),
        ({"x": torch.zeros(3, 4)}, "do not fit"),
        ({"x": torch.full((300, 40), float("nan"))}, "NaN"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_a_sentence(change: dict, words: str) -> None:
    x, labels = blobs()
    given = {"x": x, "y": signs(labels, 4)} | change
    with pytest.raises(SettingsError, match=words):
        fit_svm(**given)
    with pytest.raises(SettingsError, match="ascend"):
        fit_nested(x, signs(labels, 4), [5, 3])

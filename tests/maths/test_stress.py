"""The stresses: against the paper's equations written out, the full covariance, and bits as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference_stress as reference
import torch
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.stats import pca
from netopsy.stats.pca import fit_pca
from netopsy.studies.transfer.chains import dimension_steps, drop_order
from netopsy.transform.fit import training as quantization
from netopsy.transform.fit.levels import bits_per_vector, compression, erase_bits, level_bits
from netopsy.transform.fit.training import Ranges, fit_ranges, quantize, unit


def features(n: int, p: int, seed: int = 0) -> Tensor:
    """Rectified, correlated, of unit length, with some dead dimensions: what a network gives."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(p, p, generator=generator) * torch.logspace(0, -2, p)[:, None]
    x = (torch.randn(n, p, generator=generator) @ mix + 0.3 * torch.randn(p, generator=generator)).clamp_min(0)
    x[:, ::7] = 0
    return unit(x)


# --- dimensions


def test_the_sizes_are_those_of_the_authors_tables() -> None:
    # the column of the published DR-1 table of VGG-M, from 5 % up; it has 2047 where the formula gives 2048
    published = [204, 409, 614, 819, 1024, 1228, 1433, 1638, 1843, 2047]
    published += [2252, 2457, 2662, 2867, 3072, 3276, 3481, 3686, 3891, 4096]
    sizes = dimension_steps(4096)[::-1]
    assert len(sizes) == 20
    assert [(ours, theirs) for ours, theirs in zip(sizes, published, strict=True) if ours != theirs] == [(2048, 2047)]
    assert dimension_steps(50_176)[-3:] == [7526, 5017, 2508]


@pytest.mark.real
@pytest.mark.parametrize("name", ["DR-1_BossaNova", "DR-1_GoogLeNet", "DR-1_VGG-M", "DR-2_VGG-M"])
def test_the_sizes_are_those_of_every_published_table(shared: Path, name: str) -> None:
    rows = (shared / f"reference/carvalho-2016/{name}_VOC_2007.csv").read_text().split()
    column = next(line for line in rows if "Dimensions" in line).split(",").index("Dimensions")
    published = [int(row.split(",")[column]) for row in rows if row[0].isdigit()]
    sizes = dimension_steps(published[-1])[::-1]
    # a product with a rounded fraction falls below a whole number at most by 1, and only where there is one
    for i, (ours, theirs) in enumerate(zip(sizes, published, strict=True), 1):
        assert ours == theirs or (ours == theirs + 1 and published[-1] * i % 20 == 0)


def test_few_dimensions_give_fewer_steps() -> None:
    assert dimension_steps(3) == [3, 2, 1] and dimension_steps(1) == [1] and dimension_steps(10, 5) == [10, 8, 6, 4, 2]
    for n in range(1, 60):
        sizes = dimension_steps(n)
        assert sizes[0] == n and sizes[-1] >= 1 and sizes == sorted(set(sizes), reverse=True)
    with pytest.raises(SettingsError, match="0 dimensions in 20 steps"):
        dimension_steps(0)


def test_random_drops_are_nested_and_come_from_the_seed() -> None:
    order = drop_order(50, seed=3)
    assert sorted(order.tolist()) == list(range(50))
    assert torch.equal(order, drop_order(50, seed=3)) and not torch.equal(order, drop_order(50, seed=4))
    first = torch.stack([drop_order(20, seed)[0] for seed in range(400)])
    assert len(first.unique()) == 20  # every dimension can be the one that stays longest


def test_unit_rows_have_length_one_and_zeros_stay() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0], [1e30, 1e30], [1e-42, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0], [0.5**0.5, 0.5**0.5], [1.0, 0.0]])
    assert torch.allclose(unit(x), expected, rtol=1e-7, atol=0)
    assert x[0, 0] == 3 and unit(x.double()).dtype == torch.float32


# --- principal directions


@pytest.mark.parametrize(("n", "p"), [(300, 40), (40, 40), (41, 40), (40, 90)])
def test_directions_are_those_of_the_full_covariance(n: int, p: int) -> None:
    x = features(n, p)
    fitted = fit_pca(x)
    values, vectors = reference.principal_directions(x.numpy())
    r = len(fitted.variances)
    assert torch.allclose(fitted.variances, torch.from_numpy(values[:r].copy()), rtol=1e-7, atol=1e-12 * values[0])
    for k in (1, 3, 10, 20):
        ours = fitted.components[:, :k].double().numpy()
        theirs = vectors[:, :k]
        assert values[k - 1] - values[k] > 1e-6  # the subspace is a definite one
        assert np.abs(ours @ ours.T - theirs @ theirs.T).max() < 1e-5
    assert torch.allclose(fitted.mean, x.double().mean(0))
    largest = fitted.components.gather(0, fitted.components.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.parametrize(("n", "p"), [(300, 40), (40, 300), (60, 60), (1, 8), (2, 8), (8, 1)])
def test_all_inner_products_of_the_training_set_are_kept(n: int, p: int) -> None:
    x = features(n, p)
    fitted = fit_pca(x)
    z = fitted.apply(x)
    assert torch.allclose(z @ z.T, x @ x.T, atol=2e-6)
    r = fitted.components.shape[1]
    assert r <= min(n, p) and torch.allclose(fitted.components.T @ fitted.components, torch.eye(r), atol=2e-6)
    assert torch.equal(fitted.apply(x, 1)[:, 0], x @ fitted.components[:, :1][:, 0])


def test_the_last_direction_is_what_is_left_of_the_mean() -> None:
    x = features(30, 100)
    fitted = fit_pca(x)
    assert len(fitted.variances) == 30 and fitted.variances[-1] == 0 and fitted.variances[-2] > 0
    last = fitted.apply(x)[:, -1]
    assert last[0].abs() > 0.01 and torch.allclose(last, last[0].expand(30), atol=1e-6)
    centred = x.double() - x.double().mean(0)
    assert fit_pca(centred).components.shape[1] == 29


def test_directions_that_rounding_would_blur_are_orthonormal() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(200, 40, generator=generator, dtype=torch.float64))[0]
    x = (left * torch.logspace(0, -6, 40, dtype=torch.float64)) @ right.T
    for block in (x, x.T):  # by inner products, by the covariance
        components = fit_pca(block).components
        r = components.shape[1]
        assert r >= 35 and torch.allclose(components.T @ components, torch.eye(r), atol=1e-6)


def test_sets_without_variance_have_one_direction() -> None:
    row = unit(torch.rand(1, 6))
    for x in (row, row.expand(9, 6), row.expand(5, 6)):
        fitted = fit_pca(x)
        assert fitted.components.shape == (6, 1) and fitted.variances.tolist() == [0]
        assert torch.allclose(fitted.components[:, 0].abs(), row[0].abs(), atol=1e-6)
    assert fit_pca(torch.zeros(4, 3)).components.tolist() == [[1], [0], [0]]


def test_blocks_and_memory_maps_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n, p in ((90, 30), (30, 90)):
        x = features(n, p)
        np.save(tmp_path / "x.npy", x.numpy().astype(np.float16))
        mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
        whole = fit_pca(x.half().float())
        with monkeypatch.context() as small:
            small.setattr(pca, "BLOCK", 400)
            parts = fit_pca(mapped)
        assert torch.allclose(parts.variances, whole.variances, rtol=1e-9, atol=1e-15)
        assert torch.allclose(parts.apply(x)[:, :20], whole.apply(x)[:, :20], atol=1e-5)


def test_directions_of_nothing_or_of_nan_are_errors() -> None:
    with pytest.raises(SettingsError, match="0 vectors of 3 values"):
        fit_pca(torch.zeros(0, 3))
    x = features(5, 3)
    x[2, 1] = torch.nan
    with pytest.raises(SettingsError, match="NaN"):
        fit_pca(x)


# --- quantization


@pytest.mark.parametrize("h", [1, 2, 3, 4, 5, 7, 8, 27, 30])
@pytest.mark.parametrize("per_dimension", [False, True])
def test_bins_are_the_nearest_of_the_dictionary(h: int, per_dimension: bool) -> None:
    train, x = features(60, 15), features(40, 15, seed=1) * 1.3 - 0.05  # some beyond the range, at both ends
    ranges = fit_ranges(train, per_dimension)
    ours = quantize(x, ranges, h).numpy()
    theirs = reference.quantize(x.numpy(), train.numpy(), h, per_dimension)
    clear = reference.margin(x.numpy(), train.numpy(), h, per_dimension) > 1e-5
    assert clear.mean() > 0.9
    assert np.abs(ours - theirs)[clear].max() < 1e-6
    # on a border either neighbour is as near
    assert np.all(np.abs(np.abs(x.numpy() - ours) - np.abs(x.numpy() - theirs)) < 1e-6)


@pytest.mark.parametrize("h", [1, 2, 4, 8])
@pytest.mark.parametrize("per_dimension", [False, True])
def test_ties_go_to_the_lower_centre(h: int, per_dimension: bool) -> None:
    # steps and values are sums of powers of two: nothing is rounded, and every border is hit
    train = torch.tensor([[-1.0, 0.0, 2.0], [1.0, 4.0, 2.0], [0.5, 1.0, 2.0]])
    x = (torch.arange(-24, 25)[:, None] / 8).expand(-1, 3).contiguous()
    expected = reference.quantize(x.numpy(), train.numpy(), h, per_dimension)
    assert np.array_equal(quantize(x, fit_ranges(train, per_dimension), h).numpy(), expected)


def test_a_dimension_without_extent_has_one_centre() -> None:
    train = torch.tensor([[0.1, 0.0], [0.1, 1.0]])
    x = torch.tensor([[5.0, 0.2], [-5.0, 0.9], [0.1, 9.0]])
    out = quantize(x, fit_ranges(train, True), 2)
    assert out.tolist() == [[train[0, 0].item(), v] for v in (0.25, 0.75, 0.75)]
    assert bool(torch.isfinite(quantize(x, Ranges(torch.tensor([0.0]), torch.tensor([1e-45])), 30)).all())


def test_all_ways_to_quantize_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    x = features(50, 12)
    for per_dimension in (False, True):
        ranges = fit_ranges(x, per_dimension)
        for h in (1, 5, 256, 300):
            expected = quantize(x, ranges, h)
            assert torch.equal(quantize(x.T.contiguous().T, ranges, h), expected)
            with monkeypatch.context() as small:
                small.setattr(quantization, "QUANTIZE_ROWS", 30)
                assert torch.equal(quantize(x, ranges, h), expected)


def test_quantized_training_values_are_within_half_a_step() -> None:
    x = features(80, 9)
    ranges = fit_ranges(x, True)
    for h in (2, 9, 30):
        step = (ranges.high - ranges.low) / h
        assert bool(((quantize(x, ranges, h) - x).abs() <= step / 2 + 1e-7).all())
        assert torch.equal(quantize(quantize(x, ranges, h), ranges, h), quantize(x, ranges, h))


def test_impossible_levels_are_errors() -> None:
    ranges = Ranges(torch.zeros(1), torch.ones(1))
    for h in (0, -1, 65537, 2.0, True):
        with pytest.raises(SettingsError, match=f"{h} levels"):
            quantize(torch.zeros(2, 2), ranges, h)
    with pytest.raises(SettingsError, match="at least one vector"):
        fit_ranges(torch.zeros(0, 4), True)


# --- bits


@pytest.mark.parametrize("removed", [0, 1, 7, 22, 23, 24, 26, 29, 30, 31, 32])
def test_erased_bits_are_zeros_of_the_pattern(removed: int) -> None:
    values = torch.cat([features(6, 9).flatten(), torch.tensor([-0.3, 1.0, -2.5, 1e-30, 3e38, 0.0, -1e-45])])
    expected = [reference.erase_bits(value, removed) for value in values.tolist()]
    assert erase_bits(values, removed).tolist() == expected
    if removed == 32:
        assert not erase_bits(values, removed).any()


def test_the_authors_64_bits_are_ours_and_29() -> None:
    values = torch.cat([features(6, 9).flatten(), torch.tensor([-0.3, 1.0, -1.99, 1e-18])]).tolist()
    for removed in range(29, 59):
        theirs = [reference.erase_bits(value, removed, word=64) for value in values]
        assert erase_bits(torch.tensor(values), removed - 29).tolist() == theirs
    assert {reference.erase_bits(abs(value), 59, word=64) for value in values} == {0.0, 2.0**-127}
    assert not erase_bits(torch.tensor(values), 30).any()
    assert [reference.erase_bits(value, 28, word=64) for value in values] == values


def test_the_paper_s_compression_rates() -> None:
    # abstract: 98.4 %; Figure 5: 99.1, 98.4 and 96.9 %
    assert bits_per_vector(409, 27) == 409 * 5
    assert f"{100 * compression(bits_per_vector(409, 27), 4096):.2f}" == "98.44"
    assert f"{100 * compression(bits_per_vector(409, 8), 4096):.1f}" == "99.1"
    assert f"{100 * compression(bits_per_vector(819, 27), 4096):.1f}" == "96.9"
    assert compression(4096 * 32, 4096) == 0 and compression(2 * 64, 1, word=64) == -1
    assert [level_bits(h) for h in (1, 2, 3, 4, 5, 7, 8, 9, 30, 256, 257)] == [0, 1, 2, 2, 3, 3, 3, 4, 5, 8, 9]


def test_impossible_bits_are_errors() -> None:
    for call in (lambda: erase_bits(torch.zeros(1), 33), lambda: level_bits(0), lambda: compression(8, 0)):
        with pytest.raises(SettingsError):
            call()

"""Masks and weights replaced while the other stays: against matrices, identities, and what is concluded of it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from reference_reconstruct import masked_map, shuffled
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, reconstruct
from netopsy.engine.backproject.backproject import trace
from netopsy.engine.backproject.batching import shuffle_places
from netopsy.engine.backproject.rules import MASKED, permuted_like, random_weights
from netopsy.engine.backproject.tree import Trunk
from netopsy.engine.workspace.workspace import workspace
from netopsy.errors import SettingsError
from netopsy.samples.images import ArrayImages
from netopsy.samples.samples import read_images
from netopsy.settings import stream
from netopsy.studies.reconstruct import exchange as exchange_file
from netopsy.studies.reconstruct.exchange import (
    MASKS,
    MEASURES,
    WEIGHTS,
    Depth,
    exchange,
    exchange_findings,
    exchange_tables,
    spread_layers,
)
from netopsy.studies.reconstruct.report import correlation, edges, inside, on_edges, strength
from netopsy.studies.reconstruct.survey import most_active

SIZE = 16


def network(*modules: nn.Module, size: int = SIZE) -> Network:
    preprocessing = Preprocessing(size=(size, size), mean=(0.5,) * 3, std=(0.3,) * 3)
    return Network("test", nn.Sequential(*modules).double(), preprocessing)


@pytest.fixture(scope="module")
def small() -> Network:
    """conv, ReLU, pool, conv, ReLU, flatten, linear, ReLU: the neurons see the whole image."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU()]
    return network(*layers, nn.Flatten(), nn.Linear(4 * 8 * 8, 6), nn.ReLU())


@pytest.fixture(scope="module")
def deep() -> Network:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for depth in (3, 6, 6, 6):
        layers += [nn.Conv2d(depth, 6, 3, padding=1), nn.ReLU()]
    layers.insert(4, nn.MaxPool2d(2))
    return network(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))


@pytest.fixture(scope="module")
def samples() -> Samples:
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (6, 4, 4, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    return Samples("blocks", ArrayImages(coarse), draw.integers(0, 5, 6), tuple("abcde"))


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def values_of(net: Network, image: Tensor) -> list[np.ndarray]:
    """The maps behind both rectifiers of `small`."""
    with torch.no_grad():
        first = net.module[:2](image[None])  # type: ignore[index]
        return [first[0].numpy(), net.module[2:5](first)[0].numpy()]  # type: ignore[index]


def test_another_images_masks_are_the_product_of_the_masked_matrices(small: Network) -> None:
    images = pictures(3)
    units, of, masks_of = [("7", 0), ("7", 2), ("7", 4), ("7", 2)], [0, 0, 1, 2], [1, 2, 0, 2]
    result = trace(small, images, units, MASKED, of=of, masks_of=masks_of)
    for (_, neuron), mine, theirs, map_ in zip(units, of, masks_of, result.maps, strict=True):
        expected = masked_map(small.module, images[mine], values_of(small, images[theirs]), neuron)  # type: ignore[arg-type]
        np.testing.assert_allclose(map_.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert result.maps.abs().amax((1, 2, 3)).count_nonzero() >= 2
    assert torch.equal(result.values, trace(small, images, units, MASKED, of=of).values), "the unit's value is its own"


def test_shuffled_masks_are_the_product_of_the_masked_matrices(small: Network) -> None:
    images = pictures(2)
    with torch.no_grad():
        first, second = small.module(images).argmax(1).tolist()
    cases = list(zip((first, second, second), (0, 1, 1), (5, 6, 7), strict=True))
    units, of, seeds = [("7", neuron) for neuron, _, _ in cases], [0, 1, 1], [5, 6, 7]
    result = trace(small, images, units, MASKED, of=of, shuffle=seeds)
    for (neuron, image, seed), map_ in zip(cases, result.maps, strict=True):
        masks = [shuffled(v, node, seed) for v, node in zip(values_of(small, images[image]), "14", strict=True)]
        expected = masked_map(small.module, images[image], masks, neuron)  # type: ignore[arg-type]
        np.testing.assert_allclose(map_.numpy(), expected, rtol=1e-9, atol=1e-12)
        assert map_.any()
    assert not torch.allclose(result.maps[1], result.maps[2])


def test_ones_own_masks_change_nothing_in_any_rule_or_part_of_the_image(deep: Network) -> None:
    images = pictures(3)
    units = [("7", 0, 3, 3), ("7", 2, 0, 0), ("5", 1, 7, 2), ("3", 4, 9, 9), ("7", 5, 4, 6)]
    of = [0, 1, 1, 2, 0]
    for rule in ("masked", "gradient", "deconvnet", "guided"):
        plain = trace(deep, images, units, rule, of=of)  # type: ignore[arg-type]
        same = trace(deep, images, units, rule, of=of, masks_of=of)  # type: ignore[arg-type]
        torch.testing.assert_close(same.maps, plain.maps)
        torch.testing.assert_close(same.values, plain.values)


def test_masks_cut_to_the_field_are_those_of_the_whole_image(deep: Network) -> None:
    """The flow with another image's masks, by autograd on a network whose rectifiers are that image's masks."""
    images = pictures(2)
    (map_,) = trace(deep, images, [("7", 2, 4, 3)], "gradient", of=[0], masks_of=[1]).maps
    leaf, value, other = images[:1].clone().requires_grad_(), None, images[1:]
    value = leaf
    for layer in deep.module[:8]:  # type: ignore[index]
        lent = layer(other.detach())
        if isinstance(layer, nn.ReLU):
            value = value * (other > 0) if layer is not deep.module[7] else value  # type: ignore[index]
        elif isinstance(layer, nn.MaxPool2d):
            _, at = nn.functional.max_pool2d(other, 2, return_indices=True)
            value = value.flatten(2).gather(2, at.flatten(2)).view_as(lent)
        else:
            value = layer(value)
        other = lent
    (expected,) = torch.autograd.grad(value[0, 2, 4, 3], leaf)
    with torch.no_grad():
        active = float(deep.module[:8](images[:1])[0, 2, 4, 3]) > 0  # type: ignore[index]
    torch.testing.assert_close(map_, expected[0] * active)
    assert active and map_.any()


def test_shuffling_keeps_each_channels_values_and_joins_stay_joins() -> None:
    class Fire(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(7, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            joined = torch.cat([self.one(x).relu(), self.two(x).relu()], 1)
            return self.last(nn.functional.max_pool2d(joined, 2)).relu()

    net = Network("fire", Fire().double(), Preprocessing(size=(SIZE, SIZE)))
    tree = Trunk(net, list(net.nodes)[-1]).tree()
    values = tree.forward(pictures(2))
    names = {node.name: node for node in values}
    kept = {node: values[node] for node in values if node.operator in ("relu", "cat")}
    moved = shuffle_places(tree, kept, [1, 2], {tree.trunk.target})
    assert moved[tree.trunk.target] is values[tree.trunk.target]
    for name, node in names.items():
        if node in kept and node is not tree.trunk.target:
            torch.testing.assert_close(moved[node].flatten(2).sort(2)[0], values[node].flatten(2).sort(2)[0])
            assert not torch.equal(moved[node], values[node]), name
    (join,) = (node for node in kept if node.operator == "cat")
    assert torch.equal(moved[join], torch.cat([moved[part] for part in join.args[0]], 1))
    alone = shuffle_places(tree, {node: value[1:] for node, value in kept.items()}, [2], {tree.trunk.target})
    assert torch.equal(alone[join][0], moved[join][1]), "the order depends on the unit's seed alone"


def test_permuted_weights_are_the_same_values_in_an_order_of_each_draw(small: Network) -> None:
    own = dict(small.module.named_parameters())
    first, again, other = (random_weights(MASKED, 0, d, permuted_like).weights(small) for d in (0, 0, 1))
    for name, value in first.items():
        assert torch.equal(value.flatten().sort()[0], own[name].detach().flatten().sort()[0])
        assert torch.equal(value, again[name])
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert not torch.equal(first["0.weight"], own["0.weight"])


def test_what_cannot_be_replaced_is_an_error(deep: Network) -> None:
    with pytest.raises(SettingsError, match="no mask and no switch lies between the image and '1'"):
        trace(deep, pictures(2), [("1", 0, 3, 3)], MASKED, of=[0], masks_of=[1])
    flat = network(nn.Flatten(), nn.Linear(3 * SIZE**2, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU())
    with pytest.raises(SettingsError, match="cannot be shuffled over places"):
        trace(flat, pictures(1), [("4", 0)], MASKED, shuffle=[0])


def test_every_cell_is_measured_as_by_hand(deep: Network, samples: Samples) -> None:
    numbers, draws, seed = [1, 4], 3, 7
    (depth,) = exchange(
        deep,
        samples,
        numbers,
        {"7": lambda image: most_active(deep, "7", image, 2)},
        draws=draws,
        rectify=True,
        seed=seed,
    )
    images = read_images(deep, samples, numbers).double()
    units = [unit for image in images for unit in most_active(deep, "7", image, 2)]
    assert depth.units == [str(unit) for unit in units] and depth.images == [1, 1, 4, 4]
    of = [0, 0, 1, 1]
    plain = trace(deep, images, units, MASKED, of=of)
    for draw in range(draws):
        steps = np.random.default_rng(stream("another image", seed, draw)).integers(1, 6, 2)
        others = [(number + int(step)) % 6 for number, step in zip(numbers, steps, strict=True)]
        assert all(a != b for a, b in zip(numbers, others, strict=True))
        both = torch.cat([images, read_images(deep, samples, others).double()])
        shuffle = [stream(f"{unit} {numbers[i]}", seed, draw) for unit, i in zip(units, of, strict=True)]
        ways = {"own": {}, "other": {"masks_of": [2 + i for i in of]}, "shuffled": {"shuffle": shuffle}}
        rules = {
            "learned": MASKED,
            "permuted": random_weights(MASKED, seed, draw, permuted_like),
            "gaussian": random_weights(MASKED, seed, draw),
        }
        for masks, way in ways.items():
            for weights, rule in rules.items():
                if masks == "own" and weights == "learned" and draw:
                    continue
                replaced = trace(deep, both, units, rule, of=of, **way)  # type: ignore[arg-type]
                for i, box in enumerate(replaced.fields):
                    map_, whole = replaced.crops[i].clamp(min=0).numpy(), plain.crops[i].clamp(min=0).numpy()
                    outlines = [inside(edges(both[k].numpy()), box) for k in (of[i], 2 + of[i])]
                    expected = [correlation(strength(map_), strength(whole)), correlation(map_, whole)]
                    expected += [on_edges(strength(map_), outline) for outline in outlines]
                    measured = [depth.cell(masks, weights, measure)[i, draw] for measure in MEASURES]
                    np.testing.assert_allclose(measured, expected, atol=1e-5, err_msg=f"{masks} {weights} {draw}")
    assert depth.cell("own", "learned", "likeness").shape == (4, 1)
    np.testing.assert_allclose(depth.cell("own", "learned", "likeness"), 1), "neither is replaced"


def test_tables_hold_every_draw_and_the_study_resumes(
    deep: Network, samples: Samples, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"survey": 4, "images": (2,), "draws": 3, "experiment": 2, "features": 1}
    whole = reconstruct(deep, samples, **settings)
    rows, means, leads = (whole.tables[f"exchange{end}"] for end in ("", "_means", "_leads"))
    layers = rows["layer"].unique(maintain_order=True).to_list()
    assert layers == spread_layers(deep, "8", 2) and len(layers) == 2
    images = rows["image"].n_unique()
    assert rows.height == 2 * images * (1 + 8 * 3) and means.height == 2 * 9 * 4 and leads.height == 2 * 4 * 3
    one = rows.filter((pl.col("masks") == "own") & (pl.col("weights") == "learned"))
    assert one["draw"].is_null().all() and one["likeness"].to_list() == pytest.approx([1.0] * one.height)
    for row in leads.filter(pl.col("measure") == "likeness").iter_rows(named=True):
        at = {(m, w): means.filter(
            (pl.col("layer") == row["layer"]) & (pl.col("masks") == m) & (pl.col("weights") == w)
            & (pl.col("measure") == "likeness")
        )["mean"].item() for m in MASKS for w in WEIGHTS}  # fmt: skip
        assert row["mean"] == pytest.approx(at["own", row["weights"]] - at[row["masks"], "learned"])
    resolve = whole.figures["exchange"].spec["resolve"]["scale"]
    assert resolve["xOffset"] == "independent", "else the marks of a category lie on one another"
    assert all(any(f.startswith(f"At {layer}") for f in whole.findings) for layer in layers)
    # killed in its second draw, and run again
    calls = iter(range(100))

    def dies(*_: object) -> list[int]:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return others(*_)  # type: ignore[arg-type]

    others = exchange_file._other_images
    monkeypatch.setattr(exchange_file, "_other_images", dies)
    with workspace(tmp_path, every=0.0):
        with pytest.raises(KeyboardInterrupt):
            reconstruct(deep, samples, **settings)
        again = reconstruct(deep, samples, **settings)
    assert next(calls) == 4, "one draw, the one that was killed, and the two that were left"
    assert_frame_equal(again.tables["exchange"], rows)


def test_images_a_few_at_a_time_give_the_same(deep: Network, samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    units_at = {"7": lambda image: most_active(deep, "7", image, 1)}
    settings = {"draws": 2, "rectify": True, "seed": 1}
    (whole,) = exchange(deep, samples, [0, 3, 5], units_at, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(exchange_file, "_IMAGES", 3)
    (same,) = exchange(deep, samples, [0, 3, 5], units_at, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(exchange_file, "_IMAGES", 2)
    (parts,) = exchange(deep, samples, [0, 3, 5], units_at, **settings)  # type: ignore[arg-type]
    assert [len(part) for part in parts.parts] == [2, 1] and parts.images == whole.images
    np.testing.assert_array_equal(same.cell("other", "gaussian", "edges"), whole.cell("other", "gaussian", "edges"))
    for masks, weights in (("own", "permuted"), ("shuffled", "learned"), ("shuffled", "gaussian")):
        a, b = (depth.cell(masks, weights, "likeness") for depth in (parts, whole))
        np.testing.assert_allclose(a, b, atol=1e-6)


def made(masks: float, weights: float, noise: float, draws: int = 6, maps: int = 8) -> Depth:
    """A layer where the own masks leave `masks` of the maps and the own weights `weights`, alike in edges."""
    depth = Depth("layer", [f"layer:{i}" for i in range(maps)], list(range(maps)))
    values = np.full((maps, 3, 3, draws, len(MEASURES)), 0.1)
    values[:, 0, 1:], values[:, 1:, 0], values[:, 0, 0] = masks, weights, 1.0
    values += np.random.default_rng(0).normal(0, noise, values.shape)
    depth.parts.append(values)
    return depth


def test_a_verdict_needs_the_intervals_over_images_and_over_draws() -> None:
    def said(depth: Depth) -> str:
        return exchange_findings([depth])[0]

    assert said(made(0.8, 0.3, 0.05)).startswith("At layer, the masks matter more than the weights: ")
    assert said(made(0.3, 0.8, 0.05)).startswith("At layer, the weights matter more than the masks: ")
    assert said(made(0.5, 0.5, 0.01)).startswith("At layer, masks and weights matter alike: ")
    assert "which matters more cannot be told from 8 images and 6 draws: " in said(made(0.5, 0.45, 0.8))
    assert "cannot be told from 8 images and 1 draw: " in said(made(0.8, 0.3, 0.05, draws=1))
    assert "cannot be told from 2 images and 6 draws: " in said(made(0.8, 0.3, 0.05, maps=2))
    mixed = made(0.5, 0.3, 0.01)
    mixed.parts[0][:, 2, 0] = 0.8
    assert said(mixed).startswith("At layer it depends on what stands in: the masks matter more than the weights (")
    assert "(another image's masks against permuted weights and another image's masks against Gaussian w" in said(mixed)
    assert "the edges go with the masks" in exchange_findings([made(0.8, 0.3, 0.05)])[1]
    assert "the edges go with the weights" in exchange_findings([made(0.3, 0.8, 0.05)])[1]
    neither = made(0.3, 0.8, 0.001)
    neither.parts[0][..., MEASURES.index("edges")] = 0.4
    neither.parts[0][:, 0, 1:, :, MEASURES.index("edges")], neither.parts[0][:, 1:, 0, :, 2] = -0.1, 0.01
    assert "neither alone brings the edges back" in exchange_findings([neither])[1], "less of avoiding is no edge"
    means = exchange_tables([made(0.8, 0.3, 0.05)])["exchange_leads"]
    assert means["draws_high"].max() <= 2 and means["mean"].to_list()[0] == pytest.approx(0.5, abs=0.05)


def test_layers_without_masks_before_them_are_left_out_by_name(deep: Network, samples: Samples) -> None:
    result = reconstruct(deep, samples, units=("1:2:3:3", "8:1:4:4"), survey=3, draws=2, experiment=1)
    assert any(f.startswith("Left out of the exchange of masks and weights: no mask") for f in result.findings)
    assert result.tables["exchange"]["layer"].unique().to_list() == ["8"]
    with pytest.raises(SettingsError, match="give at least 2 images, or 0 for none"):
        reconstruct(deep, samples.subset(1), experiment=1)
    with pytest.raises(SettingsError, match="experiment -1 must be a whole number of at least 0"):
        reconstruct(deep, samples, experiment=-1)


def test_layers_are_spread_up_to_the_last(deep: Network) -> None:
    assert spread_layers(deep, "8", 1) == ["8"]
    assert spread_layers(deep, "8", 3) == spread_layers(deep, "8", 9) == ["3", "6", "8"]

"""Dense SIFT, words and pooling against one descriptor at a time; turns and shifts; files that go on; accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_bow import bag as reference_bag
from reference_bow import descriptor
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from netopsy import load_samples, workspace
from netopsy.errors import SettingsError
from netopsy.features.bow import bag
from netopsy.features.bow.bag import bag_of_words, descriptors_for, image_size, parse_grids, regions
from netopsy.features.bow.words import DenseSift, RegionPooling, draw_descriptors, learn_words, orientation_maps
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.samples import Samples
from netopsy.stats.clustering import kmeans


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small work: threads would wait for each other."""
    with threadpool_limits(1):
        yield


def images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth random gray images in 0..1."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((count, 1, height // 4 + 2, width // 4 + 2)))
    return torch.nn.functional.interpolate(coarse.float(), (height, width), mode="bicubic")[:, 0].clamp(0, 1)


def colours(count: int, side: int, seed: int = 0) -> Samples:
    """Random pictures of two classes that differ in the direction of their stripes."""
    lot = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    ramp = np.sin(np.arange(side) * 1.1 + lot.random((count, 1)) * 6) * 60 + 128
    stripes = np.where(labels[:, None, None], ramp[:, :, None], ramp[:, None, :])
    x = np.clip(stripes[..., None] + lot.normal(scale=25, size=(count, side, side, 3)), 0, 255).astype(np.uint8)
    return load_samples((x, labels))


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize(("bin", "size"), [(2, (12, 19)), (3, (15, 13)), (4, (20, 17)), (6, (19, 22))])
def test_descriptors_are_those_of_the_definition(bin: int, size: tuple[int, int], root: bool) -> None:
    sift = DenseSift(size, bin, 3, root)
    given = images(2, *size)
    descriptors = sift(given)
    origins = [(top, left) for top in sift.origins[0] for left in sift.origins[1]]
    assert descriptors.shape == (2, len(origins), 128)
    for image, rows in zip(given.numpy(), descriptors.numpy(), strict=True):
        for (top, left), row in zip(origins, rows, strict=True):
            np.testing.assert_allclose(row, descriptor(image, top, left, bin, root), atol=2e-5)


def test_orientations_share_the_gradient_and_point_the_right_way() -> None:
    maps = orientation_maps(images(3, 11, 14))
    dy, dx = torch.gradient(images(3, 11, 14), dim=(1, 2))
    torch.testing.assert_close(maps.sum(1), torch.hypot(dx, dy))
    rising = torch.arange(6.0).repeat(5, 1)[None]
    assert orientation_maps(rising)[0].sum((1, 2)).tolist() == [30, 0, 0, 0, 0, 0, 0, 0]
    assert orientation_maps(rising.transpose(1, 2))[0].sum((1, 2)).tolist() == [0, 0, 30, 0, 0, 0, 0, 0]
    assert orientation_maps(-rising)[0, 4].sum() == 30


def test_a_quarter_turn_turns_the_descriptors() -> None:
    given = images(2, 20, 20)
    sift = DenseSift((20, 20), 3, 2)
    points = len(sift.origins[0])
    shape = (2, points, points, 4, 4, 8)
    upright, turned = sift(given).reshape(shape), sift(given.rot90(1, (1, 2))).reshape(shape)
    # counter-clockwise by a quarter, which is two orientations less where y points down
    expected = upright.rot90(1, (1, 2)).rot90(1, (3, 4)).roll(-2, 5)
    torch.testing.assert_close(turned, expected, atol=2e-5, rtol=0)


def test_a_shift_by_a_step_moves_the_descriptors() -> None:
    wide = images(1, 40, 48)
    sift = DenseSift((40, 44), 3, 4)
    rows, columns = (len(origins) for origins in sift.origins)
    left, right = (sift(wide[:, :, at : at + 44]).reshape(rows, columns, 128) for at in (0, 4))
    # the outermost columns see the border
    torch.testing.assert_close(right[:, 1:-2], left[:, 2:-1], atol=2e-5, rtol=0)


def test_contrast_and_brightness_do_not_count_and_none_gives_zero() -> None:
    given, sift = images(2, 24, 24), DenseSift((24, 24), 4, 5)
    torch.testing.assert_close(sift(given * 0.5 + 0.3), sift(given), atol=2e-5, rtol=0)
    torch.testing.assert_close(sift(given).norm(dim=-1), torch.ones(2, sift(given).shape[1]))
    assert not sift(torch.full((1, 24, 24), 0.4)).any()


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_pooled_words_are_those_of_the_definition(pooling: str) -> None:
    sifts = descriptors_for((24, 28))
    given = images(2, 24, 28)
    every = torch.cat([sift(given) for sift in sifts], 1)
    words = every[0, torch.randperm(every.shape[1])[:15]] + 0.01 * torch.randn(15, 128)
    grids = parse_grids((1, "2x2", "3x1"))
    pooled = RegionPooling(words, regions(grids, sifts), 8, pooling)(every)  # type: ignore[arg-type]
    centres = torch.cat([sift.centres() for sift in sifts]).double().numpy()
    for row, vectors in zip(pooled, every, strict=True):
        expected = reference_bag(vectors.numpy(), centres, words.numpy(), pooling, grids, 10, 10.0)
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-5)
    if pooling == "average":
        torch.testing.assert_close(pooled.reshape(2, 8, 15).sum(2), torch.ones(2, 8))


def test_regions_finer_than_the_grid_of_points_are_zero() -> None:
    sifts = (DenseSift((24, 24), 4, 12),)
    pooled = RegionPooling(torch.rand(5, 128), regions([(9, 9)], sifts), 81, "average")
    assert pooled(sifts[0](images(1, 24, 24))).shape == (1, pooled.length)


@pytest.mark.parametrize(
    ("side", "size", "bins", "step"),
    [
        (8, 24, (2, 3, 4), 2),
        (28, 28, (2, 3, 4), 2),
        (32, 32, (2, 3, 4), 2),
        (200, 200, (4, 5, 7), 5),
        (224, 224, (4, 6, 8), 6),
    ],
)
def test_layout_follows_the_size(side: int, size: int, bins: tuple[int, ...], step: int) -> None:
    samples = load_samples((np.zeros((3, side, side), np.uint8), np.arange(3)))
    assert image_size(samples) == (size, size)
    sifts = descriptors_for((size, size))
    assert tuple(sift.bin for sift in sifts) == bins and {sift.step for sift in sifts} == {step}


def test_large_and_mixed_images_are_brought_to_one_size(tmp_path: Path) -> None:
    from PIL import Image

    large = load_samples((np.zeros((2, 20, 300), np.uint8), np.arange(2)))
    assert image_size(large) == (224, 224)
    for name, side in (("a", 40), ("b", 50)):
        (tmp_path / name).mkdir()
        Image.new("L", (side, side)).save(tmp_path / name / "x.png")
    assert image_size(load_samples(tmp_path)) == (224, 224)


def test_drawn_descriptors_do_not_depend_on_the_batches() -> None:
    samples, sifts = colours(10, 24), descriptors_for((24, 24))
    prep = Preprocessing(size=(24, 24), mean=(0.0,), std=(1.0,), channels="L")
    samples_of_two = [
        draw_descriptors(samples, prep, sifts, 95, seed=1, batch_size=size, device=torch.device("cpu"))
        for size in (3, 10)
    ]
    assert samples_of_two[0].shape == (100, 128)
    np.testing.assert_allclose(samples_of_two[0], samples_of_two[1], atol=1e-6)


def test_words_are_nearly_as_good_as_lloyds() -> None:
    samples, sifts = colours(60, 24), descriptors_for((24, 24))
    prep = Preprocessing(size=(24, 24), mean=(0.0,), std=(1.0,), channels="L")
    where = {"seed": 0, "batch_size": 8, "device": torch.device("cpu")}
    words = learn_words(samples, prep, sifts, 30, **where)  # type: ignore[arg-type]
    assert words.shape == (30, 128) and words.dtype == torch.float32
    descriptors = torch.from_numpy(draw_descriptors(samples, prep, sifts, 3000, **where))  # type: ignore[arg-type]
    error = float(torch.cdist(descriptors, words).square().min(1).values.mean())
    assert error < 1.05 * kmeans(descriptors, 30).distortion


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_bags_tell_classes_apart_and_depend_on_the_seed_alone(pooling: str) -> None:
    train, test = colours(60, 24), colours(40, 24, seed=1)
    how = {"words": 20, "pooling": pooling, "pyramid": ("1x1", "1x2")}
    x_train, x_test = bag_of_words(train, test, **how)  # type: ignore[arg-type]
    assert x_train.shape == (60, 60) and x_test.shape == (40, 60) and x_train.dtype == np.float32
    assert (x_train >= 0).all()
    assert LinearSVC().fit(x_train, train.labels).score(x_test, test.labels) == 1
    again = bag_of_words(train, test, **how)  # type: ignore[arg-type]
    np.testing.assert_array_equal(x_test, again[1])
    assert not np.array_equal(x_test, bag_of_words(train, test, **how, seed=1)[1])  # type: ignore[arg-type]


def test_a_stopped_pass_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = colours(30, 24), colours(50, 24, seed=1)
    expected = bag_of_words(train, test, words=12)
    monkeypatch.setattr(bag, "_AT_ONCE", 1)  # one image a batch
    seen: list[int] = []

    def stop(label: str, done: int, total: int) -> None:
        if label.startswith("bag of words") and total == 50 and done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, stop, every=0):
        bag_of_words(train, test, words=12)
    monkeypatch.setattr(bag, "learn_words", lambda *_, **__: pytest.fail("the words are learned already"))
    with workspace(tmp_path, lambda _, done, __: seen.append(done), every=0):
        resumed = bag_of_words(train, test, words=12)
    assert seen[0] == 20 and len(seen) == 31  # the training rows are there, and 20 of the others
    for rows, target in zip(resumed, expected, strict=True):
        assert isinstance(rows, np.memmap)
        np.testing.assert_allclose(rows, target, atol=1e-6)
    with workspace(tmp_path, lambda *_: pytest.fail("all is there")):
        np.testing.assert_array_equal(bag_of_words(train, test, words=12)[1], resumed[1])
    with workspace(tmp_path):
        other = bag_of_words(train, colours(50, 24, seed=2), words=12)
    assert not np.array_equal(other[1], resumed[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": 0}, "0 visual words"),
        ({"words": 1.5}, "1.5 visual words"),
        ({"pooling": "sum"}, "average or max"),
        ({"pyramid": ()}, "no level"),
        ({"pyramid": ("2by2",)}, "ROWSxCOLUMNS"),
        ({"pyramid": ("0x2",)}, "ROWSxCOLUMNS"),
        ({"pyramid": ("2x2x2",)}, "ROWSxCOLUMNS"),
        ({"words": 5000}, "5,000 words of"),
    ],
)
def test_mistakes_are_said(settings: dict, message: str) -> None:
    samples = colours(2, 24)
    with pytest.raises(SettingsError, match=message):
        bag_of_words(samples, samples, **settings)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(("pooling", "least"), [("average", 0.50), ("max", 0.54)])
def test_bags_of_cifar_images_reach_the_accuracy_of_their_kind(shared: Path, pooling: str, least: float) -> None:
    import json

    from PIL import Image

    folder = shared / "data" / "images" / "cifar10"
    index = json.loads((folder / "index.json").read_text())
    parts = {}
    for split in ("train", "test"):
        sheet = np.asarray(Image.open(folder / f"{split}-00.webp").convert("RGB"))
        side = sheet.shape[0] // 32
        x = sheet.reshape(side, 32, side, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
        parts[split] = load_samples((x, np.array(index[split]["labels"][: len(x)])), count=2000)
    x_train, x_test = bag_of_words(parts["train"], parts["test"], words=500, pooling=pooling)  # type: ignore[arg-type]
    x_train, x_test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x_train, x_test))
    assert LinearSVC().fit(x_train, parts["train"].labels).score(x_test, parts["test"].labels) > least

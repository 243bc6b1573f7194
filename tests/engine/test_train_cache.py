"""Stored values: those of the network itself, written whole or not at all, once for all that ask."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_train import inputs
from test_train import noise, tiny
from torch import nn

from netopsy import Network, Preprocessing, workspace
from netopsy.blocks.activation_cache import bytes_needed, cache
from netopsy.engine.train import activations as stored_values
from netopsy.engine.train.activations import ActivationSet, TrainingActivations
from netopsy.engine.train.data import TrainingSamples
from netopsy.engine.train.recipe import Recipe
from netopsy.errors import NetworkError, SettingsError, UnknownLayer

NODES = ("relu", "max_pool2d")


def expected_values(images: torch.Tensor) -> dict[str, np.ndarray]:
    """The values of NODES, maps with their channels last, by the module's parts."""
    module = tiny().module
    with torch.no_grad():
        relu = torch.relu(module.norm(module.conv(images)))
        return {
            "relu": relu.permute(0, 2, 3, 1).numpy(),
            "max_pool2d": nn.functional.max_pool2d(relu, 2).permute(0, 2, 3, 1).numpy(),
        }


@pytest.mark.parametrize("flips", [False, True])
def test_rows_are_the_values_of_the_images_and_of_the_mirrored_ones(tmp_path: Path, flips: bool) -> None:
    network, samples = tiny(), noise()
    files = cache(network, samples, (*NODES, "fc"), tmp_path, flips=flips)
    images, _ = inputs(network, samples)
    plain, mirrored = expected_values(images), expected_values(images.flip(3))
    for node in NODES:
        rows = np.load(files[node])
        assert rows.dtype == np.float32 and len(rows) == 90 * (1 + flips)
        np.testing.assert_allclose(rows[:90], plain[node], rtol=1e-4, atol=1e-5)
        if flips:
            np.testing.assert_allclose(rows[90:], mirrored[node], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(np.load(files["fc"])[:90], network.module(images).numpy(), rtol=1e-4, atol=1e-5)
    written = sum(path.stat().st_size for path in files.values())
    assert written == bytes_needed(network, 90, (*NODES, "fc"), flips)
    assert sorted(tmp_path.iterdir()) == sorted(files.values())


def test_what_is_there_is_not_computed_again_and_anything_else_is(tmp_path: Path) -> None:
    network, samples = tiny(), noise()
    steps: list[int] = []
    with workspace(progress=lambda label, done, total: steps.append(done)):
        first = cache(network, samples, ("relu",), tmp_path)
        steps.clear()
        assert cache(network, samples, ("relu",), tmp_path) == first and not steps
        # one pass for what is missing, under the name that was asked for
        both = cache(network, samples, ("relu", "norm", "conv"), tmp_path)
        assert both["relu"] == first["relu"] and steps[-1] == 90
    paths = {*both.values()}
    for other in (
        cache(network, samples, ("relu",), tmp_path, flips=True),
        cache(network, noise(seed=1), ("relu",), tmp_path),
        cache(tiny(seed=1), samples, ("relu",), tmp_path),
        cache(Network("scaled", network.module, Preprocessing(size=(8, 8))), samples, ("relu",), tmp_path),
    ):
        assert other["relu"] not in paths
        paths.add(other["relu"])
    first["relu"].write_bytes(first["relu"].read_bytes()[:-50])
    np.testing.assert_array_equal(np.load(cache(network, samples, ("relu",), tmp_path)["relu"]).shape[0], 90)


def test_killed_half_way_it_goes_on_where_it_was(tmp_path: Path) -> None:
    network, samples = tiny(), noise()
    whole = cache(network, samples, NODES, tmp_path / "whole", flips=True)
    script, folder = Path(__file__).with_name("cache_and_die.py"), tmp_path / "killed"
    killed = subprocess.run([sys.executable, script, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.glob("*.part"))) == 2 and not list(folder.glob("*.npy"))
    steps: list[int] = []
    with workspace(progress=lambda label, done, total: steps.append(done)):
        files = cache(network, samples, NODES, folder, flips=True)
    assert min(steps) > 45 and max(steps) == 90
    for node in NODES:
        np.testing.assert_allclose(np.load(files[node]), np.load(whole[node]), rtol=1e-6, atol=1e-6)
    assert not list(folder.glob("*.part"))


def test_one_killed_before_its_first_mirrored_row_begins_anew(tmp_path: Path) -> None:
    network, samples = tiny(), noise()
    files = cache(network, samples, ("relu",), tmp_path, flips=True)
    expected = files["relu"].read_bytes()
    part = files["relu"].with_suffix(".00000000.part")
    part.write_bytes(expected[:5000])
    files["relu"].unlink()
    cache(network, samples, ("relu",), tmp_path, flips=True)
    np.testing.assert_allclose(
        np.load(files["relu"]), np.frombuffer(expected[128:], np.float32).reshape(180, 6, 6, 8), rtol=1e-6, atol=1e-6
    )
    part.write_bytes(b"\0" * 5000)  # no such file's beginning: left alone
    files["relu"].unlink()
    cache(network, samples, ("relu",), tmp_path, flips=True)
    assert files["relu"].stat().st_size == len(expected) and part.exists()


def test_two_that_want_the_same_file_at_once_write_one_each(tmp_path: Path) -> None:
    network, samples = tiny(), noise()
    expected = np.load(cache(network, samples, ("relu",), tmp_path / "alone")["relu"])
    seen: list[int] = []

    def another(label: str, done: int, total: int) -> None:
        if 0 < done < total and not seen:
            seen.append(done)
            files = cache(network, samples, ("relu",), tmp_path / "both")
            assert len(list((tmp_path / "both").glob("*.part"))) == 1  # the first one's, still under way
            np.testing.assert_array_equal(np.load(files["relu"]), expected)

    with workspace(progress=another):
        files = cache(network, samples, ("relu",), tmp_path / "both")
    assert seen
    np.testing.assert_array_equal(np.load(files["relu"]), expected)
    assert [*(tmp_path / "both").iterdir()] == [files["relu"]]


def test_what_cannot_be_stored_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise()
    with pytest.raises(UnknownLayer, match="relu"):
        cache(tiny(), samples, ("rellu",), tmp_path)
    broken = tiny().with_tensors({"conv.weight": torch.full((8, 3, 3, 3), float("nan"))})
    with pytest.raises(NetworkError, match="NaN or infinite"):
        cache(broken, samples, ("fc",), tmp_path)
    assert not list(tmp_path.iterdir())

    class Best(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :5].argsort().float()

    with pytest.raises(NetworkError, match="no value of real numbers"):
        cache(Network("best", Best(), Preprocessing(size=(8, 8))), samples, ("argsort",), tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 10, 1000))
    with pytest.raises(SettingsError, match=r"stored values need .* train on the images"):
        cache(tiny(), samples, ("relu",), tmp_path)


def test_an_epoch_is_that_of_the_images(tmp_path: Path) -> None:
    """The values of the input node are the images, so both ways must draw, flip and part alike."""
    network, samples = tiny(), noise()
    path = cache(network, samples, ("input",), tmp_path, flips=True)["input"]
    data = ActivationSet(path, samples.labels, targets=path, flips=True)
    cpu = torch.device("cpu")
    images, stored = TrainingSamples.of(samples, network.preprocessing, cpu), TrainingActivations.of(data, cpu)
    assert stored.shape == images.shape == (3, 8, 8) and len(stored) == 90
    for recipe, epoch, rank, processes in (
        (Recipe(batch_size=16, augment="flip"), 0, 0, 1),
        (Recipe(batch_size=17, augment="flip", seed=3), 2, 1, 2),
        (Recipe(batch_size=90), 1, 0, 1),
    ):
        pairs = zip(
            images.epoch(recipe, epoch, rank, processes), stored.epoch(recipe, epoch, rank, processes), strict=True
        )
        for one, other in pairs:
            assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
            assert one.size == other.size and torch.equal(other.images, other.targets)
            assert other.images.is_contiguous(memory_format=torch.channels_last)
    for one, other in zip(images.ordered(32), stored.ordered(32), strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert torch.equal(other.images, other.targets)


def test_a_file_larger_than_memory_is_read_row_by_row(tmp_path: Path) -> None:
    """A sparse file of 256 GB, of which a few rows hold numbers."""
    n, path = 1_000_000, tmp_path / "large.npy"
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, 65_536))
    labels = np.zeros(n, np.int64)
    stored = TrainingActivations.of(ActivationSet(path, labels), torch.device("cpu"))
    order = next(
        TrainingActivations.of(ActivationSet(path, np.arange(n)), torch.device("cpu")).epoch(Recipe(batch_size=8), 0)
    ).labels
    rows[order.numpy(), 0] = order.numpy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = next(stored.epoch(Recipe(batch_size=8), 0))
    assert torch.equal(step.images[:, 0].long(), order) and not step.images[:, 1:].any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KB


def test_files_that_do_not_fit_are_said(tmp_path: Path) -> None:
    labels = np.zeros(4, np.int64)
    np.save(tmp_path / "a.npy", np.zeros((4, 3), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((4, 3)))
    assert ActivationSet(tmp_path / "a.npy", labels).shape == (3,)
    for words, given in (
        ("4 labels need 8, two an image", {"values": tmp_path / "a.npy", "flips": True}),
        ("4 rows; 5 labels", {"values": tmp_path / "a.npy", "labels": np.zeros(5, np.int64)}),
        ("cannot read", {"values": tmp_path / "none.npy"}),
        ("no float32 rows", {"values": tmp_path / "double.npy"}),
        ("cannot read", {"values": tmp_path / "a.npy", "targets": tmp_path / "none.npy"}),
    ):
        with pytest.raises(SettingsError, match=words):
            ActivationSet(**{"labels": labels, **given})


def test_the_digest_tells_labels_files_and_flips_apart(tmp_path: Path) -> None:
    samples = noise()
    files = cache(tiny(), samples, NODES, tmp_path, flips=True)
    relu, pooled = (files[node] for node in NODES)
    given = [
        ActivationSet(relu, samples.labels, flips=True),
        ActivationSet(pooled, samples.labels, flips=True),
        ActivationSet(relu, samples.labels[::-1], flips=True),
        ActivationSet(relu, samples.labels, targets=pooled, flips=True),
        ActivationSet(relu, np.zeros(180, np.int64)),
    ]
    assert len({one.digest for one in given}) == len(given)
    assert ActivationSet(relu, samples.labels, flips=True).digest == given[0].digest


def test_rows_stay_on_a_device_until_others_need_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache(tiny(), noise(), ("relu",), tmp_path)["relu"]
    device, size = torch.device("meta"), path.stat().st_size  # any device but the processor
    monkeypatch.setattr(stored_values, "free_memory", lambda device: (4 - 2 * len(stored_values._cache)) * size)
    one, two, three = (ActivationSet(path, noise().labels) for _ in range(3))
    resident = [TrainingActivations.of(data, device).values for data in (one, two)]
    assert all(rows.device == device for rows in resident) and TrainingActivations.of(one, device).values is resident[0]
    assert TrainingActivations.of(three, device).values.device == device and list(stored_values._cache) == [three]
    monkeypatch.setattr(stored_values, "free_memory", lambda device: size)
    assert TrainingActivations.of(one, device).values.device.type == "cpu"
    del three
    gc.collect()
    assert not stored_values._cache

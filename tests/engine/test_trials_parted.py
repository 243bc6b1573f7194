"""Passes over samples in parts, over worker processes: what they count is what one process counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from polars.testing import assert_frame_equal
from trial_work import marks

import netopsy
from netopsy.engine.observe.tally import Tally
from netopsy.engine.trials.run import split_range
from netopsy.errors import NetopsyError, SamplesError
from netopsy.tallies.collect import Collect
from netopsy.tallies.moments import ClassMeans, Histogram, Moments
from netopsy.tallies.patterns import Patterns
from netopsy.tallies.sparsity import ActiveCount, ZeroShare
from netopsy.tallies.top_images import TopImages
from networks import shipped

NODE = "block4.relu2"


@pytest.fixture(scope="module", autouse=True)
def two() -> Iterator[None]:
    """Two workers of one thread, as the caller has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with netopsy.workers(2, threads=1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> netopsy.Network:
    return shipped("a")


@pytest.fixture(scope="module")
def samples() -> netopsy.Samples:
    return netopsy.load_samples("digits", count=300)


class Marked(Tally):
    """The sum of the samples' indices; leaves a mark of every update, and does at image 100 what `then` says."""

    def __init__(self, folder: Path, then: str = "") -> None:
        self.folder, self.then, self.total = folder, then, 0

    def update(self, values: torch.Tensor, indices: torch.Tensor) -> None:
        first, number = not list(self.folder.glob("die-*")), marks(self.folder)
        (self.folder / f"{'die' if 100 in indices else 'go'}-{os.getpid()}-{number}-{int(indices[0])}").touch()
        if 100 in indices and (self.then == "refuse" or (self.folder / "refuse").exists()):
            raise SamplesError("image 100 is not there.")
        if 100 in indices and self.then == "bug":
            raise ZeroDivisionError("by nothing")
        if 100 in indices and (self.then == "always" or (self.then == "once" and first)):
            os.kill(os.getpid(), signal.SIGKILL)
        self.total += int(indices.sum())

    def merge(self, other: Marked) -> None:
        self.total += other.total

    def result(self) -> int:
        return self.total


def equal(one: Any, other: Any, **near: float) -> None:
    """All tensors of two results; bit by bit where no tolerance is given."""
    torch.testing.assert_close(vars(one), vars(other), **(near or {"rtol": 0, "atol": 0}), equal_nan=True)


def test_parts_are_whole_steps_and_all_of_it() -> None:
    assert split_range(0, 10, 3) == [range(0, 3), range(3, 6), range(6, 9), range(9, 10)]
    many = split_range(30, 1000, 7)
    assert len(many) == 8 and many[0].start == 30 and many[-1].stop == 1000
    assert all(one.stop == next.start and len(one) % 7 == 0 for one, next in pairwise(many))
    with netopsy.workers(1):
        assert split_range(0, 10, 3) == [range(10)]


def test_an_observation_in_parts_is_that_of_one_process(
    network: netopsy.Network, samples: netopsy.Samples, tmp_path: Path
) -> None:
    def tallies(name: str) -> dict[str, tuple[str, Tally]]:
        return {
            "sparsity": (NODE, ZeroShare()),
            "histogram": (NODE, Histogram()),
            "strongest": (NODE, TopImages()),
            "active": (NODE, ActiveCount(len(samples), threshold=0.5)),
            "patterns": (NODE, Patterns(len(samples))),
            "moments": (NODE, Moments(order=4)),
            "means": (NODE, ClassMeans(samples.labels, 10)),
            "rows": ("fc", Collect(tmp_path / f"{name}.npy", len(samples), "fc")),
        }

    with netopsy.workers(1):
        here = netopsy.observe(network, samples, tallies("here"))
    with netopsy.workspace(tmp_path / "work"):
        there = netopsy.observe(network, samples, tallies("there"))
        assert [path.name.split("-")[0] for path in (tmp_path / "work").iterdir()] == ["observe"]
    for exactly in ("sparsity", "histogram", "strongest", "patterns"):
        equal(here[exactly], there[exactly])
    for nearly in ("moments", "means", "active"):
        equal(here[nearly], there[nearly], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(np.load(here["rows"]), np.load(there["rows"]))
    assert len(list(tmp_path.glob("*.npy*"))) == 2


def test_a_sweep_in_parts_is_that_of_one_process(
    network: netopsy.Network, samples: netopsy.Samples, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"strengths": (0.1, 0.5), "repeats": 1}
    with netopsy.workspace(tmp_path):
        there = netopsy.noise(network, samples, **settings)
        assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["sweep"]
    with netopsy.workers(1):
        here = netopsy.noise(network, samples, **settings)
    for name, table in here.tables.items():
        floats = [c for c in table.columns if "loss" in c]
        assert_frame_equal(table.drop(floats), there.tables[name].drop(floats), check_exact=True)
        assert_frame_equal(table.select(floats), there.tables[name].select(floats), rel_tol=1e-6)
    assert here.findings == there.findings


@pytest.mark.slow
@pytest.mark.parametrize("study", ["sparsity", "activations"])
def test_studies_in_parts_find_what_they_find_in_one_process(
    study: str, network: netopsy.Network, samples: netopsy.Samples
) -> None:
    run = getattr(netopsy, study)
    there = run(network, samples)
    with netopsy.workers(1):
        here = run(network, samples)
    assert here.findings == there.findings and here.tables
    for name, table in here.tables.items():
        assert_frame_equal(table, there.tables[name], rel_tol=1e-6)


def test_a_part_whose_worker_dies_is_counted_again(
    network: netopsy.Network, samples: netopsy.Samples, tmp_path: Path
) -> None:
    result = netopsy.observe(network, samples, {"x": (NODE, Marked(tmp_path, "once"))}, batch_size=10)
    assert result["x"] == sum(range(300)) and len(list(tmp_path.glob("die-*"))) == 2
    assert os.getpid() not in {int(path.name.split("-")[1]) for path in tmp_path.iterdir()}


def test_what_was_counted_when_a_part_failed_is_not_counted_again(
    network: netopsy.Network, samples: netopsy.Samples, tmp_path: Path
) -> None:
    (folder := tmp_path / "marks").mkdir()
    (folder / "refuse").touch()

    def observed() -> int:
        with netopsy.workspace(tmp_path / "work"):
            return netopsy.observe(network, samples, {"x": (NODE, Marked(folder, "wait"))}, batch_size=10)["x"]

    with pytest.raises(NetopsyError, match="image 100 is not there"):
        observed()
    (folder / "refuse").unlink()
    before = marks(folder)
    assert observed() == sum(range(300))
    assert 1 <= marks(folder) - before <= 4, "more than the one part, of at most four batches, ran again"


@pytest.mark.slow
def test_a_part_that_kills_its_worker_every_time_is_said(
    network: netopsy.Network, samples: netopsy.Samples, tmp_path: Path
) -> None:
    with pytest.raises(NetopsyError, match=r"a part of observe is missing \(start \d+, stop \d+\): .*SIGKILL"):
        netopsy.observe(network, samples, {"x": (NODE, Marked(tmp_path, "always"))}, batch_size=10)


@pytest.mark.parametrize(
    ("then", "error", "message"), [("refuse", NetopsyError, "100"), ("bug", RuntimeError, "ZeroDiv")]
)
def test_what_a_part_refuses_is_raised(
    then: str, error: type[Exception], message: str, network: netopsy.Network, samples: netopsy.Samples, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        netopsy.observe(network, samples, {"x": (NODE, Marked(tmp_path, then))}, batch_size=10)


@pytest.mark.slow
def test_the_chains_of_transfer_are_those_of_one_process(
    network: netopsy.Network, samples: netopsy.Samples, tmp_path: Path
) -> None:
    more = {"train": netopsy.load_samples("digits", count=400), "stresses": ("dr1", "q1"), "repeats": 2, "steps": 3}
    with netopsy.workspace(tmp_path):
        there = netopsy.transfer(network, samples, **more)
        again = netopsy.transfer(network, samples, **more)
    with netopsy.workers(1):
        here = netopsy.transfer(network, samples, **more)
    for name, table in here.tables.items():
        assert_frame_equal(table, there.tables[name], rel_tol=1e-6)
        assert_frame_equal(again.tables[name], there.tables[name])

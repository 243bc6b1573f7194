"""A real Ray on this machine: parts of a core, workers that are killed, a driver that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trial_work import Counted, calm, marks, meet, of_counted, scores, wild
from trials_and_die import SPECS

import netopsy
from netopsy.engine.trials.pool import workers
from netopsy.engine.trials.run import run_trials
from netopsy.errors import SettingsError

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,  # a cluster takes ten seconds to begin
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for the whole file: one core, of which each trial takes half."""
    with workers(2, cluster="ray", cpus=0.5):
        yield
    assert not ray.is_initialized()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_no_ray_at_an_address_is_one_sentence() -> None:
    with workers(cluster="ray", address="127.0.0.1:9"), pytest.raises(SettingsError, match=r"no Ray .* '127.0.0.1:9'"):
        run_trials(calm, "", [{"x": 1}], digest="")


def test_two_trials_share_a_core_and_a_killed_worker_loses_nothing(cluster: None, folder: Path, tmp_path: Path) -> None:
    together = run_trials(meet, str(folder), [{"x": 0}, {"x": 1}], digest="")
    assert ray.cluster_resources()["CPU"] == 1 and all(record.values["met"] for record in together)
    ends = ["die", "", "die once", "fill once", "refuse", "diverge", "", ""]
    specs = [{"x": 10 + x, "then": then, "wait": 0.2} for x, then in enumerate(ends)]
    with netopsy.workspace(tmp_path):
        records = run_trials(wild, str(folder), specs, digest="")
    expected = ["killed", "done", "done", "done", "failed", "diverged", "done", "done"]
    assert [record.kind for record in records] == expected
    assert [marks(folder, 10 + x) for x in range(8)] == [2, 1, 2, 2, 1, 1, 1, 1]
    assert "died or was killed" in (records[0].failure or "")
    assert [record.values.get("twice") for record in records[1:4]] == [22, 24, 26]


def test_ray_listens_on_the_loopback_interface_alone(cluster: None) -> None:
    run_trials(of_counted, None, [], digest="")
    netopsy.engine.trials.current_workers().executor  # noqa: B018 - starts Ray where no test before has
    inodes = {inode for pid in family(os.getpid()) for inode in sockets(pid)}
    addresses = {place for name in ("tcp", "tcp6") for place in listening(name, inodes)}
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert addresses


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    pids = {pid}
    while more := {child for child, parent in parents.items() if parent in pids} - pids:
        pids |= more
    return pids


def sockets(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target[8:-1]


def listening(name: str, inodes: set[str]) -> Iterator[str]:
    """Addresses, as the kernel spells them, at which sockets of these inodes listen."""
    for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "0A" and words[9] in inodes:
            yield words[1].split(":")[0]


def test_the_context_is_sent_once_to_each_worker(cluster: None, folder: Path) -> None:
    run_trials(of_counted, Counted(folder), [{"x": x} for x in range(12)], digest="")
    workers_seen = {path.name.split("-")[1] for path in folder.iterdir()}
    assert 1 <= marks(folder) == len(workers_seen) < 12


@pytest.mark.slow
def test_networks_and_samples_arrive_as_they_are(cluster: None) -> None:
    network, samples = netopsy.load_network("netopsy:digits-a"), netopsy.load_samples("digits", count=20)
    (record,) = run_trials(scores, {"network": network, "samples": [samples]}, [{"at": 0}], digest="")
    assert record.values["row"] == pytest.approx(netopsy.score(network, samples).to_dicts()[0], abs=1e-6)
    assert record.values["digest"] == samples.digest and record.outcome is not None
    assert all(torch.equal(record.outcome.tensors[name], tensor) for name, tensor in network.tensors.items())


def test_what_no_node_has_is_refused_at_once(cluster: None) -> None:
    with workers(cluster="ray", gpus=0.5), pytest.raises(SettingsError, match=r"0\.5 GPUs, and the largest .* 1 and 0"):
        run_trials(calm, "", [{"x": 1}], digest="")
    assert ray.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["SIGINT", "SIGKILL"])
def test_a_driver_that_ends_takes_its_ray_along_and_keeps_what_is_done(
    ending: str, folder: Path, tmp_path: Path
) -> None:
    from test_trials_workers import alive, wait_until

    script = Path(__file__).with_name("trials_and_die.py")
    words = [sys.executable, script, tmp_path, folder, ending, "ray"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, start_new_session=True)
    assert done.returncode == (130 if ending == "SIGINT" else -signal.SIGKILL)
    assert done.stderr == "", done.stderr
    pids = {int(path.name.split("-")[1]) for path in folder.iterdir()}
    assert wait_until(lambda: not any(map(alive, pids)), 30)
    records_before = len(list((tmp_path / "trials").glob("*.safetensors")))
    before = marks(folder)
    assert records_before >= 4
    with netopsy.workspace(tmp_path):
        records = run_trials(calm, str(folder), SPECS[:6], digest="marks")
    assert [record.values["twice"] for record in records] == [2 * x for x in range(6)]
    assert marks(folder) - before == 6 - records_before

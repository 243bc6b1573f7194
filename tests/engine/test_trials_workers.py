"""Worker processes: whatever becomes of one, the others go on; whatever becomes of the driver, none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trial_work import Counted, calm, marks, meet, of_counted, scores, where, wild
from trials_and_die import SPECS

import netopsy
from netopsy.engine.trials.pool import workers
from netopsy.engine.trials.processes import describe_end
from netopsy.engine.trials.run import run_trials
from netopsy.errors import SettingsError


@pytest.fixture(scope="module")
def two() -> Iterator[None]:
    """Two workers for all tests of this file that do not end theirs."""
    with workers(2):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_a_worker_that_dies_costs_one_trial_and_none_where_the_trial_is_not_to_blame(
    two: None, folder: Path, tmp_path: Path
) -> None:
    ends = ["die", "", "die once", "", "fill once", "refuse", "", ""]
    specs = [{"x": x, "then": then, "wait": 0.2} for x, then in enumerate(ends)]
    with netopsy.workspace(tmp_path):
        records = run_trials(wild, str(folder), specs, digest="")
        assert [record.kind for record in records] == [
            "killed",
            "done",
            "done",
            "done",
            "done",
            "failed",
            "done",
            "done",
        ]
        assert [marks(folder, x) for x in range(8)] == [2, 1, 2, 1, 2, 1, 1, 1]
        assert "killed by SIGKILL" in (records[0].failure or "") and "memory is used up" in (records[0].failure or "")
        again = run_trials(wild, str(folder), specs[1:3], digest="")
    assert [record.values for record in again] == [record.values for record in records[1:3]] and marks(folder) == 11


def test_trials_run_side_by_side_and_give_what_one_process_gives(two: None, folder: Path) -> None:
    records = run_trials(meet, str(folder), [{"x": x} for x in range(4)], digest="")
    assert [record.values["twice"] for record in records] == [0, 2, 4, 6] and all(r.values["met"] for r in records)
    pids = {record.values["pid"] for record in records}
    assert len(pids) == 2 and os.getpid() not in pids


def test_the_context_is_sent_once_to_each_worker(two: None, folder: Path) -> None:
    run_trials(of_counted, Counted(folder), [{"x": x} for x in range(12)], digest="")
    assert 1 <= marks(folder) <= 2


def sets(folder: Path) -> list[netopsy.Samples]:
    """The same digits built in, from an .npz and from a folder."""
    digits = netopsy.load_samples("digits", count=20)
    np.savez(folder / "d.npz", x=np.stack([digits.image(i) for i in range(20)]), y=digits.labels)
    for i in range(20):
        (folder / "pictures" / str(digits.labels[i])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.image(i)[..., 0]).save(folder / "pictures" / str(digits.labels[i]) / f"{i:02}.png")
    return [digits, netopsy.load_samples(folder / "d.npz"), netopsy.load_samples(folder / "pictures")]


@pytest.mark.slow
def test_networks_and_samples_arrive_as_they_are(two: None, tmp_path: Path) -> None:
    network, samples = netopsy.load_network("netopsy:digits-a"), sets(tmp_path)
    with netopsy.workspace(tmp_path):
        records = run_trials(scores, {"network": network, "samples": samples}, [{"at": i} for i in range(3)], digest="")
    for one, record in zip(samples, records, strict=True):
        here = netopsy.score(network, one).to_dicts()[0]
        assert record.values["row"] == pytest.approx(here, abs=1e-6)
        assert record.values["digest"] == one.digest and record.values["layers"] == len(network.layers)
        assert record.outcome is not None
        for name, tensor in network.tensors.items():
            assert torch.equal(record.outcome.tensors[name], tensor)


@pytest.mark.slow
def test_what_a_script_itself_defines_is_sent_as_a_whole(tmp_path: Path) -> None:
    """Without a guard and without running the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from netopsy.engine.trials import Outcome, run_trials, workers\n"
        "print('begun')\n"
        "class Own:\n    factor = 3\n"
        "def work(context, spec):\n    return Outcome({'y': context.factor * spec['x']})\n"
        "with workers(2):\n"
        "    print([r.values['y'] for r in run_trials(work, Own(), [{'x': 2}], digest='')])\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "begun\n[6]\n" and done.stderr == ""


def test_what_a_worker_cannot_take_up_is_said_once(two: None) -> None:
    class Closed:
        def __reduce__(self) -> Any:
            return (open, ("/nowhere/at/all",))

    with pytest.raises(SettingsError, match="a worker cannot take up the work: FileNotFoundError"):
        run_trials(calm, Closed(), [{"x": 1}, {"x": 2}], digest="")


def test_workers_have_their_threads_and_gpus_and_none_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with workers(2, gpus=1, threads=3):
        (record,) = run_trials(where, None, [{}], digest="")
    assert record.values["threads"] == 3 and record.values["nested"] == "InlineExecutor"
    assert record.values["visible"] in {"4", "6"}


@pytest.mark.parametrize(
    ("code", "message"),
    [(3, "ended with exit code 3."), (-11, "killed by SIGSEGV."), (-9, "its memory is used up"), (None, "died.")],
)
def test_how_a_worker_ended_is_said(monkeypatch: pytest.MonkeyPatch, code: int | None, message: str) -> None:
    monkeypatch.setattr("netopsy.engine.trials.processes.PATIENCE", 0)
    assert message in describe_end(SimpleNamespace(exitcode=code))


def wait_until(true: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", [pytest.param("SIGINT", marks=pytest.mark.slow), "SIGKILL"])
def test_a_driver_that_ends_takes_its_workers_along_and_keeps_what_is_done(
    ending: str, folder: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("trials_and_die.py")
    words = [sys.executable, script, tmp_path, folder, ending, ""]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, start_new_session=True)
    assert done.returncode == (130 if ending == "SIGINT" else -signal.SIGKILL)
    error_lines = [line for line in done.stderr.splitlines() if "resource_tracker" not in line]  # of a driver killed
    assert not error_lines, done.stderr
    pids = {int(path.name.split("-")[1]) for path in folder.iterdir()}
    assert len(pids) == 2 and wait_until(lambda: not any(map(alive, pids)))
    records_before = len(list((tmp_path / "trials").glob("*.safetensors")))
    assert records_before >= 4
    before = marks(folder)
    specs = [{**spec, "wait": min(spec["wait"], 0.3)} for spec in SPECS[:6]]
    with netopsy.workspace(tmp_path):
        records = run_trials(calm, str(folder), specs, digest="marks")
    assert [record.values["twice"] for record in records] == [2 * x for x in range(6)]
    assert marks(folder) - before == 6 - records_before


@pytest.mark.slow
def test_the_page_on_trials_runs_as_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_examples import run_page

    monkeypatch.chdir(tmp_path)
    records = run_page("docs/trials.md")["records"]
    assert [record.kind for record in records] == ["done"] * 6
    assert capsys.readouterr().out.count(" done 0.9") == 6

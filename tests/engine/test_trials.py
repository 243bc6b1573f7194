"""Trials: one that fails is a record, one that is done is not run again, and workers that die lose nothing."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_train import Tiny
from test_train import noise, tiny
from trial_work import calm, diverging, marks, where, wild

import netopsy
from netopsy.engine.trials.pool import current_workers, workers
from netopsy.engine.trials.processes import cores, gpu_shares, thread_share
from netopsy.engine.trials.run import run_trials
from netopsy.engine.trials.trial import Outcome, Record, Store
from netopsy.errors import MissingExtra, SettingsError

ENDS = ["", "refuse", "diverge", "fill", "bug", ""]
KINDS = ["done", "failed", "diverged", "memory", "error", "done"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def specs(ends: list[str]) -> list[dict[str, Any]]:
    return [{"x": x, "then": then} for x, then in enumerate(ends)]


def kinds(records: list[Record]) -> list[str]:
    return [record.kind for record in records]


def test_what_fails_is_a_record_and_the_rest_goes_on(folder: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    with netopsy.workspace(None, lambda *words: reports.append(words)):
        records = run_trials(wild, str(folder), specs(ENDS), digest="")
    assert kinds(records) == KINDS and [record.spec for record in records] == specs(ENDS)
    assert [record.values.get("twice") for record in records] == [0, None, None, None, None, 10]
    failures = [record.failure for record in records]
    assert failures[:4] == [
        None,
        "three is too many.",
        "the loss is NaN.",
        "CUDA out of memory. Tried to allocate 2 GiB.",
    ]
    assert failures[4].startswith("ZeroDivisionError: division by zero, in wild of trial_work.py, line ")
    assert "return 1 / 0" in records[4].trace and not records[3].trace
    assert reports == [("trials", done, 6) for done in range(7)]


def test_a_rerun_does_what_is_missing_and_what_failed_by_circumstance(folder: Path, tmp_path: Path) -> None:
    with netopsy.workspace(tmp_path):
        first = run_trials(wild, str(folder), specs(ENDS[:5]), digest="")
        again = run_trials(wild, str(folder), specs(ENDS), digest="")
        assert [marks(folder, x) for x in range(6)] == [1, 1, 1, 2, 2, 1]
        assert kinds(again) == KINDS and again[0].values == first[0].values and again[0].seconds == first[0].seconds
        run_trials(wild, str(folder), specs(ENDS), digest="", retry=["failed"])
        assert [marks(folder, x) for x in range(6)] == [1, 2, 1, 2, 2, 1]


def test_equal_specs_are_one_trial(folder: Path) -> None:
    records = run_trials(calm, str(folder), [{"x": 1}, {"x": 2}, {"x": 1}], digest="")
    assert [record.values["twice"] for record in records] == [2, 4, 2] and marks(folder) == 2


def test_a_record_is_of_its_spec_work_code_and_context_alone(tmp_path: Path) -> None:
    def double(context: Any, spec: dict[str, Any]) -> Outcome:
        return Outcome({"y": 2 * spec["x"]})

    def named(digest: str, spec: dict[str, Any], work: Any = double) -> str:
        return Store(tmp_path, work, digest).name(spec)

    one = named("a", {"x": 1, "y": 2})
    assert one == named("a", {"y": 2, "x": 1})
    others = {named("b", {"x": 1, "y": 2}), named("a", {"x": 1}), named("a", {"x": 1, "y": 2}, calm)}
    texts = ["def double(context, spec):\n  return {'a', 'b'}", "def double(context, spec):\n  return {'a', 'c'}"]
    for text in (*texts, f"# elsewhere\n\n{texts[0]}"):
        scope: dict[str, Any] = {"__name__": double.__module__}
        exec(text, scope)
        scope["double"].__qualname__ = double.__qualname__
        others.add(named("a", {"x": 1, "y": 2}, scope["double"]))
    assert len(others) == 5 and one not in others


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    given = {
        "half": torch.randn(3, 2).bfloat16(),
        "turned": torch.arange(6).reshape(2, 3).T,
        "one": torch.tensor(True),
        "none": torch.empty(0),
    }
    given["twin"] = given["half"]

    def work(context: Any, spec: dict[str, Any]) -> Outcome:
        return Outcome({"nan": float("nan"), "tuple": (1, None)}, given)

    in_memory = run_trials(work, None, [{}], digest="")[0]
    with netopsy.workspace(tmp_path):
        for record in (
            in_memory,
            run_trials(work, None, [{}], digest="")[0],
            run_trials(work, None, [{}], digest="")[0],
        ):
            assert record.outcome is not None and set(record.outcome.tensors) == set(given)
            for name, tensor in given.items():
                returned = record.outcome.tensors[name]
                assert returned.dtype == tensor.dtype and torch.equal(returned, tensor)
            assert record.values["nan"] != record.values["nan"] and record.values["tuple"] == [1, None]


def test_a_damaged_record_runs_again(folder: Path, tmp_path: Path) -> None:
    for damage in (lambda data: data[:-3], lambda data: b"junk", lambda data: data.replace(b"kind", b"kinD")):
        with netopsy.workspace(tmp_path):
            run_trials(calm, str(folder), [{"x": 1}], digest="")
            (path,) = (tmp_path / "trials").glob("*.safetensors")
            before = marks(folder)
            path.write_bytes(damage(path.read_bytes()))
            with pytest.warns(netopsy.errors.NetopsyWarning, match="its trial is run again"):
                assert run_trials(calm, str(folder), [{"x": 1}], digest="")[0].values["twice"] == 2
        assert marks(folder) == before + 1


def test_a_flipped_bit_in_a_record_is_never_believed(tmp_path: Path) -> None:
    def work(context: Any, spec: dict[str, Any]) -> Outcome:
        return Outcome({"x": 1}, {"t": torch.arange(4.0)})

    with netopsy.workspace(tmp_path):
        run_trials(work, None, [{}], digest="")
        (path,) = (tmp_path / "trials").glob("*.safetensors")
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                record = run_trials(work, None, [{}], digest="")[0]
            assert record.values == {"x": 1}
            try:
                tensor = record.outcome.tensors["t"]  # type: ignore[union-attr]
            except netopsy.errors.CaseError as error:
                assert "remove it and run again" in str(error)
            else:
                assert torch.equal(tensor, torch.arange(4.0))
            path.write_bytes(whole)


def test_a_trial_has_a_folder_of_its_own_until_its_record_is_written(tmp_path: Path) -> None:
    labels: list[str] = []
    with netopsy.workspace(tmp_path, lambda label, done, total: labels.append(label)):
        records = run_trials(where, None, [{"x": 1}, {"x": 2}], digest="")
    places = [Path(record.values["folder"]) for record in records]
    assert {place.parent for place in places} == {tmp_path / "trials"} and len(set(places)) == 2
    assert not any(place.exists() for place in places) and labels.count("inside") == 2
    assert run_trials(where, None, [{}], digest="")[0].values["folder"] == "None"
    assert len(list((tmp_path / "trials").iterdir())) == 2


def test_what_may_run_again_keeps_its_checkpoints(tmp_path: Path) -> None:
    def work(context: Any, spec: dict[str, Any]) -> Outcome:
        folder = netopsy.engine.workspace.workspace.current_workspace().folder
        seen = (folder / "epoch").exists()
        (folder / "epoch").touch()
        if not seen:
            raise MemoryError
        return Outcome({"went on": seen})

    with netopsy.workspace(tmp_path):
        assert kinds(run_trials(work, None, [{}], digest="")) == ["memory"]
        assert run_trials(work, None, [{}], digest="")[0].values == {"went on": True}
    assert len(list((tmp_path / "trials").iterdir())) == 1


def test_an_interrupt_keeps_what_is_done(folder: Path, tmp_path: Path) -> None:
    def stopping(context: Any, spec: dict[str, Any]) -> Outcome:
        if spec["x"] == 2 and not marks(folder, 2):
            (folder / "2-").touch()
            raise KeyboardInterrupt
        return calm(context, spec)

    with netopsy.workspace(tmp_path):
        with pytest.raises(KeyboardInterrupt):
            run_trials(stopping, str(folder), [{"x": x} for x in range(4)], digest="")
        assert marks(folder) == 3
        assert kinds(run_trials(stopping, str(folder), [{"x": x} for x in range(4)], digest="")) == ["done"] * 4
    assert marks(folder) == 5


def test_a_training_that_diverges_is_recorded_as_such() -> None:
    (record,) = run_trials(diverging, (tiny(), noise()), [{}], digest="")
    assert record.kind == "diverged" and "diverged in epoch 1" in (record.failure or "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "workers 0 must be a whole number of at least 1"),
        ({"count": 1.5}, "workers 1.5 must be a whole number"),
        ({"count": 2, "threads": 0}, "threads 0"),
        ({"cluster": "slurm"}, "cluster 'slurm' is unknown; give one of ray"),
        ({"address": "auto"}, "--cluster ray"),
        ({"cluster": "ray", "cpus": 0}, "cpus 0 must be a number above 0"),
        ({"gpus": -1}, "gpus -1"),
    ],
)
def test_settings_of_workers_are_checked_at_the_call(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        workers(**given)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netopsy.engine.trials.pool.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'netopsy\[cluster\]'"):
        workers(cluster="ray")


def test_specs_that_are_no_plain_data_are_refused() -> None:
    with pytest.raises(SettingsError, match="a spec must be plain data"):
        run_trials(calm, "", [{"x": object()}], digest="")


def test_a_context_that_cannot_be_sent_is_named() -> None:
    with workers(2), pytest.raises(SettingsError, match=r"cannot be sent .*lock.*leave out --workers"):
        run_trials(calm, threading.Lock(), [{"x": 1}], digest="")


def test_cores_and_gpus_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [thread_share(n) for n in (1, cores(), 99)] == [cores(), 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert thread_share(1) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7")
    assert gpu_shares(3, 0) == [None] * 3
    assert gpu_shares(4, 1) == ["3", "5", "6", "7"] and gpu_shares(2, 2) == ["3,5", "6,7"]
    assert gpu_shares(5, 0.5) == ["3", "3", "5", "5", "6"] and gpu_shares(2, 0.75) == ["3", "5"]
    with pytest.raises(SettingsError, match="5 workers of 1 GPUs each are more than the 4 here"):
        gpu_shares(5, 1)


def test_threads_are_set_where_asked_and_then_as_they_were() -> None:
    before = torch.get_num_threads()
    with workers(threads=before + 1):
        assert run_trials(where, None, [{}], digest="")[0].values["threads"] == before + 1
    assert torch.get_num_threads() == before
    assert type(current_workers().executor).__name__ == "InlineExecutor"


def test_a_network_on_its_way_keeps_its_weights_and_leaves_its_graph(tmp_path: Path) -> None:
    import pickle

    network = netopsy.Network("tiny", Tiny(), tiny().preprocessing)
    structure, layers = network.structure, network.layers
    twin = pickle.loads(pickle.dumps(network))
    assert "graph" not in vars(twin) and "graph" in vars(network)
    assert twin.digest == network.digest and twin.layers == layers
    del vars(twin)["structure"]
    assert twin.structure == structure

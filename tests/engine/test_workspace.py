"""Checkpoints and progress."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import current_workspace, workspace


def test_without_a_workspace_nothing_is_written_or_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = current_workspace()
    place.report("work", 1, 2)
    saved = place.checkpoint("observe", {"a": 1})
    saved.save(3, lambda: pytest.fail("the state was gathered for nobody"), final=True)
    assert saved.load() == (0, {}) and not list(tmp_path.iterdir())


def test_a_checkpoint_comes_back_bit_for_bit_in_the_same_work_only(tmp_path: Path) -> None:
    state = {"x": torch.randn(3, 4, dtype=torch.float64), "n": torch.tensor(7), "view": torch.arange(6).view(2, 3).T}
    with workspace(tmp_path / "deep" / "folder") as place:
        place.checkpoint("observe", {"digest": "a", "k": [1, 2]}).save(5, lambda: state, final=True)
        done, loaded = place.checkpoint("observe", {"k": [1, 2], "digest": "a"}).load()
        assert done == 5 and loaded.keys() == state.keys()
        assert all(torch.equal(loaded[name], state[name]) for name in state)
        for kind, spec in [("observe", {"digest": "b", "k": [1, 2]}), ("sweep", {"digest": "a", "k": [1, 2]})]:
            assert place.checkpoint(kind, spec).load() == (0, {})


def test_checkpoints_are_spaced_in_time(tmp_path: Path) -> None:
    rare, eager = Checkpoint(tmp_path / "a.safetensors", 3600), Checkpoint(tmp_path / "b.safetensors", 0)
    for saved in (rare, eager):
        saved.save(1, lambda: {"x": torch.ones(1)})
    assert rare.load() == (0, {}) and eager.load()[0] == 1
    rare.save(2, lambda: {"x": torch.ones(1)}, final=True)
    assert rare.load()[0] == 2


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"not safetensors at all"])
def test_a_damaged_checkpoint_is_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "x.safetensors"
    Checkpoint(path).save(4, lambda: {"x": torch.ones(9)}, final=True)
    whole = path.read_bytes()
    for content in (damage, whole[:-8]):
        path.write_bytes(content)
        assert Checkpoint(path).load() == (0, {})


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = Checkpoint(tmp_path / "x.safetensors", 0)
    saved.save(1, lambda: {"x": torch.ones(2)})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        saved.save(2, lambda: {"x": torch.zeros(2)})
    done, state = saved.load()
    assert done == 1 and state["x"].tolist() == [1, 1]


def test_workspaces_nest_and_end_with_their_block(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    with workspace(tmp_path, lambda *call: calls.append(call), every=1.5) as outer:
        assert outer.every == 1.5 and outer.checkpoint("a", {}).every == 1.5
        with workspace() as inner:
            assert inner.folder is None
            inner.report("inner", 1, 1)
        current_workspace().report("outer", 2, 3)
    assert calls == [("outer", 2, 3)] and current_workspace().folder is None

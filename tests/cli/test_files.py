"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netopsy.files import atomic_folder, finish, restore_folder


def fill(path: Path, text: str) -> None:
    with atomic_folder(path) as folder:
        (folder / "inner").write_text(text)


def test_a_folder_takes_the_place_of_the_former_one_with_nothing_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result"
    fill(path, "first")
    (path / "only in the first").touch()
    fill(path, "second")
    assert [entry.name for entry in path.iterdir()] == ["inner"] and (path / "inner").read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_not_filled_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "result"
    fill(path, "first")
    with pytest.raises(KeyError), atomic_folder(path) as folder:
        (folder / "inner").write_text("half")
        raise KeyError
    assert (path / "inner").read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_a_folder_killed_between_its_two_renames_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, renames = tmp_path / "result", []
    fill(path, "first")

    def replace_once(source: Path, target: Path, rename=os.rename) -> None:
        if renames:
            raise KeyboardInterrupt
        renames.append(source)
        rename(source, target)

    monkeypatch.setattr("os.replace", replace_once)
    with pytest.raises(KeyboardInterrupt):
        fill(path, "second")
    monkeypatch.undo()
    assert not path.exists()
    restore_folder(path)
    assert (path / "inner").read_text() == "first"
    restore_folder(path)  # nothing to bring back
    fill(path, "third")
    assert (path / "inner").read_text() == "third" and list(tmp_path.iterdir()) == [path]


def test_a_finished_file_takes_its_name(tmp_path: Path) -> None:
    part, path = tmp_path / "x.part", tmp_path / "x.npy"
    part.write_bytes(b"all")
    path.write_bytes(b"former")
    finish(part, path)
    assert path.read_bytes() == b"all" and not part.exists()

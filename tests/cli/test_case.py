"""A case is written whole or not at all, and read back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_case import evil_result

from netopsy.case import Case
from netopsy.errors import CaseError


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaseError, match=r"cannot write a case to .*file/case.*give another --out"):
        Case(tmp_path / "file" / "case")


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    result = evil_result()
    Case(tmp_path / "case").add(result)
    back = Case(tmp_path / "case", create=False).load("noise")
    assert back.findings == result.findings and back.provenance == result.provenance
    assert all(back.tables[name].equals(frame, null_equal=True) for name, frame in result.tables.items())
    assert {name: figure.spec for name, figure in back.figures.items()} == {
        name: json.loads(json.dumps(figure.spec)) for name, figure in result.figures.items()
    }
    assert np.array_equal(back.images["filters"].pixels, result.images["filters"].pixels)
    assert back.images["filters"].zoom == 4
    atlas, expected = back.atlases["atlas"], result.atlases["atlas"]
    assert atlas.units.equals(expected.units) and atlas.stimuli.equals(expected.stimuli)
    assert atlas.sheets == expected.sheets and replace(atlas, units=None, stimuli=None) == replace(
        expected, units=None, stimuli=None
    )


def test_files_lie_where_the_docs_say(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.add(evil_result())
    for path in ("case.json", "noise/result.json", "noise/tables/scores.parquet", "noise/figures/curve.svg"):
        assert (tmp_path / path).is_file()
    assert (tmp_path / "noise/images/filters.png").is_file()


def test_adding_again_replaces(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.add(evil_result())
    changed = evil_result()
    changed.findings = ["new"]
    case.add(changed)
    assert case.names == ["noise"] and case.load("noise").findings == ["new"]
    assert {path.name for path in tmp_path.iterdir()} == {"case.json", "noise", ".lock"}


def test_a_failed_write_leaves_the_former_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path)
    case.add(evil_result())
    import netopsy.result_files

    def fail(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(netopsy.result_files, "chart_svg", fail)
    changed = evil_result()
    changed.findings = ["new"]
    with pytest.raises(KeyboardInterrupt):
        case.add(changed)
    assert Case(tmp_path, create=False).load("noise").findings == evil_result().findings


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.add(evil_result())
    (tmp_path / "noise").rename(tmp_path / "noise.old")
    assert Case(tmp_path, create=False).load("noise").findings == evil_result().findings


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no case at"):
        Case(tmp_path / "nowhere", create=False)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CaseError, match="is a file"):
        Case(tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(CaseError, match=r"no case\.json"):
        Case(tmp_path / "full")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "case.json").write_text('{"format": 99, "studies": []}')
    with pytest.raises(CaseError, match="format 99"):
        Case(tmp_path / "other")
    (tmp_path / "other" / "case.json").write_text("{")
    with pytest.raises(CaseError, match="damaged"):
        Case(tmp_path / "other")


@pytest.mark.parametrize(
    "path",
    ["result.json", "tables/scores.parquet", "figures/map.vl.json", "images/filters.png", "atlases/atlas/1.webp"],
)
def test_damage_is_named(tmp_path: Path, path: str) -> None:
    Case(tmp_path).add(evil_result())
    whole = (tmp_path / "noise" / path).read_bytes()
    (tmp_path / "noise" / path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaseError, match="damaged"):
        Case(tmp_path, create=False).load("noise")


def test_an_empty_case_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no study yet"):
        Case(tmp_path).write_report()

"""Protocols over several image sets: read, run, combined."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from netopsy.case import Case
from netopsy.errors import SettingsError
from netopsy.protocol.run import combine, merge_tables, read_protocol, run_protocol
from netopsy.result import Result

pytestmark = pytest.mark.usefixtures("undrawn")

BASE = """
[network]
source = "netopsy:digits-a"
[samples]
source = "digits"
count = 40
[train]
split = "train"
count = 60
[studies.triage]
blocks = ["block4", "block5"]
starts = ["RW"]
epochs = 1
stn_epochs = 1
repeats = 1
augment = "none"
batch_size = 30
matching_images = 10
pictures = 0
control = false
"""

SETS = """
[[sets]]
name = "easy"
[[sets]]
name = "hard"
samples = {count = 30}
studies.triage = {learning_rate = 0.01}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "protocol.toml"
    path.write_text(text)
    return path


def test_a_set_says_what_differs(tmp_path: Path) -> None:
    protocol = read_protocol(written(tmp_path, BASE + SETS))
    easy, hard = protocol["sets"]
    assert easy["samples"] == {"source": "digits", "count": 40} and hard["samples"] == {"source": "digits", "count": 30}
    assert hard["studies"]["triage"]["learning_rate"] == 0.01 and hard["studies"]["triage"]["epochs"] == 1
    assert "learning_rate" not in easy["studies"]["triage"] and easy["train"] == hard["train"]
    assert merge_tables({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": 3}) == {"a": {"b": 1, "c": [2]}, "d": 3}


@pytest.mark.slow
def test_sets_are_cases_and_their_union_is_one(tmp_path: Path) -> None:
    out = tmp_path / "case"
    path = written(tmp_path, BASE + SETS)
    case = run_protocol(path, out=out)
    whole = case.load("triage")
    parts = {name: Case(out / name, create=False).load("triage") for name in ("easy", "hard")}
    assert case.names == ["triage"] and whole.tables["cells"].height == sum(
        p.tables["cells"].height for p in parts.values()
    )
    for name, part in parts.items():
        cells = whole.tables["cells"].filter(pl.col("set") == name).drop("set")
        assert cells.equals(part.tables["cells"])
    assert whole.settings["learning_rate"] == {"easy": 0.001, "hard": 0.01} and whole.settings["epochs"] == 1
    page = (out / "index.html").read_text()
    assert all(
        f'<a href="{name}/index.html">{name}</a>' in page and (out / name / "index.html").exists() for name in parts
    )
    assert {"accuracy", "epochs FM", "epochs TM"} == set(whole.figures) and len(whole.findings) >= 4
    # what is done is not done again
    stamp = (out / "easy" / "triage" / "result.json").stat().st_mtime_ns
    run_protocol(path, out=out, sets=["easy"])
    assert (out / "easy" / "triage" / "result.json").stat().st_mtime_ns == stamp


def test_a_set_that_cannot_be_run_keeps_none_of_the_others_from_it(tmp_path: Path) -> None:
    text = BASE.split("[train]")[0] + "[studies.parameters]\n"
    sets = '[[sets]]\nname = "gone"\nsamples = {source = "nowhere"}\n[[sets]]\nname = "there"\n'
    with pytest.raises(SettingsError, match="set 'gone' was not run"):
        run_protocol(written(tmp_path, text + sets), out=tmp_path / "case")
    combined = Case(tmp_path / "case", create=False).load("parameters")
    assert (
        combined.tables["parameters"]["set"].unique().to_list() == ["there"]
        if "parameters" in combined.tables
        else combined.tables
    )
    assert all(finding.startswith("there: ") for finding in combined.findings)


def test_results_of_any_study_are_stacked() -> None:
    results = {
        name: Result("parameters", {"k": i}, {"t": pl.DataFrame({"x": [i]})}, findings=["a", "b", "c", "d"])
        for i, name in enumerate(("one", "two"))
    }
    whole = combine("parameters", results)
    assert whole.tables["t"].to_dicts() == [{"set": "one", "x": 0}, {"set": "two", "x": 1}]
    assert whole.findings[3] == "two: a" and len(whole.findings) == 6 and whole.settings == {"k": {"one": 0, "two": 1}}


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("sets = 3\n", "list of tables"),
        ('[[sets]]\nnetwork = {source = "x"}\n', "name None"),
        ('[[sets]]\nname = "a/b"\n', "letters"),
        ('[[sets]]\nname = "triage"\n', "no study's name"),
        ('[[sets]]\nname = "a"\n[[sets]]\nname = "a"\n', "two sets"),
        ('[[sets]]\nname = "a"\nsamples = {source = 3}\n', "set 'a'"),
        ('[[sets]]\nname = "a"\ntrain = 3\n', "set 'a'"),
    ],
)
def test_sets_that_are_wrong_are_told_so(sets: str, words: str, tmp_path: Path) -> None:
    text = sets + BASE if sets.startswith("sets") else BASE + sets
    with pytest.raises(SettingsError, match=words):
        read_protocol(written(tmp_path, text))


def test_a_mistake_in_the_last_set_is_said_before_the_first_is_run(tmp_path: Path) -> None:
    path = written(tmp_path, BASE + SETS.replace("learning_rate = 0.01", "speed = 1"))
    with pytest.raises(SettingsError, match="no setting 'speed'"):
        run_protocol(path, out=tmp_path / "case")
    assert not (tmp_path / "case").exists()
    path = written(tmp_path, BASE + SETS)
    with pytest.raises(SettingsError, match=r"no set 'soft'.*easy, hard"):
        run_protocol(path, out=tmp_path / "case", sets=["soft"])
    with pytest.raises(SettingsError, match="whose sets each have their own"):
        run_protocol(path, out=tmp_path / "case", samples="digits")
    with pytest.raises(SettingsError, match="has no sets"):
        run_protocol(written(tmp_path, BASE), out=tmp_path / "case", sets=["easy"])

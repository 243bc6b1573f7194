"""What commands print: tables that fit, CSV and JSON, progress, and where the report is."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from netopsy.case import Case
from netopsy.cli import progress as progress_module
from netopsy.cli.output import Output, print_table, to_csv
from netopsy.cli.progress import Progress, clock, duration, show_progress
from netopsy.errors import SettingsError
from netopsy.result import Alert, Result

NAME = "features.denseblock4.denselayer16.norm.conv2"


@pytest.fixture
def wide() -> pl.DataFrame:
    """A name of 44 characters, twelve numbers, and a sentence in the middle."""
    numbers = {f"number{i}": [i, 123456789 + i] for i in range(12)}
    columns = {"layer": [NAME, "fc"], "why": ["it has no bias and so cannot be folded", ""], **numbers}
    return pl.DataFrame(columns, strict=False)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_table_fits_the_terminal_and_breaks_no_name(
    wide: pl.DataFrame, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    print_table(wide, "wide")
    table, _, rest = capsys.readouterr().out.partition(" more column")
    lines = [line.rstrip() for line in table.splitlines()[:-1]]
    assert NAME in table and max(map(len, lines)) <= columns
    shown = [name for name in wide.columns if name in lines[2].split()]
    assert shown == wide.columns[: len(shown)] and "why" in shown
    assert all(name in rest for name in wide.columns if name not in shown) and "--all-columns" in rest


def test_all_columns_print_every_value_on_one_line(wide: pl.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(wide, "wide", all_columns=True)
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert len(lines) == 5 and len(lines[2].split()) == len(wide.columns) and "123,456,800" in lines[4]


def test_a_name_longer_than_the_line_stays_whole(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_table(pl.DataFrame({"layer": ["x" * 90], "n": [1]}), "long")
    assert "x" * 90 in capsys.readouterr().out


def test_csv_gives_the_numbers_in_full_and_lists_as_json() -> None:
    frame = pl.DataFrame({"layer": ["a,b", "c"], "x": [1 / 3, None], "shape": [[1, 2], None]})
    back = pl.read_csv(io.StringIO(to_csv(frame)))
    assert back["layer"].to_list() == ["a,b", "c"] and back["x"].to_list() == [1 / 3, None]
    assert back["shape"].to_list() == ["[1, 2]", None]


def test_a_result_prints_one_table_where_one_is_asked_for(capsys) -> None:
    result = Result("noise", findings=["Found."], tables={"a": pl.DataFrame({"x": [1]}), "b": pl.DataFrame({"y": [2]})})
    Output(csv=True, table="b").show_result(result)
    assert capsys.readouterr().out == "y\n2\n"
    Output(csv=True).show_result(result)
    assert capsys.readouterr().out == "# a\nx\n1\n\n# b\ny\n2\n"
    result.alerts = [Alert("random-weights", "error", "The weights are random.", "Give --weights.")]
    Output(quiet=True).show_result(result)
    assert capsys.readouterr().out == "error: The weights are random. Give --weights.\nFound.\n"
    Output(json=True).show_result(result)
    assert json.loads(capsys.readouterr().out)["alerts"][0]["name"] == "random-weights"
    with pytest.raises(SettingsError, match="'noise' has no table 'c'; it has: a, b"):
        Output(table="c").show_result(result)
    with pytest.raises(SettingsError, match="--json and --csv contradict"):
        Output.take({"json": True, "csv": True})


def test_open_shows_the_page_or_says_where_it_is(tmp_path: Path, monkeypatch, capsys) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    for output in (Output(), Output(open=True), Output(open=True)):
        output.open_page(tmp_path / "index.html")
    assert opened == [(tmp_path / "index.html").as_uri()] * 2
    assert "no browser could be opened here" in capsys.readouterr().err


class Clock:
    """Time as a test sets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


def test_progress_says_which_study_of_how_many_and_what_the_case_had(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, lines = Clock(monkeypatch), []
    progress = Progress()
    progress.line_done = lines.append
    for name, done in (("parameters", 1), ("noise", 0), ("rounding", 0)):
        progress(name, done, 1)
    progress("examine", 0, 3)
    progress("examine", 1, 3)
    assert progress.line() == "[2/3] noise 0.0 s"
    progress("sweep", 0, 200)
    clock.now += 10
    progress("sweep", 50, 200)
    assert progress.line() == "[2/3] noise 10 s (sweep 25 %), about 1 min left"  # 30 s here, 32 s of rounding
    clock.now += 30
    progress("examine", 2, 3)
    clock.now += 20
    progress("examine", 3, 3)
    assert lines == [
        "[1/3] parameters from the case",
        "[2/3] noise 40 s, about 30 s left",
        "[3/3] rounding 20 s",
    ]
    assert (progress.kept, progress.new, progress.line()) == (["parameters"], ["noise", "rounding"], "")


def test_an_estimate_settles_on_work_of_steady_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, left = Clock(monkeypatch), []
    progress = Progress("noise")
    progress("sweep", 300, 1000)  # resumed: what was done before says nothing about the pace
    for done in range(301, 1000):
        clock.now += 0.5 if done < 320 else 1.0
        progress("sweep", done, 1000)
        left.append((progress._left(clock.now) or 0) - (1000 - done))
    assert max(map(abs, left[-300:])) < 15 and abs(left[-1]) < 2


def test_progress_of_several_sets_starts_again_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    progress = Progress()
    for one in ("a", "b"):
        progress(f"{one}: noise", 0, 1)
        progress(f"{one}: examine", 0, 1)
        progress(f"{one}: sweep", 1, 4)
        assert progress.line() == f"{one}: noise 0.0 s (sweep 25 %)"
        progress(f"{one}: examine", 1, 1)
    assert progress.new == ["a: noise", "b: noise"]


def test_times_are_as_rough_as_they_are_known() -> None:
    assert [clock(s) for s in (0.44, 12.3, 60, 185, 7800)] == ["0.4 s", "12 s", "1 min", "3 min 5 s", "2 h 10 min"]
    assert [duration(s) for s in (1, 7, 38, 56, 200, 3599, 7700)] == [
        *("1 s", "5 s", "40 s", "1 min", "3 min", "1 h", "2 h 10 min")
    ]


def test_a_long_study_without_a_terminal_gives_a_sign_of_life(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress_module, "HEARTBEAT", 0.05)
    with show_progress("noise") as show:
        show("sweep", 0, 4)
        show("sweep", 1, 4)
        time.sleep(0.4)
    out, error = capsys.readouterr()
    lines = error.splitlines()
    assert out == "" and 2 <= len(lines) <= 10
    assert lines[0].startswith("noise 0.1 s (sweep 25 %)") and lines[-1].startswith("noise 0.4 s")
    with show_progress("noise", quiet=True) as show:
        show("sweep", 1, 4)
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_one_line_is_replaced() -> None:
    code = (
        "import time; from netopsy.cli.progress import show_progress\n"
        "with show_progress('noise') as show:\n"
        "    for at in (1, 2): show('sweep', at, 4); time.sleep(0.5)\n"
        "print('table')"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=60
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    assert done.stdout == b"table\n" and "(sweep 25 %)" in shown and "(sweep 50 %)" in shown
    assert "\x1b[2K" in shown and shown.count("\n") <= 2, "the line is written over, and gone at the end"


def test_a_short_study_that_runs_alone_says_nothing_unless_asked(capsys) -> None:
    with show_progress("noise") as show:
        show("sweep", 1, 4)
    assert capsys.readouterr() == ("", "")
    with show_progress("noise", verbose=True):
        pass
    assert capsys.readouterr().err == "noise 0.0 s\n"


def test_nothing_is_judged_of_a_network_with_an_error(tmp_path: Path, capsys) -> None:
    case = Case(tmp_path)
    alert = Alert("random-weights", "error", "The weights are random.", "Give them.")
    case.add(Result("baseline", findings=["A score."], alerts=[alert]))
    case.add(Result("noise", findings=["Noise costs nothing."], group="losses"))
    Output().show_case(case, ["noise"], [])
    printed = capsys.readouterr().out
    assert printed.startswith("error: The weights are random. Give them.") and "A score." in printed
    assert "Noise costs nothing." not in printed and "not judged before the error is mended" in printed

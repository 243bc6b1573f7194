"""The command line as a user meets it, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from netopsy.cli import main
from netopsy.cli.options import setting_texts
from netopsy.studies.table import STUDIES


def netopsy(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    code = "from netopsy.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.mark.parametrize(
    "words",
    [
        "layers",
        "nosuchcommand",
        "report nowhere",
        "layers netopsy:nosuch",
        "layers torchvision:nosuch",
        "layers netopsy:digits-a --mean 1,2",
        "layers netopsy:digits-a --device nonsense",
        "examine netopsy:digits-a --samples empty --out case",
        "examine netopsy:digits-a --samples junk.npz --out case",
        "examine netopsy:digits-a --samples digits --out case --studies nosuch",
        "examine netopsy:digits-a --weights cut.safetensors --samples digits --out case",
        "examine netopsy:digits-a --weights nan.safetensors --samples digits --out case",
        "noise netopsy:digits-a --samples digits --layers nosuch",
        "noise netopsy:digits-a --samples digits --strengths a,b",
        "noise netopsy:digits-a",
        "sparsity netopsy:digits-a --samples range.npz",
        "run nowhere.toml --out case",
        "run bad.toml --out case",
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.npz").write_text("junk")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "bad.toml").write_text("[network]\nsource = 3\n")
    save_file({"features.0.weight": np.full((2, 2), np.nan, np.float32)}, tmp_path / "nan.safetensors")
    np.savez(tmp_path / "range.npz", x=np.zeros((3, 32, 32), np.uint8), y=np.array([0, 1, 99]))
    done = netopsy(*words.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("netopsy: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("reconstruct --features 1.5", "'1.5' is no whole number."),
        ("reconstruct --images 0,x", "'x' is no whole number."),
        ("reconstruct --images 0 1", "'1' belongs to no option: a list has commas"),
        ("reconstruct --images ,", "images is empty; give at least 1 value"),
        ("reconstruct --rules ,", "rules is empty; give at least 1 value"),
        ("reconstruct --survey -1", "survey -1 must be a whole number of at least 0"),
        ("stimuli --reconstruct maybe", "a switch is --name or --no-name"),
        ("facets --units fc:1:0:0", "a neuron is (node, neuron)"),
        ("maximize --units input:0", "is a pixel of the input"),
        ("field --image 540", "give 0 to 539"),
        ("activations --maps fc", "has no maps to show"),
    ],
)
def test_a_mistake_in_a_setting_is_named(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    study, *rest = words.split()
    with pytest.raises(SystemExit, match="2"):
        main([study, "netopsy:digits-a", "--samples", "digits", *rest])
    shown = capsys.readouterr().err.strip()
    assert message in shown and len(shown.splitlines()) == 1 and shown.startswith("netopsy: ")


def test_layers_prints_a_table_and_json() -> None:
    assert "conv" in netopsy("layers", "netopsy:digits-a").stdout
    rows = json.loads(netopsy("layers", "netopsy:digits-a", "--json").stdout)
    assert len(rows) == 14 and sum(row["parameters"] for row in rows) > 0


def test_a_study_prints_findings_and_json_and_adds_to_a_case(tmp_path: Path) -> None:
    words = ["rounding", "netopsy:digits-a", "--samples", "digits", "--count", "50", "--decimals", "1,2"]
    done = netopsy(*words, "--json", "--out", str(tmp_path / "case"))
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert whole["settings"]["decimals"] == [1, 2] and whole["provenance"]["samples"]["count"] == 50
    assert (tmp_path / "case" / "index.html").exists() and (tmp_path / "case" / "rounding.html").exists()
    assert netopsy("report", str(tmp_path / "case")).returncode == 0


def test_help_of_a_study_shows_its_settings() -> None:
    text = netopsy("noise", "--help").stdout
    assert "--strengths" in text and "--samples" in text


@pytest.mark.parametrize("name", STUDIES)
def test_every_setting_has_a_line_of_help_and_a_name_of_its_own(name: str) -> None:
    from dataclasses import fields

    from netopsy.cli import options
    from netopsy.studies.table import study_class

    cls = study_class(name)
    shared = {option.name for option in (*options.NETWORK_OPTIONS, *options.SAMPLES_OPTIONS)} - {"seed"}
    shared |= {option.name for option in (options.SAMPLES, options.OUT, options.JSON, *options.TRIAL_OPTIONS)}
    settings = [setting.name for setting in fields(cls)]
    texts = setting_texts(cls.__doc__ or "", settings)
    assert set(texts) == set(settings) and not shared & set(settings)


def test_help_spells_lists_and_the_one_seed_plainly() -> None:
    text = " ".join(netopsy("reconstruct", "--help").stdout.replace("│", " ").split())
    assert "[default: deconvnet,masked,masked_random,gradient]" in text and "()" not in text
    assert "Seed of the random weights, and of the images that --count takes." in text
    assert "Not needed. With them units are chosen" in netopsy("maximize", "--help").stdout


def test_settings_take_their_help_from_the_docstring() -> None:
    doc = """A study.

    first, second: what both
        mean together.
    other: not a setting
    third: alone.
    """
    texts = setting_texts(doc, ["first", "second", "third"])
    assert texts == {"first": "what both mean together.", "second": "what both mean together.", "third": "alone."}


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("netopsy.examination.run_study", stop)
    with pytest.raises(SystemExit) as ended:
        main(["parameters", "netopsy:digits-a"])
    assert ended.value.code == 130
    assert "The same command with the same --out goes on where it was." in capsys.readouterr().err

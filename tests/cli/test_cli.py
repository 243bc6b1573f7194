"""The command line as a user meets it: in this process, and once in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from netopsy.cli import main
from netopsy.cli.main import build
from netopsy.cli.options import setting_texts
from netopsy.cli.sources import load_images
from netopsy.errors import SamplesError
from netopsy.studies.table import STUDIES


@pytest.fixture
def netopsy(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: its exit code, and what it printed to stdout and to stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            main(list(words))
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


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
        "sparsity netopsy:lenet5 --samples range.npz",
        "run nowhere.toml --out case",
        "run bad.toml --out case",
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_2(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, netopsy, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.npz").write_text("junk")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "bad.toml").write_text("[network]\nsource = 3\n")
    save_file({"features.0.weight": np.full((2, 2), np.nan, np.float32)}, tmp_path / "nan.safetensors")
    np.savez(tmp_path / "range.npz", x=np.zeros((3, 32, 32), np.uint8), y=np.array([0, 1, 99]))
    monkeypatch.chdir(tmp_path)
    code, out, error = netopsy(*words.split())
    assert code == 2, error
    assert "Traceback" not in error + out
    assert len(error.strip().splitlines()) == 1 and error.startswith("netopsy: ")
    assert not [one for one in recwarn if not issubclass(one.category, DeprecationWarning | FutureWarning)]


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
        ("facets --units ip1:1:0:0", "a neuron is (node, neuron)"),
        ("maximize --units input:0", "is a pixel of the input"),
        ("field --image 540", "give 0 to 539"),
        ("activations --maps ip1", "has no maps to show"),
    ],
)
def test_a_mistake_in_a_setting_is_named(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    study, *rest = words.split()
    with pytest.raises(SystemExit, match="2"):
        main([study, "netopsy:lenet5", "--samples", "digits", *rest])
    shown = capsys.readouterr().err.strip()
    assert message in shown and len(shown.splitlines()) == 1 and shown.startswith("netopsy: ")


def test_layers_prints_a_table_and_json(netopsy) -> None:
    assert "conv" in netopsy("layers", "netopsy:lenet5")[1]
    rows = json.loads(netopsy("layers", "netopsy:lenet5", "--json")[1])
    assert len(rows) == 4 and sum(row["parameters"] for row in rows) > 0


def test_a_study_prints_findings_and_json_and_adds_to_a_case(tmp_path: Path, netopsy) -> None:
    words = ["rounding", "netopsy:digits-a", "--samples", "digits", "--count", "50", "--decimals", "1,2"]
    words += ["--no-one-layer-at-a-time"]
    process = [sys.executable, "-c", "from netopsy.cli import main; main()", *words, "--json", "--out", "case"]
    done = subprocess.run(process, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    whole = json.loads(done.stdout)
    assert whole["settings"]["decimals"] == [1, 2] and whole["provenance"]["samples"]["count"] == 50
    assert (tmp_path / "case" / "index.html").exists() and (tmp_path / "case" / "rounding.html").exists()
    (tmp_path / "case" / "index.html").unlink()
    assert netopsy("report", str(tmp_path / "case"))[0] == 0 and (tmp_path / "case" / "index.html").exists()


def test_help_of_a_study_shows_its_settings(netopsy) -> None:
    text = netopsy("noise", "--help")[1]
    assert "--strengths" in text and "--samples" in text


def test_help_groups_the_commands_in_words_of_their_tasks(netopsy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = netopsy("--help")[1]
    heads = [line.split()[1:-1] for line in text.splitlines() if line.startswith("╭")]
    assert [" ".join(head).strip("─ ") for head in heads] == [
        *("Start here", "Look", "Stress", "Shrink", "Compare", "Plumbing", "Options")
    ]
    assert text.index(" examine ") < text.index(" layers ") and not {"Figure", "Figures", "Table"} & set(text.split())
    assert all(f"│ {name} " in text for name in STUDIES) and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", [*STUDIES, "examine", "layers", "blocks", "compress", "expand", "report", "serve"])
def test_the_example_of_each_command_is_a_call_of_it(name: str, netopsy) -> None:
    text = " ".join(netopsy(name, "--help")[1].partition("╭")[0].split())
    words = text.partition(f"Example: netopsy {name} ")[2].split(" ")
    words = words[: next((at for at, word in enumerate(words) if word[:1].isupper()), len(words))]
    assert build(name).parse_args([name, *words], exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nois netopsy:digits-a", "no command 'nois'; nearest: noise. `netopsy --help` lists all."),
        ("--quiet noise", "'--quiet' comes before a command: write `netopsy COMMAND` first"),
        ("noise netopsy:digits-a --sample digits", "Unknown option: --sample; nearest: --samples."),
        ("noise netopsy:digits-a --samples digits --strength 1", "Unknown option: --strength; nearest: --strengths."),
        ("noise netopsy:digits-a --samples", "--samples needs a value: Folder, table"),
        ("noise netopsy:digits-a", "`netopsy noise` needs --samples: Folder"),
        ("layers", "`netopsy layers` needs NETWORK: torchvision:NAME"),
        ("layers netopsy:digits-a --json=maybe", "--json is a switch: give it without a value."),
        ("layers netopsy:digits-a --json --csv", "--json and --csv contradict each other"),
        ("noise netopsy:digits-a --samples digits --count 3 --count 4", "--count is given twice: give it once"),
        ("noise netopsy:digits-a --samples digits --match foo", 'Choose from: "name", "order".'),
        ("noise netopsy:digits-a --samples digits --open", "there is none without a folder: give --out too"),
        ("noise netopsy:digits-a --samples digits --classes nowhere", "cannot read the class names in nowhere"),
        ("completion tcsh", 'Choose from: "bash", "zsh", "fish".'),
        ("serve nowhere", "no folder 'nowhere': give a case"),
    ],
)
def test_wrong_words_get_a_sentence_that_says_what_to_write(words: str, sentence: str, netopsy) -> None:
    code, out, error = netopsy(*words.split())
    assert code == 2 and out == "" and sentence in error and len(error.strip().splitlines()) == 1


def test_completion_knows_commands_and_settings(netopsy, tmp_path: Path) -> None:
    app = build("", whole=True)
    scripts = {shell: app.generate_completion(shell=shell) for shell in ("zsh", "fish")}
    for shell, script in {"bash": netopsy("completion", "bash")[1], **scripts}.items():
        assert all(word in script for word in ("examine", "filter_codebook", "strengths", "serve"))
        program = shutil.which(shell)
        (tmp_path / shell).write_text(script)
        assert not program or subprocess.run([program, "-n", str(tmp_path / shell)]).returncode == 0


def test_classes_are_named_by_a_file(tmp_path: Path) -> None:
    names = [f"digit {i}" for i in range(10)]
    files = {
        "a.txt": "\n".join(names),
        "a.json": json.dumps(names),
        "b.json": json.dumps({str(i): name for i, name in enumerate(names)}),
        "c.json": json.dumps({str(i): [f"n{i}", name] for i, name in enumerate(names)}),
        "d.json": json.dumps({name: i for i, name in enumerate(names)}),
    }
    for file, content in files.items():
        (tmp_path / file).write_text(content)
        assert load_images("digits", {"classes": str(tmp_path / file), "count": 20}).classes == tuple(names)
    for content in ("{", "3", "[3]", '{"1": "a"}', '{"a": "b"}', "[]", '{"0": []}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(SamplesError, match="class names"):
            load_images("digits", {"classes": str(tmp_path / "bad.json")})
    (tmp_path / "few.txt").write_text("a\nb\n")
    with pytest.raises(SamplesError, match="10 classes, but 2 class names are given"):
        load_images("digits", {"classes": str(tmp_path / "few.txt")})


def test_a_second_examination_says_what_is_new(
    tmp_path: Path, netopsy, undrawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netopsy.case.write_report", lambda results, folder: folder / "index.html")
    words = ["examine", "netopsy:digits-a", "--samples", "digits", "--count", "20", "--out", str(tmp_path / "case")]
    report = f"Report: {tmp_path / 'case' / 'index.html'}\n"
    assert netopsy(*words, "--studies", "parameters", "--quiet") == (0, report, "")
    code, out, error = netopsy(*words, "--studies", "parameters,sparsity")
    assert "From the case, with the same network, samples and settings: baseline, parameters.\nNew: sparsity.\n" in out
    lines = error.splitlines()
    assert lines[:2] == ["[1/3] baseline from the case", "[2/3] parameters from the case"]
    assert len(lines) == 3 and lines[2].startswith("[3/3] sparsity ")
    assert code == 0 and not (tmp_path / "case" / ".work").exists()
    code, out, error = netopsy(*["sparsity", *words[1:], "--csv", "--table", "layers"])
    assert error == "'sparsity' is from the case, with the same network, samples and settings.\n"
    assert code == 0 and out.startswith("node,layer,")


@pytest.mark.parametrize("name", STUDIES)
def test_every_setting_has_a_line_of_help_and_a_name_of_its_own(name: str) -> None:
    from dataclasses import fields

    from netopsy.cli import options
    from netopsy.studies.table import study_class

    cls = study_class(name)
    shared = {option.name for option in (*options.NETWORK_OPTIONS, *options.SAMPLES_OPTIONS)} - {"seed"}
    shared |= {option.name for option in (options.SAMPLES, options.OUT, *options.TABLES, *options.TRIAL_OPTIONS)}
    shared |= {option.name for option in (options.TABLE, *options.RUNNING)}
    settings = [setting.name for setting in fields(cls)]
    texts = setting_texts(cls.__doc__ or "", settings)
    assert set(texts) == set(settings) and not shared & set(settings)


def test_help_spells_lists_and_the_one_seed_plainly(netopsy) -> None:
    text = " ".join(netopsy("reconstruct", "--help")[1].replace("│", " ").split())
    assert "[default: deconvnet,masked,masked_random,gradient]" in text and "()" not in text
    assert "Seed of the random weights, and of the images that --count takes." in text
    assert "Not needed. With them units are chosen" in netopsy("maximize", "--help")[1]


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

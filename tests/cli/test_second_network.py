"""Studies that compare a network with a second one: in Python, on the command line, in a protocol, in a case."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from netopsy import Case, Network, Result, Samples, examine, load_samples
from netopsy.cli import main
from netopsy.errors import NetopsyError, SettingsError
from netopsy.network.zoo.papers import CifarResNet
from netopsy.protocol.run import read_protocol, run_protocol
from netopsy.studies.functions import study_function
from netopsy.studies.study import REQUIRED, Allowance, Study, perform, takes
from netopsy.studies.table import STUDIES
from networks import shipped

pytestmark = pytest.mark.usefixtures("undrawn")

RUNS: list[str] = []


@dataclass(frozen=True)
class Gap(Study):
    """How far the weights of two networks lie apart.

    other: the network to compare with.
    power: of the absolute differences.
    """

    other: Network = REQUIRED
    power: float = 1.0

    name: ClassVar[str] = "gap"
    allows: ClassVar[tuple[Allowance, ...]] = ("any classes",)

    def run(self, network: Network, samples: Samples) -> Result:
        RUNS.append(self.other.name)
        parameters = [one.parameters for one in (network, self.other)]
        return self.result(tables={"sizes": pl.DataFrame({"parameters": parameters})}, findings=["Compared."])


@dataclass(frozen=True)
class Beside(Study):
    """May take a second network.

    other: a network to show beside the first.
    """

    other: Network | None = None

    name: ClassVar[str] = "beside"
    allows: ClassVar[tuple[Allowance, ...]] = ("any classes",)

    def run(self, network: Network, samples: Samples | None) -> Result:
        RUNS.append("none" if self.other is None else self.other.name)
        return self.result(findings=["Ran."])


@pytest.fixture(autouse=True)
def studies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("netopsy.studies.second")
    module.Gap, module.Beside = Gap, Beside  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "netopsy.studies.second", module)
    for name in list(STUDIES):
        monkeypatch.delitem(STUDIES, name)
    for kind in (Gap, Beside):
        monkeypatch.setitem(STUDIES, kind.name, ("second", kind.__name__, "A fake."))
    RUNS.clear()
    yield


@pytest.fixture(scope="module")
def a() -> Network:
    return shipped("a")


@pytest.fixture(scope="module")
def b() -> Network:
    return shipped("b")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return load_samples("digits", count=20)


@pytest.fixture
def projection(tmp_path: Path) -> Path:
    """Weights of a ResNet-20 with 1x1 shortcuts, which its header says and the architecture's usual form has not."""
    path = tmp_path / "projection.safetensors"
    tensors = {k: v.contiguous() for k, v in CifarResNet(3, projection=True).state_dict().items()}
    save_file(tensors, path, metadata={"options": json.dumps({"projection": True}), "mean": "0.5,0.5,0.5"})
    return path


def test_the_second_network_is_recorded_in_settings_and_provenance(a, b, samples) -> None:
    assert takes(Gap).networks == {"other": True} and takes(Beside).networks == {"other": False}
    result = study_function("gap")(a, samples, other=b)
    facts = {"name": "netopsy:digits-b", "parameters": b.parameters, "digest": b.digest}
    assert result.settings["other"] == facts | {"weights": "digits-vgg-b.safetensors"} and a.digest != b.digest
    # the second is described as it would be as the first
    assert result.provenance["other"] == study_function("beside")(b).provenance["network"]
    assert result.provenance["network"]["digest"] == a.digest
    assert json.loads(json.dumps(result.settings)) == result.settings
    assert "other" in inspect.signature(study_function("gap")).parameters
    assert study_function("beside")(a).settings == {"other": None} and "other" not in perform(Beside(), a).provenance


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {},
            r"the study 'gap' compares the network with a second one: .*netopsy gap NETWORK OTHER.*other=load_network",
        ),
        ({"other": "netopsy:digits-b"}, "other is a str; give a network as load_network returns it"),
        ({"other": torch.nn.Linear(2, 2)}, "other is a Linear; give a network"),
    ],
)
def test_what_is_no_second_network_is_said(given, message, a, b, samples, tmp_path) -> None:
    with pytest.raises(SettingsError, match=message):
        study_function("gap")(a, samples, **given)
    with pytest.raises(SettingsError, match=message):
        examine(a, samples, studies=["beside", Gap(**given)], out=tmp_path / "case")
    with pytest.raises(SettingsError, match="samples is the network netopsy:digits-b"):
        study_function("gap")(a, b, other=b)
    assert not (tmp_path / "case").exists() and RUNS == []


def test_images_of_foreign_classes_are_fine(a, b, samples) -> None:
    foreign = Samples("foreign", samples.records, samples.labels + 90, tuple(map(str, range(100))), samples._rows)
    assert perform(Gap(other=b), a, foreign).findings == ["Compared."]


def test_an_examination_runs_what_compares_with_another_network_only_when_given_one(a, b, samples, tmp_path) -> None:
    assert examine(a, samples, out=tmp_path / "one").names == ["baseline", "beside"]
    case = examine(a, samples, other=b, out=tmp_path / "two")
    assert case.names == ["baseline", "gap", "beside"]
    assert ",".join(RUNS) == f"none,{b.name},{b.name}"
    examine(a, samples, other=b, studies=[Gap(other=a)], out=tmp_path / "own")
    assert RUNS[-1] == a.name  # one that a study brings stays


def test_a_finished_result_is_known_by_its_second_network(a, b, samples, tmp_path) -> None:
    again = shipped("b")
    greyer = Network(b.name, b.module, replace(b.preprocessing, mean=(0.25,)), b.provenance)
    moved = b.with_tensors({name: t + 1e-3 for name, t in b.tensors.items() if t.is_floating_point()})
    counts = []
    for other in (b, again, greyer, moved, moved, a, b):
        case = examine(a, samples, other=other, studies=["gap"], out=tmp_path / "case")
        counts.append(len(RUNS))
        assert case.load("gap").settings["other"]["digest"] == other.digest
    assert counts == [1, 1, 2, 3, 3, 4, 5]
    page = (tmp_path / "case" / "gap.html").read_text()
    assert all(word in page for word in ("other name", "netopsy:digits-b", b.digest, "digits-vgg-b.safetensors"))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    """The result that a command prints as JSON."""
    main([str(word) for word in (*words, "--json")])
    return json.loads(capsys.readouterr().out)


def test_the_second_network_on_the_command_line(projection, capsys) -> None:
    base = ["--samples", "digits", "--count", "20"]
    for words in (["gap", "netopsy:digits-a", "netopsy:digits-b"], ["beside", "netopsy:digits-a"]):
        by_name = run(capsys, *words, *base, *([] if words[0] == "gap" else ["--other", "netopsy:digits-b"]))
        assert by_name["settings"]["other"]["weights"] == "digits-vgg-b.safetensors"
    words = ["gap", "netopsy:digits-a", "netopsy:resnet20", "--other-weights", projection, "--power", "2"]
    result = run(capsys, *words, *base)
    expected = sum(t.numel() for t in CifarResNet(3, projection=True).parameters())
    assert [row["parameters"] for row in result["tables"]["sizes"]][1] == expected
    assert result["settings"]["power"] == 2 and result["settings"]["other"]["weights"] == projection.name
    assert result["provenance"]["other"]["options"] == {"projection": True}
    assert result["provenance"]["other"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    wide = run(capsys, "gap", "netopsy:digits-a", "netopsy:resnet20", "--other-num-classes", "7", *base)
    plain = sum(t.numel() for t in CifarResNet(3, 7).parameters())
    assert wide["settings"]["other"]["parameters"] == plain and wide["settings"]["other"]["weights"] == "random"


def test_an_examination_on_the_command_line_takes_a_second_network(projection, tmp_path, capsys) -> None:
    words = ["--samples", "digits", "--count", "20", "--out", str(tmp_path / "case")]
    main(["examine", "netopsy:digits-a", "--other", "netopsy:resnet20", "--other-weights", str(projection), *words])
    assert "gap: Compared." in capsys.readouterr().out and RUNS == ["netopsy:resnet20"] * 2
    assert Case(tmp_path / "case").load("gap").settings["other"]["weights"] == projection.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("gap netopsy:digits-a", "compares the network with a second one: give it after the first"),
        ("gap netopsy:digits-a --other-weights cut.safetensors", "compares the network with a second one"),
        ("gap netopsy:digits-a netopsy:nosuch", "no network 'netopsy:nosuch'"),
        ("gap netopsy:digits-a nosuch", "no network 'nosuch'"),
        ("gap netopsy:digits-a vectors.npy", "'vectors.npy' is a file of features"),
        ("gap netopsy:digits-a netopsy:digits-b --other-weights cut.safetensors", "'cut.safetensors' is damaged"),
        ("gap netopsy:digits-a netopsy:digits-b --other-weights no.pt", "'no.pt' does not exist"),
        ("gap netopsy:digits-a netopsy:resnet20 --other-num-classes x", "'x' is no whole number"),
        ("gap netopsy:digits-a netopsy:digits-b netopsy:digits-b", "'netopsy:digits-b' belongs to no option"),
        ("beside netopsy:digits-a netopsy:digits-b", "'netopsy:digits-b' belongs to no option"),
        ("beside netopsy:digits-a --other-weights cut.safetensors", "--other-weights is of no use without --other"),
        ("examine netopsy:digits-a --studies gap", "`examine` takes --other NETWORK"),
        ("examine netopsy:digits-a --other netopsy:nosuch", "no network 'netopsy:nosuch'"),
        ("examine netopsy:digits-a --other netopsy:digits-b --other-weights cut.safetensors", "is damaged"),
        ("examine netopsy:digits-a --other-num-classes 3", "--other-num-classes is of no use without --other"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_folder_is_made(words, message, projection, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(projection.read_bytes()[:50_000])
    with pytest.raises(SystemExit, match="2"):
        main([*words.split(), "--samples", "digits", "--count", "20", "--out", "case"])
    text = capsys.readouterr().err.strip()
    assert text.startswith("netopsy: ") and len(text.splitlines()) == 1 and message in text
    assert not (tmp_path / "case").exists() and RUNS == []


def test_help_shows_the_second_network_where_one_is_taken(monkeypatch, capsys) -> None:
    monkeypatch.setitem(STUDIES, "parameters", ("parameters", "Parameters", "A real one."))
    for words, shown in (
        (["gap", "--help"], "The network to compare with."),
        (["examine", "--help"], "A second network"),
    ):
        main(words)
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert all(word in text for word in (shown, "--other-weights", "--other-num-classes"))
    main(["parameters", "--help"])
    assert "--other" not in capsys.readouterr().out


PROTOCOL = '[network]\nsource = "netopsy:digits-a"\n[samples]\nsource = "digits"\ncount = 20\n'


def test_a_protocol_names_a_second_network(projection, tmp_path) -> None:
    path = tmp_path / "p.toml"
    table = f'[other]\nsource = "netopsy:resnet20"\nweights = "{projection.name}"\n'
    path.write_text(PROTOCOL + table + "[studies.gap]\npower = 2.0\n")
    case = run_protocol(path, out=tmp_path / "case")
    assert case.load("gap").settings["power"] == 2.0
    assert case.load("gap").settings["other"]["weights"] == projection.name
    sets = '[[sets]]\nname = "x"\n[[sets]]\nname = "y"\nother = {source = "netopsy:digits-b"}\n'
    path.write_text(PROTOCOL + '[other]\nsource = "netopsy:digits-a"\n[studies.gap]\n' + sets)
    assert [one["other"]["source"][-1] for one in read_protocol(path)["sets"]] == ["a", "b"]
    settings = run_protocol(path, out=tmp_path / "sets").load("gap").settings
    assert [settings["other"][name]["name"] for name in "xy"] == ["netopsy:digits-a", "netopsy:digits-b"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[studies.gap]\n", r"compares the network with a second one: .*a protocol the table \[other\]"),
        ('[other]\nweights = "w.pt"\n[studies.gap]\n', r"\[other\] of .* has no source"),
        ("other = 3\n", r"other of .* is no table: write it as \[other\]"),
        ('[studies.gap]\nother = "netopsy:digits-b"\n', r"is a table of its own: write it as \[other\]"),
        (
            '[other]\nsource = "netopsy:digits-b"\nnosuch = 3\n[studies.gap]\n',
            "no option 'nosuch' for netopsy:digits-b",
        ),
        ('[other]\nsource = "netopsy:digits-b"\nweights = 3\n[studies.gap]\n', "weights 3 must be the path"),
        ('[studies.gap]\n[[sets]]\nname = "x"\n', r"the table \[other\]"),
    ],
)
def test_a_mistake_in_a_protocol_is_one_sentence(table: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    text = table + PROTOCOL + "[studies.beside]\n" if table.startswith("other") else PROTOCOL + table
    path.write_text(text)
    with pytest.raises(NetopsyError, match=message):
        run_protocol(path, out=tmp_path / "case")
    assert not (tmp_path / "case").exists()

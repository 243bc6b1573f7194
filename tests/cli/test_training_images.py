"""What studies may take besides a network and its samples: images to train on, other classes, and features."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from PIL import Image

import netopsy
from netopsy import Case, Features, Network, Result, Samples, examine, load_features, load_samples
from netopsy.cli import main
from netopsy.errors import NetopsyError, SamplesError, SettingsError
from netopsy.protocol.run import read_protocol, run_protocol
from netopsy.studies.functions import study_function
from netopsy.studies.study import REQUIRED, Allowance, Study, perform, takes
from netopsy.studies.table import STUDIES
from networks import shipped

pytestmark = pytest.mark.usefixtures("undrawn")

RUNS: list[str] = []


@dataclass(frozen=True)
class Probe(Study):
    """Says what it was given.

    train: images to train on; without them the samples are parted.
    test_share: share that is tested on.
    seed: of the parting.
    """

    train: Samples | None = None
    test_share: float = 0.5
    seed: int = 0

    name: ClassVar[str] = "probe"
    allows: ClassVar[tuple[Allowance, ...]] = ("any classes",)

    def run(self, network: Network | Features, samples: Samples | None) -> Result:
        RUNS.append(self.name)
        if isinstance(network, Features):
            sizes = [len(network.x_train), len(network.x_test)]
        else:
            assert samples is not None
            sizes = [0 if self.train is None else len(self.train), len(samples)]
        return self.result(
            tables={"sizes": pl.DataFrame({"size": sizes})}, findings=[f"{sizes[0]} train, {sizes[1]} test."]
        )


@dataclass(frozen=True)
class Strict(Study):
    """Takes training images of the network's own classes.

    train: images to train on.
    """

    train: Samples | None = None

    name: ClassVar[str] = "strict"

    def run(self, network: Network, samples: Samples) -> Result:
        return self.result(findings=["Ran."])


@dataclass(frozen=True)
class Retrain(Strict):
    """Trains the network.

    train: images to train on.
    """

    train: Samples = REQUIRED

    name: ClassVar[str] = "retrain"


@pytest.fixture(autouse=True)
def studies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("netopsy.studies.fakes")
    module.Probe, module.Strict, module.Retrain = Probe, Strict, Retrain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "netopsy.studies.fakes", module)
    for kind in (Probe, Strict, Retrain):
        monkeypatch.setitem(STUDIES, kind.name, ("fakes", kind.__name__, "A fake."))
    RUNS.clear()
    yield


@pytest.fixture(scope="module")
def network() -> Network:
    return shipped("a")


@pytest.fixture(scope="module")
def samples() -> Samples:
    return load_samples("digits", count=30)


@pytest.fixture(scope="module")
def train() -> Samples:
    return load_samples("digits", split="train", count=50)


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((40, 5)), y=np.arange(40) % 4)
    return path


def settings_of(train: Samples) -> dict[str, object]:
    return {"name": train.name, "count": len(train), "digest": train.digest}


def test_training_images_are_recorded_by_name_count_and_digest(network, samples, train) -> None:
    assert takes(Probe).images == {"train": False} and takes(Retrain).images == {"train": True}
    assert takes(netopsy.studies.study_class("noise")).images == {}
    result = study_function("probe")(network, samples, train=train, test_share=0.25)
    assert result.settings == {"train": settings_of(train), "test_share": 0.25, "seed": 0}
    assert result.tables["sizes"]["size"].to_list() == [50, 30]
    assert study_function("probe")(network, samples).settings["train"] is None
    with pytest.raises(SettingsError, match="train is a str; give images as load_samples"):
        study_function("probe")(network, samples, train="digits")


def test_other_training_images_are_run_anew_and_the_same_are_not(network, samples, train, tmp_path) -> None:
    for images in (train, load_samples("digits", split="train", count=50), None, train.subset(40), None):
        case = examine(network, samples, train=images, studies=["probe"], out=tmp_path)
    assert len(RUNS) == 4 and case.load("probe").settings["train"] is None
    examine(network, samples, train=train, studies=[Probe(seed=3)], out=tmp_path)
    assert case.load("probe").settings["train"] == settings_of(train)
    examine(network, samples, train=train, studies=[Probe(train=samples)], out=tmp_path)
    assert case.load("probe").settings["train"]["name"] == samples.name
    page = (tmp_path / "probe.html").read_text()
    assert "train digest" in page and samples.digest in page


def test_a_study_that_trains_the_network_wants_training_images(network, samples, train, tmp_path, monkeypatch) -> None:
    with pytest.raises(SettingsError, match="'retrain' trains the network: give images to train on, --train"):
        study_function("retrain")(network, samples)
    for name in list(STUDIES):
        if name not in ("retrain", "strict"):
            monkeypatch.delitem(STUDIES, name)
    with pytest.raises(SettingsError, match="give images to train on"):
        examine(network, samples, studies=["strict", "retrain"], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert examine(network, samples, out=tmp_path / "a").names == ["baseline", "strict"]
    assert examine(network, samples, train=train, out=tmp_path / "b").names == ["baseline", "strict", "retrain"]


def test_classes_numbered_otherwise_in_the_training_images_are_refused(network, samples) -> None:
    x, y = np.zeros((3, 8, 8), np.uint8), np.arange(3)
    with pytest.raises(SamplesError, match="class '1' has label 0 in arrays and 1 in digits"):
        study_function("retrain")(network, samples, train=load_samples((x, y), classes=["1", "2", "7"]))
    study_function("retrain")(network, samples, train=load_samples((x, y), classes=["0", "one", "two"]))


def test_a_precision_of_the_scores_is_no_precision_of_the_training(network, samples, train, monkeypatch) -> None:
    """`examine --precision 0.5` hands the setting to every study that has one of that name."""
    studies_run: list[Study] = []
    monkeypatch.setattr("netopsy.examination.run_study", lambda study, *given, **more: studies_run.append(study))
    examine(network, samples, train=train, other=network, settings={"seed": 1, "precision": 0.5})
    assert [study.name for study in studies_run] == list(STUDIES)
    assert {study.precision for study in studies_run if hasattr(study, "precision")} == {0.5}
    trained = {
        study.name: study.recipe(0) if study.name == "dsd" else study.recipe()
        for study in studies_run
        if takes(type(study)).images.get("train") and hasattr(study, "recipe")
    }
    assert set(trained) == {"compression", "dsd"}
    assert {recipe.precision for recipe in trained.values()} == {"float32"}


def test_classes_are_checked_against_the_network_unless_they_are_the_studys_own(network) -> None:
    foreign = load_samples((np.zeros((24, 32, 32), np.uint8), np.arange(24)), classes=[str(i) for i in range(24)])
    assert study_function("probe")(network, foreign, train=foreign).findings
    with pytest.raises(SamplesError, match="label 23"):
        study_function("strict")(network, foreign)
    with pytest.raises(SamplesError, match="label 23"):
        study_function("strict")(network, load_samples("digits", count=10), train=foreign)


def test_features_stand_in_for_network_and_samples(network, samples, train, vectors, tmp_path) -> None:
    features = load_features(vectors)
    result = study_function("probe")(features)
    assert result.provenance["network"] is None and result.provenance["samples"] is None
    assert result.provenance["features"] == {
        "name": "vectors.npz", "dimensions": 5, "type": "float32", "training": 20, "test": 20, "classes": 4,
        "digest": features.digest,
    }  # fmt: skip
    with pytest.raises(SettingsError, match="the study 'noise' takes no features; give a network"):
        netopsy.noise(features)
    with pytest.raises(SettingsError, match="leave samples out"):
        study_function("probe")(features, samples)
    with pytest.raises(SettingsError, match="leave train out"):
        perform(Probe(train=train), features)
    with pytest.raises(SettingsError, match="needs labelled images"):
        study_function("probe")(network)


def test_a_case_of_features_is_gone_on_with_and_has_a_report(vectors, tmp_path) -> None:
    features, out = load_features(vectors), tmp_path / "case"
    RUNS.clear()
    for given in (features, load_features(vectors), load_features(vectors, seed=1)):
        case = examine(given, studies=["probe"], out=out)
    assert len(RUNS) == 2
    assert json.loads((out / "case.json").read_text())["features"]["digest"] == load_features(vectors, seed=1).digest
    page = (out / "index.html").read_text()
    assert "vectors.npz" in page and "20 to train on, 20 to test on" in page and "Parameters" not in page
    assert (out / "probe.html").exists() and case.load("probe").provenance["features"]["dimensions"] == 5
    Case(out, create=False).write_report()


def run(*words: object) -> None:
    main([str(word) for word in words])


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence of a command that goes wrong."""
    with pytest.raises(SystemExit, match="2"):
        run(*words)
    text = capsys.readouterr().err.strip()
    assert text.startswith("netopsy: ") and len(text.splitlines()) == 1
    return text


def test_training_images_on_the_command_line(capsys) -> None:
    base = ["probe", "netopsy:digits-a", "--samples", "digits", "--count", "30"]
    settings = {}
    for words in (
        ["--train-split", "train"],
        ["--train-split", "train", "--train-count", "50"],
        ["--train", "digits", "--train-split", "all"],
        [],
    ):
        run(*base, *words, "--json")
        settings[" ".join(words)] = json.loads(capsys.readouterr().out)["settings"]["train"]
    assert [train and train["count"] for train in settings.values()] == [1257, 50, 1797, None]
    assert "--train-count says no images" in error_of(capsys, *base, "--train-count", "5")
    assert "no split 'nosuch'" in error_of(capsys, *base, "--train-split", "nosuch")
    assert "--x belongs to a file of features" in error_of(capsys, *base, "--x", "vec")


def test_features_on_the_command_line(vectors, tmp_path, capsys) -> None:
    run("probe", vectors, "--test-share", "0.25", "--json")
    whole = json.loads(capsys.readouterr().out)
    assert [row["size"] for row in whole["tables"]["sizes"]] == [30, 10]
    np.save(tmp_path / "v.npy", np.load(vectors)["x"])
    (tmp_path / "y.txt").write_text("\n".join("abcd"[i % 4] for i in range(40)))
    run("probe", tmp_path / "v.npy", "--labels", tmp_path / "y.txt", "--seed", "2", "--out", tmp_path / "case")
    assert "20 train, 20 test." in capsys.readouterr().out and (tmp_path / "case" / "probe.html").exists()
    frame = pl.DataFrame(
        {"v": np.load(vectors)["x"].tolist(), "kind": ["a", "b"] * 20, "set": ["train"] * 30 + ["test"] * 10}
    )
    frame.write_parquet(tmp_path / "v.parquet")
    run("probe", tmp_path / "v.parquet", "--x", "v", "--y", "kind", "--split", "set")
    assert "30 train, 10 test." in capsys.readouterr().out
    for words, sentence in (
        (["probe", vectors, "--samples", "digits"], "--samples has no use with features"),
        (["probe", vectors, "--train-split", "train"], "--train-split has no use with features"),
        (["probe", vectors, "--weights", "x.pt"], "--weights has no use with features"),
        (["probe", vectors, "--count", "3"], "--count has no use with features"),
        (["probe", vectors, "--y", "kind"], "no array 'kind'"),
        (["probe", tmp_path / "v.npy"], "vectors without labels"),
        (["probe", "nowhere.npy"], "no features 'nowhere.npy'"),
        (["probe", vectors, "--test-share", "2"], "test_share 2.0"),
        (["probe", "netopsy:digits-a"], "needs labelled images"),
        (["noise", vectors, "--samples", "digits"], "is a file of features, and this command needs a network"),
        (["layers", vectors], "this command needs a network"),
        (["examine", vectors, "--samples", "digits", "--out", "case"], "this command needs a network"),
    ):
        assert sentence in error_of(capsys, *words)


def test_help_shows_the_options_of_training_images_and_features(capsys) -> None:
    run("probe", "--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in ("--train ", "--train-split", "--train-count", "--x", "--y", "or features", "Images to train on"):
        assert word in text
    assert "--empty-train" not in text
    run("noise", "--help")
    assert "--train" not in capsys.readouterr().out


def test_an_examination_on_the_command_line_passes_training_images_on(tmp_path, capsys) -> None:
    words = ["--samples", "digits", "--count", "20", "--studies", "probe,parameters", "--out", tmp_path / "case"]
    run("examine", "netopsy:digits-a", *words, "--train-split", "train", "--train-count", "40")
    assert Case(tmp_path / "case").load("probe").settings["train"]["count"] == 40


PROTOCOL = '[network]\nsource = "netopsy:digits-a"\n[samples]\nsource = "digits"\ncount = 20\n'


def test_a_protocol_names_training_images(tmp_path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        PROTOCOL + '[train]\nsplit = "train"\ncount = 60\n[studies.probe]\nseed = 1\n[studies.parameters]\n'
    )
    case = run_protocol(path, out=tmp_path / "case")
    assert case.load("probe").settings["train"]["count"] == 60
    folder = tmp_path / "images"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32), len(name), np.uint8)).save(folder / name / "a.png")
    path.write_text(PROTOCOL + '[train]\nsource = "images"\n[studies.probe]\n')
    assert run_protocol(path, out=tmp_path / "other").load("probe").settings["train"]["count"] == 2


def test_other_samples_for_a_protocol_keep_its_parts(tmp_path) -> None:
    folder = tmp_path / "images"
    for part, count in (("test", 2), ("trainval", 3)):
        for name in ("one", "two"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((32, 32), 10 * i + count, np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    path = tmp_path / "p.toml"
    path.write_text(
        '[network]\nsource = "netopsy:digits-a"\n[samples]\nsource = "elsewhere"\nsplit = "test"\n'
        '[train]\nsplit = "trainval"\n[studies.probe]\n'
    )
    result = run_protocol(path, out=tmp_path / "case", samples=str(folder)).load("probe")
    assert (result.provenance["samples"]["count"], result.settings["train"]["count"]) == (4, 6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[train]\ncount = 3\n[studies.probe]\n", r"\[train\] of .* says no images"),
        ("[train]\nsplit = 3\n[studies.probe]\n", "write them in quotes"),
        ("train = 3\n", "says no images|no table"),
        ('[studies.probe]\ntrain = "digits"\n', r"is a table of its own: write it as \[train\]"),
        ('[train]\nsplit = "train"\nnosuch = 3\n[studies.probe]\n', "no option 'nosuch'"),
    ],
)
def test_a_mistake_in_a_protocol_is_one_sentence(table: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(table + PROTOCOL if table.startswith("train") else PROTOCOL + table)
    with pytest.raises(NetopsyError, match=message):
        run_protocol(path, out=tmp_path / "case")


def test_the_tables_of_a_protocol_may_do_without_training_images(tmp_path) -> None:
    (tmp_path / "p.toml").write_text(PROTOCOL + "[studies.parameters]\n")
    assert "train" not in read_protocol(tmp_path / "p.toml")

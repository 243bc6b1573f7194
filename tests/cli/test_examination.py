"""Examining a network: the case, going on with it, protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netopsy
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.protocol.run import read_protocol, run_protocol
from netopsy.studies.study import takes
from netopsy.studies.table import study_class
from networks import shipped

pytestmark = pytest.mark.usefixtures("undrawn")

PROTOCOLS = sorted((Path(__file__).parents[2] / "protocols").glob("*.toml"))


@pytest.fixture(scope="module")
def digits() -> tuple[netopsy.Network, netopsy.Samples]:
    return shipped("a"), netopsy.load_samples("digits", count=60)


def test_finished_studies_are_not_run_again(digits, tmp_path, monkeypatch) -> None:
    first = netopsy.examine(*digits, studies=["parameters", "sparsity"], out=tmp_path)
    from netopsy import examination

    def never(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(examination, "perform", never)
    again = netopsy.examine(*digits, studies=["parameters", "sparsity"], out=tmp_path)
    assert (
        [r.study for r in again.results] == [r.study for r in first.results] == ["baseline", "parameters", "sparsity"]
    )


def test_other_settings_images_or_weights_are_run_again(digits, tmp_path, monkeypatch) -> None:
    from netopsy import examination

    network, samples = digits
    netopsy.examine(network, samples, studies=["sparsity"], out=tmp_path)
    runs = []
    perform = examination.perform
    monkeypatch.setattr(examination, "perform", lambda *given: runs.append(1) or perform(*given))
    netopsy.examine(network, samples.subset(30), studies=["sparsity"], out=tmp_path)
    netopsy.examine(shipped("b"), samples.subset(30), studies=["sparsity"], out=tmp_path)
    assert len(runs) == 4  # each time the baseline too


def test_an_error_in_one_study_keeps_the_others(digits, tmp_path, monkeypatch) -> None:
    from netopsy.studies.noise import Noise

    def fails(*_: object) -> None:
        raise SettingsError("it cannot be done")

    monkeypatch.setattr(Noise, "run", fails)
    with pytest.raises(SettingsError):
        netopsy.examine(*digits, studies=["parameters", "noise"], out=tmp_path)
    assert (tmp_path / "index.html").exists() and (tmp_path / "parameters" / "result.json").exists()


@pytest.mark.parametrize(
    ("study", "settings"),
    [
        *[
            (name, {"layers": ("nosuch",)})
            for name in ("noise", "rounding", "codebook", "filter_codebook", "prescribe")
        ],
        *[(name, {"units": ("nosuch:0",)}) for name in ("reconstruct", "field", "maximize", "facets")],
        *[(name, {"layer": "nosuch"}) for name in ("reconstruct", "facets", "filters")],
        ("stimuli", {"layers": ("nosuch",)}),
        ("activations", {"maps": ("nosuch",)}),
        ("field", {"tree": "nosuch:0"}),
        ("transfer", {"nodes": ("nosuch",)}),
        ("correspondence", {"layers": ("block1.relu1:nosuch",)}),
        ("triage", {"blocks": ("nosuch",)}),
        ("compression", {"density": ("nosuch=0.5",)}),
        ("compression", {"bits": ("nosuch=4",)}),
        ("dsd", {"sparsity": ("nosuch=0.5",)}),
    ],
)
def test_names_that_the_network_has_not_are_refused_before_anything_runs(study, settings, digits, tmp_path) -> None:
    network, samples = digits
    cls = study_class(study)
    needs = takes(cls)
    given = {name: samples for name, needed in needs.images.items() if needed}
    given |= {name: network for name, needed in needs.networks.items() if needed}
    with pytest.raises((UnknownLayer, SettingsError), match="nosuch"):
        netopsy.examine(network, samples, studies=["parameters", cls(**settings, **given)], out=tmp_path / "case")
    assert not (tmp_path / "case").exists()


def test_an_examination_leaves_the_weights_as_they_were(digits, tmp_path) -> None:
    network, samples = digits
    before = {name: tensor.clone() for name, tensor in network.tensors.items()}
    netopsy.examine(network, samples.subset(20), studies=["sparsity", "rounding"], out=tmp_path)
    assert all(before[name].equal(tensor) for name, tensor in network.tensors.items())


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda p: p.stem)
def test_protocols_are_well_formed(path: Path) -> None:
    from netopsy.protocol.run import make_study

    for name, settings in read_protocol(path)["studies"].items():
        assert make_study(name, settings).name == name


def test_a_protocol_runs_with_other_images(tmp_path) -> None:
    protocol = tmp_path / "p.toml"
    protocol.write_text(
        '[network]\nsource = "netopsy:digits-a"\n[samples]\nsource = "nowhere"\n'
        "[studies.parameters]\n[studies.rounding]\ndecimals = [1]\none_layer_at_a_time = false\n"
    )
    case = run_protocol(protocol, out=tmp_path / "case", samples="digits", count=20)
    assert [result.study for result in case.results] == ["baseline", "parameters", "rounding"]
    assert case.load("rounding").settings["decimals"] in ((1,), [1])


def test_an_unknown_setting_in_a_protocol_names_those_there_are() -> None:
    from netopsy.protocol.run import make_study

    with pytest.raises(SettingsError, match="decimals"):
        make_study("rounding", {"digits": [1]})


@pytest.mark.parametrize(
    ("study", "settings", "message"),
    [
        ("reconstruct", {"units": "fc:3"}, r"units 'fc:3' must be a tuple, for instance \('fc:3',\)"),
        ("activations", {"images": 3}, r"images 3 must be a tuple, for instance \(3,\)"),
        ("activations", {"images": (0.5,)}, r"images 0\.5 must be a whole number"),
        ("stimuli", {"top": "9"}, r"top '9' must be a whole number"),
        ("maximize", {"runs": 1.5}, r"runs 1\.5 must be a whole number"),
        ("facets", {"alpha": "x"}, r"alpha 'x' must be a number"),
        ("field", {"image": True}, r"image True must be a whole number"),
    ],
)
def test_a_setting_of_the_wrong_type_is_explained(study: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        getattr(netopsy, study)(shipped("a"), None, **settings)


def test_a_list_does_for_a_tuple() -> None:
    network, samples = shipped("a"), netopsy.load_samples("digits", count=3)
    result = netopsy.activations(network, samples, images=[np.int64(1)], maps=["block5.relu3:1"])
    assert result.settings["images"] == (1,) and result.settings["maps"] == ("block5.relu3:1",)


LOOKING = ["sparsity", "activations", "stimuli", "maximize", "facets"]
QUICK = {"steps": 2, "runs": 1, "most_units": 1, "images": ()}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the passes that begin at the first sample."""
    begun: list[str] = []
    report = netopsy.engine.workspace.workspace.Workspace.report

    def watch(self: Any, label: str, done: int, total: int) -> None:
        if done == 0:
            begun.append(label)
        report(self, label, done, total)

    monkeypatch.setattr("netopsy.engine.workspace.workspace.Workspace.report", watch)
    return begun


def quick(name: str) -> Any:
    from dataclasses import fields

    from netopsy.studies.table import study_class

    cls = study_class(name)
    return cls(
        **{key: value for key, value in QUICK.items() if key in {f.name for f in fields(cls)} and name != "facets"}
    )


def same_tables(one: Any, other: Any) -> None:
    assert list(one.tables) == list(other.tables)
    for name in one.tables:
        assert one.tables[name].equals(other.tables[name]), f"{one.study}: {name}"


def test_studies_that_look_share_one_pass_and_find_what_each_finds_alone(digits, tmp_path, passes) -> None:
    case = netopsy.examine(*digits, studies=["parameters", *map(quick, LOOKING)], out=tmp_path)
    assert passes.count("observe") == 1
    from netopsy.studies.study import perform

    for name in LOOKING:
        same_tables(case.load(name), perform(quick(name), *digits))


def test_a_study_that_is_finished_takes_no_part_in_the_pass(digits, tmp_path, passes, monkeypatch) -> None:
    from netopsy.studies.sparsity import Sparsity

    netopsy.examine(*digits, studies=["sparsity", quick("activations")], out=tmp_path)
    monkeypatch.setattr(Sparsity, "tallies", None)
    passes.clear()
    netopsy.examine(*digits, studies=["sparsity", quick("activations"), quick("stimuli")], out=tmp_path)
    assert passes.count("observe") == 1


def test_a_study_that_fails_does_not_lose_the_pass_of_the_others(digits, tmp_path, passes, monkeypatch) -> None:
    from netopsy.studies.activations.activations import Activations

    conclude = Activations.conclude

    def fail(*_: object) -> None:
        raise ArithmeticError("no")

    monkeypatch.setattr(Activations, "conclude", fail)
    chosen = ["sparsity", quick("activations"), quick("stimuli")]
    with pytest.raises(ArithmeticError):
        netopsy.examine(*digits, studies=chosen, out=tmp_path)
    assert (tmp_path / "sparsity" / "result.json").exists()
    monkeypatch.setattr(Activations, "conclude", conclude)
    passes.clear()
    case = netopsy.examine(*digits, studies=chosen, out=tmp_path)
    assert case.names == ["baseline", "sparsity", "activations", "stimuli"] and "observe" not in passes


def test_a_study_whose_tallies_cannot_be_made_fails_in_its_turn(digits, tmp_path, passes, monkeypatch) -> None:
    from netopsy.studies.stimuli.stimuli import Stimuli

    def fails(*_: object) -> None:
        raise SettingsError("they cannot be made")

    monkeypatch.setattr(Stimuli, "tallies", fails)
    with pytest.raises(SettingsError):
        netopsy.examine(*digits, studies=["sparsity", "stimuli", quick("activations")], out=tmp_path)
    assert (tmp_path / "sparsity" / "result.json").exists() and passes.count("observe") == 1


def test_a_stopped_pass_of_several_studies_goes_on(digits, tmp_path, monkeypatch) -> None:
    chosen = [quick(name) for name in ("sparsity", "activations", "stimuli")]
    whole = netopsy.examine(*digits, studies=chosen, out=tmp_path / "whole")
    done: list[int] = []

    def stop(label: str, at: int, total: int) -> None:
        if label == "observe" and at:
            raise KeyboardInterrupt

    import netopsy.examination as examination

    workspace = examination.workspace
    monkeypatch.setattr(examination, "workspace", lambda *where, **time: workspace(*where, every=0.0, **time))
    with pytest.raises(KeyboardInterrupt):
        netopsy.examine(*digits, studies=chosen, out=tmp_path / "stopped", progress=stop)
    case = netopsy.examine(
        *digits,
        studies=chosen,
        out=tmp_path / "stopped",
        progress=lambda label, at, total: done.append(at) if label == "observe" else None,
    )
    assert done[0] > 0, "the pass began anew"
    for study in chosen:
        same_tables(case.load(study.name), whole.load(study.name))


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases without pages, which take seconds."""
    monkeypatch.setattr("netopsy.case.write_report", lambda results, folder: folder / "index.html")


def test_checkpoints_go_when_every_study_is_finished_and_stay_for_one_that_was_stopped(
    digits, tmp_path, unwritten
) -> None:
    def stop(label: str, at: int, total: int) -> None:
        if label == "sweep":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        netopsy.examine(*digits, studies=["rounding"], out=tmp_path, progress=stop)
    netopsy.examine(*digits, studies=["sparsity"], out=tmp_path)
    assert any((tmp_path / ".work").glob("observe-*")), "what the stopped study may need was removed"
    netopsy.examine(*digits, studies=["sparsity", "rounding"], out=tmp_path)
    assert not (tmp_path / ".work").exists()
    netopsy.examine(*digits, studies=["rounding"], out=tmp_path)
    assert not (tmp_path / ".work").exists()


def test_progress_says_what_the_case_has_and_which_study_is_at_work(digits, tmp_path, unwritten) -> None:
    netopsy.examine(*digits, studies=["parameters"], out=tmp_path)
    seen: list[tuple[str, int, int]] = []
    netopsy.examine(*digits, studies=["parameters", "sparsity"], out=tmp_path, progress=lambda *one: seen.append(one))
    assert seen[:3] == [("baseline", 1, 1), ("parameters", 1, 1), ("sparsity", 0, 1)]
    turns = [one for one in seen if one[0] == "examine"]
    assert turns == [("examine", number, 3) for number in range(4)] and ("observe", 60, 60) in seen

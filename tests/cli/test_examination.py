"""Examining a network: the case, going on with it, protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netopsy
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.protocol.read import read_protocol
from netopsy.protocol.run import run_protocol

PROTOCOLS = sorted((Path(__file__).parents[2] / "protocols").glob("*.toml"))


@pytest.fixture(scope="module")
def digits() -> tuple[netopsy.Network, netopsy.Samples]:
    return netopsy.load_network("netopsy:digits-a"), netopsy.load_samples("digits", count=60)


def test_finished_studies_are_not_run_again(digits, tmp_path, monkeypatch) -> None:
    first = netopsy.examine(*digits, studies=["parameters", "sparsity"], out=tmp_path)
    from netopsy import examination

    def never(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(examination, "perform", never)
    again = netopsy.examine(*digits, studies=["parameters", "sparsity"], out=tmp_path)
    assert [r.study for r in again.results] == [r.study for r in first.results] == ["parameters", "sparsity"]


def test_other_settings_images_or_weights_are_run_again(digits, tmp_path, monkeypatch) -> None:
    from netopsy import examination

    network, samples = digits
    netopsy.examine(network, samples, studies=["sparsity"], out=tmp_path)
    runs = []
    perform = examination.perform
    monkeypatch.setattr(examination, "perform", lambda *given: runs.append(1) or perform(*given))
    netopsy.examine(network, samples.subset(30), studies=["sparsity"], out=tmp_path)
    netopsy.examine(netopsy.load_network("netopsy:digits-b"), samples.subset(30), studies=["sparsity"], out=tmp_path)
    assert len(runs) == 2


def test_an_error_in_one_study_keeps_the_others(digits, tmp_path) -> None:
    from netopsy.studies.noise import Noise

    with pytest.raises(UnknownLayer):
        netopsy.examine(*digits, studies=["parameters", Noise(layers=("nosuch",))], out=tmp_path)
    assert (tmp_path / "index.html").exists() and (tmp_path / "parameters" / "result.json").exists()


def test_an_examination_leaves_the_weights_as_they_were(digits, tmp_path) -> None:
    network, samples = digits
    before = {name: tensor.clone() for name, tensor in network.tensors.items()}
    netopsy.examine(network, samples.subset(20), studies=["sparsity", "rounding"], out=tmp_path)
    assert all(before[name].equal(tensor) for name, tensor in network.tensors.items())


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda p: p.stem)
def test_protocols_are_well_formed(path: Path) -> None:
    from netopsy.protocol.read import make_study

    for name, settings in read_protocol(path)["studies"].items():
        assert make_study(name, settings).name == name


def test_a_protocol_runs_with_other_images(tmp_path) -> None:
    protocol = tmp_path / "p.toml"
    protocol.write_text(
        '[network]\nsource = "netopsy:digits-a"\n[samples]\nsource = "nowhere"\n'
        "[studies.parameters]\n[studies.rounding]\ndecimals = [1]\none_layer_at_a_time = false\n"
    )
    case = run_protocol(protocol, out=tmp_path / "case", samples="digits", count=20)
    assert [result.study for result in case.results] == ["parameters", "rounding"]
    assert case.load("rounding").settings["decimals"] in ((1,), [1])


def test_an_unknown_setting_in_a_protocol_names_those_there_are() -> None:
    from netopsy.protocol.read import make_study

    with pytest.raises(SettingsError, match="decimals"):
        make_study("rounding", {"digits": [1]})


@pytest.mark.parametrize(
    ("study", "settings", "said"),
    [
        ("reconstruct", {"units": "fc:3"}, r"units 'fc:3' must be a tuple, for instance \('fc:3',\)"),
        ("activations", {"images": 3}, r"images 3 must be a tuple, for instance \(3,\)"),
        ("activations", {"images": (0.5,)}, r"images 0\.5 must be a whole number"),
        ("stimuli", {"top": "9"}, r"top '9' must be a whole number"),
        ("maximize", {"runs": 1.5}, r"runs 1\.5 must be a whole number"),
        ("facets", {"level": "x"}, r"level 'x' must be a number"),
        ("field", {"image": True}, r"image True must be a whole number"),
    ],
)
def test_a_setting_of_the_wrong_type_is_explained(study: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        getattr(netopsy, study)(netopsy.load_network("netopsy:digits-a"), None, **settings)


def test_a_list_does_for_a_tuple() -> None:
    network, samples = netopsy.load_network("netopsy:digits-a"), netopsy.load_samples("digits", count=3)
    result = netopsy.activations(network, samples, images=[np.int64(1)], maps=["block5.relu3:1"])
    assert result.settings["images"] == (1,) and result.settings["maps"] == ("block5.relu3:1",)

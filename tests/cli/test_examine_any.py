"""One command on any patient: every study reports, or says in one sentence that it has no meaning there."""

from __future__ import annotations

from pathlib import Path

import pytest

from netopsy import examine
from netopsy.errors import NotApplicable
from netopsy.studies.study import takes
from netopsy.studies.table import STUDIES, study_class
from patients import patient

FEW = {
    "runs": 1,
    "steps": 3,
    "repeats": 1,
    "draws": 1,
    "survey": 2,
    "strengths": (0.1,),
    "decimals": (1,),
    "stresses": ("dr2",),
}
"""Settings of the studies for a quick look."""


@pytest.mark.parametrize("kind", ["table"])
def test_a_study_without_meaning_says_so_and_the_others_go_on(kind: str, tmp_path: Path) -> None:
    network, samples = patient(kind)
    case = examine(network, samples, out=tmp_path / "case", settings=FEW)
    without_more = [
        n
        for n in STUDIES
        if not (takes(study_class(n)).networks.get("other") or takes(study_class(n)).images.get("train"))
    ]
    assert case.names == without_more
    for name in case.names:
        assert case.load(name).findings, f"{name} says nothing"
    assert (tmp_path / "case" / "index.html").is_file()


def test_a_study_that_was_named_is_refused() -> None:
    network, samples = patient("table")
    with pytest.raises(NotApplicable, match="TableNet"):
        examine(network, samples, studies=["filters", "field"])


def test_a_length_is_the_networks_where_it_is_a_folder_of_transformers() -> None:
    from netopsy.cli.sources import samples_options

    options = {"length": 8, "split": "test"}
    assert samples_options("hf:folder", options) == {"length": None, "split": "test"}
    assert samples_options("module:factory", options) == options

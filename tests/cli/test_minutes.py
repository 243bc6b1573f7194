"""An examination within a budget of time: what each study gets, what is kept, what goes on with more."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import pytest

import netopsy
from netopsy.engine.workspace.workspace import current_workspace, workspace
from netopsy.errors import OutOfTime, SettingsError
from netopsy.examination import TimeBudget, quick_studies
from netopsy.result import Result
from netopsy.studies.study import Study
from networks import shipped


@pytest.fixture(scope="module")
def digits() -> tuple[netopsy.Network, netopsy.Samples]:
    return shipped("a"), netopsy.load_samples("digits", count=60)


STEPS: list[int] = []


@dataclass(frozen=True)
class Slow(Study):
    """A study of steps, each of which is kept."""

    steps: int = 20

    name: ClassVar[str] = "slow"

    def run(self, network: netopsy.Network, samples: netopsy.Samples) -> Result:
        checkpoint = current_workspace().checkpoint("slow", {"steps": self.steps})
        done, _ = checkpoint.load()
        for step in range(done, self.steps):
            STEPS.append(step)
            time.sleep(0.02)
            checkpoint.save(step + 1, dict, final=True)
            current_workspace().report("slow", step + 1, self.steps)
        return self.result(findings=["Done."])


def test_a_study_that_is_not_finished_says_so_and_resumes(digits, tmp_path, monkeypatch) -> None:
    from netopsy import examination

    monkeypatch.setattr(examination, "_LEAST", 0.1)
    STEPS.clear()
    case = netopsy.examine(*digits, studies=[Slow()], out=tmp_path, minutes=0.1 / 60)
    (finding,) = case.load("slow").findings
    assert finding.startswith("Not finished in") and "--minutes" in finding and 0 < len(STEPS) < 20
    assert (tmp_path / "index.html").exists() and (tmp_path / ".work").exists()
    case = netopsy.examine(*digits, studies=[Slow()], out=tmp_path)
    assert case.load("slow").findings == ["Done."] and list(range(20)) == STEPS
    assert not (tmp_path / ".work").exists()


def test_sweeps_of_a_budget_say_what_they_know_and_go_on_with_more(digits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("netopsy.engine.sweep.sweep.EXACT_SHARE", 0.0)
    rounding = netopsy.studies.table.study_class("rounding")(decimals=(1, 2), formats=("int4_channel",))
    case = netopsy.examine(*digits, studies=[rounding], out=tmp_path, minutes=1)
    first = case.load("rounding")
    assert first.provenance["budget"]["minutes"] == 1 and "spent" in first.provenance
    again = netopsy.examine(*digits, studies=[rounding], out=tmp_path, minutes=1).load("rounding")
    assert again.provenance["finished"] == first.provenance["finished"]
    exact = netopsy.examine(*digits, studies=[rounding], out=tmp_path, exact=True).load("rounding")
    assert "budget" not in exact.provenance and exact.tables["scores"]["images"].to_list() == [60] * len(
        exact.tables["scores"]
    )
    kept = netopsy.examine(*digits, studies=[rounding], out=tmp_path, minutes=1).load("rounding")
    assert kept.provenance["finished"] == exact.provenance["finished"]  # nothing is known better in a minute


def test_sweeps_that_fit_into_the_time_are_exact(digits, tmp_path) -> None:
    rounding = netopsy.studies.table.study_class("rounding")(decimals=(1,), formats=(), one_layer_at_a_time=False)
    result = netopsy.examine(*digits, studies=[rounding], out=tmp_path).load("rounding")
    assert "spent" not in result.provenance and result.tables["scores"]["images"].unique().to_list() == [60]


def test_shares_of_the_time() -> None:
    studies = quick_studies()
    budget = TimeBudget(1)
    budget.share(studies[0], studies)
    baseline = budget.seconds
    budget.share(studies[3], studies[3:])
    assert baseline == pytest.approx(60 / 9, rel=0.05) and budget.seconds == pytest.approx(30, rel=0.05)
    endless = TimeBudget(None)
    endless.share(studies[0], studies)
    assert endless.left is None


def test_quick_runs_what_the_first_page_needs(digits, tmp_path) -> None:
    case = netopsy.examine(*digits, out=tmp_path, quick=True)
    assert case.names == ["baseline", "parameters", "sparsity", "noise", "rounding"]


@pytest.mark.parametrize(
    "options", [{"minutes": 0}, {"minutes": -1}, {"minutes": float("nan")}, {"quick": True, "exact": True}]
)
def test_wrong_budgets_are_refused(digits, tmp_path, options) -> None:
    with pytest.raises(SettingsError):
        netopsy.examine(*digits, out=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_work_past_its_firm_time_ends(tmp_path) -> None:
    with workspace(tmp_path, minutes=0.01 / 60, firm=True), pytest.raises(OutOfTime):
        for step in range(200):
            time.sleep(0.01)
            current_workspace().report("work", step, 200)
    with workspace(tmp_path, minutes=0.001 / 60):
        time.sleep(0.01)
        current_workspace().report("work", 1, 2)

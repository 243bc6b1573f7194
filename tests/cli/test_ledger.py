"""The ledger of claims: its rule, its list, and the form of the page."""

from __future__ import annotations

import inspect
import math
from pathlib import Path

import pytest

import ledger_measures
from ledger import BORNE_OUT, DOCUMENTS, NOT, UNDECIDED, Claim, Command, Entry, judge, read_list, write_page
from ledger_measures import Evidence, over, share, trend
from netopsy.cli.main import build
from netopsy.studies.table import STUDIES

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
CLAIMS, COMMANDS = read_list()
NONE = (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("figure", "low", "high", "bounds", "verdict"),
    [
        (0.2, 0.1, 0.3, (0.1, math.inf), BORNE_OUT),
        (0.2, 0.1, 0.3, (-math.inf, 0.3), BORNE_OUT),
        (0.5, 0.45, 0.55, (0.4, 0.6), BORNE_OUT),
        (0.2, 0.1, 0.3, (0.31, math.inf), NOT),
        (0.2, 0.1, 0.3, (-math.inf, 0.05), NOT),
        (0.2, 0.1, 0.3, (0.15, math.inf), f"{UNDECIDED}: about 400 images would decide it"),
        (0.2, 0.1, 0.3, (0.25, math.inf), f"{UNDECIDED}: about 400 images would decide it"),
        (0.2, 0.15, 0.3, (-math.inf, 0.25), f"{UNDECIDED}: about 400 images would decide it"),
        (0.2, 0.1, 0.3, (0.2, math.inf), f"{UNDECIDED}: the figure lies on the bound"),
    ],
)
def test_the_whole_interval_decides(
    figure: float, low: float, high: float, bounds: tuple[float, float], verdict: str
) -> None:
    assert judge(Evidence(figure, low, high, 100), *bounds) == verdict


def test_intervals_are_those_of_the_textbooks() -> None:
    mean = over([1.0, 2.0, 3.0, 4.0], "blocks")
    assert mean is not None
    assert mean.figure == 2.5
    assert mean.high == pytest.approx(2.5 + 3.1824463 * math.sqrt(5 / 3) / 2)  # t of 3 degrees, 97.5 %
    assert over([1.0, 2.0], "blocks") is None
    wilson = share(0, 10, "units")
    assert wilson is not None
    assert wilson.high == pytest.approx(1.959964**2 / (10 + 1.959964**2))
    rising = trend(range(20))
    assert rising is not None
    assert rising.low > 0.99
    assert trend(range(4)) is None


def test_the_list_holds_forty_claims_of_five_documents_that_studies_can_tell() -> None:
    assert len(CLAIMS) >= 40
    assert {claim.document for claim in CLAIMS} == set(DOCUMENTS)
    assert len({(claim.document, claim.says) for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.study in STUDIES
        assert (claim.at_least, claim.at_most) != NONE
        if claim.by:
            function = getattr(ledger_measures, claim.by)
            assert bool(claim.of) != ("tables" in inspect.signature(function).parameters)
            assert any(command.study == claim.study for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.key)
def test_every_command_is_one_of_the_command_line(command: Command) -> None:
    assert build(command.study).parse_args(command.arguments.split(), exit_on_error=False, print_error=False)


def test_the_page_has_every_claim_with_a_verdict_that_its_figures_bear_out() -> None:
    rows = [line[2:-2].split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    rows = [[cell.strip() for cell in row] for row in rows if row[0] != "claim"]
    assert {row[0] for row in rows} == {claim.says for claim in CLAIMS}
    keys = {command.key for command in COMMANDS}
    for says, network, _, _, figure, bound, verdict, key in rows:
        assert verdict.split(":")[0] in (BORNE_OUT, NOT, UNDECIDED), says
        assert bound.startswith(("at least", "at most")), says
        assert (key in keys) == bool(network) == bool(figure), says
        if figure and not verdict.startswith(UNDECIDED):
            assert verdict == _judged(figure, bound, next(c for c in CLAIMS if c.says == says)), says


def _judged(figure: str, bound: str, claim: Claim) -> str:
    """The verdict by what the page shows alone, as a reader would find it."""
    assert bound == claim.bound
    scale = 100 if claim.unit else 1
    numbers = [float(word.strip("()")) for word in figure.split() if word.strip("()%-")[:1].isdigit()]
    low, high = (numbers[1], numbers[2]) if len(numbers) == 3 else (numbers[0], numbers[0])
    return judge(Evidence(numbers[0], low, high, 1), scale * claim.at_least, scale * claim.at_most)


def test_names_with_bars_do_not_break_the_table() -> None:
    claim = Claim("Stress", "a|b", "noise", "c", at_least=0.0)
    page = write_page([Entry(claim, Command("case", "noise", "noise n"), "n|m", "s", Evidence(1.0, 0.5, 1.5, 10))])
    line = next(line for line in page.splitlines() if line.startswith("| a/b"))
    assert line.count(" | ") == 7
    assert BORNE_OUT in line

"""The ledger: what five documents claim of trained networks, and what Netopsy's cases say of each claim.

    python scripts/ledger.py run CASES --networks W --images S      # makes the cases, one after the other; resumable
    python scripts/ledger.py page CASES --out docs/ledger.md        # from the cases that are there

W holds the networks and S the images that docs/findings.md names, under the file names in scripts/ledger.toml, which
lists the claims and the commands.
"""

from __future__ import annotations

import argparse
import inspect
import math
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

import ledger_measures
from ledger_measures import Evidence, Measure, Tables, number
from netopsy.case import Case
from netopsy.errors import NetopsyError

LIST = Path(__file__).with_name("ledger.toml")
BORNE_OUT, NOT, UNDECIDED = "borne out", "not borne out", "undecided"
OF_WEIGHTS = ("parameters", "distributions", "filters")
"""Studies that look at no sample."""
DOCUMENTS = {
    "Autopsy": "Lorieul, Ghorra and Merialdo, *Static and Dynamic Autopsy of Deep Networks*, on AlexNet",
    "Triage": "Nowak and Corso, *Deep Net Triage*, on VGG-16",
    "Probing": "Palmieri et al., *Probing a Deep Neural Network*, on VGG-16",
    "Stress": "Carvalho et al., *Deep Neural Networks Under Stress*, on VGG-M, GoogLeNet and bags of words",
    "Interpreting": "The lecture *Interpreting Deep Networks*, with Li et al., Han et al. and Zeiler and Fergus, whom "
    "it quotes, on AlexNet and VGG-16",
}


@dataclass(frozen=True)
class Claim:
    """What a document says, in our words: `measured` by the function `by` of `of`, within the bounds, in `unit`."""

    document: str
    says: str
    study: str
    measured: str
    by: str = ""
    of: list[Any] = field(default_factory=list)
    at_least: float = -math.inf
    at_most: float = math.inf
    unit: str = ""
    wants: str = "no case of it was made"

    def measure(self, tables: Tables) -> Evidence | None:
        """The figure of a case, or None where it cannot tell."""
        if not self.by:
            return None
        function = getattr(ledger_measures, self.by)
        takes_tables = "tables" in inspect.signature(function).parameters
        measure: Measure = function if takes_tables else function(*self.of)
        return measure(tables)

    @property
    def bound(self) -> str:
        bounds = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {number(value, self.unit)}" for word, value in bounds if math.isfinite(value))


@dataclass(frozen=True)
class Command:
    """A command whose Result is asked: the name of the case that it writes, the study, all arguments of `netopsy`."""

    case: str
    study: str
    arguments: str

    @property
    def key(self) -> str:
        return f"{self.case}-{self.study}"


@dataclass(frozen=True)
class Entry:
    """One claim on one network: a row of the ledger. No command where no case could tell."""

    claim: Claim
    command: Command | None = None
    network: str = ""
    samples: str = ""
    evidence: Evidence | None = None

    @property
    def verdict(self) -> str:
        if self.evidence is None:
            return f"{UNDECIDED}: {self.claim.wants}"
        return judge(self.evidence, self.claim.at_least, self.claim.at_most)


def read_list(path: Path = LIST) -> tuple[list[Claim], list[Command]]:
    """The claims and the commands of the list."""
    words = tomllib.loads(path.read_text(encoding="utf-8"))
    commands = [
        Command(case["name"], study, f"{study} {case['arguments']} {further}".strip())
        for case in words["case"]
        for study, further in case["studies"].items()
    ]
    return [Claim(**claim) for claim in words["claim"]], commands


def judge(evidence: Evidence, at_least: float, at_most: float) -> str:
    """What an interval says of a claim: borne out where it lies within the bounds, not where it lies outside.

    Else undecided, with how many samples would decide it if the figure stayed where it is: an interval shrinks with the
    root of their number, so n becomes n (half width / distance to the bound)^2.
    """
    if at_least <= evidence.low and evidence.high <= at_most:
        return BORNE_OUT
    if evidence.high < at_least or evidence.low > at_most:
        return NOT
    distance = min(abs(evidence.figure - at_least), abs(evidence.figure - at_most))
    if not evidence.samples or distance == 0:
        return f"{UNDECIDED}: the figure lies on the bound"
    reach = max(evidence.high - evidence.figure, evidence.figure - evidence.low)
    needed = max(int(float(f"{evidence.samples * (reach / distance) ** 2:.2g}")), evidence.samples + 1)
    return f"{UNDECIDED}: about {needed:,} {evidence.noun} would decide it"


def entries(folder: Path) -> Iterator[Entry]:
    """Each claim on each case in `folder` that can tell of it, in the order of the claims."""
    claims, commands = read_list()
    names = {command.case for command in commands}
    cases = {name: Case(folder / name, create=False) for name in names if (folder / name / "case.json").exists()}
    for claim in claims:
        yield from list(_asked(claim, commands, cases)) or [Entry(claim)]


def _asked(claim: Claim, commands: list[Command], cases: Mapping[str, Case]) -> Iterator[Entry]:
    for command in commands:
        if command.study != claim.study or command.case not in cases or claim.study not in cases[command.case].names:
            continue
        result = cases[command.case].load(claim.study)
        evidence = claim.measure(result.tables)
        if evidence is not None:
            network, samples = result.provenance["network"], result.provenance.get("samples")
            name = samples["name"] if samples and claim.study not in OF_WEIGHTS else ""
            yield Entry(claim, command, network["name"], name, evidence)


def write_page(rows: list[Entry]) -> str:
    """The page: a table a document, then the commands."""
    counts = {word: sum(row.verdict.startswith(word) for row in rows) for word in (BORNE_OUT, NOT, UNDECIDED)}
    claims = len({(row.claim.document, row.claim.says) for row in rows})
    lines = [
        "# The ledger of claims",
        "",
        f"Do the claims of the five documents hold for other networks? {claims} claims, held against the networks and "
        f"images of [Findings](findings.md): {counts[BORNE_OUT]} rows bear theirs out, {counts[NOT]} do not, "
        f"{counts[UNDECIDED]} cannot tell.",
        "",
        "A claim is borne out where the whole 95 % interval lies within its bound, not where the whole interval lies "
        "outside, and undecided else; then the row says how many samples would decide it if the figure stayed where it "
        "is. The bounds are ours where a document gives words and no number. A figure of the weights alone has no "
        "interval, as other samples would not change it; the share of a score that is kept has, as an approximation, "
        "that of an accuracy as high on as many images. The last column names the command, listed at the end; "
        "`python scripts/ledger.py run` runs them all, and `page` makes this page from their cases.",
    ]
    for document, source in DOCUMENTS.items():
        lines += ["", f"## {document}", "", f"{source}.", ""]
        lines += ["| claim | network | samples | measured | figure (95 % interval) | bound | verdict | command |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [_line(row) for row in rows if row.claim.document == document]
    lines += ["", "## Commands", "", "`W` is the folder of networks, `S` that of images; each takes `--out case`.", ""]
    used = dict.fromkeys(row.command for row in rows if row.command)
    lines += [f"    {command.key}: netopsy {command.arguments}" for command in used]
    return "\n".join(lines) + "\n"


def _line(row: Entry) -> str:
    figure, key = row.evidence.text if row.evidence else "", row.command.key if row.command else ""
    cells = (row.claim.says, row.network, row.samples, row.claim.measured, figure, row.claim.bound, row.verdict, key)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def run_all(folder: Path, networks: Path, images: Path, only: str) -> int:
    """Runs every command whose Result is not there yet; how many failed."""
    failures = 0
    for command in read_list()[1]:
        path = folder / command.case
        if only not in ("", command.case, command.key):
            continue
        if (path / "case.json").exists() and command.study in Case(path).names:
            continue
        words = [w.replace("W/", f"{networks}/").replace("S/", f"{images}/") for w in command.arguments.split()]
        print(f"{command.key}: netopsy {command.arguments}", flush=True)
        process = [sys.executable, "-m", "netopsy", *words, "--quiet", "--out", str(path)]
        failures += subprocess.run(process, check=False).returncode != 0
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "page"))
    parser.add_argument("cases", type=Path)
    parser.add_argument("--networks", type=Path, default=Path("W"))
    parser.add_argument("--images", type=Path, default=Path("S"))
    parser.add_argument("--only", default="", help="a case, or a command as the page names it")
    parser.add_argument("--out", type=Path, default=Path("docs/ledger.md"))
    options = parser.parse_args()
    if options.what == "run":
        return run_all(options.cases, options.networks, options.images, options.only)
    rows = list(entries(options.cases))
    options.out.write_text(write_page(rows), encoding="utf-8")
    print(pl.DataFrame({"verdict": [row.verdict.split(":")[0] for row in rows]})["verdict"].value_counts())
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except NetopsyError as error:
        raise SystemExit(str(error)) from error

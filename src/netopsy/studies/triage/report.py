"""The Result of a run: tables, figures, pictures and sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netopsy.result import Result
from netopsy.studies.triage import tables as t
from netopsy.studies.triage.block_tests import criticality
from netopsy.studies.triage.figures import figures
from netopsy.studies.triage.findings import findings
from netopsy.studies.triage.pictures import images
from netopsy.wording import listing

if TYPE_CHECKING:
    from netopsy.studies.triage.run import Run
    from netopsy.studies.triage.triage import Triage


def written(study: Triage, run: Run) -> Result:
    """All that is to be said of the run."""
    if not run.blocks:
        return study.result(findings=[_untreatable(run)])
    cells = t.cells(run)
    tables = {
        "summary": t.summary(cells),
        "cells": cells,
        "criticality": criticality(run),
        "baselines": t.baselines(run),
        "blocks": t.blocks(run),
    }
    if run.deeper:
        tables["deeper"] = t.deeper(run)
    tables["history"] = t.history(run)
    return study.result(
        tables=tables,
        figures=figures(tables),
        images=images(run, study.pictures),
        findings=findings(tables, study, [block.name for block in run.left]),
    )


def _untreatable(run: Run) -> str:
    text = f"{run.network.name} has no block of two or more layers that one layer could stand in for"
    if not run.left:
        return f"{text}: it has no stretch of layers with one input and one output."
    why = listing([f"{block.name} ({str(block.obstacle).rstrip('.')})" for block in run.left], 3)
    return f"{text}: {why}."

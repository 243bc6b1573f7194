"""The table of studies."""

from __future__ import annotations

import polars as pl

from netopsy.studies import STUDIES


def list_studies() -> pl.DataFrame:
    """Every study: `study`, `what` it answers."""
    return pl.DataFrame({"study": list(STUDIES), "what": [line for _, _, line in STUDIES.values()]})

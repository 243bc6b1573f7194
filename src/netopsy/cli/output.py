"""What a command prints: findings, tables, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from netopsy.result import Result

ROWS = 40


def print_result(result: Result, as_json: bool) -> None:
    """Findings and tables; long tables are cut, with a word about where the rest is."""
    if as_json:
        tables = {name: frame.to_dicts() for name, frame in result.tables.items()}
        data = {"study": result.study, "settings": result.settings, "findings": result.findings, "tables": tables}
        print(json.dumps({**data, "provenance": result.provenance}, default=str, allow_nan=True))
        return
    for finding in result.findings:
        print(finding)
    for name, frame in result.tables.items():
        print_table(frame, name)


def print_table(frame: pl.DataFrame, title: str, rows: int = ROWS) -> None:
    """A frame as aligned text, numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column, kind in frame.schema.items():
        table.add_column(column, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.head(rows).iter_rows():
        table.add_row(*map(text, row))
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)
    console.print()
    console.print(table)
    if frame.height > rows:
        console.print(f"... {frame.height - rows} more rows; --json prints them all.")


def text(value: Any) -> str:
    """A table's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e5 else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return "x".join(map(str, value))
    return str(value)


@contextmanager
def progress() -> Iterator[Any]:
    """A callback (label, done, total) that draws bars on the terminal's error stream."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def update(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(label, total=total)
            bar.update(tasks[label], completed=done, total=total)

        yield update

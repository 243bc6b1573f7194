"""What a command prints: findings, tables as text, JSON or CSV, and where the report is."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from netopsy.errors import SettingsError

if TYPE_CHECKING:
    import polars as pl

    from netopsy.case import Case
    from netopsy.result import Result

ROWS = 40
FINDINGS = 3  # of each study, after an examination
_GAP = 2  # between two columns
_NARROW = 14  # the least width of a column of sentences


@dataclass(frozen=True)
class Output:
    """How a command shows what it made; the options of the group Output, under their own names."""

    json: bool = False
    csv: bool = False
    table: str | None = None
    all_columns: bool = False
    open: bool = False
    quiet: bool = False
    verbose: bool = False
    fail_on: Literal["error", "warning"] | None = None

    @classmethod
    def take(cls, options: dict[str, Any]) -> Output:
        """Take these options out of all that a command was given. Errors: SettingsError where two contradict."""
        output = cls(**{f.name: options.pop(f.name) for f in fields(cls) if f.name in options})
        for one, other in (("json", "csv"), ("quiet", "verbose")):
            if getattr(output, one) and getattr(output, other):
                raise SettingsError(f"--{one} and --{other} contradict each other: give one of them.")
        return output

    def show_frame(self, frame: pl.DataFrame, title: str, columns: list[str], notes: str = "") -> None:
        """One table: as JSON or CSV whole, as text its `columns` and the notes below."""
        if self.json:
            print(frame.write_json())
        elif self.csv:
            print(to_csv(frame), end="")
        else:
            print_table(frame if self.all_columns else frame.select(columns), title, frame.height, self.all_columns)
            print(f"\n{notes}" if notes else "")

    def show_result(self, result: Result) -> None:
        """Alerts, findings and tables; long tables are cut, with a word about where the rest is."""
        tables = result.tables
        if self.table is not None:
            if self.table not in tables:
                raise SettingsError(
                    f"'{result.study}' has no table '{self.table}'; it has: {', '.join(tables) or 'none'}."
                )
            tables = {self.table: tables[self.table]}
        if self.json:
            rows = {name: frame.to_dicts() for name, frame in tables.items()}
            data = {"study": result.study, "settings": result.settings, "findings": result.findings, "tables": rows}
            alerts = [asdict(alert) for alert in result.alerts]
            print(json.dumps({**data, "alerts": alerts, "provenance": result.provenance}, default=str, allow_nan=True))
            return
        if self.csv:
            for number, (name, frame) in enumerate(tables.items()):
                head = "" if len(tables) == 1 else f"{chr(10) if number else ''}# {name}\n"
                print(f"{head}{to_csv(frame)}", end="")
            return
        if self.table is None:
            _print_alerts([result])
            for finding in result.findings:
                print(finding)
        if not self.quiet or self.table is not None:
            for name, frame in tables.items():
                print_table(frame, name, ROWS, self.all_columns)

    def show_case(self, case: Any, new: list[str], kept: list[str]) -> None:
        """Alerts and findings of an examination, which studies are new and which the case had, where the report is."""
        page = case.path / "index.html"
        if not self.quiet:
            results = case.results
            _print_alerts(results)
            wrong = any(alert.level == "error" for result in results for alert in result.alerts)
            for result in results:
                if wrong and result.group in ("losses", "size"):
                    continue
                for finding in result.findings if self.verbose else result.findings[:FINDINGS]:
                    print(f"{result.study}: {finding}")
            if wrong:
                print("What the network can lose is not judged before the error is mended.")
            print()
            if kept:
                print(f"From the case, with the same network, samples and settings: {', '.join(kept)}.")
                print(f"New: {', '.join(new) or 'none'}.")
        print(f"Report: {page}")
        self.open_page(page)

    def write_figures(self, case: Case, name: str | None, *, format: str | None, out: str | None, **style: Any) -> None:
        """The figure of a case called `name`, or all that match it, for print; prints the paths. Without a name, all
        names.

        style: width, theme and dpi, as `Figure.save` has them.
        """
        from netopsy.report.summary import file_stem

        frame = case.list_figures()
        if name is None:
            notes = f"{frame.height} figures; `netopsy figure {case.path} NAME` writes one."
            self.show_frame(frame, str(case.path), ["name", "kind"], notes)
            return
        several = "*" in name
        chosen = [one for one in frame["name"] if fnmatch(one, name)] if several else [case.full_name(name)]
        if several and format == "npz":  # charts hold no pictures
            pictured = set(frame.filter(kind="picture")["name"])
            chosen = [one for one in chosen if one in pictured]
        if not chosen:
            raise SettingsError(f"no figure matches '{name}'; `netopsy figure {case.path}` lists all.")
        ending = Path(out).suffix[1:].lower() if out and not several else ""
        format = format or ending or "pdf"
        folder = Path(out or ".") if several else Path(".")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"cannot write to '{folder}' ({error.strerror}): give another --out.") from error
        result: Result | None = None
        for one in chosen:
            study, _, rest = one.partition("/")
            if result is None or result.study != study:
                result = case.load(study)
            path = Path(out) if out and not several else folder / f"{study}-{file_stem(rest)}.{format}"
            print(result.figure(rest).save(path, format=format, **style))

    def exit_code(self, results: Iterable[Result]) -> int:
        """1 where an alert is of the level of --fail-on or worse, else 0."""
        failing = {None: (), "error": ("error",), "warning": ("error", "warning")}[self.fail_on]
        return int(any(alert.level in failing for result in results for alert in result.alerts))

    def open_page(self, page: Path | str) -> None:
        """Open a page or an address in the browser, where --open asks for it."""
        if not self.open:
            return
        import webbrowser

        address = page.resolve().as_uri() if isinstance(page, Path) else page
        if not webbrowser.open(address):
            print(f"netopsy: no browser could be opened here; open {address} yourself.", file=sys.stderr)


def _print_alerts(results: Iterable[Result]) -> None:
    """What a reader must know first, the worst in front, with what to do."""
    from netopsy.result import LEVELS

    alerts = [alert for result in results for alert in result.alerts]
    for alert in sorted(alerts, key=lambda alert: LEVELS.index(alert.level)):
        print(f"{alert.level}: {alert.message} {alert.advice}".rstrip())


def to_csv(frame: pl.DataFrame) -> str:
    """A table as CSV, numbers in full; a list in a cell becomes JSON."""
    import polars as pl

    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    texts = [pl.Series(name, [_json(value) for value in frame[name]], pl.String) for name in nested]
    return frame.with_columns(texts).write_csv()


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(getattr(value, "to_list", lambda: value)(), default=str)


def print_table(frame: pl.DataFrame, title: str, rows: int = ROWS, all_columns: bool = False) -> None:
    """A frame as aligned text, numbers to the right, in the width of the terminal; 80 columns where there is none.

    A name or a number is never broken; sentences are wrapped. Columns that find no room, from the right, are named
    below. all_columns: none is left out, whatever the width.
    """
    from rich.console import Console
    from rich.table import Table

    shown = frame.head(rows)
    cells = {name: [text(value) for value in shown[name].to_list()] for name in shown.columns}
    widths = {name: _widths(name, column) for name, column in cells.items()}
    width = 10_000 if all_columns else shutil.get_terminal_size((80, 24)).columns
    width = max(width, next(iter(widths.values()), (0, 0))[0])  # a name longer than the line stays whole too
    chosen = list(cells) if all_columns else _fitting(widths, width)
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for name in chosen:
        least, most = widths[name]
        right = frame.schema[name].is_numeric()
        table.add_column(name, justify="right" if right else "left", min_width=least, no_wrap=least == most)
    for row in zip(*(cells[name] for name in chosen), strict=True):
        table.add_row(*row)
    console = Console(width=width, highlight=False, markup=False)
    console.print()
    console.print(table)
    if left := [name for name in cells if name not in chosen]:
        names = ", ".join(left)
        print(f"{len(left)} more column{'s' if len(left) > 1 else ''} ({names}): --all-columns, --csv or --json.")
    if frame.height > rows:
        print(f"... {frame.height - rows:,} more rows: --csv or --json.")


def _widths(name: str, cells: list[str]) -> tuple[int, int]:
    """The least and the most characters that a column needs: a sentence can be wrapped, a name cannot."""
    most = max(map(len, (name, *cells)))
    words = [max(map(len, cell.split(" "))) for cell in (name, *cells)]
    sentences = most > _NARROW and any(cell.count(" ") > 2 for cell in cells)
    return (max(_NARROW, *words), most) if sentences else (most, most)


def _fitting(widths: dict[str, tuple[int, int]], room: int) -> list[str]:
    """The columns from the left that fit side by side; at least the first."""
    chosen: list[str] = []
    for name, (least, _) in widths.items():
        room -= least + (_GAP if chosen else 0)
        if room < 0 and chosen:
            break
        chosen.append(name)
    return chosen


def text(value: Any) -> str:
    """A table's cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e5 else f"{value:.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return ("x" if all(isinstance(part, int) for part in value) else ", ").join(map(str, value))
    return str(value)

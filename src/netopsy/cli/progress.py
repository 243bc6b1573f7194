"""Progress of long work on the error stream: one line that is replaced, or without a terminal a line a study."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from netopsy.wording import duration

HEARTBEAT = 60.0  # seconds after which a line says that a long study is still at work, where nothing else does
EVERY = 0.2  # seconds between two states of the line on a terminal
SETTLE = 0.3  # share of a new estimate in the one that is shown

# Seconds each study takes, of `netopsy examine netopsy:digits-a --samples digits --count 200` on two cores: only their
# ratios count, and at least half a second: to say how much is left before the later studies have begun.
TYPICAL = {
    "baseline": 0.5,
    "parameters": 0.5,
    "distributions": 1.4,
    "filters": 0.5,
    "priors": 0.6,
    "sparsity": 0.5,
    "activations": 0.5,
    "reconstruct": 1,
    "stimuli": 3,
    "maximize": 4,
    "field": 1,
    "facets": 3,
    "transfer": 8,
    "noise": 5,
    "rounding": 4,
    "codebook": 12,
    "filter_codebook": 3,
    "prescribe": 6,
    "correspondence": 5,
    "compression": 60,
    "triage": 60,
    "dsd": 60,
}
OTHERWISE = 3.0


class Progress:
    """What is at work, how far it has come, and about how long it will take; called with (label, done, total).

    An examination tells its plan before it begins (`examine`): each study, and whether the case has it. One study alone
    has its name here. new, kept: the studies that ran, and those that came from the case, in the order of the plan.
    """

    def __init__(self, study: str = "") -> None:
        self.new: list[str] = []
        self.kept: list[str] = []
        self._plan: list[tuple[str, bool]] = [(study, False)] if study else []
        self._number = 0 if study else -1  # of the study at work; -1 where there is none
        self._begun = self._changed = time.monotonic()
        self._part: tuple[str, int, int] = ("", 0, 0)
        self._part_begun: tuple[float, int] = (self._begun, 0)
        self._cost, self._seconds = 0.0, 0.0  # of the studies that ran: what is typical, and what they took
        self._end: float | None = None
        self.line_done: Callable[[str], object] = len  # takes a line for each finished study; `len` shows none

    def __call__(self, label: str, done: int, total: int) -> None:
        now = self._changed = time.monotonic()
        if label.rpartition(": ")[2] == "examine":  # a set of a protocol puts its own name before
            self._turn(done, total, now)
        elif self._number < 0:  # the plan
            self._plan.append((label, done >= total))
        else:
            if label != self._part[0]:
                self._part_begun = (now, done)
            self._part = (label, done, total)

    def _turn(self, number: int, total: int, now: float) -> None:
        """Close the study before and open the study of this number."""
        if self._number >= 0:
            self._close(now)
        self._number, self._begun, self._part = number, now, ("", 0, 0)
        self._part_begun = (now, 0)
        if number >= total:
            self._number, self._plan = -1, []

    def _close(self, now: float) -> None:
        name, kept = self._plan[self._number]
        (self.kept if kept else self.new).append(name)
        if kept:
            self.line_done(f"{self._place()} {name} from the case")
            return
        seconds = now - self._begun
        self._cost += _cost(name)
        self._seconds += seconds
        left = self._left_after(self._number) * self._pace()
        more = f", about {duration(left)} left" if left >= 1 else ""
        self.line_done(f"{self._place()} {name} {clock(seconds)}{more}".strip())

    def finish(self, tell: bool) -> None:
        """Close a study that stands alone. tell: even if it was short."""
        if self._number >= 0 and len(self._plan) == 1:
            now = time.monotonic()
            if not tell and now - self._begun < HEARTBEAT:
                self.line_done = len
            self._close(now)
            self._number = -1

    def line(self) -> str:
        """What is at work now, in one line; empty where nothing is."""
        if not 0 <= self._number < len(self._plan):
            return ""
        now = time.monotonic()
        name, (label, done, total) = self._plan[self._number][0], self._part
        part = f" ({label.rpartition(': ')[2]} {100 * done // total} %)" if total else ""
        left = self._left(now)
        more = "" if left is None else f", about {duration(left)} left"
        return f"{self._place()} {name} {clock(now - self._begun)}{part}{more}".strip()

    def _place(self) -> str:
        return f"[{self._number + 1}/{len(self._plan)}]" if len(self._plan) > 1 else ""

    def _pace(self) -> float:
        """Seconds a unit of typical cost, of what has run."""
        return self._seconds / self._cost if self._cost else 0.0

    def _left_after(self, number: int) -> float:
        """The typical cost of the studies after this one that the case does not have."""
        return sum(_cost(name) for name, kept in self._plan[number + 1 :] if not kept)

    def _left(self, now: float) -> float | None:
        """Seconds to the end of all, smoothed so that the figure settles; None before anything is known."""
        name, so_far = self._plan[self._number][0], now - self._begun
        _, done, total = self._part
        since, first = self._part_begun
        of_part = (now - since) * (total - done) / (done - first) if done > first else None
        usual = self._pace() * _cost(name)
        if of_part is None and not usual:
            return None
        # What is usual says less the more of the part is done; later parts of the study nobody knows.
        known = 0.0 if of_part is None else done / total
        here = known * (of_part or 0.0) + (1 - known) * max(of_part or 0.0, usual - so_far, 0.0)
        pace = (self._seconds + so_far + here) / (self._cost + _cost(name))
        end = now + here + pace * self._left_after(self._number)
        self._end = end if self._end is None else (1 - SETTLE) * self._end + SETTLE * end
        return max(self._end - now, 0.0)


def _cost(study: str) -> float:
    return TYPICAL.get(study.rpartition(": ")[2], OTHERWISE)


def clock(seconds: float) -> str:
    """How long something took: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextmanager
def show_progress(study: str = "", *, quiet: bool = False, verbose: bool = False) -> Iterator[Progress]:
    """A callback (label, done, total) that shows on the error stream what is at work.

    study: the name of the one study that runs; an examination names its own. verbose: also on a terminal each finished
    study keeps its line. Without a terminal a long study says so once a minute, and a short one alone says nothing.
    """
    from rich.console import Console

    progress = Progress(study)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    if quiet:
        yield progress
    elif console.is_terminal and not console.is_dumb_terminal:
        with _replaced_line(progress, console, verbose):
            yield progress
    else:
        with _plain_lines(progress, console, verbose):
            yield progress
    progress.finish(verbose)


@contextmanager
def _replaced_line(progress: Progress, console: Any, verbose: bool) -> Iterator[None]:
    from rich.live import Live
    from rich.text import Text

    def draw() -> Text:
        return Text(progress.line(), no_wrap=True, overflow="ellipsis")

    live = Live(
        get_renderable=draw, console=console, transient=True, refresh_per_second=1 / EVERY, redirect_stdout=False
    )
    if verbose:
        progress.line_done = console.print
    with live:
        yield


@contextmanager
def _plain_lines(progress: Progress, console: Any, verbose: bool) -> Iterator[None]:
    ended, last = threading.Event(), [time.monotonic()]

    def write(line: str) -> None:
        last[0] = time.monotonic()
        console.print(line)

    def beat() -> None:
        while not ended.wait(max(last[0] + HEARTBEAT - time.monotonic(), 0.01)):
            if time.monotonic() - last[0] >= HEARTBEAT:
                write(progress.line() or "still at work")

    progress.line_done = write
    thread = threading.Thread(target=beat, name="netopsy-progress", daemon=True)
    thread.start()
    try:
        yield
        progress.finish(verbose)
    finally:
        ended.set()
        thread.join()

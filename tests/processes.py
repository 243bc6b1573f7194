"""Work that is stopped: by its progress function, or in a process of its own, which can import what the tests can."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable


def run_process(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run `code` on one thread, with `words` behind its name in sys.argv."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


class Stop(Exception):
    """What `stopping` raises."""


def stopping(at: int) -> Callable[[str, int, int], None]:
    """A progress function that stops the work as soon as `at` of its samples are done."""

    def progress(label: str, done: int, total: int) -> None:
        if done >= at:
            raise Stop

    return progress

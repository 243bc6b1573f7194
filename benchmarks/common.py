"""What every benchmark needs: a wall clock, the peak memory of a process of its own, a line with the ratio."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of one call, and what it returned."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def peak_memory() -> float:
    """Largest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON that `script`, run as a process with `arguments`, prints on its last line."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def ratio(ours: float, theirs: float, peer: str, note: str = "") -> None:
    """Print how many times longer the peer takes."""
    print(f"netopsy vs {peer}: {theirs / ours:.1f}x{note}")

"""What every benchmark needs: a clock, the peak memory of a process of its own, the ratio in words and in JSON."""

from __future__ import annotations

import argparse
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


def add_tiny(parser: argparse.ArgumentParser) -> None:
    """The switch by which the tests run a benchmark."""
    parser.add_argument("--tiny", action="store_true", help="everything small: seconds, whose figures say nothing")


def shrink(options: argparse.Namespace, **small: Any) -> None:
    """Under `--tiny`, set the options to `small`."""
    if options.tiny:
        vars(options).update(small)


def tell(benchmark: str, ratio: float | None, **figures: Any) -> None:
    """The last line, in JSON: the ratio that the benchmark is about (None where it has no peer), and its figures."""
    print(json.dumps({"benchmark": benchmark, "ratio": ratio} | figures))

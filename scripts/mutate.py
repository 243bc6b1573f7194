"""Mutation testing: change one operator or number of the source and see whether a test notices.

    python scripts/mutate.py [--count 40] [--seed 0] [--only stats/,engine/sweep] [--seconds 300] [--tiny]

A mutation swaps a comparison, an operation, `and` and `or`, `min` and `max`, or adds one to a whole number (doubles a
fraction). It is made in a temporary copy of src/, never in the tree, at most one a file, and only those test files run
that import the changed module, or the study that holds it. A test that fails is run once more on the unchanged copy, so
that a test that fails anyway kills nothing. Printed at the end are the survivors: each is a hole in the tests, or makes
no difference (the size of a batch, where a search begins). The last line is JSON.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("engine/", "stats/", "studies/")
SWAPS: dict[type, tuple[bytes, bytes]] = {
    ast.Lt: (b"<", b"<="),
    ast.LtE: (b"<=", b"<"),
    ast.Gt: (b">", b">="),
    ast.GtE: (b">=", b">"),
    ast.Eq: (b"==", b"!="),
    ast.NotEq: (b"!=", b"=="),
    ast.Add: (b"+", b"-"),
    ast.Sub: (b"-", b"+"),
    ast.Mult: (b"*", b"/"),
    ast.Div: (b"/", b"*"),
    ast.FloorDiv: (b"//", b"*"),
    ast.Mod: (b"%", b"*"),
    ast.And: (b"and", b"or"),
    ast.Or: (b"or", b"and"),
}
CALLS = {"min": b"max", "max": b"min", "amax": b"amin", "amin": b"amax", "argmax": b"argmin", "argmin": b"argmax"}


@dataclass(frozen=True)
class Mutation:
    """The bytes of `path` (below src/netopsy) from `start` to `stop` become `new`."""

    path: str
    start: int
    stop: int
    new: bytes

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new + source[self.stop :]

    def describe(self, source: bytes) -> str:
        """File, line, and the line before and after."""
        number = source.count(b"\n", 0, self.start)
        before, after = (text.split(b"\n")[number].decode().strip() for text in (source, self.apply(source)))
        return f"{self.path}:{number + 1}: {before}  ->  {after}"


def mutations(path: str, source: bytes) -> Iterator[Mutation]:
    """Every mutation of a file, outside of annotations and texts."""
    starts = [0]
    for line in source.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)

    def begin(node: ast.expr) -> int:
        return starts[node.lineno - 1] + node.col_offset

    def end(node: ast.expr) -> int:
        return starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def swap(operator: ast.AST, left: ast.expr, right: ast.expr) -> Iterator[Mutation]:
        old, new = SWAPS.get(type(operator), (b"", b""))
        at = source.find(old, end(left), begin(right)) if old else -1
        if at >= 0:
            yield Mutation(path, at, at + len(old), new)

    def visit(node: ast.AST) -> Iterator[Mutation]:
        if isinstance(node, ast.Compare):
            for operator, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
                yield from swap(operator, left, right)
        elif isinstance(node, ast.BinOp):
            yield from swap(node.op, node.left, node.right)
        elif isinstance(node, ast.BoolOp):
            yield from swap(node.op, node.values[0], node.values[1])
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
            if name in CALLS:
                yield Mutation(path, end(node.func) - len(name), end(node.func), CALLS[name])
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            new = node.value + 1 if isinstance(node.value, int) else node.value * 2
            yield Mutation(path, begin(node), end(node), repr(new).encode())
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child)

    yield from visit(ast.parse(source))


def choose(only: tuple[str, ...], count: int, seed: int) -> list[Mutation]:
    """`count` mutations drawn by `seed`, at most one a file, larger files more often."""
    package = ROOT / "src" / "netopsy"
    every = [
        mutation
        for file in sorted(package.rglob("*.py"))
        if (path := file.relative_to(package).as_posix()).startswith(only)
        for mutation in mutations(path, file.read_bytes())
    ]
    random.Random(seed).shuffle(every)
    first: dict[str, Mutation] = {}
    for mutation in every:
        first.setdefault(mutation.path, mutation)
    return list(first.values())[:count]


def relevant_tests(path: str) -> list[str]:
    """The test files that import the module, and those of the study that holds it; else those of its package."""
    module = "netopsy." + path.removesuffix(".py").replace("/", ".")
    package, study = module.rpartition(".")[0], path.split("/")[1].removesuffix(".py")
    texts = {file: file.read_text() for file in sorted((ROOT / "tests").rglob("test_*.py"))}
    files = [file for file, text in texts.items() if re.search(rf"\b{re.escape(module)}\b", text)]
    if path.startswith("studies/"):
        used = re.compile(rf"netopsy\.(studies\.)?{study}\b|import .*\b{study}\b")
        files += [file for file, text in texts.items() if study in file.stem or used.search(text)]
    files = files or [file for file, text in texts.items() if re.search(rf"\b{re.escape(package)}\b", text)]
    return [str(file.relative_to(ROOT)) for file in dict.fromkeys(files)]


def run_tests(source: Path, tests: list[str], seconds: float) -> str | None:
    """The first test that fails with the package from `source`; `too slow` where it takes too long, None for none."""
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow and not browser", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *tests], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return "too slow"
    if done.returncode in (0, 5):
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?)(?: - .*)?$", done.stdout, re.M)
    return failed[1] if failed else "crash"


def judge(mutation: Mutation, source: Path, seconds: float) -> str:
    """`killed by TEST`, `survived`, or `no verdict` where the test fails on the unchanged source too."""
    tests = relevant_tests(mutation.path)
    if not tests:
        return "survived: no test imports it"
    file = source / "netopsy" / mutation.path
    plain = file.read_bytes()
    file.write_bytes(mutation.apply(plain))
    try:
        failed = run_tests(source, tests, seconds)
    finally:
        file.write_bytes(plain)
    if failed is None:
        return "survived"
    again = tests if failed in ("too slow", "crash") else [failed]
    if run_tests(source, again, seconds) is not None:
        return f"no verdict: {failed} on the unchanged source too"
    return f"killed by {failed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(ROOMS), help="what the files' paths begin with")
    parser.add_argument("--seconds", type=float, default=300, help="limit of one run of tests")
    parser.add_argument("--tiny", action="store_true", help="one mutation of stats/retrieval.py")
    options = parser.parse_args()
    if options.tiny:
        options.only, options.count = "stats/retrieval.py", 1
    verdicts: list[tuple[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for mutation in choose(tuple(options.only.split(",")), options.count, options.seed):
            what = mutation.describe((source / "netopsy" / mutation.path).read_bytes())
            verdicts.append((what, judge(mutation, source, options.seconds)))
            print(f"{what}\n    {verdicts[-1][1]}", flush=True)
    survivors = [what for what, verdict in verdicts if verdict.startswith("survived")]
    killed = sum(verdict.startswith("killed") for _, verdict in verdicts)
    print(f"{killed} of {len(verdicts)} mutations killed; survivors:", *survivors, sep="\n")
    print(json.dumps({"script": "mutate", "mutations": len(verdicts), "killed": killed, "survivors": survivors}))


if __name__ == "__main__":
    main()

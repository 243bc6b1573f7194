"""The house keeps its order: imports point one way, files stay small, public names are known."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import netopsy

ROOT = Path(netopsy.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# The floors of the house, from the ground up: a part imports itself and the floors below.
FLOORS = [
    ["errors", "files", "wording"],
    ["checks", "codec"],
    ["stats"],
    ["network"],
    ["samples"],
    ["provenance"],
    ["engine"],
    ["blocks", "tallies", "transform", "pictures", "deep_compression"],
    ["features"],
    ["result"],
    ["report", "charts"],
    ["case"],
    ["studies"],
    ["examination"],
    ["protocol"],
    ["cli"],
]
UPWARD = {("result", "report")}  # a result shows itself in a notebook, when asked
ONLY = {"stats": {"errors", "checks"}, "report": {"errors", "files", "result"}}


def allowed(part: str) -> set[str]:
    """What `part` may import, besides itself."""
    floor = next(i for i, rooms in enumerate(FLOORS) if part in rooms)
    below = {room for rooms in FLOORS[:floor] for room in rooms}
    return ONLY.get(part, below | {above for lower, above in UPWARD if lower == part})


def parts(path: Path) -> str:
    """The part of the house that a file belongs to."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Names below `netopsy.` that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netopsy"):
            assert node.level == 0
            module = (node.module or "").split(".")
            found.update([module[1]] if len(module) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            found.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("netopsy."))
    return found


@pytest.mark.parametrize(
    "path", [f for f in FILES if parts(f) not in ("__init__", "_version")], ids=lambda f: str(f.relative_to(ROOT))
)
def test_imports_point_one_way(path: Path) -> None:
    part = parts(path)
    assert imported(path) - {part, "_version"} <= allowed(part), f"{path} reaches outside its part"


def test_no_study_imports_another() -> None:
    base = {"study", "table", "functions", "artifacts", "sweep_findings", "formats", "__init__"}
    for path in (ROOT / "studies").rglob("*.py"):
        own = path.relative_to(ROOT / "studies").with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            module = (getattr(node, "module", None) or "") if isinstance(node, ast.ImportFrom) else ""
            if own not in base and module.startswith("netopsy.studies."):
                assert module.split(".")[2] in base | {own}, f"{path} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_file_is_over_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_the_public_names_are_these() -> None:
    known = """account activations backproject Case Codebook codebook compress compression correspondence distributions
        dsd examine expand facets Features field Figure filter_codebook filters fit History Image kmeans1d
        list_blocks list_layers list_studies load_features load_network load_samples load_transform maximize Network
        noise observe parameters Preprocessing prescribe Recipe reconstruct Replace Result rounding
        run_trials Samples score Shift sparsity stimuli sweep transfer Transform triage Variant workers workspace"""
    assert sorted(netopsy.__all__) == sorted(known.split())
    for name in netopsy.__all__:
        assert callable(getattr(netopsy, name))


@pytest.mark.parametrize(
    "code",
    [
        "import netopsy.cli",
        "import netopsy",
        "import netopsy.case, netopsy.report.notebook",
        "from netopsy import load_transform",
    ],
)
def test_light_imports_bring_no_torch(code: str) -> None:
    check = f"import sys; {code}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_nothing_unpickles_without_bounds() -> None:
    forbidden = {("weights_only", False), ("allow_pickle", True)}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                assert (node.arg, node.value.value) not in forbidden, path
            if isinstance(node, ast.Attribute) and node.attr in ("load", "loads"):
                assert getattr(node.value, "id", None) != "pickle", path

"""The house keeps its order: imports point one way, files stay small, public names are known."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

import netopsy
from netopsy.studies.table import STUDIES

ROOT = Path(netopsy.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# The floors of the house, from the ground up: a part imports itself and the floors below.
FLOORS = [
    ["errors"],
    ["files", "wording"],
    ["settings", "codec"],
    ["stats"],
    ["network"],
    ["samples"],
    ["provenance"],
    ["engine"],
    ["blocks", "tallies", "transform", "pictures", "deep_compression", "weight_priors"],
    ["features"],
    ["result"],
    ["report", "charts"],
    ["result_files"],
    ["case"],
    ["studies"],
    ["examination"],
    ["protocol"],
    ["cli"],
    ["__main__"],
]
UPWARD = {("result", "report")}  # see CIRCLE
ONLY = {"stats": {"errors", "settings"}, "report": {"errors", "files", "result"}}


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
    names_imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netopsy"):
            assert node.level == 0
            module = (node.module or "").split(".")
            names_imported.update([module[1]] if len(module) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            names_imported.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("netopsy."))
    return names_imported


def test_imports_point_one_way() -> None:
    outside = {
        str(path.relative_to(ROOT)): sorted(reached)
        for path in FILES
        if parts(path) not in ("__init__", "_version")
        and (reached := imported(path) - {parts(path), "_version"} - allowed(parts(path)))
    }
    assert not outside, "files that import what stands above their floor"


def test_no_study_imports_another() -> None:
    base = {"study", "table", "functions", "artifacts", "draws", "sweep_report", "formats", "__init__"}
    for path in (ROOT / "studies").rglob("*.py"):
        study = path.relative_to(ROOT / "studies").with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            module = (getattr(node, "module", None) or "") if isinstance(node, ast.ImportFrom) else ""
            if study not in base and module.startswith("netopsy.studies."):
                assert module.split(".")[2] in base | {study}, f"{path} imports {module}"


def import_graph() -> nx.DiGraph:
    """Every module of the house and what it imports, anywhere in it; a name that a package passes on counts as an
    import of the module that has it.
    """
    modules = {".".join(f.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}
    names: dict[str, list[tuple[str, str]]] = {name: [] for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("netopsy"):
                names[name] += [(node.module or "", alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                names[name] += [(alias.name, "") for alias in node.names if alias.name in modules]

    def home(module: str, name: str) -> str:
        if f"{module}.{name}" in modules:
            return f"{module}.{name}"
        if modules[module].name == "__init__.py":
            return next(
                (home(source, alias_name) for source, alias_name in names[module] if alias_name == name), module
            )
        return module

    graph = nx.DiGraph()
    graph.add_nodes_from(modules)
    graph.add_edges_from((name, home(*one)) for name, some in names.items() for one in some if home(*one) != name)
    return graph


# A result shows itself in a notebook: whatever kind of notebook that is asks the object itself, by `_repr_html_`.
CIRCLE = ("netopsy.result", "netopsy.report.notebook")


def test_no_circle_of_imports() -> None:
    graph = import_graph()
    graph.remove_edge(*CIRCLE)
    assert [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1] == []


def test_the_engine_holds_nothing_that_one_study_alone_reaches() -> None:
    graph = import_graph()
    graph.remove_nodes_from(["netopsy", "netopsy.studies"])
    reach: dict[str, set[str]] = {name: set() for name in graph}
    for study, (module, _, _) in STUDIES.items():
        root = f"netopsy.studies.{module}"
        for name in [one for one in graph if one == root or one.startswith(f"{root}.")]:
            for reached in {name} | nx.descendants(graph, name):
                reach[reached].add(study)
    engine = {name: studies for name, studies in reach.items() if name.startswith("netopsy.engine.")}
    assert {name: studies for name, studies in engine.items() if len(studies) == 1} == {}


def test_no_class_overrides_what_another_does() -> None:
    classes = {
        node.name: node
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }

    def methods(name: str, *, abstract: bool) -> set[str]:
        return {
            one.name
            for one in classes[name].body
            if isinstance(one, ast.FunctionDef)
            and (abstract or not any("abstractmethod" in ast.unparse(mark) for mark in one.decorator_list))
        }

    overridden = {
        f"{name}.{method}"
        for name, node in classes.items()
        for base in map(ast.unparse, node.bases)
        if base in classes
        for method in methods(name, abstract=True) & methods(base, abstract=False)
    }
    assert overridden <= {"Collect.state"}, "Collect's rows lie on the disk: a checkpoint of them holds no tensors"


def test_the_house_has_few_files() -> None:
    assert len(FILES) <= 320


def test_no_file_is_over_400_lines() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {path: count for path, count in lines.items() if count > 400}


def test_no_two_modules_define_a_public_class_of_the_same_name() -> None:
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_the_public_names_are_these() -> None:
    known = """activations Alert backproject baseline Case Codebook codebook compress compression correspondence
        distributions dsd examine expand facets Features field Figure Finding filter_codebook filters fit History
        Image kmeans1d list_blocks list_layers list_studies load_features load_network load_samples load_transform
        maximize Network noise observe parameters Preprocessing prescribe priors Priors Recipe reconstruct Replace
        Result rounding run_trials Samples score Shift sparsity stimuli storage_table sweep transfer Transform triage
        Variant with_head workers workspace"""
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

"""The notebooks and the code in the docs run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

import netopsy
from netopsy.tallies.moments import Moments
from networks import shipped

ROOT = Path(__file__).parents[2]


NOTEBOOKS = [pytest.param(path, id=path.stem) for path in sorted((ROOT / "examples").glob("*.ipynb"))]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("text/html" in output.get("data", {}) for output in outputs)


def run_page(page: str, **names: Any) -> dict[str, Any]:
    """What is left after the Python blocks of a page, one after the other, with `names` known beforehand."""
    names["__name__"] = "__main__"
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    for code in blocks:
        exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


def test_the_study_of_your_own_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    run_page("docs/write-a-study.md")
    assert "accuracy falls by" in capsys.readouterr().out


def test_the_readme_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page("README.md")


def test_the_page_on_observe_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network, samples = shipped("a"), netopsy.load_samples("digits", count=20)
    results = run_page(
        "docs/observe.md", netopsy=netopsy, network=network, samples=samples, tallies={"a": ("fc", Moments())}
    )["results"]
    assert results["zeros"].share.shape == results["moments"].skewness.shape == (64,)


def test_the_page_on_training_runs_as_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variables = run_page("docs/train.md")
    moved = variables["moved"]
    for name, one in moved.shared.items():
        assert torch.equal(moved.network.tensors[name].unique(), torch.from_numpy(one.table))
    assert "block1.conv1.weight" in capsys.readouterr().out


def test_the_page_on_features_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    features = run_page("docs/features.md")["features"]
    assert features.x_train.shape == (200, 8192) and features.x_train.dtype == np.float32
    assert "Features(arrays, 45 + 15 vectors, 32 dimensions, 3 classes)" in capsys.readouterr().out


def test_the_page_on_bags_of_words_runs_as_written() -> None:
    assert run_page("docs/bag_of_words.md")["x_test"].shape == (100, 250)


def test_the_page_on_linear_machines_runs_as_written() -> None:
    lot = torch.Generator().manual_seed(0)
    x, test = torch.randn(50, 256, generator=lot), torch.randn(20, 256, generator=lot)
    variables = run_page("docs/svm.md", x=x, labels=torch.arange(50) % 3, classes=3, test=test)
    assert variables["size"] == 256 and variables["machines"].weights.shape == (256, 3)


def test_the_page_on_scores_runs_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    lot = np.random.default_rng(0)
    labels = np.arange(30) % 3
    names = {"scores": lot.normal(size=(30, 3)), "labels": labels, "rows": np.eye(3)[labels]}
    names |= {"queries": lot.normal(size=(5, 4)), "database": lot.normal(size=(40, 4))}
    names |= {f"stressed_{name}": names[name].round() for name in ("queries", "database")}
    assert run_page("docs/scores.md", **names)["exact"].shape == (5, 10)
    assert all(
        number in (ROOT / "docs/scores.md").read_text() for number in re.findall(r"0\.\d+", capsys.readouterr().out)
    )


def test_the_page_on_transforms_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/transform.md"
    use, make = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)
    Path("turned.md").write_text(f"```python\n{make}```\n```python\n{use}```\n")  # the file is made before its use
    variables = run_page(str(tmp_path / "turned.md"))
    assert variables["codes"].shape == (1000, 8) and variables["vectors"].shape == (1000, 16)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 29 and "16 levels a dimension (4 bits): 64 bits (8 bytes)" in lines[-1]
    recalls = {line[:32].strip(): float(line.split()[-1]) for line in lines[:-1]}
    for label, percent in {"PCA 16 x 4 bits": 74.4, "PCA, 64 bits by variance": 72.9, "PQ 16 x 4 bits": 70.9}.items():
        assert 100 * recalls[label] == pytest.approx(percent, abs=1) and f"{percent} %" in page.read_text()

"""Every benchmark and script runs, small; the page of benchmarks is what its figures and its words make."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
RUNS = [
    "benchmarks/backproject.py",
    "benchmarks/bag_of_words.py",
    "benchmarks/budgets.py",
    "benchmarks/codec.py",
    "benchmarks/correspondence.py pairs",
    "benchmarks/correspondence.py lasso",
    "benchmarks/kmeans_1d.py",
    "benchmarks/observe.py",
    "benchmarks/prescribe.py",
    "benchmarks/rates.py",
    "benchmarks/stimuli.py",
    "benchmarks/sweep.py",
    "benchmarks/transfer.py",
    "benchmarks/triage.py",
    "scripts/coverage.py",
    "scripts/mutate.py",
    "scripts/skewness.py",
    "scripts/train_baselines.py",
    "scripts/train_digits.py",
]
LONG = (
    "benchmarks/budgets.py",
    "benchmarks/prescribe.py",
    "benchmarks/triage.py",
    "scripts/coverage.py",
    "scripts/mutate.py",
)
NEEDED = {"benchmarks/backproject.py": "captum", "benchmarks/kmeans_1d.py": "ckwrap"}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a script sets in its process is put back: environment, path, threads, kernels; it writes elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)
    for name in ("OMP_NUM_THREADS", "PYTHONPATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("run", [pytest.param(run, marks=[pytest.mark.slow] * (run in LONG)) for run in RUNS])
def test_it_runs_small_and_tells_its_figures(
    run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *words = run.split()
    if script in NEEDED:
        pytest.importorskip(NEEDED[script])
    monkeypatch.setattr(sys, "argv", [script, *words, "--tiny"])
    monkeypatch.syspath_prepend(str((ROOT / script).parent))
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    if script.startswith("benchmarks/"):
        assert figures["benchmark"] == (words or [Path(script).stem])[0]
        assert figures["ratio"] is None or figures["ratio"] > 0
    else:
        assert figures["script"] == Path(script).stem
        assert figures.get("mutations", 1) == 1


def test_every_benchmark_and_script_is_tried() -> None:
    tried = {run.split()[0] for run in RUNS}
    every = {
        f"{path.parent.name}/{path.name}" for room in ("benchmarks", "scripts") for path in (ROOT / room).glob("*.py")
    }
    assert every - tried == {
        "benchmarks/all.py",
        "benchmarks/common.py",
        "benchmarks/deadlines.py",  # takes data, and minutes
        "scripts/beyond_images.py",  # takes data, and minutes
        "scripts/count_circuits.py",  # of test_circuits.py
        "scripts/coverage_page.py",
        "scripts/filter_clusterings.py",  # takes data, and minutes
        "scripts/ledger.py",  # see test_ledger.py
        "scripts/ledger_measures.py",
        "scripts/motives.py",  # takes data, and minutes
        "scripts/onnx_packages.py",
        "scripts/priors_experiment.py",  # takes data, and minutes
        "scripts/probe_lstm.py",  # takes data, and minutes
        "scripts/remove_blocks.py",  # see test_remove_blocks.py
        "scripts/sentence_features.py",  # takes data, and minutes
        "scripts/docs_ranges.py",  # a hook of mkdocs, see test_docs.py
        "scripts/small_transformers.py",
        "scripts/treatable.py",
    }


@pytest.mark.usefixtures("alone")
def test_all_runs_them_and_the_page_is_made_of_the_figures_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    every = runpy.run_path(str(ROOT / "benchmarks/all.py"))
    figures = json.loads((ROOT / "docs/benchmarks.json").read_text())
    assert set(figures) <= set(every["RUNS"])
    page = (ROOT / "docs/benchmarks.md").read_text()
    assert every["page"](figures) == page, "docs/benchmarks.md is not what benchmarks/all.py --page makes"
    monkeypatch.setattr(sys, "argv", ["all.py", "--tiny", "--only", "codec"])
    runpy.run_path(str(ROOT / "benchmarks/all.py"), run_name="__main__")
    assert json.loads(capfd.readouterr().out.splitlines()[-1]) == {"benchmark": "all", "ran": ["codec"]}
    assert page == (ROOT / "docs/benchmarks.md").read_text()

"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real networks and images, or a skip that says why."""
    path = Path(os.environ.get("NETOPSY_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data: {path / 'data'} is not a folder (set NETOPSY_SHARED)")
    return path.resolve()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases whose charts are not drawn, which takes seconds, for tests that are not about them."""
    monkeypatch.setattr("netopsy.result_files.chart_svg", lambda spec: "<svg/>")

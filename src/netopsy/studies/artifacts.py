"""Where a study writes a file for its reader, what it is called, and how findings name it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.network import Network


def file_for(study: str, name: str) -> Path:
    """The path of a file that `study` writes: in the workspace's folder, else in a new temporary one."""
    return (current_workspace().folder or Path(tempfile.mkdtemp(prefix=f"netopsy-{study}-"))) / name


def stem_of(network: Network) -> str:
    """The network's name as part of a file name: `resnet20` of `netopsy:resnet20`."""
    last = Path(network.name.rpartition(":")[2]).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "network"


def artifact_label(study: str, path: Path) -> str:
    """Where a reader of the report finds the file: in the case, which keeps what a workspace has, or at its path."""
    return f"{study}/artifacts/{path.name} of the case" if current_workspace().folder else str(path)

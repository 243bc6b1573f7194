"""Write a network with shared weights as one small file, and read such a file back as a state dict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netopsy.codec.file import SUFFIX, write_compressed
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import Coder
from netopsy.deep_compression.describe import describe
from netopsy.deep_compression.measure import Kept, check, others
from netopsy.errors import SettingsError
from netopsy.network.network import Network


def save_shared(
    network: Network,
    shared: Mapping[str, SharedTensor],
    path: str | Path,
    *,
    kept: Kept = "exact",
    coder: Coder = "ans",
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write what `measured(network, shared, kept)` is to `path`; returns the path. A file that is there is replaced.

    shared: by the weights' names; every other value of the state dict is kept as `others` says. settings: plain data
    that the file's header repeats, such as how the weights were chosen.
    """
    target = destination(path, SUFFIX, force=True)
    check(network, shared)
    said = {**(settings or {}), "kept": kept, "coder": coder}
    return write_compressed(
        target, shared, others(network, shared, kept), metadata=describe(network), settings=said, coder=coder
    )


def destination(path: str | Path, ending: str, *, force: bool) -> Path:
    """`path` as a file that can be written; SettingsError says why it cannot.

    ending: what its name must end in. force: whether a file that is there may be replaced.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        raise SettingsError(f"'{path}' is a folder; give the path of a file that ends in {ending}.")
    if not target.name.lower().endswith(ending) or target.name.lower() == ending:
        raise SettingsError(f"the file '{path}' must end in {ending}, so that it is known for what it is.")
    if not target.parent.is_dir():
        raise SettingsError(f"there is no folder '{target.parent}' to write '{target.name}' in; make it first.")
    if target.exists() and not force:
        raise SettingsError(f"'{path}' exists; give another path, or --force to replace it.")
    return target

"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` once the block has ended without an exception.

    Killed or failing meanwhile, `path` stays what it was. Each process writes beside it under a name of its own.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; it takes the place of `path` once the block has ended without an exception.

    Failing meanwhile, `path` stays what it was. A folder can not replace another in one step: killed between the two
    that it takes, `restore_folder` brings the former one back.
    """
    restore_folder(path)
    part, old = path.with_name(f"{path.name}.part"), _set_aside(path)
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Bring back the folder that a killed `atomic_folder` had set aside, where `path` is missing."""
    old = _set_aside(path)
    if old.exists() and not path.exists():
        os.replace(old, path)


def _set_aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def finish(part: Path, path: Path) -> None:
    """Give `part`, a file that several runs may have written and that is now complete, its name.

    Its bytes reach the disk first: such a file is not made again when it is there.
    """
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)

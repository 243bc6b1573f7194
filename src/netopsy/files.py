"""Files and folders that appear whole or not at all, also after a kill, on a full disk and after a loss of power."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netopsy.errors import DiskFull, first_line


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Errors: ValueError, in one line, where it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(first_line(error)) from error
    if not isinstance(content, dict):
        raise ValueError("it holds no table of names and values")
    return content


@contextlib.contextmanager
def atomic_write(path: str | Path, *, flush: bool = True) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` once the block has ended without an exception.

    Killed or failing meanwhile, `path` stays what it was. Each process writes beside it under a name of its own.
    flush: whether its bytes reach the disk before its name does, so that it is whole after a loss of power too.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with room_for(path):
            yield part
            if flush:
                _flush(part)
            os.replace(part, path)
            if flush:
                _flush(path.parent)
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
    try:
        with room_for(path):
            part.mkdir(parents=True)
            yield part
            for entry in (*part.rglob("*"), part):
                _flush(entry)
            if path.exists():
                os.replace(path, old)
            os.replace(part, path)
            _flush(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def room_for(path: str | Path) -> Iterator[None]:
    """Turn a full disk, a spent quota and a file-size limit into DiskFull, whichever library meets them."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        codes = [int(code) for code in re.findall(r"os error (\d+)", str(error))]  # as libraries in Rust say it
        code = getattr(error, "errno", None) or (codes[0] if codes else None)
        if code not in _FULL and not any(os.strerror(full) in str(error) for full in _FULL):
            raise
        raise DiskFull(
            f"no room to write '{path}' ({os.strerror(code or errno.ENOSPC)}): free some, or lift the limit, and run "
            "the same command again. Nothing that was there is lost."
        ) from error


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
    _flush(part)
    os.replace(part, path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Have a file's bytes, or a folder's names, reach the disk; a system that opens no folders keeps their order."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if not path.is_dir():
            raise
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

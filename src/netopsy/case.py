"""A case: a folder that holds the Results of one network, and their report. Imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from filelock import BaseFileLock, FileLock, Timeout

from netopsy.errors import CaseError, nearest
from netopsy.files import atomic_folder, atomic_write, file_digest, restore_folder
from netopsy.report.pages import write_report
from netopsy.result import LEVELS, Figure, Image, Result, figure_keys
from netopsy.result_files import STUDY, check_names, read_index, read_json, read_result, write_result

FORMAT = 3
PATIENCE = 60.0  # seconds that a writer waits for another to finish its one Result
_AT_WORK = ".at-work"  # ends the name of an empty file that stands for a study between its beginning and its Result


class Case:
    """A folder with one subfolder a study.

        case.json                  format, the studies in the order they came, a summary of the baseline, checksums
        index.html, STUDY.html     the report
        STUDY/result.json          settings, findings, provenance, and the names and digests of the files beside it
        STUDY/tables/*.parquet     STUDY/figures/*.vl.json, *.svg     STUDY/images/*.png, *.npz     STUDY/artifacts/*
        STUDY/texts/*.json         STUDY/atlases/NAME/units.parquet, stimuli.parquet, *.webp, texts.json
        .work/                     checkpoints of studies that are not finished
        .lock                      held by the process that writes a Result

    A Result is written beside the old one and takes its place by renaming: a killed write leaves the former state.
    Several processes may add to one case, each study in one of them at a time. Nothing in the folder is believed whose
    checksum differs, and no name in it leads outside.

    path: the folder. create: whether to make one that is not there yet.
    Raises CaseError where the folder is missing, no case, damaged, or of another format.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path)
        self._at_work: dict[str, BaseFileLock] = {}
        self._manifest: dict[str, Any] = {"format": FORMAT, "studies": [], "digests": {}}
        if not self.path.exists() and not create:
            raise CaseError(f"no case at '{path}': give the folder that `netopsy examine --out` wrote.")
        if self.path.exists() and not self.path.is_dir():
            raise CaseError(f"'{path}' is a file, not a case folder: give another --out.")
        if (self.path / "case.json").exists():
            self._manifest = _read_manifest(self.path / "case.json")
            for name in self.names:
                restore_folder(self.path / name)
            return
        if not create or any(entry.name not in (".work", ".lock") for entry in self.path.glob("*")):
            raise CaseError(
                f"'{path}' holds no case.json, so it is no case: give a case folder, or a new or empty one."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._writing():
                pass
        except OSError as error:
            if isinstance(error, CaseError):
                raise
            raise CaseError(f"cannot write a case to '{path}' ({error.strerror}): give another --out.") from error

    @property
    def work(self) -> Path:
        """The folder of checkpoints, of studies that are not finished."""
        return self.path / ".work"

    @property
    def names(self) -> list[str]:
        """Names of the studies, in the order they came."""
        return list(self._manifest["studies"])

    @property
    def results(self) -> list[Result]:
        """All Results, in the order they came."""
        return [self.load(name) for name in self.names]

    def begin(self, study: str) -> None:
        """Note that `study` is at work here, until its Result is added: what it leaves behind is kept for it.

        Errors: CaseError where another process is at work on it; that of a process that died is taken over.
        """
        if study in self._at_work:
            return
        self.work.mkdir(exist_ok=True)
        mark = self.work / f"{study}{_AT_WORK}"
        lock = FileLock(f"{mark}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            try:
                holder = mark.read_text(encoding="utf-8")
            except OSError:
                holder = "another process"
            raise CaseError(
                f"'{study}' of case '{self.path}' is at work in {holder}: wait for it, stop it, or give another --out."
            ) from error
        self._at_work[study] = lock
        mark.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")

    @contextlib.contextmanager
    def at_work(self, study: str) -> Iterator[None]:
        """`begin` before the block; where it fails, the study is left to whoever takes it up."""
        self.begin(study)
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Leave the studies that began here and were stopped to whoever takes them up."""
        while self._at_work:
            self._end(next(iter(self._at_work)))

    def _end(self, study: str) -> None:
        lock = self._at_work.pop(study, None)
        if lock is not None:
            lock.release()

    def tidy(self, keep: str = "") -> None:
        """Remove the checkpoints, unless a study that began here was stopped: it resumes from them.

        keep: of the files that stay, as `sweep-*`.
        """
        if any(self.work.glob(f"*{_AT_WORK}")):
            return
        stay = set(self.work.glob(keep)) if keep else set()
        for path in self.work.glob("*"):
            if path not in stay:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        if not stay:
            shutil.rmtree(self.work, ignore_errors=True)

    def add(self, result: Result) -> None:
        """Write `result`, in place of an older one of the same study."""
        check_names([result.study], STUDY, "the study", self.path)
        folder = self.path / result.study
        with self._writing():
            with atomic_folder(folder) as part:
                write_result(result, part)
                digest = file_digest(part / "result.json")
            if result.study not in self._manifest["studies"]:
                self._manifest["studies"].append(result.study)
            self._manifest["digests"][result.study] = digest
            source = result.provenance
            self._manifest |= {
                key: source[key] for key in ("network", "samples", "features", "versions") if source.get(key)
            }
            if result.study == "baseline":
                self._manifest["summary"] = _summary(result)
        (self.work / f"{result.study}{_AT_WORK}").unlink(missing_ok=True)
        self._end(result.study)

    def load(self, name: str) -> Result:
        """The Result of the study called `name`. Errors: CaseError where there is none, or a file of it is damaged."""
        if name not in self.names:
            raise CaseError(f"no study '{name}' in case '{self.path}'; it holds: {', '.join(self.names) or 'none'}.")
        folder, digest = self.path / name, self._manifest["digests"][name]
        try:
            return read_result(folder, name, digest)
        except CaseError:
            self._manifest = _read_manifest(self.path / "case.json")
            if self._manifest["digests"].get(name, digest) == digest:
                raise
            return read_result(folder, name, self._manifest["digests"][name])  # another process has written it anew

    def list_figures(self) -> pl.DataFrame:
        """Charts and pictures of all studies, one row each: name (`STUDY/NAME`), kind, and title."""
        rows = []
        for study in self.names:
            index = read_index(self.path / study, self._manifest["digests"][study])
            for name, (kind, key) in figure_keys(index["figures"], index["images"]).items():
                words = index["figures" if kind == "chart" else "images"][key]
                rows.append((f"{study}/{name}", kind, words["title"]))
        return pl.DataFrame(rows, schema={"name": pl.String, "kind": pl.String, "title": pl.String}, orient="row")

    def figure(self, name: str) -> Figure | Image:
        """One chart or picture, called `STUDY/NAME`, or by its name alone where no other study has one of that name.

        It can be saved for print: `case.figure("noise/by_layer").save("noise.pdf", width="85mm")`.
        Errors: CaseError for another name.
        """
        study, _, rest = self.full_name(name).partition("/")
        return self.load(study).figure(rest)

    def full_name(self, name: str) -> str:
        """`STUDY/NAME` of the figure called `name`. Errors: CaseError where there is none, or several."""
        names = self.list_figures()["name"].to_list()
        matching = [one for one in names if name in (one, one.partition("/")[2])]
        if name in matching:
            return name
        if len(matching) > 1:
            raise CaseError(f"several studies have a figure '{name}': {', '.join(matching)}; give one of these names.")
        if not matching:
            known = f"nearest: {nearest(name, names)}" if names else "it has none"
            raise CaseError(
                f"no figure '{name}' in case '{self.path}'; {known}. `netopsy figure {self.path}` lists all."
            )
        return matching[0]

    def write_report(self) -> Path:
        """Write the HTML pages; returns the path of the index."""
        self._manifest = _read_manifest(self.path / "case.json")
        return write_report(self.results, self.path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the case; the manifest is read again before the block and written after it, so that none is lost."""
        path = self.path / "case.json"
        try:
            with FileLock(self.path / ".lock", timeout=PATIENCE):
                if path.exists():
                    self._manifest = _read_manifest(path)
                yield
                text = json.dumps({**self._manifest, "checksum": _checksum(self._manifest)}, indent=1, default=str)
                with atomic_write(path) as part:
                    part.write_text(text, encoding="utf-8")
        except Timeout as error:
            raise CaseError(
                f"another process has been writing case '{self.path}' for {PATIENCE:.0f} s: wait for it, stop it, or "
                "give another --out."
            ) from error

    def __repr__(self) -> str:
        return f"Case({str(self.path)!r}, studies: {', '.join(self.names) or 'none'})"


def _summary(result: Result) -> dict[str, Any]:
    """What a list of cases says of one: the network's name, the score in a sentence, and how many alerts there are."""
    return {
        "network": (result.provenance.get("network") or {}).get("name", ""),
        "score": str(result.findings[0]) if result.findings else "",
        "alerts": {level: sum(alert.level == level for alert in result.alerts) for level in LEVELS},
    }


def _checksum(manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    """What `case.json` holds, without its checksum. Errors: CaseError where it is damaged or of another format."""
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise CaseError(
            f"case '{path.parent}' has format {str(manifest.get('format'))[:20]}, this version reads {FORMAT}: "
            "examine the network again into another folder."
        )
    studies = check_names(manifest.get("studies"), STUDY, "the study", path)
    digests = check_names(manifest.get("digests"), STUDY, "the study", path)
    if sorted(studies) != sorted(digests) or manifest.pop("checksum", None) != _checksum(manifest):
        raise CaseError(f"'{path}' is damaged: its checksum differs. Examine the network again into another folder.")
    return manifest

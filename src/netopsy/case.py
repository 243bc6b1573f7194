"""A case: a folder that holds the Results of one network, and their report. Imports no torch."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import polars as pl
from PIL import Image as Picture

from netopsy.errors import CaseError, nearest
from netopsy.files import atomic_folder, atomic_write, restore_folder
from netopsy.report.notebook import chart_svg
from netopsy.report.pages import write_report
from netopsy.report.summary import file_stem
from netopsy.result import (
    LEVELS,
    MEASURE_SCHEMA,
    Alert,
    Atlas,
    Figure,
    Finding,
    Image,
    Panel,
    Passage,
    Result,
    Sheet,
    Texts,
    figure_keys,
)

FORMAT = 2
_AT_WORK = ".at-work"  # ends the name of an empty file that stands for a study between its beginning and its Result


class Case:
    """A folder with one subfolder a study.

        case.json                  format, the studies in the order they came, and a summary of the baseline
        index.html, STUDY.html     the report
        STUDY/result.json          settings, findings, provenance, and what lies in the folders beside it
        STUDY/tables/*.parquet     STUDY/figures/*.vl.json, *.svg     STUDY/images/*.png, *.npz     STUDY/artifacts/*
        STUDY/texts/*.json         STUDY/atlases/NAME/units.parquet, stimuli.parquet, *.webp, texts.json
        .work/                     checkpoints of studies that are not finished

    A Result is written beside the old one and takes its place by renaming: a killed write leaves the former state.

    path: the folder. create: whether to make one that is not there yet.
    Raises CaseError where the folder is missing, no case, damaged, or of another format.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path)
        if not self.path.exists() and not create:
            raise CaseError(f"no case at '{path}': give the folder that `netopsy examine --out` wrote.")
        if self.path.exists() and not self.path.is_dir():
            raise CaseError(f"'{path}' is a file, not a case folder: give another --out.")
        manifest = self.path / "case.json"
        if manifest.exists():
            self._manifest: dict[str, Any] = _read_json(manifest)
            if self._manifest.get("format") != FORMAT:
                raise CaseError(
                    f"case '{path}' has format {self._manifest.get('format')}, this version reads {FORMAT}: "
                    f"examine the network again into another folder."
                )
            for name in self.names:
                restore_folder(self.path / name)
            return
        if not create or any(entry.name != ".work" for entry in self.path.glob("*")):
            raise CaseError(
                f"'{path}' holds no case.json, so it is no case: give a case folder, or a new or empty one."
            )
        self._manifest = {"format": FORMAT, "studies": []}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_manifest()
        except OSError as error:
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
        """Note that `study` is at work here, until its Result is added: what it leaves behind is kept for it."""
        self.work.mkdir(exist_ok=True)
        (self.work / f"{study}{_AT_WORK}").touch()

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
        with atomic_folder(self.path / result.study) as folder:
            _write_result(result, folder)
        if result.study not in self._manifest["studies"]:
            self._manifest["studies"].append(result.study)
        source = result.provenance
        self._manifest |= {
            key: source[key] for key in ("network", "samples", "features", "versions") if source.get(key)
        }
        if result.study == "baseline":
            self._manifest["summary"] = _summary(result)
        self._write_manifest()
        (self.work / f"{result.study}{_AT_WORK}").unlink(missing_ok=True)

    def load(self, name: str) -> Result:
        """The Result of the study called `name`."""
        folder = self.path / name
        if name not in self.names:
            raise CaseError(f"no study '{name}' in case '{self.path}'; it holds: {', '.join(self.names) or 'none'}.")
        index = _read_json(folder / "result.json")
        try:
            figures = {
                key: Figure(spec=_read_json(folder / "figures" / f"{key}.vl.json"), **words)
                for key, words in index["figures"].items()
            }
            images = {
                key: _read_image(folder / "images" / file_stem(key), words) for key, words in index["images"].items()
            }
            return Result(
                study=name,
                settings=index["settings"],
                tables={key: pl.read_parquet(folder / "tables" / f"{key}.parquet") for key in index["tables"]},
                figures=figures,
                images=images,
                texts={key: _read_texts(folder / "texts" / f"{key}.json") for key in index.get("texts", [])},
                atlases={
                    key: _read_atlas(folder / "atlases" / key, words) for key, words in index.get("atlases", {}).items()
                },
                artifacts={key: folder / "artifacts" / key for key in index["artifacts"]},
                findings=[Finding(*pair) for pair in zip(index["findings"], index["weights"], strict=True)],
                question=index.get("question", ""),
                group=index["group"],
                alerts=[Alert(**alert) for alert in index["alerts"]],
                measures=pl.DataFrame(index["measures"], schema=MEASURE_SCHEMA, orient="row"),
                provenance=index["provenance"],
            )
        except CaseError:
            raise
        except (OSError, KeyError, TypeError, ValueError, BadZipFile, pl.exceptions.PolarsError) as error:
            raise CaseError(f"the study '{name}' of case '{self.path}' is damaged ({error}): run it again.") from error

    def list_figures(self) -> pl.DataFrame:
        """Charts and pictures of all studies, one row each: name (`STUDY/NAME`), kind, and title."""
        rows = []
        for study in self.names:
            index = _read_json(self.path / study / "result.json")
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
        return write_report(self.results, self.path)

    def _write_manifest(self) -> None:
        with atomic_write(self.path / "case.json") as part:
            part.write_text(json.dumps(self._manifest, indent=1, default=str), encoding="utf-8")

    def __repr__(self) -> str:
        return f"Case({str(self.path)!r}, studies: {', '.join(self.names) or 'none'})"


def _summary(result: Result) -> dict[str, Any]:
    """What a list of cases says of one: the network's name, the score in a sentence, and how many alerts there are."""
    return {
        "network": (result.provenance.get("network") or {}).get("name", ""),
        "score": str(result.findings[0]) if result.findings else "",
        "alerts": {level: sum(alert.level == level for alert in result.alerts) for level in LEVELS},
    }


def _write_result(result: Result, folder: Path) -> None:
    for name in ("tables", "figures", "images", "texts", "atlases", "artifacts"):
        (folder / name).mkdir()
    for name, frame in result.tables.items():
        frame.write_parquet(folder / "tables" / f"{name}.parquet")
    for name, figure in result.figures.items():
        (folder / "figures" / f"{name}.vl.json").write_text(json.dumps(figure.spec), encoding="utf-8")
        (folder / "figures" / f"{name}.svg").write_text(chart_svg(figure.spec), encoding="utf-8")
    for name, image in result.images.items():
        Picture.fromarray(image.pixels).save(folder / "images" / f"{file_stem(name)}.png", optimize=True)
        if image.panels:
            np.savez_compressed(folder / "images" / f"{file_stem(name)}.npz", **image.arrays)  # type: ignore[arg-type]
    for name, texts in result.texts.items():
        (folder / "texts" / f"{name}.json").write_text(json.dumps(asdict(texts)), encoding="utf-8")
    for name, atlas in result.atlases.items():
        _write_atlas(atlas, folder / "atlases" / name)
    for name, path in result.artifacts.items():
        shutil.copy(path, folder / "artifacts" / name)
    (folder / "result.json").write_text(json.dumps(_index(result), indent=1, default=str), encoding="utf-8")


def _index(result: Result) -> dict[str, Any]:
    """What `result.json` holds: all but the contents of tables, charts and pictures."""

    def words(thing: Figure | Image | Panel, *contents: str) -> dict[str, Any]:
        return {f.name: getattr(thing, f.name) for f in fields(thing) if f.name not in contents}

    return {
        "study": result.study,
        "settings": result.settings,
        "findings": result.findings,
        "weights": [getattr(finding, "weight", 1.0) for finding in result.findings],
        "question": result.question,
        "group": result.group,
        "alerts": [asdict(alert) for alert in result.alerts],
        "measures": result.measures.rows(),
        "provenance": result.provenance,
        "tables": list(result.tables),
        "figures": {name: words(figure, "spec") for name, figure in result.figures.items()},
        "images": {
            name: words(image, "pixels", "panels")
            | {"panels": [words(panel, "pictures") | {"count": len(panel.pictures)} for panel in image.panels]}
            for name, image in result.images.items()
        },
        "texts": list(result.texts),
        "atlases": {name: _atlas_words(atlas) for name, atlas in result.atlases.items()},
        "artifacts": list(result.artifacts),
    }


def _atlas_words(atlas: Atlas) -> dict[str, Any]:
    """All of an atlas but its tables and pictures."""
    words = {key: getattr(atlas, key) for key in ("top", "rules", "title", "reading", "source", "noun")}
    sheets = {
        node: [{"tile": sheet.tile, "columns": sheet.columns, "count": sheet.count} for sheet in node_sheets]
        for node, node_sheets in atlas.sheets.items()
    }
    return {**words, "sheets": sheets}


def _write_atlas(atlas: Atlas, folder: Path) -> None:
    folder.mkdir()
    atlas.units.write_parquet(folder / "units.parquet")
    atlas.stimuli.write_parquet(folder / "stimuli.parquet")
    texts = {node: [[asdict(p) for p in unit] for unit in units] for node, units in atlas.texts.items()}
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    for number, sheet in enumerate(sheet for node_sheets in atlas.sheets.values() for sheet in node_sheets):
        (folder / f"{number}.webp").write_bytes(sheet.data)


def _read_webp(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:4] != b"RIFF" or int.from_bytes(data[4:8], "little") + 8 != len(data):
        raise OSError(f"'{path.name}' is cut short or no WebP picture")
    return data


def _read_atlas(folder: Path, words: dict[str, Any]) -> Atlas:
    number = itertools.count()
    sheets = {
        node: tuple(
            Sheet(_read_webp(folder / f"{next(number)}.webp"), tuple(w["tile"]), w["columns"], w["count"])
            for w in entries
        )
        for node, entries in words["sheets"].items()
    }
    tables: dict[str, Any] = {name: pl.read_parquet(folder / f"{name}.parquet") for name in ("units", "stimuli")}
    file = folder / "texts.json"
    stored = _read_json(file) if file.exists() else {}  # cases of older versions have none
    texts = {node: tuple(tuple(map(_passage, unit)) for unit in units) for node, units in stored.items()}
    return Atlas(**{**words, "sheets": sheets}, **tables, texts=texts)


def _read_image(stem: Path, words: dict[str, Any]) -> Image:
    pixels = np.asarray(Picture.open(stem.with_name(f"{stem.name}.png")))
    stored, panels = words.get("panels", []), []  # cases of older versions have none
    if stored:
        with np.load(stem.with_name(f"{stem.name}.npz"), allow_pickle=False) as arrays:
            panels = [_read_panel(panel, arrays) for panel in stored]
    return Image(**{**words, "panels": tuple(panels)}, pixels=pixels)


def _read_panel(stored: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Panel:
    panel = {key: value for key, value in stored.items() if key != "count"}
    name, count = stored["name"], stored["count"]
    pictures = list(arrays[name]) if name in arrays else [arrays[f"{name} {k}"] for k in range(count)]
    frames = tuple(None if box is None else tuple(box) for box in stored["frames"])
    return Panel(**{**panel, "notes": tuple(stored["notes"]), "frames": frames}, pictures=pictures)


def _read_texts(path: Path) -> Texts:
    stored = _read_json(path)
    return Texts(**{**stored, "groups": {name: tuple(map(_passage, rows)) for name, rows in stored["groups"].items()}})


def _passage(stored: dict[str, Any]) -> Passage:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Passage(**fields)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CaseError(f"'{path}' is missing or damaged ({error}): examine the network again.") from error

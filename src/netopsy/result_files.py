"""A Result as files in one folder, and back: every file is named and digested in `result.json`. Imports no torch."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image as Picture

from netopsy.errors import CaseError, first_line
from netopsy.files import file_digest, read_object
from netopsy.report.notebook import chart_svg
from netopsy.report.summary import file_stem
from netopsy.result import (
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
)

FOLDERS = ("tables", "figures", "images", "texts", "atlases", "artifacts")
STUDY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,79}")
NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]{1,200}")


def check_names(names: Any, grammar: re.Pattern[str], what: str, where: Path) -> list[str]:
    """`names` if it is a list, or the keys of a dict, of different names in `grammar`: each may become a path.

    Errors: CaseError that names the file `where` they stand.
    """
    if not isinstance(names, list | dict) or not all(isinstance(n, str) and grammar.fullmatch(n) for n in names):
        shown = next((n for n in names if not (isinstance(n, str) and grammar.fullmatch(n))), names) if names else names
        raise CaseError(f"'{where}' is damaged: {what} {str(shown)[:80]!r} is no name. Examine the network again.")
    if len(set(names)) < len(names):
        raise CaseError(f"'{where}' is damaged: it names {what} twice. Examine the network again.")
    return list(names)


def write_result(result: Result, folder: Path) -> None:
    """Write `result` into `folder`, which is new and empty. Errors: CaseError where a name can be no file's."""
    for kind in FOLDERS:
        check_names(getattr(result, kind), NAME, kind, folder)
        (folder / kind).mkdir()
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
    files = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    index = {**_index(result), "files": files}
    (folder / "result.json").write_text(json.dumps(index, indent=1, default=str), encoding="utf-8")


def read_result(folder: Path, study: str, digest: str) -> Result:
    """The Result of `study` in `folder`. digest: that of its `result.json`.

    Errors: CaseError that names the file, where one is missing, damaged or another than was written.
    """
    index = read_index(folder, digest)
    try:
        return _read(folder, study, index)
    except CaseError:
        raise
    # whatever a file of another hand makes a reader raise; polars' panics are no Exception
    except (Exception, pl.exceptions.PanicException) as error:
        raise CaseError(
            f"'{folder / 'result.json'}' or a file that it names is damaged ({first_line(error)}): run it again."
        ) from error


def read_index(folder: Path, digest: str) -> dict[str, Any]:
    """What `result.json` in `folder` holds, whose digest is known. Errors: CaseError where it is another."""
    _verify(folder / "result.json", digest)
    return read_json(folder / "result.json")


def _read(folder: Path, study: str, index: dict[str, Any]) -> Result:
    where, digests = folder / "result.json", index["files"]
    names = {kind: check_names(index[kind], NAME, kind, where) for kind in FOLDERS}

    def checked(*parts: str) -> Path:
        path, name = folder.joinpath(*parts), "/".join(parts)
        if name not in digests:
            raise CaseError(f"'{where}' is damaged: it has no checksum for '{name}'. Run the study again.")
        _verify(path, digests[name])
        return path

    def image(name: str, words: dict[str, Any]) -> Image:
        panels = []
        if stored := words["panels"]:
            with np.load(checked("images", f"{file_stem(name)}.npz"), allow_pickle=False) as arrays:
                panels = [_read_panel(panel, arrays) for panel in stored]
        with Picture.open(checked("images", f"{file_stem(name)}.png")) as picture:
            return Image(**{**words, "panels": tuple(panels)}, pixels=np.asarray(picture))

    return Result(
        study=study,
        settings=index["settings"],
        tables={name: pl.read_parquet(checked("tables", f"{name}.parquet")) for name in names["tables"]},
        figures={
            name: Figure(spec=read_json(checked("figures", f"{name}.vl.json")), **words)
            for name, words in index["figures"].items()
        },
        images={name: image(name, words) for name, words in index["images"].items()},
        texts={name: _read_texts(checked("texts", f"{name}.json")) for name in names["texts"]},
        atlases={
            name: _read_atlas(lambda file, name=name: checked("atlases", name, file), words)
            for name, words in index["atlases"].items()
        },
        artifacts={name: checked("artifacts", name) for name in names["artifacts"]},
        findings=[Finding(*pair) for pair in zip(index["findings"], index["weights"], strict=True)],
        question=index["question"],
        group=index["group"],
        alerts=[Alert(**alert) for alert in index["alerts"]],
        measures=pl.DataFrame(index["measures"], schema=MEASURE_SCHEMA, orient="row"),
        provenance=dict(index["provenance"]),
    )


def _verify(path: Path, digest: str) -> None:
    try:
        same = file_digest(path) == digest
    except OSError as error:
        raise CaseError(f"'{path}' cannot be read ({error.strerror}): run the study again.") from error
    if not same:
        raise CaseError(f"'{path}' is damaged: it is not the file that was written. Run the study again.")


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
    sheets: Iterable[Sheet] = itertools.chain.from_iterable(atlas.sheets.values())
    for number, sheet in enumerate(sheets):
        (folder / f"{number}.webp").write_bytes(sheet.data)


def _read_atlas(checked: Any, words: dict[str, Any]) -> Atlas:
    """checked: gives the path of a file of the atlas, once its digest is verified."""
    number = itertools.count()
    sheets = {
        node: tuple(
            Sheet(checked(f"{next(number)}.webp").read_bytes(), tuple(w["tile"]), w["columns"], w["count"])
            for w in entries
        )
        for node, entries in words["sheets"].items()
    }
    tables: dict[str, Any] = {name: pl.read_parquet(checked(f"{name}.parquet")) for name in ("units", "stimuli")}
    stored = read_json(checked("texts.json"))
    texts = {node: tuple(tuple(map(_passage, unit)) for unit in units) for node, units in stored.items()}
    return Atlas(**{**words, "sheets": sheets}, **tables, texts=texts)


def _read_panel(stored: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> Panel:
    panel = {key: value for key, value in stored.items() if key != "count"}
    name, count = stored["name"], stored["count"]
    pictures = list(arrays[name]) if name in arrays else [arrays[f"{name} {k}"] for k in range(count)]
    frames = tuple(None if box is None else tuple(box) for box in stored["frames"])
    return Panel(**{**panel, "notes": tuple(stored["notes"]), "frames": frames}, pictures=pictures)


def _read_texts(path: Path) -> Texts:
    stored = read_json(path)
    return Texts(**{**stored, "groups": {name: tuple(map(_passage, rows)) for name, rows in stored["groups"].items()}})


def _passage(stored: dict[str, Any]) -> Passage:
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Passage(**fields)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Errors: CaseError that names the file where it is missing or holds no object."""
    try:
        return read_object(path)
    except ValueError as error:
        raise CaseError(f"'{path}' is missing or damaged ({error}): examine the network again.") from error

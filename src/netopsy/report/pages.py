"""Draw the pages: the first page, and behind it one a study, a layer and a unit, and the atlases."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from netopsy.errors import CaseError
from netopsy.files import atomic_write
from netopsy.report.atlas import AtlasPictures, atlas_data
from netopsy.report.decisions import collect_layers, decision_table, measures_of, strip
from netopsy.report.layer_pages import (
    LayerRows,
    layer_images,
    layer_page,
    link_names,
    pages_by_name,
    unit_card,
    unit_page,
    unit_pages,
    whole_options,
)
from netopsy.report.overview import alerts, groups, head, is_trusted, pictures, tiles
from netopsy.report.paper import THEMES
from netopsy.report.summary import CSV_ROWS, csv_text, file_stem, summarise, unit_images
from netopsy.result import Result

_FOLDERS = ("layers", "units", "csv", "parts")  # of files that belong to the pages


def write_report(results: list[Result], folder: Path) -> Path:
    """Write the pages into `folder`, in place of older ones; returns the path of `index.html`.

    `STUDY.html` for each result, `STUDY-ATLAS.html` for each atlas with its pictures in `parts/`, `layers/LAYER.html`,
    `units/UNIT.html`; `csv/` has the tables, `decisions.csv` the table of the first page.
    Raises CaseError without a result.
    """
    if not results:
        raise CaseError(f"the case '{folder}' holds no study yet: run one with `--out {folder}`.")
    fresh: set[Path] = set()

    def write(name: str, text: str) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        fresh.add(path)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            with atomic_write(path, flush=False) as part:  # it can be drawn again
                part.write_text(text, encoding="utf-8")

    layers = collect_layers(results)
    trusted = is_trusted(results)
    summaries = [summarise(result) for result in results]
    atlases = [(result, name, atlas) for result in results for name, atlas in result.atlases.items()]
    site = {
        "head": head(results),
        "summaries": summaries,
        "link": partial(link_names, pages=pages_by_name(results, layers)),
        "doors": [{"page": f"{r.study}-{name}.html", "title": "Atlas"} for r, name, _ in atlases],
        "mistakes": any(s["study"] == "baseline" and s["title"] == "mistakes" for s in summaries),
    }
    for result, summary in zip(results, summaries, strict=True):
        write(f"{result.study}.html", study_page(summary, site))
        for name, frame in result.tables.items():
            if frame.height <= CSV_ROWS:
                write(f"csv/{result.study}-{file_stem(name)}.csv", csv_text(frame))
    for result, summary in zip(results, summaries, strict=True):
        for words, atlas in zip(summary["atlases"], result.atlases.values(), strict=True):
            data, parts = atlas_data(atlas)
            stem = file_stem(words["page"])
            write(f"{words['page']}.html", _atlas_page(words, {**data, "stem": stem}, summary, site))
            for number, part in enumerate(parts):
                write(f"parts/{stem}-{number}.js", f"netopsyPart({number},{script_json(part)});")
    for name, text in _layer_and_unit_pages(results, layers, site, trusted=trusted):
        write(name, text)
    table = decision_table(layers, trusted=trusted)
    write("decisions.csv", table["frame"].write_csv())
    drawn = strip(layers, trusted=trusted) if measures_of(layers) else None
    pages = {(f"{unit.study}-{unit.atlas}", unit.node, unit.channel): unit.page for unit in unit_pages(results)}
    write(
        "index.html",
        _render(
            "index.html.j2",
            ["strip.js", "tables.js"],
            site,
            data={"strip": drawn and {"lines": drawn["lines"], "blocks": list(map(_places, drawn["blocks"]))}},
            alerts=alerts(results, layers),
            options=whole_options,
            checked=any(result.study == "baseline" for result in results),
            trusted=trusted,
            tiles=tiles(results, layers, trusted=trusted),
            strip=drawn,
            pictures=pictures(results, pages),
            table=table,
            titles={summary["study"]: summary["title"] for summary in summaries},
            groups=groups(results, trusted=trusted),
        ),
    )
    for name in _FOLDERS:
        for path in set((folder / name).glob("*")) - fresh:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder / "index.html"


def _places(block: dict[str, Any]) -> dict[str, Any]:
    """What the script of the strip needs of a block."""
    return {"places": block["places"], "shades": block["shades"]}


def study_page(summary: dict[str, Any], site: dict[str, Any]) -> str:
    """The page of one study."""
    figures = {figure["id"]: figure["spec"] for figure in summary["figures"]}
    scripts = ["charts.js", "tables.js"] if figures else ["tables.js"]
    return _render("study.html.j2", scripts, site, figures, summary=summary)


def _atlas_page(words: dict[str, Any], data: dict[str, Any], summary: dict[str, Any], site: dict[str, Any]) -> str:
    """The page of one atlas; its pictures lie in files beside it and are loaded when they are looked at."""
    return _render("atlas.html.j2", ["atlas.js"], site, styles=["atlas.css"], data=data, atlas=words, summary=summary)


def _layer_and_unit_pages(
    results: Sequence[Result], layers: Sequence[Any], site: dict[str, Any], *, trusted: bool
) -> Iterable[tuple[str, str]]:
    """(path, text) of the page of each layer, and of each of its units that has one."""
    rows = LayerRows(results, layers)
    units = unit_pages(results)
    cuts = {(r.study, name): AtlasPictures(atlas) for r in results for name, atlas in r.atlases.items()}
    alone = unit_images(results)
    cards: dict[str, list[dict[str, Any]]] = {}
    for unit in units:
        cut = cuts[unit.study, unit.atlas]
        cards.setdefault(unit.layer, []).append(unit_card(unit, cut))
        _, image = alone.get((unit.node, unit.channel), ("", None))
        shown = unit_page(unit, layers, rows, cut, image)
        yield unit.page, _render("unit.html.j2", ["tables.js"], site, below=True, **shown)
    for layer in layers:
        nodes = [node for node, name in rows.layer_of.items() if name == layer.name]
        shown = layer_page(
            layer, layers, rows, cards.get(layer.name, []), layer_images(results, layer.name, nodes), trusted=trusted
        )
        yield layer.page, _render("layer.html.j2", ["tables.js"], site, below=True, **shown)


def _render(
    template: str,
    scripts: Sequence[str],
    site: dict[str, Any],
    figures: dict[str, Any] | None = None,
    *,
    styles: Sequence[str] = (),
    data: dict[str, Any] | None = None,
    below: bool = False,
    **context: Any,
) -> str:
    """A page with its styles and scripts inside; the policy names the scripts by their digests and allows no other.

    below: whether the page lies in a folder of the case.
    """
    code = [Markup(_vega())] if figures else []
    code += [_template(name) for name in scripts]
    policy = " ".join(f"'sha256-{_digest(script)}'" for script in code)
    if "atlas.js" in scripts:
        policy += " 'self' file:"  # the parts of an atlas
    return (
        _environment()
        .get_template(template)
        .render(
            **site,
            **context,
            root="../" if below else "",
            style=Markup("\n").join(_template(name) for name in ("style.css", *styles)),
            scripts=code,
            policy=policy or "'none'",
            data=Markup(script_json(data or {"figures": figures or {}, "themes": THEMES})),
        )
    )


@cache
def _template(name: str) -> Markup:
    return Markup((files("netopsy.report") / "templates" / name).read_text(encoding="utf-8"))


@cache
def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("netopsy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script without a closing tag inside."""
    import vl_convert

    script = str(vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;"))
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def script_json(data: Any) -> str:
    """JSON that may stand inside a script element, whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"), default=str)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text

"""Draw the pages: one a study, and an index that reads like a doctor's report."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from netopsy.errors import CaseError
from netopsy.files import atomic_write
from netopsy.report.atlas import THEMES, atlas_data
from netopsy.report.summary import summarise
from netopsy.result import Atlas, Result

INDEX_FIGURES = 2  # charts a study has on the index; its page has all


_NOUNS = {"image": "Images", "tokens": "Texts", "series": "Recordings", "vector": "Rows"}


def write_report(results: list[Result], folder: Path) -> Path:
    """Write `STUDY.html` for each result and `index.html` into `folder`; returns the path of the index."""
    if not results:
        raise CaseError(f"the case '{folder}' holds no study yet: run one with `--out {folder}`.")
    summaries = [summarise(result) for result in results]
    head = _head(results)
    for summary in summaries:
        _write(folder / f"{summary['study']}.html", study_page(summary, head, summaries))
    for result, summary in zip(results, summaries, strict=True):
        for words, atlas in zip(summary["atlases"], result.atlases.values(), strict=True):
            _write(folder / f"{words['page']}.html", atlas_page(atlas, words, summary, head, summaries))
    _write(folder / "index.html", index_page(summaries, head))
    return folder / "index.html"


def study_page(summary: dict[str, Any], head: dict[str, Any], summaries: list[dict[str, Any]]) -> str:
    """The page of one study."""
    figures = {figure["id"]: figure["spec"] for figure in summary["figures"]}
    return _render("study.html.j2", summary=summary, head=head, summaries=summaries, figures=figures)


def atlas_page(
    atlas: Atlas,
    words: dict[str, Any],
    summary: dict[str, Any],
    head: dict[str, Any],
    summaries: list[dict[str, Any]],
) -> str:
    """The page of one atlas; its pictures lie in it as text and are decoded when they are looked at."""
    data, sheets = atlas_data(atlas)
    folder = files("netopsy.report") / "templates"
    return (
        _environment()
        .get_template("atlas.html.j2")
        .render(
            atlas={**words, "sheets": sheets},
            summary=summary,
            head=head,
            summaries=summaries,
            style=Markup((folder / "style.css").read_text(encoding="utf-8")),
            atlas_style=Markup((folder / "atlas.css").read_text(encoding="utf-8")),
            script=Markup((folder / "atlas.js").read_text(encoding="utf-8")),
            data=Markup(script_json(data)),
        )
    )


def index_page(summaries: list[dict[str, Any]], head: dict[str, Any]) -> str:
    """The page that opens a case: findings, then key charts, then settings and provenance."""
    chosen = [(summary, summary["figures"][:INDEX_FIGURES]) for summary in summaries]
    figures = {figure["id"]: figure["spec"] for _, some in chosen for figure in some}
    return _render("index.html.j2", summaries=summaries, chosen=chosen, head=head, figures=figures)


def _head(results: list[Result]) -> dict[str, Any]:
    """What the head of every page says of the case: its subject `network`, and the `vitals` as (term, text)."""

    def first(key: str) -> dict[str, Any]:
        return next((r.provenance[key] for r in results if r.provenance.get(key)), {})

    network, samples, features = first("network"), first("samples"), first("features")
    date = max((str(r.provenance.get("finished", "")) for r in results), default="")[:16].replace("T", " ")
    if features and not network:
        vectors = f"{features['training']:,} to train on, {features['test']:,} to test on"
        about = [("Vectors", vectors), ("Dimensions", f"{features['dimensions']:,}"), ("Classes", features["classes"])]
    else:
        about = [
            ("Parameters", f"{network.get('parameters', 0):,}"),
            ("Weights", str(network.get("weights") or "as given")),
            (
                _NOUNS.get(samples.get("kind", "image"), "Samples"),
                f"{samples.get('count', 0):,} of {samples.get('name', 'no images')}",
            ),
        ]
    return {
        "network": str(network.get("name") or features.get("name") or "a network"),
        "vitals": [*about, *_sets(first("sets")), ("Date", f"{date} UTC")],
        "date": date,
        "version": str(first("versions").get("netopsy", "")),
    }


def _sets(links: dict[str, str]) -> list[tuple[str, Markup]]:
    """Links to the reports that a case over several image sets was made from."""
    parts = [Markup('<a href="{}">{}</a>').format(link, name) for name, link in links.items()]
    return [("Sets", Markup(", ").join(parts))] if parts else []


def _render(template: str, *, figures: dict[str, Any], **context: Any) -> str:
    folder = files("netopsy.report") / "templates"
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            style=Markup((folder / "style.css").read_text(encoding="utf-8")),
            script=Markup((folder / "charts.js").read_text(encoding="utf-8")),
            vega=Markup(_vega()) if figures else "",
            data=Markup(script_json({"figures": figures, "themes": THEMES})),
        )
    )


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


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")

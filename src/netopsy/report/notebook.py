"""A Result as a fragment of HTML for notebooks: charts as drawn SVG, no scripts."""

from __future__ import annotations

from html import escape
from typing import Any

from netopsy.report.paper import THEMES
from netopsy.report.summary import image_summary, study_images, table_summary
from netopsy.result import Result, Texts

ROWS = 8
_WARM, _COOL = "240,160,75", "111,168,220"  # of a passage's shades
WIDTH = 560  # pixels of a chart whose width was left to its place


def result_html(result: Result) -> str:
    """Findings, charts, pictures and the heads of the tables."""
    parts = [f"<h3>{escape(result.study.replace('_', ' '))}</h3>"]
    parts += ["<ul>", *(f"<li>{escape(finding)}</li>" for finding in result.findings), "</ul>"]
    for figure in result.figures.values():
        parts.append(f"<figure><figcaption><b>{escape(figure.title)}</b></figcaption>{chart_svg(figure.spec)}")
        parts.append(f"<figcaption>{escape(figure.reading)} {escape(figure.source)}</figcaption></figure>")
    for name, image in study_images(result).items():
        summary = image_summary(name, image)
        size = f'width="{summary["width"]}" style="max-width:100%"'
        parts.append(f'<figure><img src="{summary["url"]}" {size} alt="{escape(summary["alt"])}">')
        parts.append(f"<figcaption>{escape(image.title)}. {escape(image.reading)}</figcaption></figure>")
    for texts in result.texts.values():
        parts.append(f"<figure><figcaption><b>{escape(texts.title)}</b></figcaption>{_texts(texts)}")
        parts.append(f"<figcaption>{escape(texts.reading)} {escape(texts.source)}</figcaption></figure>")
    for atlas in result.atlases.values():
        units, layers = atlas.units.height, len(atlas.sheets) + len(atlas.texts)
        parts.append(f"<p>{escape(atlas.title)}: {units:,} units of {layers} layers, on a page of the report.</p>")
    parts += [
        _table(table_summary(result.study, name, frame.head(ROWS)), frame.height)
        for name, frame in result.tables.items()
    ]
    return f'<div class="netopsy">{"".join(parts)}</div>'


def _texts(texts: Texts) -> str:
    """Passages with their shades as colours of the background."""
    rows = []
    for name, passages in texts.groups.items():
        rows.append(f"<div><b>{escape(name)}</b></div>")
        for passage in passages:
            spans = "".join(
                f'<span style="background:rgba({_WARM if shade > 0 else _COOL},{min(1.0, abs(shade)):.2f})'
                f'{";outline:1px solid" if k == passage.mark else ""}">{escape(text)}</span>'
                for k, (text, shade) in enumerate(zip(passage.pieces, passage.shades, strict=True))
            )
            rows.append(f'<div style="white-space:pre-wrap"><small>{escape(passage.note)}</small> {spans}</div>')
    return "".join(rows)


def chart_svg(spec: dict[str, Any]) -> str:
    """A chart drawn on white."""
    import vl_convert

    fixed = {**spec, "width": WIDTH} if spec.get("width") == "container" else spec
    return str(vl_convert.vegalite_to_svg(fixed, config={**THEMES["light"], "background": "white"}))


def _table(table: dict[str, Any], total: int) -> str:
    head = "".join(f"<th>{escape(column['name'])}</th>" for column in table["columns"])
    rows = "".join(f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in table["rows"])
    caption = f"{escape(table['name'])}: {min(total, ROWS)} of {total:,} rows"
    return f"<details><summary>{caption}</summary><table><tr>{head}</tr>{rows}</table></details>"

"""The first page: the sentence that heads every page, alerts, tiles, pictures, and the findings that tell most."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any, get_args
from urllib.parse import quote

import polars as pl
from markupsafe import Markup

from netopsy.report.atlas import AtlasPictures, best_units, class_words, mosaic, opening_layer, passage_pieces, webp_url
from netopsy.report.decisions import PageLayer, measure_text
from netopsy.report.summary import image_summary, number, unit_images
from netopsy.result import LEVELS, Atlas, Group, Result

GROUPS: dict[str, str] = dict(
    zip(
        get_args(Group),
        ("What is in it", "What does it see", "What can it lose", "How small does it get"),
        strict=True,
    )
)
FINDINGS = 3  # of each group
UNITS = 8  # whose pictures are shown
UNKNOWN = 0.05  # a loss that says nothing of a format
SAFE = 0.01  # of the score: what a number format may lose, at the end of its interval, to be called safe
_NOUNS = {"image": "images", "tokens": "texts", "series": "recordings", "vector": "rows"}


def head(results: Sequence[Result]) -> dict[str, Any]:
    """What the head of every page says: the `network`, the parts of the `sentence`, date and version."""
    network, features = _first(results, "network"), _first(results, "features")
    date = max((str(r.provenance.get("finished", "")) for r in results), default="")[:16].replace("T", " ")
    return {
        "network": str(network.get("name") or features.get("name") or "a network"),
        "sentence": _sentence(results, network, features),
        "sets": _sets(_first(results, "sets")),
        "date": date,
        "version": str(_first(results, "versions").get("netopsy", "")),
    }


def _first(results: Sequence[Result], key: str) -> dict[str, Any]:
    return next((r.provenance[key] for r in results if r.provenance.get(key)), {})


def _sentence(results: Sequence[Result], network: dict[str, Any], features: dict[str, Any]) -> list[str]:
    if features and not network:
        return [
            f"vectors: {features['training']:,} to train on, {features['test']:,} to test on",
            f"{features['dimensions']:,} dimensions",
            f"{features['classes']} classes",
        ]
    samples = _first(results, "samples")
    noun = _NOUNS.get(samples.get("kind", "image"), "samples")
    name = re.sub(r"(\.(npz|npy|tar|csv|parquet|jsonl|txt))?(, .*)?$", "", str(samples.get("name", "")))
    shown = f"{samples.get('count', 0):,} {noun} of {name}" if name else ""
    row = score_row(results)
    if row is None:
        return [*([shown] if shown else []), f"{network.get('parameters', 0):,} parameters"]
    shown = shown or f"{row['images']:,} {noun}"
    return [
        f"{score_text(row)} on {shown}",
        f"{row['parameters']:,} parameters",
        size_text(row["bytes"]),
        f"{amount_text(row['macs'])} MACs",
    ]


def score_row(results: Sequence[Result]) -> dict[str, Any] | None:
    """The row of the table `score` of the study `baseline`, if it has one."""
    for result in results:
        if result.study == "baseline" and "score" in result.tables and result.tables["score"].height:
            return result.tables["score"].row(0, named=True)
    return None


def score_text(row: dict[str, Any]) -> str:
    """`91.7 % ± 0.5`; scores that are no shares with their name, as `R² 0.912 ± 0.011`."""
    share = row.get("top1") is not None or row.get("agreement") == row["score"]
    scale, digits = (100, 1) if share else (1, 3)
    half = (row["score_high"] - row["score_low"]) / 2 if row.get("score_low") is not None else None
    text = f"{scale * row['score']:.{digits}f}" + (" %" if share else "")
    text += f" ± {scale * half:.{digits}f}" if half is not None else ""
    return text if share else f"{row['unit']} {text}"


def size_text(size: float) -> str:
    """`1.08 MB` (10^6 bytes)."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{number(size / limit)} {unit}"
    return f"{size:,.0f} bytes"


def amount_text(count: float) -> str:
    """`41 M`: two digits or more, and a letter for thousands, millions or billions."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.{0 if count >= 10 * limit else 1}f} {letter}"
    return f"{count:,.0f}"


def _sets(links: dict[str, str]) -> Markup:
    """Links to the reports that a case over several sets of samples was made from."""
    return Markup(", ").join(
        Markup('<a href="{}">{}</a>').format(link, name) if is_safe_link(link) else Markup("{}").format(name)
        for name, link in links.items()
    )


def is_safe_link(link: str) -> bool:
    """Whether a link leads to a page beside this one, or to the web, and runs nothing."""
    return link.startswith("https://") or re.fullmatch(r"(?!//)[^:\\\x00-\x20]+", link) is not None


def alerts(results: Sequence[Result], layers: Sequence[PageLayer]) -> list[dict[str, Any]]:
    """All alerts, the worst first, each with the page of its layer if it has one."""
    pages = {layer.name: layer.page for layer in layers}
    found = [alert for result in results for alert in result.alerts]
    found.sort(key=lambda alert: LEVELS.index(alert.level))
    return [{"alert": alert, "page": pages.get(alert.layer, "")} for alert in found]


def is_trusted(results: Sequence[Result]) -> bool:
    """Whether the figures mean what they seem to: no alert says otherwise."""
    return not any(alert.level == LEVELS[0] for result in results for alert in result.alerts)


def groups(results: Sequence[Result], *, trusted: bool) -> list[tuple[str, list[tuple[str, str]]]]:
    """(question, [(finding, study)]): of each group the findings that tell most; what can be lost only if trusted."""
    chosen = []
    for group, question in GROUPS.items():
        if not trusted and group in ("losses", "size"):
            continue
        found = [(getattr(f, "weight", 1.0), f, r.study) for r in results if r.group == group for f in r.findings]
        found.sort(key=lambda entry: -entry[0])
        best = [(str(finding), study) for weight, finding, study in found if weight >= 1][:FINDINGS]
        if best:
            chosen.append((question, best))
    return chosen


def tiles(results: Sequence[Result], layers: Sequence[PageLayer], *, trusted: bool) -> list[dict[str, str]]:
    """At most five figures that link on; what was not measured, or means nothing, has none."""
    tables = {result.study: result.tables for result in results}
    made = [_score_tile(results)]
    if trusted:
        made += [_file_tile(tables), _format_tile(tables)]
    made.append(_dead_tile(results, layers))
    if trusted:
        made.append(_fragile_tile(layers))
    return [tile for tile in made if tile]


def _tile(title: str, value: str, note: str, href: str) -> dict[str, str]:
    return {"title": title, "value": value, "note": note, "href": href}


def _score_tile(results: Sequence[Result]) -> dict[str, str] | None:
    row = score_row(results)
    if row is None:
        return None
    name, _, rest = score_text(row).partition(" ±")
    low, high = row.get("score_low"), row.get("score_high")
    note = f"± {rest.strip()}" if rest else ""
    if row.get("top1") is not None and low is not None and high is not None:
        note = f"between {100 * low:.1f} and {100 * high:.1f} % (95 %)"
    if row.get("top5") is not None and 0 < row["top5"] < 1:
        note += f"; top-5 {100 * row['top5']:.1f} %"
    return _tile(str(row.get("unit") or "score"), name, note, "baseline.html")


def _file_tile(tables: dict[str, dict[str, pl.DataFrame]]) -> dict[str, str] | None:
    promise = tables.get("prescribe", {}).get("promise")
    score = tables.get("baseline", {}).get("score")
    if promise is None or not promise.height or promise["bytes"][0] is None:
        return None
    row = promise.row(0, named=True)
    points = row["unit"] == "share"
    budget = f"{number((100 if points else 1) * row['budget'])} {'points' if points else row['unit']}"
    note = f"keeps the score within {budget}, without training"
    if score is not None and score.height and row["bytes"] > 0:
        note = f"{number(score['bytes'][0] / row['bytes'])} times smaller; {note}"
    return _tile("Smallest safe file", size_text(row["bytes"]), note, "prescribe.html")


def _format_tile(tables: dict[str, dict[str, pl.DataFrame]]) -> dict[str, str] | None:
    formats = tables.get("rounding", {}).get("formats")
    if formats is None or not {"layer", "format", "stored_bits", "drop", "drop_high", "top1"} <= set(formats.columns):
        return None
    whole = formats.filter(pl.col("layer") == "all").drop_nulls(["drop_high"])
    if not whole.height:
        return None
    safe = whole.filter(pl.col("drop_high") <= SAFE).sort("stored_bits", "drop_high")
    row = (safe if safe.height else whole.sort("drop_high", "stored_bits")).row(0, named=True)
    if row["drop_high"] > UNKNOWN:
        note = f"none is sure to lose less than {number(100 * UNKNOWN)} points: give more samples, or more minutes"
        return _tile("Safest number format", "not known yet", note, "rounding.html")
    note = f"loses at most {number(max(0.0, 100 * row['drop_high']))} points"
    if not safe.height:
        note += "; more samples are needed to call a format safe"
    name = re.sub(r"_(channel|tensor)$", r" per \1", row["format"]).replace("_", " ")
    return _tile("Safest number format", name, note, "rounding.html")


def _dead_tile(results: Sequence[Result], layers: Sequence[PageLayer]) -> dict[str, str] | None:
    table = next((r.tables["layers"] for r in results if r.study == "baseline" and "layers" in r.tables), None)
    if table is None or not table["units"].sum():
        return None
    dead, units = int(table["dead"].sum()), int(table["units"].sum())
    pages = {layer.name: layer.page for layer in layers}
    worst = table.sort("dead", descending=True, maintain_order=True).row(0, named=True)
    if not dead:
        return _tile("Dead units", "none", f"all {units:,} units fire at least once", "baseline.html")
    note, href = f"of {units:,} units never fire", "baseline.html"
    if 2 * worst["dead"] > dead:
        note += f"; {'all' if worst['dead'] == dead else format(worst['dead'], ',')} in {worst['layer']}"
        href = pages.get(worst["layer"], href)
    return _tile("Dead units", f"{dead:,}", note, href)


def _fragile_tile(layers: Sequence[PageLayer]) -> dict[str, str] | None:
    found = [(layer, layer.measures["fragility"]) for layer in layers if "fragility" in layer.measures]
    if not found:
        return None
    layer, worst = max(found, key=lambda entry: entry[1].value)
    low = worst.low if worst.low is not None else worst.value
    ends = [(other, one.value if one.high is None else one.high) for other, one in found]
    alike = [other.name for other, high in ends if other is not layer and high >= low]
    text = worst.text or "noise"
    if low <= 0:
        return _tile("Most fragile layer", "none", f"{text} costs no layer a measurable loss", layer.page)
    loss = f"loses {measure_text('fragility', worst.value)} points to {text}"
    if len(alike) > 2:
        note = f"{layer.name} {loss}; {len(alike)} more cannot be told apart from it"
        return _tile("Most fragile layer", "several", note, layer.page)
    note = loss + (f"; {' and '.join(alike)} cannot be told apart from it" if alike else "")
    return _tile("Most fragile layer", layer.name, note, layer.page)


def pictures(results: Sequence[Result], unit_pages: dict[tuple[str, str, int], str]) -> dict[str, Any]:
    """First-layer filters, selective units of deep layers with their patches or passages, and maximised images."""
    images = {result.study: result.images for result in results}
    made = _made_pictures(results, unit_pages)
    shown: dict[str, Any] = {"filters": None, "maximised": None, "made": made, "units": [], "atlas": ""}
    mosaics = {"filters": "filters"} | ({} if made else {"maximised": "maximize"})
    for key, study in mosaics.items():
        if image := next(iter(images.get(study, {}).values()), None):
            shown[key] = image_summary(key, image)
    entries = ((result.study, name, atlas) for result in results for name, atlas in result.atlases.items())
    if found := next(entries, None):
        with contextlib.suppress(KeyError):  # an atlas of other columns
            shown["units"] = _unit_pictures(*found, unit_pages, {unit["name"]: unit["url"] for unit in made})
            shown["atlas"] = f"{found[0]}-{found[1]}.html"
    if found and any(unit["made"] for unit in shown["units"]):  # next to their patches
        in_atlas = {f"{node}:{channel}" for node, channel in found[2].units.select("node", "channel").iter_rows()}
        shown["made"] = [unit for unit in made if unit["name"] not in in_atlas]
    shown["made"] = shown["made"][:UNITS]
    return shown


def _made_pictures(results: Sequence[Result], unit_pages: dict[tuple[str, str, int], str]) -> list[dict[str, Any]]:
    """Pictures of single units by themselves, with the class that excites each most and its page, or the study's."""
    pages = {key[1:]: page for key, page in unit_pages.items()}
    classes: dict[tuple[Any, ...], str] = {}
    for units in (atlas.units for result in results for atlas in result.atlases.values()):
        if {"node", "channel", "class"} <= set(units.columns):
            classes |= {row[:2]: row[2] for row in units.select("node", "channel", "class").iter_rows()}
    return [
        {
            "name": f"{unit[0]}:{unit[1]}",
            "class": class_words(classes.get(unit)),
            "page": pages.get(unit, f"{study}.html"),
            "url": webp_url(image.pixels.repeat(image.zoom, axis=0).repeat(image.zoom, axis=1)),
            "made": "",
            "pieces": [],
        }
        for unit, (study, image) in unit_images(results).items()
    ]


def _unit_pictures(
    study: str, name: str, atlas: Atlas, pages: dict[tuple[str, str, int], str], made_of: dict[str, str]
) -> list[dict[str, Any]]:
    """Units that an image was made for, other than the outputs; then the most telling ones.

    These are taken from the deepest layer with selective units upwards, of as many classes as there are. made_of: the
    addresses of the images by unit.
    """
    cut = AtlasPictures(atlas)
    nodes = [*atlas.sheets, *atlas.texts]
    rows = {f"{row['node']}:{row['channel']}": row for row in atlas.units.iter_rows(named=True)} if made_of else {}
    both = [rows[unit] for unit in made_of if unit in rows and rows[unit]["node"] != nodes[-1]][:UNITS]
    candidates: list[dict[str, Any]] = []
    for number_of_node in range(opening_layer(atlas), -1, -1):
        candidates += best_units(atlas, nodes[number_of_node], 2 * UNITS)
        if len({row["class"] for row in candidates}) >= UNITS and len(candidates) >= 2 * UNITS:
            break
    first: dict[Any, dict[str, Any]] = {}
    for row in candidates:
        first.setdefault(row["class"] or (row["node"], row["channel"]), row)
    rest = [row for row in candidates if not any(row is one for one in first.values())]
    known = {(row["node"], row["channel"]) for row in both}
    others = [row for row in [*first.values(), *rest] if (row["node"], row["channel"]) not in known]
    made = []
    for row in [*both, *others][:UNITS]:
        node, channel = row["node"], row["channel"]
        page = pages.get((f"{study}-{name}", node, channel)) or f"{study}-{name}.html#" + quote(f"{node}:{channel}")
        unit: dict[str, Any] = {
            "name": f"{node}:{channel}",
            "class": class_words(row["class"]),
            "page": page,
            "url": "",
            "made": made_of.get(f"{node}:{channel}", ""),
            "pieces": [],
        }
        tiles_of = cut.tiles(node, channel)
        if tiles_of is not None and len(tiles_of[0]):
            unit["url"] = webp_url(mosaic(tiles_of[0][:9], 3))
        elif node in atlas.texts:
            passages = atlas.texts[node][cut.places[node][channel]]
            unit["pieces"] = [passage_pieces(passage) for passage in passages[:2]]
        made.append(unit)
    return made

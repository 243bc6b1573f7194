"""The page docs/coverage.md from the answers of scripts/coverage.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Rows = list[dict[str, Any]]


def page(rows: Rows, total: int) -> str:
    """Markdown: a summary, then a table of networks by studies for each source, then the reasons.

    total: number of networks to try; where `rows` are fewer the page says that it is not complete.
    """
    import timm
    import torch
    import torchvision

    lines = [
        "# Coverage",
        "",
        "Which networks Netopsy opens, and which study can treat them. This page is written by",
        f"`python scripts/coverage.py` (torch {_version(torch)}, torchvision {_version(torchvision)},",
        f"timm {_version(timm)}), with random weights but for ONNX. It holds all networks of torchvision but the",
        "quantized ones, of each family of timm (the architecture's name up to its first underscore) the architecture",
        "with the fewest parameters, a small network of each of many model types of transformers, and ONNX files found",
        "in packages of PyPI.",
        "",
    ]
    if len(rows) < total:
        lines += [f"Not complete: {len(rows)} of {total} networks have been tried so far.", ""]
    reasons: dict[str, int] = {}
    parts = []
    for source, title, summary, table in (
        ("torchvision:", "torchvision", _of_images, _images),
        ("timm:", "timm", _of_images, _images),
        ("netopsy:", "netopsy", _of_images, _images),
        ("hf:", "transformers", _of_transformers, _transformers),
        ("onnx:", "ONNX files", _of_onnx, _onnx),
    ):
        part = sorted((row for row in rows if row["network"].startswith(source)), key=lambda row: row["network"])
        if part:
            lines.append(f"- {title}: {summary(part)} {_treated(part)}")
            parts += [f"## {title}", "", *table(part, reasons), ""]
    lines += [
        "",
        "MACs are multiply-accumulates for one sample over all products of the graph, attention included.",
        "In the columns of the studies `yes` means that the study has all that it asks for: its own checks pass on",
        "random samples in the network's shapes (a class each where the output gives one score a class, else none). A",
        "number names the reason why it cannot, below the tables; `-` is not asked yet: such a study is counted",
        "above of fewer networks than open. `pytest -m slow",
        "tests/engine/test_coverage.py` runs the studies themselves on small networks of each kind, and finds them to",
        "do what the checks say.",
        "What an open network's layers look like: `netopsy layers NETWORK`.",
        "",
        *parts,
        "## Reasons",
        "",
        *(f"{number}. {reason}" for reason, number in reasons.items()),
        "",
    ]
    return "\n".join(lines)


def _version(package: Any) -> str:
    return package.__version__.split("+")[0]


def _opened(rows: Rows) -> Rows:
    return [row for row in rows if "error" not in row]


def _treated(rows: Rows) -> str:
    """Which studies can treat how many of the networks of which they were asked."""
    answers = [item for row in _opened(rows) for item in row["obstacles"].items()]
    asked, can = Counter(study for study, _ in answers), Counter(study for study, reason in answers if reason is None)
    groups: dict[str, list[str]] = {}
    for study in sorted(asked, key=lambda study: (-can[study], -asked[study])):
        groups.setdefault(f"{can[study]} of {asked[study]}", []).append(f"`{study}`")
    lines = [f"{count} by {', '.join(names)}" for count, names in groups.items()]
    return f"Treated, of those that were asked of: {'; '.join(lines)}."


def _of_images(rows: Rows) -> str:
    opened = _opened(rows)
    asked = [row for row in opened if "exact_fields" in row]
    counted = [row for row in asked if "flop_counter" in row]
    agree = sum(row["flop_counter"] == row["macs"] for row in counted)
    exact, layers = (sum(row[key] for row in asked) for key in ("exact_fields", "layers"))
    return f"{len(opened)} of {len(rows)} open." + (
        f" The MACs equal those of `torch.utils.flop_counter` for {agree} of the {len(counted)} that it can run. "
        f"{exact:,} of {layers:,} receptive fields are exact, the others upper bounds."
        if asked
        else ""
    )


def _of_transformers(rows: Rows) -> str:
    import transformers

    opened = _opened(rows)
    drawn = [row for row in opened if any("draws random numbers" in (why or "") for why in row["obstacles"].values())]
    worst = max((row["difference"] for row in opened if row not in drawn), default=0.0)
    names = ", ".join(row["network"].removeprefix("hf:") for row in drawn)
    return (
        f"{len(opened)} of {len(rows)} model types open (transformers {_version(transformers)}). Every output of the "
        f"graph is that of the module to {worst:.0e}, for one sample and for three, of which two end in padding"
        f"{f', but for {names}, which draws random numbers' if drawn else ''}."
    )


def _of_onnx(rows: Rows) -> str:
    import onnxruntime

    opened = _opened(rows)
    near = sum(row["difference"] <= 1e-4 for row in opened)
    return (
        f"{len(opened)} of {len(rows)} open, with the sizes that they leave open given. The outputs of {near} are "
        f"those of onnxruntime {_version(onnxruntime)} to 1e-4 (relative above 1), on a batch of two."
    )


def _images(rows: Rows, reasons: dict[str, int]) -> list[str]:
    def facts(row: dict[str, Any]) -> list[str]:
        sizes = [entry.rpartition(" ")[2] for entry in row.get("inputs", ["-"])]
        return [row["network"].split(":")[1], ", ".join(sizes), *_numbers(row)]

    return _table(rows, ["network", "input", "layers", "parameters", "MACs"], 2, facts, reasons)


def _transformers(rows: Rows, reasons: dict[str, int]) -> list[str]:
    def facts(row: dict[str, Any]) -> list[str]:
        name = row["network"].removeprefix("hf:")
        return [name, row.get("architecture", "-"), _listed(row, "inputs"), _listed(row, "outputs"), _numbers(row)[0]]

    return _table(rows, ["model type", "architecture", "inputs", "outputs", "layers"], 4, facts, reasons)


def _onnx(rows: Rows, reasons: dict[str, int]) -> list[str]:
    def facts(row: dict[str, Any]) -> list[str]:
        package, _, file = row["network"].removeprefix("onnx:").partition("/")
        near = f"{row['difference']:.0e}" if "error" not in row else "-"
        return [file, package, _listed(row, "inputs"), _listed(row, "outputs"), *_numbers(row)[:2], near]

    head = ["file", "package", "inputs", "outputs", "layers", "parameters", "from onnxruntime"]
    return _table(rows, head, 4, facts, reasons)


def _listed(row: dict[str, Any], key: str) -> str:
    entries = list(row.get(key, ["-"]))
    return ", ".join(entries if len(entries) <= 4 else [*entries[:3], f"and {len(entries) - 3} more"])


def _numbers(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return ["-", "-", "-"]
    return [str(row["layers"]), f"{row['parameters']:,}", f"{row['macs'] / 1e6:,.0f} M"]


def _table(rows: Rows, head: Sequence[str], words: int, facts: Any, reasons: dict[str, int]) -> list[str]:
    """A line a network; the first `words` columns are words, the other ones of `head` numbers."""
    studies = max((list(row["obstacles"]) for row in rows if "obstacles" in row), key=len, default=[])
    rule = ["---"] * words + ["---:"] * (len(head) - words) + ["---"] * len(studies)
    lines = [f"| {' | '.join([*head, *(f'`{study}`' for study in studies)])} |", f"| {' | '.join(rule)} |"]
    for row in rows:
        why = dict.fromkeys(studies, row["error"]) if "error" in row else row["obstacles"]
        lines.append(f"| {' | '.join([*facts(row), *(_cell(why, study, reasons) for study in studies)])} |")
    return lines


def _cell(why: Mapping[str, str | None], study: str, reasons: dict[str, int]) -> str:
    if study not in why:
        return "-"
    reason = why[study]
    if reason is None:
        return "yes"
    # how many of each activation a network has would make a reason of its own for each
    text = re.sub(r"\b\d+ (?=[a-z_]+[,.])", "", " ".join(reason.split()))
    text = re.sub(r"(?<=: it has )[a-z_, ]+", lambda listed: ", ".join(sorted(listed[0].split(", "))), text)
    text = text[:1].upper() + text[1:]
    return f"[{reasons.setdefault(text, len(reasons) + 1)}](#reasons)"

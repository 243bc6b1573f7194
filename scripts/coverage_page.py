"""The page docs/coverage.md from the answers of scripts/coverage.py."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any


def page(rows: list[dict[str, Any]], total: int) -> str:
    """Markdown: a summary, then a table of networks by studies for torchvision and for timm, then the reasons.

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
        f"timm {_version(timm)}),",
        "with random weights. It holds all classification networks of torchvision, of each family of timm (the",
        "architecture's name up to its first underscore) the architecture with the fewest parameters, and a small",
        "network of each of many model types of transformers.",
        "",
    ]
    if len(rows) < total:
        lines += [f"Not complete: {len(rows)} of {total} networks have been tried so far.", ""]
    reasons: dict[str, int] = {}
    parts = []
    for source, title in (("torchvision:", "torchvision"), ("timm:", "timm")):
        part = sorted((r for r in rows if r["network"].startswith(source)), key=lambda r: r["network"])
        lines.append(f"- {title}: {_summary(part)}")
        parts += [f"## {title}", "", *_table(part, reasons), ""]
    small = sorted((row for row in rows if row["network"].startswith("hf:")), key=lambda row: row["network"])
    if small:
        lines.append(f"- transformers: {_summary_of_transformers(small)}")
        parts += ["## transformers", "", *_table_of_transformers(small, reasons), ""]
    lines += [
        "",
        "MACs are multiply-accumulates for one image over all products of the graph, attention included.",
        "In the columns of the studies `yes` means that the study treats the network; a number names the reason why it",
        "cannot, below the tables. What an open network's layers look like: `netopsy layers NETWORK`.",
        "",
        *parts,
        *Path(__file__).with_name("coverage_onnx.md").read_text().splitlines(),
        "",
        "## Reasons",
        "",
        *(f"{number}. {reason}" for reason, number in reasons.items()),
        "",
    ]
    return "\n".join(lines)


def _version(package: Any) -> str:
    return package.__version__.split("+")[0]


def _summary(rows: list[dict[str, Any]]) -> str:
    opened = [row for row in rows if "error" not in row]
    counted = [row for row in opened if "flop_counter" in row]
    agree = sum(row["flop_counter"] == row["macs"] for row in counted)
    exact = sum(row["exact_fields"] for row in opened)
    layers = sum(row["layers"] for row in opened)
    treated = Counter(study for row in opened for study, reason in row["obstacles"].items() if reason is None)
    studies = ", ".join(f"`{study}` {count}" for study, count in treated.items())
    return (
        f"{len(opened)} of {len(rows)} open. The MACs equal those of `torch.utils.flop_counter` for {agree} of the "
        f"{len(counted)} that it can run. {exact:,} of {layers:,} receptive fields are exact, the others upper bounds. "
        f"Treated by {studies}."
    )


def _summary_of_transformers(rows: list[dict[str, Any]]) -> str:
    import transformers

    opened = [row for row in rows if "error" not in row]
    worst = max(row["difference"] for row in opened)
    return (
        f"{len(opened)} of {len(rows)} model types open (transformers {_version(transformers)}). Every output of the "
        f"graph is that of the module to {worst:.0e}, for one sample and for three, of which two end in padding."
    )


def _table_of_transformers(rows: list[dict[str, Any]], reasons: dict[str, int]) -> list[str]:
    head = ["model type", "architecture", "opens", "layers", "inputs", "outputs"]
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- | ---: | --- | --- |"]
    for row in rows:
        outputs = list(row.get("outputs", ()))
        if len(outputs) > 4:
            outputs = [*outputs[:3], f"and {len(outputs) - 3} more"]
        cells = [row["network"].removeprefix("hf:"), row.get("architecture", "-")]
        cells += ["yes" if "error" not in row else f"[{_number(row['error'], reasons)}](#reasons)"]
        cells += [str(row.get("layers", "-")), ", ".join(row.get("inputs", ["-"])), ", ".join(outputs) or "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _table(rows: list[dict[str, Any]], reasons: dict[str, int]) -> list[str]:
    studies = next((list(row["obstacles"]) for row in rows if "obstacles" in row), [])
    head = ["network", "input", "layers", "parameters", "MACs", *(f"`{study}`" for study in studies)]
    lines = [f"| {' | '.join(head)} |", f"| --- | --- | {' | '.join(['---:'] * 3 + ['---'] * len(studies))} |"]
    for row in rows:
        name = row["network"].split(":")[1]
        size = "x".join(map(str, row.get("input", ["?"])))
        if "error" in row:
            number = _number(row["error"], reasons)
            cells = [name, size, "-", f"{row['parameters']:,}" if "parameters" in row else "-", "-"]
            cells += [f"[{number}](#reasons)"] * len(studies)
        else:
            macs = f"{row['macs'] / 1e6:,.0f} M"
            cells = [name, size, str(row["layers"]), f"{row['parameters']:,}", macs]
            cells += [_cell(row["obstacles"][study], reasons) for study in studies]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(reason: str | None, reasons: dict[str, int]) -> str:
    return "yes" if reason is None else f"[{_number(reason, reasons)}](#reasons)"


def _number(reason: str, reasons: dict[str, int]) -> int:
    # how many of each activation a network has would make a reason of its own for each
    text = re.sub(r"\b\d+ (?=[a-z_]+[,.])", "", " ".join(reason.split()))
    return reasons.setdefault(text, len(reasons) + 1)

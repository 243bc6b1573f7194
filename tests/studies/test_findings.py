"""What the studies say of one network: plain sentences, no habit that the house gave up, nothing below resolution."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import polars as pl
import pytest

from netopsy import load_samples
from netopsy.result import MEASURE_SCHEMA, MEASURES, Finding, Result
from netopsy.studies.activations.heads import head_figures, head_findings
from netopsy.studies.functions import study_function
from netopsy.studies.sweep_report import Measure
from networks import shipped

FEW: dict[str, Any] = {"layers": ("block1.conv1", "block2.conv1", "fc")}
SETTINGS: dict[str, dict[str, Any]] = {
    "parameters": {},
    "distributions": {"bins": 20},
    "filters": {},
    "priors": {},
    "sparsity": {},
    "activations": {"places": 200},
    "maximize": {"units": ("block2.relu1:1", "fc:3"), "steps": 20, "runs": 2},
    "stimuli": {"reconstruct": False, "most_units": 1},
    "facets": {"chosen": 2, "stimuli": 20},
    "field": {"layers": 4, "averaged": 2},
    "noise": {"strengths": (0.05, 0.1, 0.8), "repeats": 2, **FEW},
    "rounding": {"decimals": (0, 2), "formats": ("int8_channel", "int2_tensor"), "layer_formats": ("int4_channel",)}
    | FEW,
    "codebook": {"sizes": (2, 16), **FEW},
    "filter_codebook": {"shares": (0.0, 0.5), "layers": FEW["layers"][:2]},
    "transfer": {"stresses": ("dr2", "q2", "fc"), "steps": 2, "levels": (2, 8), "repeats": 1, "baseline": False},
    "correspondence": {"untrained_draws": 1, "top": 0, "images": 50, "layers": ("block1.conv1", "block2.conv1", "fc")},
}
AVOID = {
    "`a layer` for `per layer`": r"\b(bits?|bytes?|weights?|nats|levels?|scales?|units?|images?|dimensions?) an? "
    r"(layer|unit|weight|vector|image|token|channel|class|number|filter)\b",
    "words of no other paper": r"stand more than|has to do with|all else|\banew\b|\bbeside\b|\bparted\b|says when",
    "a plural of one": r"\b(first|last|all|of) 1 \w+|\b1 (layers|units|images|activations|classes|filters|channels)\b",
    "two spellings of per cent": r"\d%|\bper ?cent\b",
    "times less": r"times (less|fewer|smaller)",
    "more digits than are known": r"[1-9]\d*\.\d{3,}|\.0*[1-9]\d{3,}",
    "thousands run together": r"(?<![\w.,:-])\d{5,}\b",
    "a reference to a paper": r"\bet al\b|\bFigures? \d|\bTable [IVX]+\b|the paper",
    "no number": r"\b(nan|None|inf)\b",
}


@cache
def result_of(study: str) -> Result:
    """What the study says of a shipped network on 60 images."""
    other = {"other": shipped("b")} if study == "correspondence" else {}
    return study_function(study)(shipped("a"), load_samples("digits", count=60), **SETTINGS[study], **other)


LONG = [pytest.param(study, marks=pytest.mark.slow) if study == "correspondence" else study for study in SETTINGS]


@pytest.mark.parametrize("study", LONG)
def test_findings_are_few_plain_and_weighted(study: str) -> None:
    check_findings(result_of(study))


def check_findings(result: Result, most: int = 8) -> None:
    """That the findings of a result are no more than `most`, weighted, and without the habits to avoid."""
    assert 1 <= len(result.findings) <= most
    for finding in result.findings:
        assert isinstance(finding, Finding) and math.isfinite(finding.weight) and finding.weight >= 0, finding
        assert re.search(r"[.:]$", finding) and "  " not in finding and len(finding) < 450, finding
        for habit, pattern in AVOID.items():
            assert not re.search(pattern, finding), f"{habit}: {finding}"


@pytest.mark.parametrize("study", ["noise", "rounding", "codebook", "filter_codebook"])
def test_no_threshold_lies_below_what_the_images_can_show(study: str) -> None:
    for finding in result_of(study).findings:
        for limit, high in re.findall(r"less than ([\d.]+) points?.*?interval -?[\d.]+ to (-?[\d.]+)", finding):
            assert float(high) <= float(limit) and finding.weight >= 1
        both = r"less than ([\d.]+) points?.*?intervals \S+ to (\S+) over \w+, \S+ to (\S+) over \d+ draws"
        for limit, images, draws in re.findall(both, finding):
            assert max(float(images), float(draws)) <= float(limit) and finding.weight >= 1
        if "without a measurable loss" in finding or "loses measurably" in finding:
            assert finding.weight < 1


@pytest.mark.parametrize(
    ("study", "names"),
    [
        ("noise", {"fragility"}),
        ("rounding", {"bits", "cost"}),
        ("sparsity", {"sparsity"}),
        ("filters", {"variance"}),
    ],
)
def test_measures_are_those_of_the_tables(study: str, names: set[str]) -> None:
    result = result_of(study)
    measures = result.measures
    assert dict(measures.schema) == MEASURE_SCHEMA and names <= set(MEASURES)
    assert set(measures["measure"]) <= names and names - {"cost"} <= set(measures["measure"])
    layers = {layer.name for layer in shipped("a").layers}
    assert set(measures["layer"]) <= layers
    of = {(row["layer"], row["measure"]): row for row in measures.iter_rows(named=True)}
    if study == "noise":
        row = result.tables["summary"].row(by_predicate=_is(layer="fc", strength=0.1), named=True)
        widest = max(row["drop_high"], row["drop_draws_high"])
        assert (of["fc", "fragility"]["value"], of["fc", "fragility"]["high"]) == (row["drop"], widest)
    if study == "rounding":
        formats = result.tables["formats"].to_dicts()
        told = min(row["drop_high"] for row in formats)  # what the images can tell from no loss
        limit = next(share for share in (0.005, 0.01, 0.02, 0.05) if told < share)
        whole = min(row["bits"] for row in formats if row["layer"] == "all" and row["drop_high"] < limit)
        for layer in {row["layer"] for row in formats} - {"all"}:
            safe = [row for row in formats if row["layer"] == layer and row["drop_high"] < limit]
            assert of[layer, "bits"]["value"] == min((row["bits"] for row in safe), default=whole)
            assert ((layer, "cost") in of) == bool(safe)
    if study == "sparsity":
        row = result.tables["layers"].row(0, named=True)
        assert of[row["layer"], "sparsity"]["value"] == row["sparsity"]
    if study == "filters":
        alpha = result.tables["variance"].filter(_is(layer="block1.conv1")).sort("k")["variance"].to_list()
        tenth = 0.1 * (len(alpha) - 1)
        below = int(tenth)
        expected = alpha[below] + (tenth - below) * (alpha[below + 1] - alpha[below])
        assert of["block1.conv1", "variance"]["value"] == pytest.approx(expected)


def test_heads_that_look_at_one_place_are_counted_and_equal_costs_share_the_top() -> None:
    shares = {"self": [0.571, 0.1, 0.2], "previous": [0.1, 0.1, 0.9], "first": [0.1, 0.2, 0.0], "entropy": [1.0] * 3}
    names = {"node": ["softmax"] * 3, "head": [0, 1, 2], "projection": ["out"] * 3, "key_value_head": [0, 1, 2]}
    drops = {"drop": [0.02, 0.02, 0.001], "drop_low": [0.01, 0.01, -0.01], "drop_high": [0.03, 0.03, 0.012]}
    removal = pl.DataFrame({"node": names["node"], "head": names["head"], **drops, "images": [50] * 3})
    said = head_findings(pl.DataFrame(names | shares), removal, Measure())
    check_findings(Result("activations", findings=[*said]))
    assert said[0] == "1 of 3 attention heads looks mostly at the token itself: softmax:0 (57.1 %)."
    assert said[-1] == (
        "1 of 3 heads can be removed alone on 50 images without a measurable loss of top-1 accuracy; softmax:0 and "
        "softmax:1 cost most: 2.00 points (95 % interval 1.00 to 3.00)."
    )
    assert said[-1].weight == pytest.approx(2)
    chart = head_figures(pl.DataFrame(names | shares), removal, Measure())["heads_removed"]
    assert "in gray cells the 95 % interval holds 0" in chart.reading


def _is(**values: object) -> Any:
    return pl.all_horizontal(*(pl.col(name) == value for name, value in values.items()))

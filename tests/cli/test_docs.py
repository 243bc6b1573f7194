"""The pages name what is there: every import in them, and every dotted name of the package, resolves."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import docs_ranges
from netopsy.settings import settings_of
from netopsy.studies.table import STUDIES, study_class

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IMPORT = re.compile(r"^ *from (netopsy[\w.]*) import (?:\(([^)]*)\)|(.*))$", re.M)
DOTTED = re.compile(r"`(netopsy(?:\.\w+)+)")


def resolve(name: str) -> object:
    """What a dotted name stands for: a module, or an attribute of one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(resolve(module), attribute)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = [
        f"{module}.{name.strip()}"
        for module, several, one in IMPORT.findall(text)
        for name in (several or one.split("#")[0]).split(",")
        if name.strip()
    ]
    missing = []
    for name in [*names, *(dotted for dotted in DOTTED.findall(text) if "<" not in dotted)]:
        try:
            resolve(name)
        except AttributeError:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("name", list(STUDIES))
def test_the_page_of_a_study_names_its_settings_and_gets_their_ranges(name: str) -> None:
    study = study_class(name)
    settings = settings_of(study)
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    built = docs_ranges.add_ranges(page, study)
    rows = built.partition(docs_ranges.WITH_RANGES)[2].partition("\n\n")[0].splitlines()
    cells = [row.split("|")[1:4] for row in rows]
    assert {name for names, _, _ in cells for name in re.findall(r"`(\w+)`", names)} == set(settings)
    for setting in settings.values():
        shown = next(allowed for names, _, allowed in cells if f"`{setting.name}`" in names)
        assert docs_ranges.allowed(setting) in shown
    without = built.replace(docs_ranges.WITH_RANGES, "").splitlines()
    assert all(line in without or line.startswith(("| `", "| setting", "|---")) for line in page.splitlines())

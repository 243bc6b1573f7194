"""The pages name what is there: every import in them, and every dotted name of the package, resolves."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

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

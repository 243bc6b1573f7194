"""What each setting of a study may be, put into its documentation page while the pages are built.

A hook of mkdocs: the ranges are those that the fields declare, so that they are written once.
"""

from __future__ import annotations

import re
from typing import Any

from netopsy.cli.options import setting_texts
from netopsy.settings import Setting, settings_of
from netopsy.studies.study import Study
from netopsy.studies.table import STUDIES, study_class

BY_HAND = "| setting | default | meaning |\n|---|---|---|\n"
WITH_RANGES = "| setting | default | allowed | meaning |\n|---|---|---|---|\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page of a study with the ranges of its settings; any other page as it is."""
    return add_ranges(markdown, study_class(page.file.name)) if page.file.name in STUDIES else markdown


def add_ranges(markdown: str, study: type[Study]) -> str:
    """A column `allowed` in the page's table of settings; a page without one gets the table at its end."""
    settings = settings_of(study)
    if not settings:
        return markdown
    if BY_HAND not in markdown:
        return f"{markdown}\n## Settings\n\n{WITH_RANGES}{_table(settings, study.__doc__ or '')}"
    before, _, after = markdown.partition(BY_HAND)
    rows = re.match(r"(\|[^\n]*\n)*", after)[0]  # type: ignore[index]
    wide = "".join(f"{_with_range(row, settings)}\n" for row in rows.splitlines())
    return before + WITH_RANGES + wide + after[len(rows) :]


def _with_range(row: str, settings: dict[str, Setting]) -> str:
    """A row `| names | default | meaning |`, which may name several settings, with what they may be."""
    _, names, default, meaning = re.split(r"(?<!\\)\|", row, maxsplit=3)
    ranges = [allowed(settings[name]) for name in re.findall(r"`(\w+)`", names)]
    alike = len(set(ranges)) == 1
    words = ranges[0] if alike else "; ".join(words or "any" for words in ranges)
    return f"|{names}|{default}| {words} |{meaning}"


def _table(settings: dict[str, Setting], doc: str) -> str:
    texts = setting_texts(doc, list(settings))
    return "".join(
        f"| `{name}` | {'' if setting.default is None else setting.default} | {allowed(setting)} | "
        f"{texts.get(name, '')} |\n"
        for name, setting in settings.items()
    )


def allowed(setting: Setting) -> str:
    """`from 1 to 9`, or the words there are; empty where nothing is declared."""
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    words = setting.range.removesuffix(".")
    return words[:1].lower() + words[1:]

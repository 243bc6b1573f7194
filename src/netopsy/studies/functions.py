"""Each study as a function of (network, samples, **settings), made from its class when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable

from netopsy.result import Result
from netopsy.studies import STUDIES
from netopsy.studies.study import study_function


def __getattr__(name: str) -> Callable[..., Result]:
    if name not in STUDIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return study_function(name)

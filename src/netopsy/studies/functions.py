"""Each study as a function of (network, samples, **settings), made from its class when it is first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from netopsy.errors import SettingsError
from netopsy.features.features import Features
from netopsy.network.network import Network
from netopsy.result import Result
from netopsy.samples.samples import Samples
from netopsy.studies.study import perform, takes
from netopsy.studies.table import STUDIES, study_class


def __getattr__(name: str) -> Callable[..., Result]:
    if name not in STUDIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return study_function(name)


def study_function(name: str) -> Callable[..., Result]:
    """The study called `name` as a function of (network, samples, **settings)."""
    cls = study_class(name)
    needs = takes(cls)
    subject = Network | Features if needs.features else Network
    required = [name for name, needed in (needs.images | needs.networks).items() if needed]

    def function(network: Network | Features, samples: Samples | None = None, **settings: Any) -> Result:
        names = [f.name for f in fields(cls)]
        for setting in settings:
            if setting not in names:
                raise SettingsError(f"the study '{name}' has no setting '{setting}'; it has: {', '.join(names)}.")
        return perform(cls(**settings), network, samples)

    ahead = [
        inspect.Parameter("network", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=subject),
        inspect.Parameter("samples", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Samples | None),
    ]
    settings = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if f.name in required else f.default,
            annotation=f.type,
        )
        for f in fields(cls)
    ]
    function.__name__ = function.__qualname__ = STUDIES[name][0]
    function.__doc__ = cls.__doc__
    function.__signature__ = inspect.Signature([*ahead, *settings], return_annotation=Result)  # type: ignore[attr-defined]
    return function

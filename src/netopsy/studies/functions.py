"""Each study as a function of (network, samples, **settings), made from its class when it is first asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

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
    hints, needs = get_type_hints(cls), takes(cls)
    subject = Network | Features if needs.features else Network
    required = [name for name, needed in (needs.images | needs.networks).items() if needed]

    def function(network: Network | Features, samples: Samples | None = None, **settings: Any) -> Result:
        names = [f.name for f in fields(cls)]
        for setting in settings:
            if setting not in names:
                raise SettingsError(f"the study '{name}' has no setting '{setting}'; it has: {', '.join(names)}.")
        converted = {setting: _fitting(setting, value, hints[setting]) for setting, value in settings.items()}
        return perform(cls(**converted), network, samples)

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


def _fitting(name: str, value: Any, hint: Any) -> Any:
    """The value of a setting, a list as a tuple; SettingsError for one that its annotation `hint` cannot mean."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return value
    for kind in kinds:
        if get_origin(kind) is tuple:
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise SettingsError(f"{name} {value!r} must be a tuple, for instance ({value!r},).")
            return tuple(_fitting(name, entry, get_args(kind)[0]) for entry in value)
    if int in kinds and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise SettingsError(f"{name} {value!r} must be a whole number.")
    if float in kinds and (isinstance(value, bool) or not isinstance(value, Real)):
        raise SettingsError(f"{name} {value!r} must be a number.")
    return value

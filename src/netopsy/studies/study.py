"""What every study is: its settings and one run."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.provenance import provenance
from netopsy.result import Result
from netopsy.samples import Samples
from netopsy.studies import STUDIES, study_class


@dataclass(frozen=True)
class Study:
    """The settings of a study. `run` does the work; `perform` adds provenance and checks.

    name: the study's name in the table, on the command line and as a function.
    needs_samples: whether it can run without images.
    """

    name: ClassVar[str]
    needs_samples: ClassVar[bool] = True

    def run(self, network: Network, samples: Samples | None) -> Result:
        """Study `network` on `samples`."""
        raise NotImplementedError

    def result(self, **parts: Any) -> Result:
        """A Result of this study with its settings filled in."""
        return Result(study=self.name, settings=asdict(self), **parts)


def perform(study: Study, network: Network, samples: Samples | None = None) -> Result:
    """Run `study`, with the labels checked against the network's outputs and the provenance recorded."""
    if study.needs_samples and samples is None:
        raise SettingsError(f"the study '{study.name}' needs labelled images: give samples.")
    if samples is not None:
        samples.check(network.classes)
    begun = time.monotonic()
    result = study.run(network, samples)
    result.provenance = provenance(network, samples, seconds=time.monotonic() - begun)
    return result


def study_function(name: str) -> Callable[..., Result]:
    """The study called `name` as a function of (network, samples, **settings)."""
    cls = study_class(name)
    hints = get_type_hints(cls)

    def function(network: Network, samples: Samples | None = None, **settings: Any) -> Result:
        known = [f.name for f in fields(cls)]
        for setting in settings:
            if setting not in known:
                raise SettingsError(f"the study '{name}' has no setting '{setting}'; it has: {', '.join(known)}.")
        given = {setting: _fitting(setting, value, hints[setting]) for setting, value in settings.items()}
        return perform(cls(**given), network, samples)

    ahead = [
        inspect.Parameter("network", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Network),
        inspect.Parameter("samples", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Samples | None),
    ]
    settings = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
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
            return tuple(_fitting(name, one, get_args(kind)[0]) for one in value)
    if int in kinds and (isinstance(value, bool) or not isinstance(value, Integral)):
        raise SettingsError(f"{name} {value!r} must be a whole number.")
    if float in kinds and (isinstance(value, bool) or not isinstance(value, Real)):
        raise SettingsError(f"{name} {value!r} must be a number.")
    return value

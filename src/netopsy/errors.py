"""Everything that a user can get wrong, as exceptions that say what to do next.

    NetopsyError
    ├── NetworkError            a network cannot be found, built, exported or loaded
    │   ├── WeightsError        a weights file is missing, damaged, or does not fit the architecture
    │   └── UnknownLayer        a layer, node or unit that the network does not have
    ├── SamplesError            images or labels are missing, damaged or do not fit the network
    ├── SettingsError           a setting of a study is out of its range
    │   └── DivergedError       a training whose loss or weights are no longer finite
    ├── EditError               an edit of the weights that changes nothing or does not fit
    ├── TransformError          a fitted transform's file is damaged or foreign, or vectors or codes do not fit it
    ├── CaseError               a case folder is missing, damaged or of another version
    └── MissingExtra            an optional dependency is needed; the message holds the install line

The command line prints the message alone and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NetopsyError(Exception):
    """Base of all errors that a user can mend."""


class NetworkError(NetopsyError):
    """A network cannot be found, built, exported or loaded."""


class WeightsError(NetworkError):
    """A weights file is missing, damaged, or does not fit the architecture."""


class UnknownLayer(NetworkError):
    """A layer, node or unit that the network does not have."""


class SamplesError(NetopsyError):
    """Images or labels are missing, damaged or do not fit the network."""


class SettingsError(NetopsyError):
    """A setting of a study is out of its range."""


class DivergedError(SettingsError):
    """A training whose loss or weights are no longer finite."""


class EditError(NetopsyError):
    """An edit of the weights that changes nothing or does not fit."""


class TransformError(NetopsyError):
    """A fitted transform's file is damaged or foreign, or vectors or codes do not fit it."""


class CaseError(NetopsyError):
    """A case folder is missing, damaged or of another version."""


class MissingExtra(NetopsyError):
    """An optional dependency is needed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'netopsy[{extra}]'.")


def nearest(name: str, allowed: Iterable[str], count: int = 3) -> str:
    """The `count` names of `allowed` most like `name`, joined by commas, for the end of an error message."""
    names = list(dict.fromkeys(allowed))
    return ", ".join(difflib.get_close_matches(name, names, n=count, cutoff=0.3) or names[:count])

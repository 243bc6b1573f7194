"""Everything that a user can get wrong, as exceptions that say what to do next.

    NetopsyError
    ├── NetworkError            a network cannot be found, built, exported or loaded
    │   ├── WeightsError        a weights file is missing, damaged, or does not fit the architecture (an OSError too)
    │   └── UnknownLayer        a layer, node or unit that the network does not have (a KeyError too)
    ├── SamplesError            images or labels are missing, damaged or do not fit the network
    ├── SettingsError           a setting of a study is out of its range (a ValueError too)
    │   └── DivergedError       a training whose loss or weights are no longer finite
    ├── EditError               an edit of the weights that changes nothing or does not fit (a ValueError too)
    ├── TransformError          a fitted transform's file is damaged or foreign, or vectors or codes do not fit it
    ├── CaseError               a case folder is missing, damaged or of another version (an OSError too)
    └── MissingExtra            an optional dependency is needed; says how to install it (an ImportError too)

    NetopsyWarning              what was chosen or left out, and how to have it otherwise (a UserWarning)

Where Python has an error for what went wrong, ours is one of its kind, so that `except ValueError` and its
like go on working. The command line prints the message alone and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NetopsyError(Exception):
    """Base of all errors that a user can mend."""


class NetworkError(NetopsyError):
    """A network cannot be found, built, exported or loaded."""


class WeightsError(NetworkError, OSError):
    """A weights file is missing, damaged, or does not fit the architecture."""


class UnknownLayer(NetworkError, KeyError):
    """A layer, node or unit that the network does not have."""

    __str__ = Exception.__str__  # a KeyError would put the sentence in quotes


class SamplesError(NetopsyError):
    """Images or labels are missing, damaged or do not fit the network."""


class NotApplicable(NetworkError, SamplesError):
    """What was asked has no meaning for this network or these samples."""


class SettingsError(NetopsyError, ValueError):
    """A setting of a study is out of its range."""


class DivergedError(SettingsError):
    """A training whose loss or weights are no longer finite."""


class OutOfTime(NetopsyError):
    """Work was to end by now, see `netopsy.engine.workspace`; what it has done is kept."""


class EditError(NetopsyError, ValueError):
    """An edit of the weights that changes nothing or does not fit."""


class TransformError(NetopsyError):
    """A fitted transform's file is damaged or foreign, or vectors or codes do not fit it."""


class CaseError(NetopsyError, OSError):
    """A case folder is missing, damaged or of another version."""


class DiskFull(NetopsyError, OSError):
    """There is no room for what is to be written; what was there before stays as it was."""


class MissingExtra(NetopsyError, ImportError):
    """An optional dependency is needed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'netopsy[{extra}]'.")
        self.what, self.extra = what, extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.what, self.extra)  # from a worker it comes pickled


class NetopsyWarning(UserWarning):
    """Something was chosen that a user may want otherwise; says what, and how to choose."""


def nearest(name: str, allowed: Iterable[str], count: int = 3) -> str:
    """The `count` names of `allowed` most like `name`, joined by commas, for the end of an error message."""
    names = list(dict.fromkeys(allowed))
    return ", ".join(difflib.get_close_matches(name, names, n=count, cutoff=0.3) or names[:count])


def first_line(error: BaseException | None) -> str:
    """The first line of what an error says, without its full stop; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200].rstrip(".")

"""Settings: what a field may be is declared in its type, and one function checks all fields of a dataclass.

    @dataclass(frozen=True)
    class Blur:
        shapes: Annotated[tuple[Literal["box", "gauss"], ...], Length(1), Unique()] = ("box",)
        radius: Annotated[float, Interval(gt=0, le=10)] = 1.0
        repeats: PositiveInt = 3
        cut: PositiveFloat | None = None
        seed: Seed = 0

        def __post_init__(self) -> None:
            check_settings(self)

An Interval on a tuple holds for each of its values. The names are those of annotated-types and pydantic. A study is
checked by `Study`, its help on the command line is made of the same declarations.
"""

from __future__ import annotations

import difflib
import hashlib
import reprlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from netopsy.errors import SettingsError
from netopsy.wording import plural


@dataclass(frozen=True)
class Interval:
    """A finite number: greater than `gt` or at least `ge`, less than `lt` or at most `le`, where these are given."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __contains__(self, value: Any) -> bool:
        return (
            abs(value) <= sys.float_info.max  # and no NaN
            and (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )

    def __str__(self) -> str:
        """`from 1 to 9`, `above 0 and below 1`, `at least 1`; empty for any finite number."""
        if self.ge is not None and self.le is not None:
            return f"from {_number(self.ge)} to {_number(self.le)}"
        bounds = (("above", self.gt), ("at least", self.ge), ("below", self.lt), ("at most", self.le))
        return " and ".join(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Length:
    """A tuple of at least `least` values, and of at most `most`."""

    least: int = 0
    most: int | None = None

    def __str__(self) -> str:
        """`at least 1`, `1 to 9`, `at most 9`, `3`."""
        if self.most is None:
            return f"at least {self.least}"
        if self.least == self.most:
            return str(self.most)
        return f"{self.least} to {self.most}" if self.least else f"at most {self.most}"


@dataclass(frozen=True)
class Unique:
    """A tuple without duplicates."""


PositiveInt = Annotated[int, Interval(ge=1)]
NonNegativeInt = Annotated[int, Interval(ge=0)]
PositiveFloat = Annotated[float, Interval(gt=0)]
NonNegativeFloat = Annotated[float, Interval(ge=0)]
FiniteFloat = Annotated[float, Interval()]
Share = Annotated[float, Interval(ge=0, le=1)]
Seed = Annotated[int, Interval(ge=0, le=2**31)]
HalfWidth = Annotated[float, Interval(gt=0, le=100)]
"""How near a score is to be known before a sweep stops counting: +- so many points of accuracy."""

_NOUNS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


@dataclass(frozen=True)
class Setting:
    """What one field of a dataclass may be.

    kind: bool, int, float or str; None where it is another thing, which is not checked here. several: a tuple of them.
    optional: or None. choices: the words allowed, empty for any. number_or_text: a number stands for its text, and
    the method `check` says which texts are allowed.
    """

    name: str
    default: Any
    kind: type | None
    several: bool
    optional: bool
    choices: tuple[str, ...]
    interval: Interval | None
    length: Length
    unique: bool
    number_or_text: bool = False

    def check(self, value: Any) -> Any:
        """`value`, of Python's own types and a list as a tuple; SettingsError where it is not allowed."""
        if self.kind is None or (value is None and self.optional):
            return value
        return self._check_several(value) if self.several else self._check_one(value)

    @property
    def range(self) -> str:
        """What is allowed as a sentence of help, as `From 1 to 9.`; empty where any value is."""
        words = str(self.interval or "")
        if words and self.several:
            words = f"each {words}"
        if self.length.most is not None:
            words = f"{self.length}{', ' if words else ' values'}{words}"
        return f"{words[:1].upper()}{words[1:]}." if words else ""

    def _check_several(self, given: Any) -> tuple[Any, ...]:
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise SettingsError(f"{self.name} {_SHORT.repr(given)} must be a tuple, for instance ({given!r},).")
        values = tuple(self._check_one(value) for value in given)
        least, most = self.length.least, self.length.most
        noun = "value" if least == 1 else "values"
        if not values and least:
            raise SettingsError(f"{self.name} is empty; give {self.length} {noun}{self._example}.")
        if len(values) < least or (most is not None and len(values) > most):
            raise SettingsError(f"{self.name} has {plural(len(values), 'value')}; give {self.length}{self._example}.")
        twice = [value for i, value in enumerate(values) if value in values[:i]]
        if self.unique and twice:
            raise SettingsError(f"{self.name} names {twice[0]!r} twice; give each value once.")
        return values

    def _check_one(self, value: Any) -> Any:
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
            value = value.item()  # of numpy or torch
        if self.choices:
            return self._check_choice(value)
        if self.kind in (bool, str):
            stands = self.number_or_text and isinstance(value, Real) and not isinstance(value, bool)
            if not (isinstance(value, self.kind) or stands):
                raise self._mistake(value)
            return value
        number = Integral if self.kind is int else Real
        if isinstance(value, bool) or not isinstance(value, number):
            raise self._mistake(value)
        if self.interval is not None and value not in self.interval:
            raise self._mistake(value)
        return value if isinstance(value, (int, float)) else self.kind(value)  # type: ignore[misc]

    def _check_choice(self, value: Any) -> str:
        if isinstance(value, str) and value in self.choices:
            return value
        close = difflib.get_close_matches(str(value), self.choices, n=1)
        hint = f"nearest: {close[0]}. Give" if close else "give"
        raise SettingsError(
            f"{self.name} {_SHORT.repr(value)} is unknown; {hint} {'' if self.several else 'one of '}"
            f"{', '.join(self.choices)}."
        )

    def _mistake(self, value: Any) -> SettingsError:
        words = str(self.interval or "")
        noun = _NOUNS[self.kind] if words or self.interval is None else "a finite number"  # type: ignore[index]
        if words:
            noun += f" of {words}" if words.startswith("at ") else f" {words}"
        return SettingsError(f"{self.name} {_SHORT.repr(value)} must be {noun}{self._example}.")

    @property
    def _example(self) -> str:
        """The default as the end of an error message."""
        if self.several and self.default:
            return f", for instance {','.join(map(str, self.default[: max(3, self.length.least)]))}"
        return f"; the default is {self.default}" if self.kind in (int, float) and self.default is not None else ""


def check_settings(settings: Any) -> None:
    """Raise SettingsError unless every field of the dataclass `settings` is what its type says; lists become tuples.

    After that the method `check` is called, where there is one: it raises where settings do not fit each other.
    """
    cls: type = type(settings)
    for name, setting in settings_of(cls).items():
        value = getattr(settings, name)
        checked = setting.check(value)
        if checked is not value:
            object.__setattr__(settings, name, checked)  # a frozen dataclass, while it is made
    if hasattr(settings, "check"):
        settings.check()


@cache
def settings_of(cls: type) -> dict[str, Setting]:
    """What each field of a dataclass may be, by its name."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: _read(f.name, hints[f.name], f.default) for f in fields(cls) if f.init}


def members(hint: Any) -> tuple[Any, ...]:
    """The types that a union joins, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _read(name: str, hint: Any, default: Any) -> Setting:
    parts = list(_parts(hint))
    intervals = [part for part in parts if isinstance(part, Interval)]
    lengths = [part for part in parts if isinstance(part, Length)]
    kinds = [part for part in parts if isinstance(part, type) and part is not NoneType and part is not tuple]
    choices = tuple(word for part in parts if get_origin(part) is Literal for word in get_args(part))
    mixed = set(kinds) == {float, str} and not choices
    known = len(set(kinds)) == 1 and kinds[0] in _NOUNS
    return Setting(
        name=name,
        default=default,
        kind=kinds[0] if known and not choices else str if mixed or (choices and not kinds) else None,
        several=tuple in parts,
        optional=NoneType in parts,
        choices=choices,
        interval=intervals[0] if intervals else None,
        length=lengths[0] if lengths else Length(),
        unique=any(isinstance(part, Unique) for part in parts),
        number_or_text=mixed,
    )


def _parts(hint: Any) -> Iterator[Any]:
    """The types, literals and declarations that a hint is made of; `tuple` ahead of the type of its values."""
    origin = get_origin(hint)
    if origin is Annotated:
        base, *declared = get_args(hint)
        yield from _parts(base)
        yield from declared
    elif origin in (Union, UnionType):
        for member in get_args(hint):
            yield from _parts(member)
    elif origin is tuple:
        yield tuple
        values = get_args(hint)
        if Ellipsis not in values:
            yield Length(len(values), len(values))
        for value in values:
            if value is not Ellipsis:
                yield from _parts(value)
    else:
        yield hint


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def stream(purpose: str, seed: int, draw: int = 0) -> int:
    """A seed of 63 bits for draw number `draw` of `purpose`, as "weights".

    Never the user's own: most trainings begin at seed 0, and a control drawn from 0 would be the thing itself.
    """
    digest = hashlib.sha256(f"netopsy {purpose} {seed} {draw}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1 | 1 << 62

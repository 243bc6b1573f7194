"""Every setting of every study: what it may be is declared with it, checked, and told in the help."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch

from netopsy.cli.main import main
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.trials.pool import WorkerSettings
from netopsy.errors import SettingsError
from netopsy.settings import (
    FiniteFloat,
    Interval,
    Length,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Setting,
    Share,
    Unique,
    check_settings,
    settings_of,
)
from netopsy.studies.study import Study, takes
from netopsy.studies.table import STUDIES, study_class

CLASSES: list[type] = [*map(study_class, STUDIES), Recipe, WorkerSettings]
ALL = [pytest.param(cls, s, id=f"{cls.__name__}.{s.name}") for cls in CLASSES for s in settings_of(cls).values()]
INF, NAN = float("inf"), float("nan")


def numeric(setting: Setting) -> bool:
    return setting.kind in (int, float)


def beyond(setting: Setting) -> list[Any]:
    """Numbers just out of the declared range, and what no range holds."""
    unit: Any = 1 if setting.kind is int else 1e-9
    interval = setting.interval
    assert interval is not None
    outside = [interval.gt, interval.lt] if setting.kind is float else []
    outside += [
        None if interval.ge is None else interval.ge - unit,
        None if interval.le is None else interval.le + unit,
    ]
    return [value for value in outside if value is not None] + [INF, -INF, NAN]


def refused(cls: type, name: str, value: Any) -> str:
    """The sentence by which a value is refused."""
    with pytest.raises(SettingsError) as caught:
        cls(**{name: value})
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 300
    assert sentence.startswith(f"{name} ")
    return sentence


@pytest.mark.parametrize(("cls", "setting"), ALL)
def test_every_numeric_setting_declares_a_range(cls: type, setting: Setting) -> None:
    assert not numeric(setting) or setting.interval is not None
    declared = cls(**{setting.name: setting.default})
    assert getattr(declared, setting.name) == setting.default


def test_every_setting_of_every_study_is_of_a_kind_that_is_checked() -> None:
    for cls in map(study_class, STUDIES):
        further = (*takes(cls).images, *takes(cls).networks)
        assert [s.name for s in settings_of(cls).values() if s.kind is None and s.name not in further] == []
        assert "__post_init__" not in vars(cls), f"declare the ranges of {cls.__name__}; check() is for what is between"


@pytest.mark.parametrize(("cls", "setting"), ALL)
def test_what_is_out_of_a_range_is_refused_in_one_sentence(cls: type, setting: Setting) -> None:
    if setting.kind is None:
        return
    wrap = (lambda value: (value,) * max(1, setting.length.least)) if setting.several else (lambda value: value)
    wrong: list[Any] = {bool: ["yes", 1], str: [3, True], int: [True, "1", 0.5], float: [True, "1"]}[setting.kind]
    wrong = ["1 bit", "", True] if setting.number_or_text else wrong
    for value in [*wrong, *(beyond(setting) if numeric(setting) else [])]:
        sentence = refused(cls, setting.name, wrap(value))
        words = str(setting.interval or "")
        assert words in sentence and (setting.choices == () or ", ".join(setting.choices) in sentence)
    if setting.choices:
        assert "nearest: " + setting.choices[0] in refused(cls, setting.name, wrap(f"{setting.choices[0]}x"))
    if not setting.optional:
        refused(cls, setting.name, None)


@pytest.mark.parametrize(("cls", "setting"), [case for case in ALL if case.values[1].several])
def test_tuples_are_refused_by_their_length_and_duplicates(cls: type, setting: Setting) -> None:
    if setting.kind is None:
        return
    value = setting.default[0] if setting.default else setting.choices[0] if setting.choices else "a"
    if setting.kind is int and not setting.default:
        value = 1
    if setting.length.least:
        assert "give" in refused(cls, setting.name, ())
    if setting.length.most is not None:
        sentence = refused(cls, setting.name, (value,) * (setting.length.most + 1))
        assert f"has {setting.length.most + 1} values; give {setting.length}" in sentence
    if setting.unique:
        assert "twice" in refused(cls, setting.name, (value, value))
    assert "must be a tuple" in refused(cls, setting.name, value)


@pytest.mark.parametrize("name", list(STUDIES))
def test_help_tells_every_range(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
        raise SystemExit
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    cls = study_class(name)
    further = (*takes(cls).images, *takes(cls).networks)
    for setting in settings_of(cls).values():
        option = shown[shown.index(f"--{setting.name.replace('_', '-')} ") :]
        if setting.name not in further:
            assert setting.range in option and all(choice in option for choice in setting.choices)


@dataclass(frozen=True)
class Blur:
    """Settings of every kind."""

    shapes: Annotated[tuple[Literal["box", "gauss"], ...], Length(1), Unique()] = ("box",)
    size: tuple[PositiveInt, PositiveInt] = (3, 3)
    order: Literal["first", "last"] | None = None
    radius: Annotated[float, Interval(gt=0, le=10)] = 1.0
    weights: Annotated[tuple[float, ...] | None, Interval(gt=0, lt=1), Length(1, 3)] = None
    offset: FiniteFloat = 0.0
    cut: PositiveFloat | None = None
    gain: NonNegativeFloat = 0.0
    skip: NonNegativeInt = 0
    share: Share = 0.5
    names: tuple[str, ...] = ()
    fast: bool = False
    seed: Seed = 0
    other: Any = None

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"radius": 0}, "radius 0 must be a number above 0 and at most 10; the default is 1.0."),
        ({"radius": NAN}, "radius nan must be a number above 0 and at most 10; the default is 1.0."),
        ({"radius": 10**400}, "radius 1000"),
        ({"gain": 10**400}, "gain 1000"),
        ({"radius": True}, "radius True must be a number above 0 and at most 10; the default is 1.0."),
        ({"size": (3,)}, "size has 1 value; give 2, for instance 3,3."),
        ({"size": (3, 0)}, "size 0 must be a whole number of at least 1, for instance 3,3."),
        ({"size": 3}, "size 3 must be a tuple, for instance (3,)."),
        ({"shapes": ("bix",)}, "shapes 'bix' is unknown; nearest: box. Give box, gauss."),
        ({"shapes": ("box", "box")}, "shapes names 'box' twice; give each value once."),
        ({"shapes": ()}, "shapes is empty; give at least 1 value, for instance box."),
        ({"order": "frist"}, "order 'frist' is unknown; nearest: first. Give one of first, last."),
        ({"order": "zzz"}, "order 'zzz' is unknown; give one of first, last."),
        ({"order": ["first"]}, "order ['first'] is unknown; nearest: first. Give one of first, last."),
        ({"weights": (0.5, 1.0)}, "weights 1.0 must be a number above 0 and below 1."),
        ({"weights": (0.1, 0.2, 0.3, 0.4)}, "weights has 4 values; give 1 to 3."),
        ({"offset": INF}, "offset inf must be a finite number; the default is 0.0."),
        ({"cut": 0.0}, "cut 0.0 must be a number above 0."),
        ({"share": 1.5}, "share 1.5 must be a number from 0 to 1; the default is 0.5."),
        ({"names": "fc"}, "names 'fc' must be a tuple, for instance ('fc',)."),
        ({"names": (3,)}, "names 3 must be a text."),
        ({"fast": "no"}, "fast 'no' must be True or False."),
        ({"skip": 1.0}, "skip 1.0 must be a whole number of at least 0; the default is 0."),
        ({"seed": -1}, "seed -1 must be a whole number from 0 to 2,147,483,648; the default is 0."),
        ({"seed": np.array([1, 2])}, "seed array([1, 2]) must be a whole number"),
    ],
)
def test_sentences(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Blur(**given)
    assert str(caught.value).startswith(sentence)


def test_what_is_allowed_is_kept_in_types_of_python() -> None:
    made = Blur(
        shapes=["gauss"],  # type: ignore[arg-type]
        radius=np.float32(0.5),  # type: ignore[arg-type]
        skip=np.int64(4),  # type: ignore[arg-type]
        seed=torch.tensor(7),  # type: ignore[arg-type]
        weights=np.array([0.25, 0.5]),  # type: ignore[arg-type]
        gain=Fraction(1, 4),  # type: ignore[arg-type]
        fast=np.True_,  # type: ignore[arg-type]
        order="last",
        other=object,
    )
    assert made == Blur(
        ("gauss",), skip=4, seed=7, radius=0.5, weights=(0.25, 0.5), gain=0.25, fast=True, order="last", other=object
    )
    assert all(type(getattr(made, f.name)) in (int, float, str, bool, tuple, type, type(None)) for f in fields(made))
    assert replace(made, radius=3).radius == 3 and Blur(weights=None, cut=None).weights is None


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Interval(1, lt=2), "above 1 and below 2"),
        (Interval(ge=1, le=100_000), "from 1 to 100,000"),
        (Interval(ge=1), "at least 1"),
        (Interval(le=1e-10), "at most 1e-10"),
        (Interval(), ""),
        (Length(2), "at least 2"),
        (Length(most=2), "at most 2"),
        (Length(2, 2), "2"),
        (Length(1, 2), "1 to 2"),
    ],
)
def test_ranges_in_words(hint: object, words: str) -> None:
    assert str(hint) == words


def test_ranges_in_help() -> None:
    of = settings_of(Blur)
    assert of["radius"].range == "Above 0 and at most 10."
    assert of["size"].range == "2, each at least 1."
    assert of["weights"].range == "1 to 3, each above 0 and below 1."
    assert of["names"].range == of["fast"].range == of["offset"].range == of["other"].range == ""


def test_the_command_line_refuses_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["noise", "nosuch", "--samples", "nowhere", "--repeats", "0"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == ("netopsy: repeats 0 must be a whole number of at least 1; the default is 5.\n")


def test_a_study_checks_what_is_between_settings_after_each_alone() -> None:
    @dataclass(frozen=True)
    class Spread(Study):
        low: Share = 0.0
        high: Share = 1.0

        def check(self) -> None:
            if self.low > self.high:
                raise SettingsError("low is above high; give it below.")

        def run(self, network: Any, samples: Any) -> Any: ...

    with pytest.raises(SettingsError, match="low 2 must be"):
        Spread(low=2)
    with pytest.raises(SettingsError, match="low is above high"):
        Spread(low=0.5, high=0.25)

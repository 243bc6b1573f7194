"""Run a set of studies on one network and write the case."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from netopsy._version import __version__
from netopsy.case import Case
from netopsy.engine.workspace.workspace import Progress, workspace
from netopsy.errors import NetopsyError, NotApplicable, OutOfTime, SettingsError
from netopsy.features.features import Features
from netopsy.network.network import Network, check_network
from netopsy.result import Finding, Result
from netopsy.samples.samples import Samples
from netopsy.studies.baseline.baseline import Baseline
from netopsy.studies.study import ObservingStudy, Study, check_inputs, count_ahead, origin, perform, takes
from netopsy.studies.table import STUDIES, SWEEPS, study_class
from netopsy.wording import duration


def examine(
    network: Network | Features,
    samples: Samples | None = None,
    *,
    train: Samples | None = None,
    other: Network | None = None,
    studies: Iterable[str | Study] | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    minutes: float | None = 10,
    quick: bool = False,
    exact: bool = False,
    progress: Progress | None = None,
) -> Case:
    """Run `studies` on `network` and `samples`; returns the case with its report written.

    `baseline` comes first whatever the studies are: its score and its alerts head every page. What the studies count
    that only look is counted in one pass over the samples, before the first of them.

    network: or Features; then samples is None, and by default the studies are those that take them.
    train: images to train on, for the studies that train.
    other: a second network, for the studies that compare the first with one.
    studies: names from `list_studies()`, or study objects with settings of their own; by default all (one that has no
        meaning for these samples, such as pictures of text, says so in its result and no more), without `train`
        all but those that train the network, without `other` all but those that compare it with a second one.
    out: the case folder; one that exists is continued, and finished studies are not run again. Its checkpoints go once
        every study is finished. A temporary folder by default.
    settings: settings for those of the named studies that have them, e.g. {"seed": 1, "precision": 0.5}.
    minutes: for all studies together. Sweeps first estimate everything on a few samples and then look closer where a
        decision hangs on it; their tables carry the intervals reached. Any other study that is not finished in its
        share of the time says so. Run again with more minutes, both go on from there. None: as `exact`.
    quick: by default the few studies that the first page needs, on their main settings, in at most 2 minutes.
    exact: every study to its end, with every sample shown to every edited network.
    progress: called with (label, done, total): at first for each study its name and how much of 1 the case has, then
        ("examine", number, of how many) before each study and after the last, and in between what each one does.
    """
    if not isinstance(network, Features):
        check_network(network)
    by_default = studies is None
    if exact and quick:
        raise SettingsError("quick and exact exclude one another: give one of them.")
    if quick and minutes is not None:
        minutes = min(minutes, QUICK_MINUTES)
    budget = TimeBudget(None if exact else minutes, around=_AROUND if quick else 0.0)
    if studies is None and quick and not isinstance(network, Features):
        studies = quick_studies()
    elif studies is None:
        studies = [name for name in STUDIES if _suits(study_class(name), network, train, other)]
    chosen = with_baseline([_study(entry, settings or {}, train, other) for entry in studies], network, samples, train)
    for study in chosen:
        with suppress(NotApplicable) if by_default else nullcontext():
            check_inputs(study, network, samples)  # before the folder is made
    case = Case(out if out is not None else tempfile.mkdtemp(prefix="netopsy-case-"))
    finished = [_find_finished(study, network, samples, case, budget) is not None for study in chosen]
    waiting = [
        study for study, done in zip(chosen, finished, strict=True) if isinstance(study, ObservingStudy) and not done
    ]
    writing = 0.1  # seconds that the report takes
    try:
        for study, done in zip(chosen, finished, strict=True):
            if progress:
                progress(study.name, int(done), 1)
        for number, study in enumerate(chosen):
            if progress:
                progress("examine", number, len(chosen))
            if study in waiting and isinstance(network, Network) and samples is not None:
                for one in waiting:
                    case.begin(one.name)
                with workspace(case.work, progress, minutes=budget.left, firm=True), suppress(OutOfTime):
                    count_ahead(waiting, network, samples)
                waiting = []
            started = time.monotonic()
            budget.share(study, [s for s, done in zip(chosen[number:], finished[number:], strict=True) if not done])
            run_study(study, network, samples, case, progress, any_kind=by_default, budget=budget)
            # readable from the first study on, as long as writing takes a small part of the time
            if not finished[number] and time.monotonic() - started > 10 * writing:
                started = time.monotonic()
                case.write_report()
                writing = time.monotonic() - started
        if progress:
            progress("examine", len(chosen), len(chosen))
    finally:
        case.release()
        if case.names:
            case.write_report()
    undecided = any(result.provenance.get("budget", {}).get("undecided") for result in case.results)
    case.tidy("sweep-*" if undecided else "")
    return case


QUICK_MINUTES, _AROUND = 2.0, 0.1  # and the share of them that loading and the last pages take
_SWEEP_SHARE = 3  # of the time, where another study has 1
_LEAST = 5.0  # seconds that any study has


def quick_studies() -> list[Study]:
    """What the first page needs: the score, what each layer stands, and which number formats are safe."""
    formats = ("fp16", "int8_tensor", "int8_channel", "int6_channel", "int4_channel")
    chosen: dict[str, dict[str, Any]] = {
        "baseline": {},
        "parameters": {},
        "sparsity": {},
        "noise": {"strengths": (0.1,), "repeats": 3},
        "rounding": {"decimals": (), "formats": formats, "layer_formats": ("int8_channel", "int4_channel")},
    }
    return [study_class(name)(**settings) for name, settings in chosen.items()]


class TimeBudget:
    """The time of an examination. minutes: of all, None for as long as it takes; seconds: of the study at work.

    around: the share of the minutes that is left to what comes before and after the studies.
    """

    def __init__(self, minutes: float | None, around: float = 0.0) -> None:
        if minutes is not None and not minutes > 0:
            raise SettingsError(
                f"minutes {minutes} must be more than 0; --exact (exact=True) takes as long as it takes."
            )
        self.minutes, self.seconds = minutes, 60 * (minutes or 0.0)
        self.end = None if minutes is None else time.monotonic() + 60 * minutes * (1 - around)

    @property
    def left(self) -> float | None:
        """Minutes that are left of all, a moment at least."""
        return None if self.end is None else max(self.end - time.monotonic(), _LEAST) / 60

    def share(self, study: Study, waiting: Sequence[Study]) -> None:
        """Give `study` its part of the time that it and all `waiting` have; what it leaves goes to those after it."""
        if self.left is not None:
            parts = [_SWEEP_SHARE if one.name in SWEEPS else 1 for one in waiting] or [1]
            mine = _SWEEP_SHARE if study.name in SWEEPS else 1
            self.seconds = max(60 * self.left * mine / sum(parts), _LEAST)


def with_baseline(
    studies: list[Study], network: Network | Features, samples: Samples | None, train: Samples | None = None
) -> list[Study]:
    """`studies` with `baseline` in front, if it is not among them and the network is shown samples."""
    if samples is None or isinstance(network, Features) or any(study.name == "baseline" for study in studies):
        return studies
    try:
        check_inputs(Baseline(), network, samples)
    except NetopsyError:
        return studies  # the studies themselves say what is wrong
    return [Baseline(train=train), *studies]


def run_study(
    study: Study,
    network: Network | Features,
    samples: Samples | None,
    case: Case | None = None,
    progress: Progress | None = None,
    *,
    any_kind: bool = False,
    budget: TimeBudget | None = None,
) -> Result:
    """Run one study; with a case, take a finished result from there, keep checkpoints there, and add the result.

    any_kind: of a study that has no meaning for this network or these samples, the result says so.
    budget: how long it may take; of a study that is not finished by then, the result says so.
    """
    budget = budget or TimeBudget(None)
    minutes = None if budget.minutes is None else budget.seconds / 60
    if case is None:
        with workspace(None, progress, minutes=minutes):
            return perform(study, network, samples)
    if done := _find_finished(study, network, samples, case, budget):
        return done
    with case.at_work(study.name), workspace(case.work, progress, minutes=minutes, firm=True):
        unfinished = False
        try:
            result = perform(study, network, samples)
        except NotApplicable as error:
            if not any_kind:
                raise
            result = study.result(findings=[Finding(f"This study does not apply here: {error}", 0.0)])
            result.provenance = origin(network, samples, 0.0, study)
        except OutOfTime:
            unfinished = True
            result = study.result(
                findings=[
                    Finding(
                        f"Not finished in {duration(budget.seconds)}. Run again with more minutes (--minutes), or "
                        "--exact, and it resumes.",
                        0.0,
                    )
                ]
            )
            result.provenance = origin(network, samples, budget.seconds, study)
    undecided = sum(record.get("undecided", 0) for record in result.provenance.get("spent", ()))
    if budget.minutes is not None and ("spent" in result.provenance or unfinished):
        record = {"minutes": budget.minutes, "finished": not unfinished, "undecided": undecided}
        result.provenance["budget"] = record
    case.add(result)
    if unfinished:
        case.begin(study.name)
    return result


def _find_finished(
    study: Study, network: Network | Features, samples: Samples | None, case: Case, budget: TimeBudget
) -> Result | None:
    """The result of exactly this study that the case holds, if there is nothing to add to it in the time there is."""
    done = case.load(study.name) if study.name in case.names else None
    if done is None or not _same(done, study, network, samples):
        return None
    record = done.provenance.get("budget")
    if record is None:
        return done
    if not record["finished"] or budget.minutes is None:
        return None
    return done if not record["undecided"] or budget.minutes <= record["minutes"] else None


def _suits(study: type[Study], network: Network | Features, train: Samples | None, other: Network | None) -> bool:
    """Whether a study runs by default on what is given."""
    needs = takes(study)
    if needs.networks.get("other") and other is None:
        return False
    if isinstance(network, Features):
        return needs.features
    return train is not None or not needs.images.get("train")


def _study(entry: str | Study, settings: Mapping[str, Any], train: Samples | None, other: Network | None) -> Study:
    if isinstance(entry, str):
        cls = study_class(entry)
        settings_of_study = {f.name for f in fields(cls)}
        made: Study = cls(**{name: value for name, value in settings.items() if name in settings_of_study})
        entry = made
    cls = type(entry)
    inputs = {"train": (train, takes(cls).images), "other": (other, takes(cls).networks)}
    missing = {
        name: value
        for name, (value, names) in inputs.items()
        if value is not None and name in names and getattr(entry, name) is None
    }
    return replace(entry, **missing) if missing else entry


def _same(finished: Result, study: Study, network: Network | Features, samples: Samples | None) -> bool:
    """Whether `finished` is what `study` would give: same settings, networks, preprocessing, images and version."""
    import json

    def key(settings: Any, source: dict[str, Any]) -> str:
        further = takes(type(study)).networks
        sources = {name: source.get(name) for name in ("network", "samples", "features", *further)}
        sources["version"] = source["versions"]["netopsy"]
        return json.dumps([settings, sources], sort_keys=True, default=str)

    if finished.provenance.get("versions", {}).get("netopsy") != __version__:
        return False
    return key(finished.settings, finished.provenance) == key(study.settings(), origin(network, samples, 0.0, study))

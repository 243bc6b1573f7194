"""What every study is: its settings and one run; what those that only look declare, so that one pass serves many."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, get_type_hints

import polars as pl

from netopsy.engine.observe.counting import Tallies
from netopsy.engine.observe.observe import observe, observe_ahead
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SamplesError, SettingsError
from netopsy.features.features import Features
from netopsy.network.network import Network, check_network
from netopsy.provenance import provenance
from netopsy.result import MEASURE_SCHEMA, Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import check_settings, members
from netopsy.studies.table import STUDIES
from netopsy.wording import of_samples


def file_for(study: str, name: str) -> Path:
    """The path of a file that `study` writes: in the workspace's folder, else in a new temporary one."""
    return (current_workspace().folder or Path(tempfile.mkdtemp(prefix=f"netopsy-{study}-"))) / name


def stem_of(network: Network) -> str:
    """The network's name as part of a file name: `resnet20` of `netopsy:resnet20`."""
    last = Path(network.name.rpartition(":")[2]).name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "network"


def whereabouts(study: str, path: Path) -> str:
    """Where a reader of the report finds the file: in the case, which keeps what a workspace has, or at its path."""
    return f"{study}/artifacts/{path.name} of the case" if current_workspace().folder else str(path)


REQUIRED: Any = None
"""The default of a field that no run can do without: settings are checked before images and networks are loaded."""

Allowance = Literal["workers", "any classes"]


@dataclass(frozen=True)
class Study(ABC):
    """The settings of a study. `run` does the work; `perform` adds provenance and checks.

    What a setting may be its type declares (`netopsy.settings`), and is checked when the study is made. A study whose
    settings must fit each other has a method `check` besides, which raises SettingsError where they do not; one whose
    settings name layers, nodes or units has a method `check_on`, which raises where the network has none such.

    What a study takes its type hints say (`takes` reads them):

        def run(self, network: Network, samples: Samples)              it needs images
        def run(self, network: Network, samples: Samples | None)       it can do without
        def run(self, network: Network | Features, samples: ...)       Features too, in place of a network and samples
        train: Samples = REQUIRED                                      it trains the network, on these images
        train: Samples | None = None                                   it may be given further images
        other: Network = REQUIRED                                      it compares the network with a second one
        other: Network | None = None                                   it may be given a second network

    Further images are a Samples in Python, on the command line the options --train, --train-split and --train-count, in
    a protocol the table [train]. A further network is a Network in Python, on the command line a second argument where
    it is required, else --other, and --other-weights and --other-num-classes, in a protocol the table [other].

    name: the study's name in the table, on the command line and as a function.
    group: which of the user's questions it answers, see `netopsy.result.Group`.
    allows: what no hint can say. workers: its work may be split over workers, and its command takes --workers and
        --cluster. any classes: the images' classes are its own business, they need not be the network's outputs.
    """

    name: ClassVar[str]
    group: ClassVar[Group] = "contents"
    allows: ClassVar[tuple[Allowance, ...]] = ()

    def __post_init__(self) -> None:
        check_settings(self)

    @abstractmethod
    def run(self, network: Any, samples: Any) -> Result:
        """Study `network` on `samples`."""

    def result(self, **parts: Any) -> Result:
        """A Result of this study with its settings filled in."""
        question = STUDIES[self.name][2] if self.name in STUDIES else ""
        return Result(study=self.name, settings=self.settings(), question=question, group=self.group, **parts)

    def settings(self) -> dict[str, Any]:
        """The settings as plain data: images as name, count and digest, networks as name, parameters and digest."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


def layer_measures(measure: str, rows: Iterable[tuple[str, float, float | None, float | None, str]]) -> pl.DataFrame:
    """The frame `Result.measures` of one measure. rows: layer, value, its interval or Nones, and a word on it."""
    return pl.DataFrame([(layer, measure, *rest) for layer, *rest in rows], schema=MEASURE_SCHEMA, orient="row")


@dataclass(frozen=True)
class Takes:
    """What a study takes.

    samples: whether a network alone is not enough. features: whether Features may stand in its place.
    images, networks: the fields that hold further ones, and whether each is required.
    """

    samples: bool
    features: bool
    images: dict[str, bool]
    networks: dict[str, bool]


@cache
def takes(cls: type[Study]) -> Takes:
    """What a study takes, as hints of its fields and its `run` or `conclude` say; by default network and samples."""
    hints, settings = get_type_hints(getattr(cls, "conclude", cls.run)), get_type_hints(cls)
    features = Features in members(hints.get("network"))
    optional = NoneType in members(hints.get("samples")) and not features
    images, networks = (
        {f.name: NoneType not in members(settings[f.name]) for f in fields(cls) if kind in members(settings[f.name])}
        for kind in (Samples, Network)
    )
    return Takes(not optional, features, images, networks)


def perform(study: Study, network: Network | Features, samples: Samples | None = None) -> Result:
    """Run `study`, with the labels checked against the network's outputs and the provenance recorded.

    network: or Features, for a study that takes them; these bring their own labels, and samples is None.
    """
    check_inputs(study, network, samples)
    started, already = time.monotonic(), len(current_workspace().spent)
    result = study.run(network, samples)
    if samples is not None and samples.kind != "image":
        _name_samples(result, samples.noun)
    result.provenance = origin(network, samples, time.monotonic() - started, study)
    if spent := current_workspace().spent[already:]:
        result.provenance["spent"] = spent
    return result


def _name_samples(result: Result, noun: str) -> None:
    """Call samples in sentences and captions what they are: `over 17 images` becomes `over 17 texts`."""
    result.question = of_samples(result.question, noun)
    result.findings = [Finding(of_samples(s, noun), getattr(s, "weight", 1.0)) for s in result.findings]
    for shown in (result.figures, result.images):
        for name, entry in shown.items():
            words = {"title": of_samples(entry.title, noun), "reading": of_samples(entry.reading, noun)}
            shown[name] = replace(entry, **words)  # type: ignore[assignment,arg-type]
    for name, figure in result.figures.items():
        result.figures[name] = replace(figure, spec=_with_titles(figure.spec, noun))


def _with_titles(spec: Any, noun: str) -> Any:
    """A Vega-Lite specification whose axes and legends name samples so; its data stay as they are."""
    if isinstance(spec, list):
        return [_with_titles(part, noun) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {
        key: of_samples(part, noun)
        if key in ("title", "description") and isinstance(part, str)
        else part
        if key in ("data", "datasets", "values")
        else _with_titles(part, noun)
        for key, part in spec.items()
    }


def check_inputs(study: Study, network: Network | Features, samples: Samples | None) -> None:
    """Raise SettingsError or SamplesError where `study` cannot run on what is given."""
    needs = takes(type(study))
    extra = {name: value for name in needs.images if (value := getattr(study, name)) is not None}
    for name, value in extra.items():
        if not isinstance(value, Samples):
            raise SettingsError(f"{name} is a {type(value).__name__}; give images as load_samples returns them.")
    if isinstance(samples, Network):
        raise SettingsError(f"samples is the network {samples.name}; give images there, and a second network as other.")
    for name in needs.networks:
        value = getattr(study, name)
        if value is not None:
            check_network(value, name)
    check_other(type(study), getattr(study, "other", None))
    if isinstance(network, Features):
        if not needs.features:
            raise SettingsError(f"the study '{study.name}' takes no features; give a network.")
        if samples is not None or extra:
            what = "samples" if samples is not None else next(iter(extra))
            raise SettingsError(f"features bring their own vectors and labels for both parts; leave {what} out.")
        return
    check_network(network)
    if hasattr(study, "check_on"):
        study.check_on(network)
    if needs.samples and samples is None:
        raise SettingsError(f"the study '{study.name}' needs labelled images: give samples.")
    if needs.images.get("train") and "train" not in extra:
        raise SettingsError(
            f"the study '{study.name}' trains the network: give images to train on, --train SOURCE or "
            "--train-split NAME (in Python train=load_samples(...))."
        )
    for images in (samples, *extra.values()):
        if images is not None and "any classes" not in study.allows:
            images.check(network.classes)
    if needs.images.get("train") and samples is not None:
        _same_classes(extra["train"], samples)


def check_other(cls: type[Study], other: object) -> None:
    """Raise SettingsError where a study that compares two networks is given no second one."""
    if takes(cls).networks.get("other") and other is None:
        raise SettingsError(
            f"the study '{cls.name}' compares the network with a second one: give it after the first "
            f"(`netopsy {cls.name} NETWORK OTHER`; `examine` takes --other NETWORK, a protocol the table [other], "
            "Python other=load_network(...))."
        )


def _same_classes(train: Samples, samples: Samples) -> None:
    """Raise SamplesError where a class has another number in the images to train on than in the samples."""
    number = {name: i for i, name in enumerate(samples.classes)}
    for i, name in enumerate(train.classes):
        if number.get(name, i) != i:
            raise SamplesError(
                f"class '{name}' has label {i} in {train.name} and {number[name]} in {samples.name}; "
                "number the classes alike in both, by the same list of class names."
            )


def origin(
    network: Network | Features, samples: Samples | None, seconds: float, study: Study | None = None
) -> dict[str, Any]:
    """The provenance of a result on a network and samples, or on features; with it the networks that `study` holds."""
    names = {} if study is None else takes(type(study)).networks
    further = {name: value for name in names if (value := getattr(study, name)) is not None}
    if isinstance(network, Features):
        return provenance(None, None, seconds, features=network.provenance, further=further)
    return provenance(network, samples, seconds, further=further)


def _plain(value: Any) -> Any:
    if isinstance(value, Samples):
        return {"name": value.name, "count": len(value), "digest": value.digest}
    if isinstance(value, Network):
        facts = {"name": value.name, "parameters": value.parameters, "digest": value.digest}
        return facts | {key: value.provenance[key] for key in ("weights", "seed") if key in value.provenance}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


class ObservingStudy(Study):
    """A study that begins with a pass over the samples: it declares its tallies, and makes its tables of the results.

    `examine` counts the tallies of all such studies in one pass. What such a study takes, the hints of `conclude` say.
    """

    @abstractmethod
    def tallies(self, network: Network, samples: Samples) -> Tallies:
        """What to count, as `observe` takes it; nothing where no pass is needed. Mistakes in settings are
        raised here.
        """

    @abstractmethod
    def conclude(self, network: Any, samples: Any, results: Mapping[str, Any]) -> Result:
        """The result, of what was counted: the result of each tally by its name; empty where there was none."""

    def run(self, network: Network, samples: Samples | None) -> Result:
        """Count and conclude."""
        tallies = {} if samples is None else self.tallies(network, samples)
        results = observe(network, samples, tallies) if samples is not None and tallies else {}
        return self.conclude(network, samples, results)


def count_ahead(studies: Iterable[Study], network: Network, samples: Samples) -> None:
    """Count what the observing ones among `studies` declare, in one pass; each then finds it in the workspace."""
    sets = []
    for study in studies:
        if isinstance(study, ObservingStudy):
            with contextlib.suppress(Exception):  # it is raised again when the turn of the study has come
                sets.append(study.tallies(network, samples))
    sets = [tallies for tallies in sets if tallies]
    if len(sets) > 1:
        observe_ahead(network, samples, sets)

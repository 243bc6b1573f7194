"""Studies that look: what they count is declared, so that one pass can serve many of them."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from netopsy.engine.observe.counting import Tallies
from netopsy.engine.observe.observe import observe, observe_ahead
from netopsy.network.network import Network
from netopsy.result import Result
from netopsy.samples.samples import Samples
from netopsy.studies.study import Study


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

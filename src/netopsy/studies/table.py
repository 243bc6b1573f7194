"""The table of studies: their modules, classes and the question that each answers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from netopsy.errors import SettingsError, nearest

if TYPE_CHECKING:
    import polars as pl


# name -> (module, class, the question it answers); in the order of a full examination
STUDIES: dict[str, tuple[str, str, str]] = {
    "baseline": ("baseline", "Baseline", "How good is it, where is it wrong, and is it loaded right?"),
    "parameters": ("parameters", "Parameters", "Where are the parameters?"),
    "distributions": ("distributions", "Distributions", "How are the weights distributed?"),
    "filters": ("filters", "Filters", "How varied are the filters of each layer?"),
    "priors": ("priors", "WeightPriors", "What could a new network begin with, and how wide should it be?"),
    "sparsity": ("sparsity", "Sparsity", "Which units are dead or always on, and how many activations are zero?"),
    "activations": ("activations", "Activations", "Which features respond, and in how many different patterns?"),
    "reconstruct": ("reconstruct", "Reconstruct", "What in an image makes a unit fire?"),
    "stimuli": ("stimuli", "Stimuli", "Which images excite each unit most?"),
    "maximize": ("maximize", "Maximize", "Which image would excite a unit most?"),
    "field": ("field", "Field", "How much of the image does a unit see, and what feeds it?"),
    "facets": ("facets", "Facets", "Does a unit respond to several different patterns?"),
    "transfer": ("transfer", "Transfer", "How few bytes do the features need for another task?"),
    "noise": ("noise", "Noise", "How much noise on the weights can it take?"),
    "rounding": ("rounding", "Rounding", "How many decimals, or which number format, do the weights need?"),
    "codebook": ("codebook", "WeightCodebook", "How many distinct weights does each layer need?"),
    "filter_codebook": ("filter_codebook", "FilterCodebook", "How many distinct filters does each layer need?"),
    "prescribe": ("prescribe", "Prescribe", "How small can it be stored without training, within a loss you choose?"),
    "compression": ("compression", "Compression", "How small does it get with pruning, sharing and retraining?"),
    "triage": ("triage", "Triage", "Which blocks does it need, and which can be a single layer?"),
    "correspondence": ("correspondence", "Correspondence", "Did another network learn the same units?"),
    "dsd": ("dsd", "Dsd", "Does it gain from training dense, then sparse, then dense again?"),
}


SWEEPS = ("noise", "rounding", "codebook", "filter_codebook")
"""The studies that give estimates where time is short."""


def study_class(name: str) -> Any:
    """The class of the study called `name`, a subclass of `Study`; imports it."""
    key = name.replace("-", "_")
    if key not in STUDIES:
        raise SettingsError(f"no study '{name}'; nearest: {nearest(key, STUDIES)}. All: {', '.join(STUDIES)}.")
    module, kind, _ = STUDIES[key]
    return getattr(importlib.import_module(f"netopsy.studies.{module}"), kind)


def list_studies() -> pl.DataFrame:
    """Every study: `study`, `what` it answers.

    Sources: Lorieul et al., Static and Dynamic Autopsy of Deep Networks (parameters, distributions, filters, priors,
    sparsity, noise, rounding, codebook, filter_codebook); Palmieri et al., Probing a Deep Neural Network (activations,
    reconstruct, field, maximize, facets); Zeiler and Fergus 2014 (stimuli); Carvalho et al., Deep Neural Networks Under
    Stress (transfer); Han et al., Deep Compression and DSD (prescribe, compression, dsd); Nowak and Corso, Deep Net
    Triage (triage); Li et al., Convergent Learning (correspondence). Each study's page names equations and figures.
    """
    import polars as pl  # the command line reads the table alone, and starts sooner without

    return pl.DataFrame({"study": list(STUDIES), "what": [line for _, _, line in STUDIES.values()]})

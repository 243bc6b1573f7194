"""The table of studies: their modules, classes and one line each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from netopsy.errors import SettingsError, nearest

if TYPE_CHECKING:
    import polars as pl

    from netopsy.studies.study import Study

# name -> (module, class, one line); in the order of a full examination
STUDIES: dict[str, tuple[str, str, str]] = {
    "baseline": ("baseline", "Baseline", "How good is it, where is it wrong, and is it loaded right?"),
    "parameters": ("parameters", "Parameters", "Where the parameters are: Tables I and II."),
    "distributions": ("distributions", "Distributions", "How the weights are distributed: Figures 1 and 3."),
    "filters": ("filters", "Filters", "How varied the filters are: Equation 1, Figure 2; their pictures."),
    "sparsity": ("sparsity", "Sparsity", "How many activations are zero: Figure 4; dead and always-on units."),
    "activations": ("activations", "Activations", "Which features answer and which patterns they make: Figures 2, 6."),
    "reconstruct": ("reconstruct", "Reconstruct", "From a unit back to the image, four ways: Figure 4."),
    "stimuli": ("stimuli", "Stimuli", "What excites each unit most: strongest images, patches, classes; an atlas."),
    "maximize": ("maximize", "Maximize", "Which image excites a unit most: Equation 10, Figure 5."),
    "field": ("field", "Field", "What units see: theoretical and effective fields, the activation tree of Figure 3."),
    "facets": ("facets", "Facets", "Which different patterns make a unit fire: its facets, and a Karnaugh map."),
    "transfer": ("transfer", "Transfer", "How far transferred features can be squeezed: Figures 2 to 5, Tables 2, 3."),
    "noise": ("noise", "Noise", "What Gaussian noise on the weights costs: Figure 5."),
    "rounding": ("rounding", "Rounding", "What fewer decimals and smaller number formats cost: Table III."),
    "codebook": ("codebook", "WeightCodebook", "What K shared weights a layer cost: Figure 6."),
    "filter_codebook": ("filter_codebook", "FilterCodebook", "What K shared filters a layer cost: Figure 7."),
    "prescribe": ("prescribe", "Prescribe", "How small it gets without training: bits and densities of each layer."),
    "compression": ("compression", "Compression", "How small it gets: pruned, shared, coded, and retrained between."),
    "triage": ("triage", "Triage", "Which blocks it needs: each becomes one layer, started and trained six ways."),
    "correspondence": ("correspondence", "Correspondence", "Whether another network learned the same units."),
    "dsd": ("dsd", "Dsd", "What dense-sparse-dense training gains over a conventional one of as many epochs."),
}


def study_class(name: str) -> type[Study]:
    """The class of the study called `name`; imports it."""
    key = name.replace("-", "_")
    if key not in STUDIES:
        raise SettingsError(f"no study '{name}'; nearest: {nearest(key, STUDIES)}. All: {', '.join(STUDIES)}.")
    module, kind, _ = STUDIES[key]
    return getattr(importlib.import_module(f"netopsy.studies.{module}"), kind)


def list_studies() -> pl.DataFrame:
    """Every study: `study`, `what` it answers."""
    import polars as pl  # the command line reads the table alone, and starts sooner without

    return pl.DataFrame({"study": list(STUDIES), "what": [line for _, _, line in STUDIES.values()]})

"""Netopsy: the autopsy of trained deep networks.

What is in a network, what can it lose, and how small can it get?
Names are imported when they are first used, so that `import netopsy` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from netopsy._version import __version__ as __version__
from netopsy.studies import STUDIES

if TYPE_CHECKING:
    from netopsy.case import Case as Case
    from netopsy.engine.backward import backproject as backproject
    from netopsy.engine.compress.account import account as account
    from netopsy.engine.compress.expand import expand as expand
    from netopsy.engine.compress.stages import compress as compress
    from netopsy.engine.edits import Replace as Replace
    from netopsy.engine.edits import Shift as Shift
    from netopsy.engine.features import Features as Features
    from netopsy.engine.features import load_features as load_features
    from netopsy.engine.kmeans1d import Codebook as Codebook
    from netopsy.engine.kmeans1d import kmeans1d as kmeans1d
    from netopsy.engine.observe import observe as observe
    from netopsy.engine.sweep import Variant as Variant
    from netopsy.engine.sweep import score as score
    from netopsy.engine.sweep import sweep as sweep
    from netopsy.engine.train import History as History
    from netopsy.engine.train import Recipe as Recipe
    from netopsy.engine.train import fit as fit
    from netopsy.engine.trials import run_trials as run_trials
    from netopsy.engine.trials import workers as workers
    from netopsy.engine.workspace import workspace as workspace
    from netopsy.examination import examine as examine
    from netopsy.network.blocks import list_blocks as list_blocks
    from netopsy.network.listing import list_layers as list_layers
    from netopsy.network.load import load_network as load_network
    from netopsy.network.network import Network as Network
    from netopsy.network.preprocessing import Preprocessing as Preprocessing
    from netopsy.result import Figure as Figure
    from netopsy.result import Image as Image
    from netopsy.result import Result as Result
    from netopsy.samples import Samples as Samples
    from netopsy.samples import load_samples as load_samples
    from netopsy.studies.listing import list_studies as list_studies
    from netopsy.transform import Transform as Transform
    from netopsy.transform import load_transform as load_transform

_HOMES = {
    "Case": "case",
    "Codebook": "engine.kmeans1d",
    "Features": "engine.features",
    "Figure": "result",
    "History": "engine.train",
    "Image": "result",
    "Network": "network.network",
    "Preprocessing": "network.preprocessing",
    "Recipe": "engine.train",
    "Replace": "engine.edits",
    "Result": "result",
    "Samples": "samples",
    "Shift": "engine.edits",
    "Transform": "transform",
    "Variant": "engine.sweep",
    "account": "engine.compress.account",
    "backproject": "engine.backward",
    "compress": "engine.compress.stages",
    "examine": "examination",
    "expand": "engine.compress.expand",
    "fit": "engine.train",
    "kmeans1d": "engine.kmeans1d",
    "list_blocks": "network.blocks",
    "list_layers": "network.listing",
    "list_studies": "studies.listing",
    "load_features": "engine.features",
    "load_network": "network.load",
    "load_samples": "samples",
    "load_transform": "transform",
    "observe": "engine.observe",
    "run_trials": "engine.trials",
    "score": "engine.sweep",
    "sweep": "engine.sweep",
    "workers": "engine.trials",
    "workspace": "engine.workspace",
}

__all__ = [*_HOMES, *STUDIES]


def __getattr__(name: str) -> Any:
    if name in STUDIES:
        from netopsy.studies.study import study_function

        value: Any = study_function(name)
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"netopsy.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'netopsy' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

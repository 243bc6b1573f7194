"""Which studies can treat a network: what each needs, asked of the graph and by the studies' own checks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

from netopsy import load_samples
from netopsy.blocks.find import default_blocks
from netopsy.engine.backproject.tree import Trunk
from netopsy.errors import NetopsyError
from netopsy.features.extract import default_node
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.records import ArrayRecords
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import find_task
from netopsy.studies.correspondence.comoments.pair import layers_of
from netopsy.studies.facets.measure import find_late_step
from netopsy.studies.field.field import check_view
from netopsy.studies.maximize.search import check_embedding
from netopsy.studies.reconstruct.attribution import check_parts
from netopsy.studies.reconstruct.survey import default_layer
from netopsy.studies.study import ObservingStudy, check_inputs, takes
from netopsy.studies.table import study_class

Need = Callable[[Network, Samples], str | None]
"""Why a network cannot be studied on samples, or None; it may raise NetopsyError, whose sentence is the reason."""

# Activations that give exact zeros over a whole range of inputs, and those that give none (but at a point).
RECTIFIERS = {"relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "threshold", "hardshrink", "softshrink", "clamp"}
RECTIFIERS |= {"clamp_min"}
SMOOTH = {"gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "sigmoid", "tanh", "softplus"}
_RANDOM = {"rand", "randn", "randint", "randperm", "bernoulli", "rand_like", "randn_like", "multinomial", "normal"}


def obstacles(network: Network, study: str, samples: Samples | None = None) -> str | None:
    """Why the study called `study` cannot treat `network`, as one sentence; None where it can.

    samples: random ones by default, with a class each where the network's output asks for one. A network whose forward
    pass cannot be exported stands in the way of every study.
    """
    name = study.replace("-", "_")
    try:
        samples = random_samples(network) if samples is None else samples
        _check_inputs(network, samples, name)
        return next((reason for need in NEEDS[name] if (reason := need(network, samples))), None)
    except NetopsyError as error:
        taken, kinds = ", ".join(map(str, network.signature.inputs)), {x.kind for x in network.signature.inputs}
        text = str(error).replace(taken, f"inputs of the kind {' and '.join(sorted(kinds))}")
        text = text.replace(network.name, "the network")
        return text[:1].upper() + text[1:]


def random_samples(network: Network, count: int = 4) -> Samples:
    """Noise in the shapes that the network takes; of two classes where it gives one score a class."""
    torch.manual_seed(0)
    shape, named = network.nodes[network.output].full_shape, network.output_name.rpartition(".")[2]
    classified = len(shape) == 2 and shape[1] > 1 and named in ("", "logits")
    labels = np.arange(count) % 2 if classified else None
    if isinstance(network.preprocessing, Preprocessing):
        depth, height, width = network.preprocessing.input_shape
        pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, depth), np.uint8)
        return load_samples(pixels if labels is None else (pixels, labels), kind="image")
    fields = {}
    for entry in network.signature.inputs:
        size = (count, *entry.shape)
        values = torch.ones(size) if entry.kind == "mask" else torch.zeros(size)
        if entry.dtype.is_floating_point and entry.kind != "mask":
            values = torch.randn(size)
        fields[entry.name] = values.to(entry.dtype).numpy()
    kind = next((x.kind for x in network.signature.inputs if x.kind not in ("mask", "segments")), "array")
    records = ArrayRecords(fields, kind)  # type: ignore[arg-type]
    return Samples("noise", records, labels, () if labels is None else ("a", "b"))


def zero_activations(network: Network) -> tuple[str, ...]:
    """Names of the nodes whose operator gives exact zeros over a range of inputs, in order of execution."""
    return tuple(name for name, node in network.nodes.items() if node.op == "call_function" and _gives_zeros(node))


def layers(network: Network, samples: Samples) -> str | None:
    return None if network.layers else "It has no convolution or linear layer with a weight."


def convolutions(network: Network, samples: Samples) -> str | None:
    return None if network.select(kind="conv") else "It has no convolution."


def zeros(network: Network, samples: Samples) -> str | None:
    """Sparsity is of exact zeros."""
    if zero_activations(network):
        return None
    counts = Counter(node.operator for node in network.program.nodes if node.from_input and node.op == "call_function")
    smooth = [f"{counts[name]} {name}" for name in sorted(SMOOTH, key=lambda name: -counts[name]) if counts[name]]
    return f"No activation gives exact zeros: it has {', '.join(smooth) or 'no activation'}."


def blocks(network: Network, samples: Samples) -> str | None:
    if any(block.obstacle is None for block in default_blocks(network)):
        return None
    return "It has no block of two or more layers that one layer can stand in for."


def score(network: Network, samples: Samples) -> str | None:
    """A score a sample, by the task that labels and outputs suggest."""
    find_task(network, samples)
    return None


def lesson(network: Network, samples: Samples) -> str | None:
    """Something to learn of the samples alone."""
    if find_task(network, samples).learns != "outputs":
        return None
    return "It has no teacher to learn from, and random samples have no labels of such outputs: give samples that have."


def repeatable(network: Network, samples: Samples) -> str | None:
    drawn = [node.name for node in network.program.nodes if node.operator in _RANDOM]
    return f"Its forward pass draws random numbers ({drawn[0]})." if drawn else None


def counted(name: str) -> Need:
    """That an observing study finds anything to count."""

    def need(network: Network, samples: Samples) -> str | None:
        study = study_class(name)()
        assert isinstance(study, ObservingStudy)
        return None if study.tallies(network, samples) else "It has no units, one row a sample, to look at."

    return need


def inputs_of_units(network: Network, samples: Samples) -> str | None:
    step = find_late_step(network)
    return step.replace(network.name, "It") if isinstance(step, str) else None


def traced(network: Network, samples: Samples) -> str | None:
    """A unit to trace back, and an input whose parts can be shown."""
    kind = network.signature.inputs[0].kind
    if kind != "image":
        check_parts(network, kind)
    default_layer(network)
    return None


def view(network: Network, samples: Samples) -> str | None:
    check_view(network)
    return None


def swaps(network: Network, samples: Samples) -> str | None:
    """Tokens are exchanged by what their embedding says."""
    check_embedding(network, Trunk(network, network.output).source)
    return None


def features(network: Network, samples: Samples) -> str | None:
    node = network.nodes[default_node(network)]
    if node.per_sample and node.is_floating_point:
        return None
    return "Its last layer before the output reads no row of real numbers a sample."


def units(network: Network, samples: Samples) -> str | None:
    return None if layers_of(network) else "It has no layer whose units have one row a sample."


_SWEPT = (layers, score, repeatable)

NEEDS: dict[str, tuple[Need, ...]] = {
    "baseline": (),  # what it cannot score it says
    "parameters": (layers,),
    "distributions": (layers,),
    "filters": (convolutions,),
    "priors": (layers,),
    "sparsity": (zeros, repeatable),
    "activations": (counted("activations"),),
    "reconstruct": (traced,),
    "stimuli": (counted("stimuli"),),
    "maximize": (counted("maximize"), swaps),
    "field": (view,),
    "facets": (inputs_of_units, counted("facets")),
    "transfer": (layers, features),
    "noise": _SWEPT,
    "rounding": _SWEPT,
    "codebook": _SWEPT,
    "filter_codebook": (convolutions, *_SWEPT),
    "prescribe": _SWEPT,
    "compression": _SWEPT,
    "triage": (*_SWEPT, blocks),
    "correspondence": (layers, units),
    "dsd": (*_SWEPT, lesson),
}
"""What each study needs, in the order in which a reason is looked for."""


def _check_inputs(network: Network, samples: Samples, name: str) -> None:
    """What every study asks before it runs, with the network itself as the second one."""
    kind = study_class(name)
    needs = takes(kind)
    given = {field: samples for field, required in needs.images.items() if required}
    given |= {field: network for field, required in needs.networks.items() if required}  # type: ignore[misc]
    check_inputs(kind(**given), network, samples)


def _gives_zeros(node: Node) -> bool:
    name = node.operator
    if name in ("hardtanh", "clamp", "clamp_min"):
        # only a lower bound of zero clips to zero
        low = node.argument("min_val" if name == "hardtanh" else "min")
        return low is not None and not hasattr(low, "op") and float(low) == 0.0
    return name in RECTIFIERS

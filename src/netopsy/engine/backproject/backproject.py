"""From units back to the image: the same flow for one unit or thousands, over as little of the network as it takes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.engine.backproject.batching import UnitJob, batches, shuffle_places
from netopsy.engine.backproject.reverse import needed_nodes, reverse
from netopsy.engine.backproject.rules import Rule, RuleName, find_rule
from netopsy.engine.backproject.tree import Tree, Trunk
from netopsy.engine.interpreter import plan
from netopsy.errors import NetopsyWarning, SettingsError
from netopsy.network.activations import ELEMENTWISE, activations, nonlinearities
from netopsy.network.network import Network, check_network
from netopsy.network.node import Node
from netopsy.network.units import Unit, UnitLike, find_unit
from netopsy.network.windows.field import Box
from netopsy.wording import listing


@dataclass
class Trace:
    """What went back from each unit to the sample.

    shape: of the source without the batch: the image's; what the embedding gives for tokens, (length, features).

    units: as they were asked for, with their places. values: their activations. of: the image of each unit.
    crops: one map a unit, (channel, height, width), cut to its field. fields: (top, left, bottom, right) in pixels;
        of the last two axes, where the source is no image.
    touched: the activations that the rule acted on, by node, with how many units' flows met each.
    untreated: what else is not linear between unit and image, by node with its operator: activations that the rule
        does not know, products of two values, norms, functions that are no activation; the flow met their derivative.
    """

    shape: tuple[int, ...]
    units: list[Unit]
    of: list[int]
    values: Float[Tensor, " units"]
    crops: list[Tensor]
    fields: list[Box]
    touched: dict[str, int]
    untreated: dict[str, str]

    @property
    def maps(self) -> Float[Tensor, "units *source"]:
        """One map a unit in the source's shape; zero outside its field."""
        maps = self.values.new_zeros(len(self.units), *self.shape)
        for image, crop, (top, left, bottom, right) in zip(maps, self.crops, self.fields, strict=True):
            if crop.shape == image.shape:
                image.copy_(crop)
            else:
                image[..., top:bottom, left:right] = crop
        return maps


def backproject(
    network: Network,
    images: Float[Tensor, "n *sample"] | Mapping[str, Tensor],
    units: Sequence[UnitLike] | Unit | str,
    rule: RuleName | Rule = "masked",
    *,
    of: Sequence[int] | None = None,
    start: str | None = None,
    seed: int = 0,
) -> Float[Tensor, "units *source"]:
    """One image-shaped map a unit: what `rule` brings back from it to the image.

    images: preprocessed (`Batch.images`), (n, channel, height, width); or a network's inputs by name (`Batch.inputs`).
        The map of other samples has the shape of the first input of real numbers. Tokens have no derivative: there it
        is (length, features), of what the embedding gives for them.
    units: (node, channel, y, x); (node, channel) for its strongest place on the image; (node, neuron) of a linear
        layer; or the same as text, `node:channel:y:x`.
    rule: gradient (Palmieri et al., Equations 8-9), deconvnet (4-5), masked (6-7, guided backpropagation), guided (the
        same for any activation function), masked_random (6-7 with Gaussian weights of matched mean and variance), gated
        (8-9 with the gates of LSTM and GRU held as masks are).
    of: for each unit the index of its image; by default one image serves all, or each unit has its own.
    start: `activation` starts the flow at the unit's own value, `one` at 1; by default as the rule is published:
        gradient and guided at 1, the others at the activation.
    seed: of the random weights.

    Only the units' receptive fields are run. Equations 4 and 6 read at i = 1 rectify the image too; as is usual, the
    map here keeps its sign: `.clamp(min=0)` gives the letter of the equations. `trace` returns more.
    Warns where a rule that treats activations in a way of its own meets nonlinearities that it does not know.
    Errors: UnknownLayer for a unit that the network does not have; SettingsError for images of another shape, NaN
    pixels, an unknown rule, or a rule that meets no activation that it could act on.
    """
    found = trace(network, images, units, rule, of=of, start=start, seed=seed)
    how = find_rule(rule, seed)
    if how.needs_activations and found.untreated:
        warnings.warn(
            f"the rule '{how.name}' does not know {count_kinds(found.untreated.values())} between the units and the "
            "image: there the flow met the derivative. `trace(...).untreated` names the nodes.",
            NetopsyWarning,
            stacklevel=2,
        )
    return found.maps


def count_kinds(operators: Iterable[str]) -> str:
    """`2 sin and 1 layer_norm`: each operator with its number, the commonest first."""
    return listing([f"{number} {name}" for name, number in Counter(operators).most_common()], most=9)


def trace(
    network: Network,
    images: Float[Tensor, "n *sample"] | Mapping[str, Tensor],
    units: Sequence[UnitLike] | Unit | str,
    rule: RuleName | Rule = "masked",
    *,
    of: Sequence[int] | None = None,
    start: str | None = None,
    seed: int = 0,
    masks_of: Sequence[int] | None = None,
    shuffle: Sequence[int] | None = None,
) -> Trace:
    """As `backproject`, with the units' values, places and fields, and what the rule acted on.

    masks_of: for each unit the image whose masks and switches its flow meets; by default its own, `of`.
    shuffle: for each unit a seed: its flow meets masks and switches whose places are in another order within each
        channel, see `shuffle_places`.

    With either the flow starts as ever, and the unit's own mask stays its own: what is replaced is all else that the
    flow reads of the forward pass. Raises SettingsError where there is nothing to replace.
    """
    check_network(network)
    chosen_rule = find_rule(rule, seed)
    begin = chosen_rule.start if start is None else start
    if begin not in ("activation", "one"):
        raise SettingsError(f"start '{start}' is neither 'activation' nor 'one'.")
    inputs = check_inputs(network, images)
    count = len(next(iter(inputs.values())))
    entries = [units] if isinstance(units, str | Unit) else units
    unit_list = [find_unit(network, unit) for unit in entries]
    image_of_unit = _pairing(count, len(unit_list), of)
    result = Trace(
        (), unit_list, image_of_unit, torch.zeros(len(unit_list), dtype=_real_type(network), device=network.device),
        [torch.empty(0)] * len(unit_list), [(0, 0, 0, 0)] * len(unit_list), {}, {},
    )  # fmt: skip
    with torch.no_grad():
        overrides = chosen_rule.weights(network)
        for node in dict.fromkeys(unit.node for unit in unit_list):
            members = [i for i, unit in enumerate(unit_list) if unit.node == node]
            trunk = Trunk(network, node)
            result.shape = trunk.source.shape
            _account(network, trunk, chosen_rule, len(members), result)
            _place(network, inputs, members, result)
            trees = [trunk.tree(result.units[i].place) for i in members]
            jobs = [
                UnitJob(i, image_of_unit[i], result.units[i], t.field, t) for i, t in zip(members, trees, strict=True)
            ]
            weights = trunk.weights(overrides) if overrides else trunk.own_weights
            needed = needed_nodes(trunk.tree(), chosen_rule)
            ends = _own_ends(trunk, needed)
            starts: dict[int, dict[Node, Tensor]] = {}
            if masks_of is not None or shuffle is not None:
                _check_replaceable(trunk, needed - ends)
            if masks_of is not None:
                for group, _, values in batches(trunk, inputs, jobs, ends):
                    starts |= {job.number: {node: values[node][row] for node in ends} for row, job in enumerate(group)}
                jobs = [job._replace(image=masks_of[job.number]) for job in jobs]
            for group, tree, values in batches(trunk, inputs, jobs, needed):
                if masks_of is not None:
                    values |= {node: torch.stack([starts[job.number][node] for job in group]) for node in ends}
                if shuffle is not None:
                    values = shuffle_places(tree, values, [shuffle[job.number] for job in group], ends)
                _back(tree, group, values, chosen_rule, begin, weights, result)
    return result


def _own_ends(trunk: Trunk, needed: set[Node]) -> set[Node]:
    """The nodes that give the units' activations and, where they are an activation function's, their masks."""
    acts = trunk.target.operator in ELEMENTWISE
    return {trunk.target, *(needed.intersection(trunk.target.inputs) if acts else ())}


def _check_replaceable(trunk: Trunk, others: set[Node]) -> None:
    if not others:
        raise SettingsError(
            f"no mask and no switch lies between the image and '{trunk.target.name}' of {trunk.network.name}: there is "
            "nothing to replace."
        )


def _back(
    tree: Tree,
    group: list[UnitJob],
    values: dict[Node, Any],
    rule: Rule,
    begin: str,
    weights: dict[Node, Tensor],
    result: Trace,
) -> None:
    """Send one batch of units back and note what comes."""
    numbers = [job.number for job in group]
    start, activation = start_at(
        [job.tree for job in group], [job.unit for job in group], values[tree.trunk.target], begin
    )
    maps = reverse(tree, values, tree.trunk.constants(len(group), weights), start, rule)
    result.values[list(numbers)] = activation
    for map_, job in zip(maps, group, strict=True):
        (top, left, bottom, right), (y, x, *_) = job.field, job.tree.field
        whole = tree.box(tree.trunk.source) is None  # no axes to cut
        crop = map_ if whole else map_[..., top - y : bottom - y, left - x : right - x]
        result.crops[job.number], result.fields[job.number] = crop, job.field


def start_at(trees: Sequence[Tree], units: Sequence[Unit], value: Tensor, begin: str) -> tuple[Tensor, Tensor]:
    """(the flow that starts at each row's unit, the units' activations).

    value: (units, *target on the boxes of `trees`, one a unit).
    """
    target = trees[0].trunk.target
    start, activations = torch.zeros_like(value), []
    axis = target.channel_axis % value.ndim - 1
    for row, (tree, unit) in enumerate(zip(trees, units, strict=True)):
        place, box = unit.place or (), tree.box(target)
        if tree.trunk.maps and box is not None:
            place = tuple(at - corner for at, corner in zip(place, box[:2], strict=True))
        at = (row, *place[:axis], unit.channel, *place[axis:])
        activations.append(value[at])
        start[at] = value[at] if begin == "activation" else 1
    return start, torch.stack(activations)


def resolve_place(network: Network, inputs: Mapping[str, Tensor], unit: UnitLike) -> Unit:
    """The unit with its place: the strongest on the one sample of `inputs` where it has none."""
    checked_unit = find_unit(network, unit)
    value = plan(network, [checked_unit.node]).run(inputs, batch=1)[checked_unit.node][0]
    return _strongest(network, checked_unit, value)


def _strongest(network: Network, unit: Unit, value: Tensor) -> Unit:
    """The unit at the place where `value`, (*node without the batch), is largest in its channel."""
    if unit.place is not None:
        return unit
    channel_values = value.select(network.nodes[unit.node].channel_axis % (value.ndim + 1) - 1, unit.channel)
    return Unit(
        unit.node,
        unit.channel,
        tuple(int(p) for p in torch.unravel_index(channel_values.argmax(), channel_values.shape)),
    )


def _place(network: Network, inputs: Mapping[str, Tensor], members: list[int], result: Trace) -> None:
    """Give each unit without a place the strongest on its image."""
    by_image: dict[int, list[int]] = {}
    for i in members:
        if result.units[i].place is None:
            by_image.setdefault(result.of[i], []).append(i)
    if not by_image:
        return
    node = result.units[members[0]].node
    walk = plan(network, [node])
    for image, some in by_image.items():
        value = walk.run({name: v[image : image + 1] for name, v in inputs.items()}, batch=1)[node][0]
        for i in some:
            result.units[i] = _strongest(network, result.units[i], value)


def _account(network: Network, trunk: Trunk, rule: Rule, count: int, result: Trace) -> None:
    """Note which activations the rule acts on; none where it needs some is an error."""
    inside = set(trunk.data)
    met = {name: node for name, node in activations(network).items() if node in inside}
    met |= {node.name: node for node in trunk.data if rule.gates and rule.treats(node)}
    treated = [name for name, node in met.items() if rule.treats(node)]
    if rule.needs_activations and not treated:
        kinds = ", ".join(sorted({node.operator for node in met.values()}))
        others = count_kinds(nonlinearities(trunk.data).values())
        none = f"no activation, but {others}: use 'gradient'" if others else "no activation: use 'gradient'"
        has = f"only {kinds}, which it does not know: use the rule 'guided'" if met else none
        raise SettingsError(
            f"the rule '{rule.name}' acts on activations, and between the image and '{trunk.target.name}' of "
            f"{network.name} there is {has}."
        )
    for name in treated:
        result.touched[name] = result.touched.get(name, 0) + count
    left = {name: node.operator for name, node in met.items() if name not in treated}
    left |= {name: kind for name, kind in nonlinearities(trunk.data).items() if name not in treated}
    result.untreated |= {node.name: left[node.name] for node in trunk.data if node.name in left}


def check_inputs(network: Network, inputs: Any) -> dict[str, Tensor]:
    """A network's inputs by name on its device, each (n, ...); one sample alone counts as a batch of one.

    inputs: as `Batch.inputs` has them; a tensor is the only one.
    Errors: SettingsError for inputs that are missing, of another shape, or NaN.
    """
    names, entries = network.signature.names, network.signature.inputs
    given = inputs if isinstance(inputs, Mapping) else dict.fromkeys(names[:1], inputs)
    missing = [name for name in names if name not in given]
    if missing:
        raise SettingsError(
            f"{network.name} takes {', '.join(names)}, and {', '.join(missing)} is missing: give Batch.inputs, as "
            "Samples.batches makes them."
        )
    checked, noun = {}, "images" if entries[0].kind == "image" else "samples"
    for name, entry in zip(names, entries, strict=True):
        batch = torch.as_tensor(given[name])
        batch = batch[None] if batch.ndim == len(entry.shape) else batch
        if tuple(batch.shape[1:]) != entry.shape or not len(batch):
            of = f" for {name}" if len(names) > 1 else ""
            raise SettingsError(
                f"{noun} have shape {tuple(batch.shape)}{of}; {network.name} takes (n, "
                f"{', '.join(map(str, entry.shape))}): preprocess them, as Samples.batches does."
            )
        real = entry.dtype.is_floating_point
        batch = batch.detach().to(network.device, _real_type(network) if real else entry.dtype)
        if real and not torch.isfinite(batch).all():
            raise SettingsError(f"the {noun} hold NaN or infinite values: look at how they were preprocessed.")
        checked[name] = batch
    return checked


def _real_type(network: Network) -> torch.dtype:
    """The type of the network's parameters."""
    return next((t.dtype for t in network.tensors.values() if t.is_floating_point()), torch.float32)


def _pairing(images: int, units: int, of: Sequence[int] | None) -> list[int]:
    """The image of each unit."""
    if not units:
        raise SettingsError("there is no unit to start from: give at least one as (node, channel).")
    if of is not None:
        if len(of) != units or not all(0 <= i < images for i in of):
            raise SettingsError(f"`of` must name for each of the {units} units an image from 0 to {images - 1}.")
        return [int(i) for i in of]
    if images not in (1, units):
        raise SettingsError(f"{images} images and {units} units: give one image, one image per unit, or `of`.")
    return [0] * units if images == 1 else list(range(units))

"""What one trial does: train a baseline, a start of a new layer, or a compressed network, and measure it.

A spec is plain data; `seed` is that of the repeat.

    {"what": "baseline", "seed", "recipe" or None, "fresh"}       score the parent, redrawn and trained if `fresh`
    {"what": "start", "seed", "block", "start", "recipe", "loss"}         STN or LSQ: the new layer, used by FM and TM
    {"what": "cell", "seed", "blocks", "start", "training", "recipe", "mean", "matching_images", "pictures", "keep"}
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch
from torch import Tensor, fx, nn

from netopsy.blocks.block import Block
from netopsy.blocks.find import find_block
from netopsy.blocks.layer import OneLayer, mean_of_parent, new_layer
from netopsy.blocks.least_squares import least_squares
from netopsy.blocks.section import cut_before, layer_path, section
from netopsy.blocks.training import train_module
from netopsy.engine.train.fit import fit
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.trials.trial import Outcome
from netopsy.network.macs import graph_macs
from netopsy.network.network import Network, fresh
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import Task, find_task, suggest_task
from netopsy.studies.triage.storage import ActivationFiles, labelled_whole, maps, match_channels, right

LayerState = dict[str, Tensor]


@dataclass(frozen=True)
class Context:
    """What all trials share.

    parents: the network before compression, by seed. stored: activations on disk, by seed. starts: the new layers
    that were made beforehand, by (seed, block, start).
    """

    parents: Mapping[int, Network]
    train: Samples
    samples: Samples
    stored: Mapping[int, ActivationFiles] = field(default_factory=dict)
    starts: Mapping[tuple[int, str, str], LayerState] = field(default_factory=dict)


def work(context: Context, spec: dict[str, Any]) -> Outcome:
    """The outcome of the trial that `spec` describes."""
    return {"baseline": _baseline, "start": _start, "cell": _cell}[spec["what"]](context, spec)


def _baseline(context: Context, spec: dict[str, Any]) -> Outcome:
    parent = context.parents[spec["seed"]]
    network, tensors, history = parent, {}, pl.DataFrame()
    if spec["fresh"]:
        label = f"seed {spec['seed']}, baseline"
        done = fit(
            fresh(parent, spec["seed"]),
            context.train,
            recipe_of(spec),
            validation=context.samples,
            label=label,
        )
        network, history = done.network, done.table
        tensors = {f"state {name}": value.detach().cpu() for name, value in network.tensors.items()}
    task = find_task(parent, context.samples)
    scores, loss, counts = right(network.module, network, context.samples, task)
    values = {"history": _epochs(history, task), "loss": loss, "digest": network.digest, **counts}
    return Outcome(values | _size(parent, section(parent)), {**tensors, **scores})


def _start(context: Context, spec: dict[str, Any]) -> Outcome:
    parent, seed = context.parents[spec["seed"]], spec["seed"]
    block = find_block(parent, spec["block"])
    layer = new_layer(parent, block, seed)
    if spec["start"] == "LSQ":
        fit_values = least_squares(parent, block, layer, context.train)
        return Outcome({"history": [], **fit_values}, dict(layer.state_dict()))
    stored, recipe = context.stored.get(seed, ActivationFiles()), recipe_of(spec)
    task = find_task(parent, context.samples)
    cut = cut_before(parent, block)
    data, begin = stored.training(cut, context.train, recipe, target=block.after)
    module = section(parent, start=begin, end=block.after, replaced=[(block, layer)])
    trained = train_module(
        module,
        data,
        recipe,
        preprocessing=parent.preprocessing,
        frozen=parts_outside(module, [block]),
        teacher=section(parent, start=begin, end=block.after) if data is context.train else None,
        loss=spec["loss"],
        label=f"seed {seed}, {block.name}, STN",
        spec=spec,
        task=task,
        sequence=parent.node(block.after).sequence,
    )
    return Outcome({"history": _epochs(trained.table, task)}, _layer_state(trained.state, block))


def _cell(context: Context, spec: dict[str, Any]) -> Outcome:
    parent, seed = context.parents[spec["seed"]], spec["seed"]
    blocks = [find_block(parent, name) for name in spec["blocks"]]
    layers = {block.name: _start_layer(context, parent, block, spec) for block in blocks}
    replaced = [(block, layers[block.name]) for block in blocks]
    recipe, frozen = recipe_of(spec), spec["training"] == "FM"
    task, state, history = find_task(parent, context.samples), dict[str, Tensor](), pl.DataFrame()
    whole = frozen and labelled_whole(task)
    stored = context.stored.get(seed, ActivationFiles()) if whole else ActivationFiles()
    if spec["training"] != "none":
        data, begin = stored.training(cut_before(parent, blocks[0]) if frozen else "input", context.train, recipe)
        module = section(parent, start=begin, replaced=replaced)
        learned = task if task.learns != "labels" else suggest_task(parent, context.train)
        trained = train_module(
            module,
            data,
            recipe,
            preprocessing=parent.preprocessing,
            validation=context.samples if begin == "input" else stored.validation(begin, context.samples),
            frozen=parts_outside(module, blocks) if frozen else (),
            teacher=section(parent, start=begin) if learned.learns == "outputs" else None,
            label=f"seed {seed}, {', '.join(spec['blocks']) or 'uncompressed'}, {spec['start']}, {spec['training']}",
            spec=spec,
            task=task,
            learned=learned,
            sequence=parent.output_sequence,
        )
        state, history = trained.state, trained.table
    full_module = load_state(section(parent, replaced=replaced), state)
    scores, loss, counts = right(full_module, parent, context.samples, task)
    values = {"history": _epochs(history, task), "loss": loss, **counts}
    values |= _size(parent, full_module, replaced)
    tensors = dict(scores)
    if spec["keep"]:
        tensors |= _learned(full_module, blocks, spec["training"])
    if len(blocks) == 1:
        block = blocks[0]
        student = load_state(section(parent, end=block.output, replaced=replaced), state)
        teacher = section(parent, end=block.output)
        likeness, order, correlation = match_channels(
            teacher.eval(), student, block, parent, context.samples, spec["matching_images"]
        )
        values |= likeness
        if spec["pictures"] and block.kind == "conv":
            first = order[: spec["pictures"]]
            tensors["maps"] = maps(student, parent, context.samples, first)
            tensors["partners"] = torch.from_numpy(first.copy())
            tensors["map_correlation"] = torch.from_numpy(correlation[: spec["pictures"]].copy())
    return Outcome(values, tensors)


def _learned(full_module: nn.Module, blocks: Sequence[Block], training: str) -> dict[str, Tensor]:
    """The values of a compressed network that are not its parent's: those of the new layers, with TM all."""
    paths = tuple(f"{layer_path(block)}." for block in blocks)
    tensors = {**dict(full_module.named_parameters()), **dict(full_module.named_buffers())}
    return {
        f"state {name}": value.detach().cpu().contiguous().clone()
        for name, value in tensors.items()
        if training == "TM" or name.startswith(paths)
    }


def _start_layer(context: Context, parent: Network, block: Block, spec: dict[str, Any]) -> nn.Module:
    """The new layer as its training finds it."""
    if spec["start"] == "ID":
        return nn.Identity()
    layer = new_layer(parent, block, spec["seed"])
    if spec["start"] == "MW":
        mean_of_parent(parent, block, layer, each=spec["mean"])
    elif spec["start"] != "RW":
        layer.load_state_dict(context.starts[spec["seed"], block.name, spec["start"]])
    return layer.to(parent.device)


def recipe_of(spec: Mapping[str, Any]) -> Recipe:
    """The recipe that is in the spec as plain data."""
    plain = dict(spec["recipe"])
    return Recipe(**{**plain, "milestones": tuple(plain["milestones"])})


def parts_outside(module: fx.GraphModule, blocks: Sequence[Block]) -> list[str]:
    """The modules and parameters of a section that have nothing to do with the new layers."""
    paths = [layer_path(block) for block in blocks]

    def foreign(name: str) -> bool:
        return not any(f"{name}.".startswith(f"{path}.") or f"{path}.".startswith(f"{name}.") for path in paths)

    modules = [name for name, _ in module.named_modules() if name and foreign(name)]
    return modules + [name for name, _ in module.named_parameters() if foreign(name)]


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a section with those of its values that `state` has; what it shares with the network stays."""
    copied = copy.deepcopy(module)
    tensors = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
    with torch.no_grad():
        for name, value in state.items():
            if name in tensors:
                tensors[name].copy_(value)
    return copied.eval()


def _layer_state(state: Mapping[str, Tensor], block: Block) -> LayerState:
    """The new layer's part of a trained section's state, by the layer's own names."""
    path = f"{layer_path(block)}."
    return {name.removeprefix(path): value for name, value in state.items() if name.startswith(path)}


def _size(parent: Network, full_module: nn.Module, replaced: Sequence[tuple[Block, nn.Module]] = ()) -> dict[str, int]:
    """Learned values of `full_module`, the parent with blocks replaced, and its multiply-accumulates for one image."""
    macs = graph_macs(parent.program.nodes)
    for block, layer in replaced:
        macs += (layer.map.weight.numel() * _places(block) if isinstance(layer, OneLayer) else 0) - block.macs
    return {"parameters": sum(p.numel() for p in full_module.parameters()), "macs": macs}


def _places(block: Block) -> int:
    """How often the new layer's map is applied to one image."""
    return math.prod(block.output_shape[1:] if block.kind == "conv" else block.output_shape[:-1])


def _epochs(table: pl.DataFrame, task: Task) -> list[dict[str, Any]]:
    """The rows of a history, in which the score is called `top1` whatever the task."""
    return table.rename({name: name.replace(task.column, "top1") for name in table.columns}).to_dicts()

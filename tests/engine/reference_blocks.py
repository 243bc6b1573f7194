"""Slow, independent versions of what blocks need: dominance by networkx, patches and fits by loops and numpy."""

from __future__ import annotations

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from netopsy.blocks.block import Block
from netopsy.network.network import Network

SOURCE, SINK = "<source>", "<sink>"


def flow_graph(network: Network) -> nx.DiGraph:
    """Who reads whom among the values that depend on the input's content; node names, and a sink behind the output."""
    graph, data = nx.DiGraph(), set()
    for node in network.graph.graph.nodes:
        if node.op == "placeholder":
            data.add(node)
        elif node.op == "call_function" and "sym_size" not in str(node.target):
            parents = [p for p in node.all_input_nodes if p in data]
            if parents:
                data.add(node)
                graph.add_edges_from((p.meta["name"], node.meta["name"]) for p in parents)
        elif node.op == "output":
            graph.add_edges_from((p.meta["name"], SINK) for p in node.all_input_nodes if p in data)
    return graph


def is_single_entry_single_exit(graph: nx.DiGraph, block: Block) -> bool:
    """Whether every path into the block's nodes passes its input, and every path out of them its output."""
    inside = set(block.nodes)
    entries = {a for a, b in graph.edges if b in inside and a not in inside}
    exits = {a for a, b in graph.edges if a in inside and b not in inside}
    before = nx.immediate_dominators(graph, "input")
    dominated = all(block.input in chain(before, name) for name in inside)
    return entries == {block.input} and exits == {block.output} and dominated


def chain(parents: dict[str, str], name: str) -> set[str]:
    """The ancestors of `name` in a tree of immediate dominators, itself included."""
    ancestors = {name}
    while parents.get(name) not in (None, name):
        name = parents[name]
        ancestors.add(name)
    return ancestors


def on_every_path(graph: nx.DiGraph, name: str) -> bool:
    """Whether no path leads from the input to the output without passing `name`."""
    if name == "input":
        return True
    without = graph.copy()
    without.remove_node(name)
    return not nx.has_path(without, "input", SINK)


def patches(
    x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int, int, int]
) -> np.ndarray:
    """(images * places, channel * rows * columns) float64, one window at a time. padding: left, right, top, bottom."""
    left, right, top, bottom = padding
    grown = [max(n, 0) for n in (top, bottom, left, right)]
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), tuple(grown[:2]), tuple(grown[2:])))
    height, width = padded.shape[2:]
    padded = padded[:, :, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    rows = []
    for image in padded:
        for y in range(0, image.shape[1] - kernel[0] + 1, stride[0]):
            for z in range(0, image.shape[2] - kernel[1] + 1, stride[1]):
                rows.append(image[:, y : y + kernel[0], z : z + kernel[1]].reshape(-1))
    return np.stack(rows)


def fitted(rows: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Weight (unknowns, outputs), bias and explained share of the least-squares fit, by numpy's lstsq."""
    with_one = np.concatenate([rows, np.ones((len(rows), 1))], 1)
    solution, *_ = np.linalg.lstsq(with_one, expected, rcond=None)
    missed = ((with_one @ solution - expected) ** 2).sum()
    return solution[:-1], solution[-1], float(1 - missed / ((expected - expected.mean(0)) ** 2).sum())


def mean_slice(weights: list[Tensor]) -> np.ndarray:
    """The mean of all k x k slices of several filter banks of one kernel size, slice by slice."""
    slices = [w[j, i].detach().double().numpy() for w in weights for j in range(w.shape[0]) for i in range(w.shape[1])]
    return np.mean(slices, axis=0)


def gradients(module: torch.nn.Module, x: Tensor, seed: int) -> dict[str, Tensor]:
    """Gradients by parameter of a fixed function of the output in training mode, dropout drawn by seed."""
    module.train()
    torch.manual_seed(seed)
    output = module(x)
    output = output[0] if isinstance(output, tuple) else output
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    (output * weights).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}

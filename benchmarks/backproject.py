"""Guided backpropagation of many units of one layer on one image, against captum.

    python benchmarks/backproject.py [--networks vgg16,resnet18] [--units 48] [--repeats 3] [--device cpu]

Peer: captum's NeuronGuidedBackprop, one unit a call as its interface has it, and many units a call (the image repeated,
a selector that takes each row's own unit) with whichever batch is its fastest; the ratio is against the faster.
Ours: `netopsy.backproject(..., rule="guided")`. Random weights: the work does not depend on them. Units are drawn at
random over channels and places, so that corners and edges are among them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from functools import partial
from typing import Any

import torch
from captum.attr import NeuronGuidedBackprop

import netopsy
from common import add_tiny, ratio, seconds, shrink, tell

LAYERS = {
    "vgg16": {"early": "features.3", "middle": "features.15", "late": "features.29"},
    "resnet18": {"early": "layer1.0.relu_1", "middle": "layer2.1.relu_1", "late": "layer4.0.relu_1"},
}
TARGETS = {"early": 50, "middle": 10, "late": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="vgg16,resnet18")
    parser.add_argument("--depths", default="early,middle,late")
    parser.add_argument("--batches", default="1,4,16,48", help="units a call of captum, of which the fastest counts")
    parser.add_argument("--units", type=int, default=48)
    parser.add_argument("--size", type=int, default=224, help="pixels a side of the image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, networks="resnet18", units=2, size=64, repeats=1, depths="late", batches="2")
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    rows = [row for name in options.networks.split(",") for row in measure(name, options)]
    tell("backproject", rows[-1]["ratio"], rows=rows)


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print the ratios for one network."""
    rows = []
    torch.manual_seed(0)
    network = netopsy.load_network(f"torchvision:{name}", weights="random", size=options.size).to(options.device)
    image = torch.randn(1, *network.preprocessing.input_shape, device=options.device)
    for depth in options.depths.split(","):
        node = LAYERS[name][depth]
        _, channels, height, width = network.node(node).full_shape
        draw = torch.Generator().manual_seed(0)
        places = [
            [int(torch.randint(n, (), generator=draw)) for n in (channels, height, width)] for _ in range(options.units)
        ]
        units = [(node, *place) for place in places]
        ours, maps = timed(partial(netopsy.backproject, network, image, units, "guided"), options)
        theirs, best, expected = peer(network.module, node, image, places, options)
        (ours, cpu), (theirs, peer_cpu) = ours, theirs
        error = float((maps - expected).abs().max() / expected.abs().max())
        print(
            f"{name} {depth} ({node}, {options.units} units): {ours / options.units * 1e3:.2f} against "
            f"{theirs / options.units * 1e3:.1f} ms a unit; largest difference {error:.1e} of the largest value"
        )
        note = f" (processor time {peer_cpu / cpu:.1f}x; target {TARGETS[depth]}x)"
        ratio(ours, theirs, f"captum ({best} a call)", note)
        row = {"network": name, "depth": depth, "node": node, "target": TARGETS[depth], "difference": error}
        times = {"netopsy": ours / options.units * 1e3, "captum": theirs / options.units * 1e3}
        rows.append(row | times | {"ratio": theirs / ours})
    return rows


def peer(module, node, image, places, options):
    """(seconds, its fastest batch, its maps)."""
    layer = module.get_submodule(
        node.removesuffix("_1")
    )  # of a module that is called twice, captum takes the last call
    guided = NeuronGuidedBackprop(module, layer)
    by_size = {}
    for size in map(int, options.batches.split(",")):
        by_size[size] = timed(partial(attribute, guided, image, places, size), options)
    best = min(by_size, key=lambda size: by_size[size][0][0])
    return by_size[best][0], best, by_size[best][1]


def attribute(guided, image, places, size):
    """captum's maps, `size` units a call."""
    maps = []
    for first in range(0, len(places), size):
        some = places[first : first + size]
        rows, index = torch.arange(len(some)), torch.tensor(some).T
        x = image.repeat(len(some), 1, 1, 1).requires_grad_()
        maps.append(guided.attribute(x, neuron_selector=partial(pick, rows, index)).detach())
    return torch.cat(maps)


def pick(rows, index, value):
    """Each row's own unit."""
    return value[(rows, *index)]


def timed(run, options):
    """(median wall seconds, median processor seconds) of a few runs after one to warm up, and the result."""
    result = run()
    wall, cpu = [], []
    for _ in range(options.repeats):
        if options.device != "cpu":
            torch.cuda.synchronize()
        before = time.process_time()
        took, result = seconds(lambda: (run(), options.device != "cpu" and torch.cuda.synchronize())[0])
        wall.append(took)
        cpu.append(time.process_time() - before)
    return (statistics.median(wall), statistics.median(cpu)), result


if __name__ == "__main__":
    main()

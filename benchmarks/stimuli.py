"""The nine strongest images of every unit of every layer in one pass, against the plain forward pass.

    python benchmarks/stimuli.py [--networks resnet50,squeezenet1_1] [--images 40] [--repeats 7] [--device cpu]

Peer: the torch module under `inference_mode` in a loop over the same batches. Ours: `netopsy.observe` with the tally
`TopImages(9)` on every node that the study `stimuli` looks at. Runs alternate; a ratio is the median of the ratios of
neighbours, by the wall clock and by the processor time of all threads (which a busy machine disturbs less). Images are
of noise and weights random: every unit sees new images enter its list all the time, which is the dearest case.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import netopsy
from common import add_tiny, shrink, tell
from netopsy import Network, Samples, load_network
from netopsy.engine.observe.observe import default_batch_size
from netopsy.engine.observe.tally import Tally
from netopsy.network.units import channels, unit_nodes
from netopsy.samples.images import ArrayImages
from netopsy.tallies.top_images import TopImages

TARGET = 1.2
STATE = 10e6
TOP = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet50,squeezenet1_1")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch", type=int, help="images a step; by default what observe takes")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, networks="netopsy:lenet5", images=2, repeats=1)
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.device}, load {os.getloadavg()[0]:.1f}")
    networks = {}
    for name in options.networks.split(","):
        torch.manual_seed(0)
        network = load_network(name if ":" in name else f"torchvision:{name}").to(options.device)
        networks[name] = measure(network, noise(network, options.images), options.batch, options.repeats)
    tell("stimuli", next(iter(networks.values()))["wall"], networks=networks)


def measure(network: Network, samples: Samples, batch: int | None, repeats: int) -> dict[str, float]:
    """Print the ratio and the size of the state."""
    nodes = unit_nodes(network)
    size = batch or default_batch_size(network)
    tallies: dict[str, tuple[str, Tally]] = {n: (n, TopImages(TOP, node.channel_axis)) for n, node in nodes.items()}
    units = sum(map(channels, nodes.values()))
    few = samples.subset(max(1, len(samples) // 8))
    for _ in range(2):  # warm up
        forward(network, few, size)
        netopsy.observe(network, few, tallies, batch_size=size)
    plain, walls, cpus = [], [], []
    for _ in range(repeats):
        wall, cpu = timed(lambda: forward(network, samples, size))
        ours = timed(lambda: netopsy.observe(network, samples, tallies, batch_size=size))
        plain.append(wall)
        walls.append(ours[0] / wall)
        cpus.append(ours[1] / cpu)
    state = units * TOP * 12
    speed, wall, cpu = statistics.median(plain) / len(samples) * 1e3, statistics.median(walls), statistics.median(cpus)
    print(
        f"{network.name}: {len(nodes)} nodes, {units:,} units, {len(samples)} images in batches of {size}; "
        f"plain forward {speed:.2f} ms an image\n"
        f"  {wall:.3f} x wall, {cpu:.3f} x processor; target {TARGET} {'met' if wall <= TARGET else 'missed'}\n"
        f"  state {state / 1e6:.2f} MB; target {STATE / 1e6:.0f} MB {'met' if state <= STATE else 'missed'}"
    )
    figures = {"wall": wall, "processor": cpu, "forward": speed, "state": state / 1e6}
    return figures | {"nodes": len(nodes), "units": units, "images": len(samples)}


def noise(network: Network, count: int) -> Samples:
    """Images of noise in memory."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, *network.preprocessing.size, 3), np.uint8)
    return Samples("noise", ArrayImages(pixels), np.arange(count) % network.classes, tuple(map(str, range(1000))))


def forward(network: Network, samples: Samples, size: int) -> None:
    """The plain forward pass over all samples."""
    with torch.inference_mode():
        for batch in samples.batches(network.preprocessing, size):
            network.module(batch.images.to(network.device))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()

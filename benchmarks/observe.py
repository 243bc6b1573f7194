"""All activation tallies in one pass, against the plain forward pass over the same images.

    python benchmarks/observe.py [--networks resnet20,resnet18,vgg16] [--repeats 7] [--threads 2]

Peer: the torch module under `inference_mode`, over the same batches source, with whichever batch size is its fastest.
Ours: `netopsy.observe` with its default batch size. Runs alternate; a ratio is the median of the ratios of neighbours,
by the wall clock and by the processor time of all threads (which a busy machine disturbs less).
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import netopsy
from common import add_tiny, shrink, tell
from netopsy import Network, Samples, load_network, load_samples
from netopsy.engine.observe.observe import default_batch_size
from netopsy.engine.observe.tally import Tally
from netopsy.network.activations import activations
from netopsy.tallies.moments import Histogram, Moments
from netopsy.tallies.sparsity import ZeroShare

TARGET = 1.15
BATCHES = (4, 8, 16, 32, 64, 128)
ALL = "all: sparsity, two moments, range, histogram"
SETS: dict[str, list[Callable[[], Tally]]] = {
    "sparsity": [ZeroShare],
    "mean, variance, range": [Moments],
    "mean, variance, skewness, kurtosis, range": [lambda: Moments(4)],
    "histogram, 1,024 values a sample": [Histogram],
    "histogram, every value": [lambda: Histogram(None)],
    ALL: [ZeroShare, Moments, Histogram],
    "all with four moments": [ZeroShare, lambda: Moments(4), Histogram],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet20,resnet18,vgg16")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--images", type=int, help="1,024, 64 and 16 for the three networks by default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, networks="netopsy:lenet5", repeats=1, images=8)
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    networks = {name: measure(name, options.images, options.repeats) for name in options.networks.split(",")}
    tell("observe", next(iter(networks.values()))["times"][ALL], networks=networks)


def measure(name: str, images: int | None, repeats: int) -> dict[str, Any]:
    """Print the ratios for one network."""
    network, samples = case(name, images)
    nodes = activations(network)
    best = min(BATCHES, key=lambda size: min(timed(lambda: forward(network, samples, size))[0] for _ in range(2)))
    tallies = {
        label: {f"{node} {i}": (node, make()) for node in nodes for i, make in enumerate(makes)}
        for label, makes in SETS.items()
    }
    ratios: dict[str, list[tuple[float, float]]] = {label: [] for label in SETS}
    plain: list[float] = []
    for label in SETS:
        netopsy.observe(network, samples.subset(min(best, len(samples))), tallies[label])
    for _ in range(repeats):
        for label in SETS:
            wall, cpu = timed(lambda: forward(network, samples, best))
            ours = timed(lambda label=label: netopsy.observe(network, samples, tallies[label]))  # type: ignore[misc]
            ratios[label].append((ours[0] / wall, ours[1] / cpu))
            plain.append(wall)
    speed = statistics.median(plain) / len(samples) * 1e3
    print(
        f"\n{network.name}: {len(nodes)} activations, {len(samples)} images; plain forward {speed:.2f} ms an image in "
        f"batches of {best}; observe in batches of {default_batch_size(network)}"
    )
    for label, pairs in ratios.items():
        wall, cpu = (statistics.median(values) for values in zip(*pairs, strict=True))
        verdict = ("met" if wall <= TARGET else "missed") if label == ALL else ""
        print(f"  {label:46s} {wall:.3f} x wall, {cpu:.3f} x processor  {verdict and f'target {TARGET} {verdict}'}")
    times = {label: statistics.median(wall for wall, _ in pairs) for label, pairs in ratios.items()}
    return {"activations": len(nodes), "images": len(samples), "times": times}


def case(name: str, count: int | None) -> tuple[Network, Samples]:
    """The network, with real weights where they are at hand, and images of its size (of noise: time is the same)."""
    count = count or {"resnet20": 1024, "resnet18": 64}.get(name, 16)
    if name == "resnet20":
        weights = Path(os.environ.get("NETOPSY_SHARED", "../shared")) / "data/networks/cifar10-resnet20.safetensors"
        network = load_network("netopsy:resnet20", weights=weights if weights.exists() else None)
    else:
        network = load_network(name if ":" in name else f"torchvision:{name}")
    generator = np.random.default_rng(0)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"netopsy-observe-{os.getpid()}.npz"
    x = generator.integers(0, 256, (count, *network.preprocessing.size, 3), np.uint8)
    np.savez(path, x=x, y=np.arange(count) % network.classes)
    try:
        return network, load_samples(path)
    finally:
        path.unlink()


def forward(network: Network, samples: Samples, size: int) -> None:
    """The plain forward pass over all samples."""
    with torch.inference_mode():
        for batch in samples.batches(network.preprocessing, size):
            network.module(batch.images)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()

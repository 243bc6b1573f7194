"""A map of noise, every layer alone at 8 strengths: the naive loop, the exact sweep and the adaptive sweep.

    python benchmarks/sweep.py [--networks resnet20,vgg16_bn,digits] [--images N] [--cells 16] [--threads 2]
        [--ways exact,adaptive,deadline] [--minutes 2] [--tiny]

Naive: deep copy, write the noisy weights, evaluate all images, from preprocessed tensors in memory, with the batch size
that is fastest here. Every cell costs it the same, so it is timed on `--cells` of them, spread evenly, and scaled.
Exact and adaptive are `netopsy.sweep` from the images to the table. The timed cells' predictions must be identical.
The way deadline is a sweep in `--minutes`; its decisions (more than 0.5 points lost, or not) are held against exact.
resnet20: the CIFAR network and images under NETOPSY_SHARED (all 10,000). vgg16_bn: random weights, so exact alone, on
the first 500 of these. digits: the shipped narrow VGG-16 on the handwritten digits of scikit-learn.
"""

from __future__ import annotations

import argparse
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from common import add_tiny, shrink, tell
from netopsy import Network, Samples, Shift, Variant, load_network, load_samples, sweep, workspace
from netopsy.engine.sweep.edits import apply_edit, compute_values
from netopsy.engine.sweep.full import predictions

STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0)
TARGETS = {"exact": 2.5, "adaptive": 10.0, "deadline": 0.0}
TOLERANCE = 0.005
BATCHES = (16, 32, 64, 128, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet20,vgg16_bn,digits")
    parser.add_argument("--images", type=int, help="take only so many, stratified")
    parser.add_argument("--cells", type=int, default=16, help="cells that the naive loop is timed on")
    parser.add_argument("--strengths", type=int, default=len(STRENGTHS), help="how many of the 8")
    parser.add_argument("--precision", type=float, default=0.5, help="points")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ways", default="exact,adaptive", help="of exact, adaptive and deadline")
    parser.add_argument("--minutes", type=float, default=2.0, help="of the way timed")
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, networks="digits", images=20, cells=1, strengths=1)
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    networks: dict[str, Any] = {}
    for name in options.networks.split(","):
        try:
            network, samples = case(name)
        except FileNotFoundError as missing:
            print(f"{name}: skipped, {missing}")
            continue
        if options.images and options.images < len(samples):
            samples = samples.subset(options.images)
        # intervals of a network with random weights would say nothing
        ways = [way for way in options.ways.split(",") if name != "vgg16_bn" or way == "exact"]
        networks[name] = measure(network, samples, options, ways)
    ways = [figures[way]["ratio"] for figures in networks.values() for way in TARGETS if way in figures]
    tell("sweep", max(ways, default=None), networks=networks)


def measure(network: Network, samples: Samples, options: argparse.Namespace, ways: list[str]) -> dict[str, Any]:
    """Print the times and the ratios for one network."""
    strengths = STRENGTHS[: options.strengths]
    variants = noise_map(network, strengths)
    timed = [variants[i] for i in np.linspace(0, len(variants) - 1, options.cells).astype(int)]
    images = torch.cat([batch.images for batch in samples.batches(network.preprocessing, 500)])
    sample = images[:256]
    batch = min(
        BATCHES, key=lambda size: min(clock(lambda: evaluate(network.module, sample, size))[1] for _ in range(3))
    )
    print(
        f"\n{network.name}: {len(network.layers)} layers x {len(strengths)} strengths = {len(variants)} cells, "
        f"{len(samples):,} images; naive batch {batch}"
    )
    wall, cpu, naive = clock(lambda: [evaluate(perturbed(network, cell), images, batch) for cell in timed])
    base = evaluate(network.module, images, batch)
    scale = len(variants) / len(timed)
    peer = wall * scale, cpu * scale
    print(
        f"  naive     {peer[0]:8.1f} s wall {peer[1]:8.1f} s CPU  (timed on {len(timed)} cells, x {scale:.1f})",
        flush=True,
    )
    figures: dict[str, Any] = {"cells": len(variants), "images": len(samples), "naive": peer[0]}
    table = None
    if "exact" in ways:
        wall, cpu, table = clock(lambda: sweep(network, samples, variants))
        figures["exact"] = report("exact", wall, cpu, peer)
        figures["differing"] = compare(network, samples, timed, naive, base, table)
        figures["timed"] = len(timed) * len(samples)
    if "adaptive" in ways:
        wall, cpu, quick = clock(lambda: sweep(network, samples, variants, precision=options.precision))
        figures["adaptive"] = report("adaptive", wall, cpu, peer)
        figures["shown"] = {"mean": quick["images"].mean(), "median": quick["images"].median()}
        print(f"            images a cell: mean {quick['images'].mean():,.0f}, median {quick['images'].median():,.0f}")
        if table is not None:
            error = (quick["drop"] - table["drop"]).abs() * 100
            inside = (quick["drop_low"] - 1e-9 <= table["drop"]) & (table["drop"] <= quick["drop_high"] + 1e-9)
            print(
                f"            drop off by {error.mean():.2f} points on average, {error.max():.2f} at most; "
                f"{inside.mean():.1%} of the intervals hold the exact drop"
            )
            figures["off"] = {"mean": error.mean(), "most": error.max(), "inside": inside.mean()}
    if "deadline" in ways:
        with workspace(minutes=options.minutes):
            wall, cpu, quick = clock(lambda: sweep(network, samples, variants, tolerance=100 * TOLERANCE))
        figures["deadline"] = report("deadline", wall, cpu, peer) | decisions(quick, table)
    return figures


def decisions(quick: pl.DataFrame, table: pl.DataFrame | None) -> dict[str, float]:
    """How many cells lie on one side of TOLERANCE, and how many of these on the other side in the exact table."""
    above, below = quick["drop_low"] > TOLERANCE, quick["drop_high"] <= TOLERANCE
    figures = {"decided": int((above | below).sum())}
    line = f"            {figures['decided']} of {len(quick)} cells decided after {quick['images'].mean():,.0f} images"
    if table is not None:
        figures["wrong"] = int(((above & (table["drop"] <= TOLERANCE)) | (below & (table["drop"] > TOLERANCE))).sum())
        exactly = int(((table["drop_low"] > TOLERANCE) | (table["drop_high"] <= TOLERANCE)).sum())
        line += f", {figures['wrong']} of them otherwise than in the exact table, which decides {exactly}"
    print(line)
    return figures


def compare(
    network: Network, samples: Samples, timed: list[Variant], naive: list[Tensor], base: Tensor, table: pl.DataFrame
) -> int:
    """Count predictions that differ from the naive loop's, and hold the table against them."""
    differing = int((predictions(network, samples, timed).long() != torch.stack(naive)).sum())
    print(
        f"            {differing} of {len(timed) * len(samples):,} predictions differ from the naive loop's", flush=True
    )
    shares = {
        (cell.settings["layer"], cell.settings["strength"]): predicted
        for cell, predicted in zip(timed, naive, strict=True)
    }
    for row in table.iter_rows(named=True):
        predicted = shares.get((row["layer"], row["strength"]))
        if predicted is not None and differing == 0:
            assert row["agreement"] == (predicted == base).sum().item() / len(samples), row
    return differing


def report(way: str, wall: float, cpu: float, peer: tuple[float, float]) -> dict[str, float]:
    """One line: times, ratios, target."""
    print(
        f"  {way:9} {wall:8.1f} s wall {cpu:8.1f} s CPU  "
        f"naive vs {way}: {peer[0] / wall:.1f}x wall, {peer[1] / cpu:.1f}x CPU (target {TARGETS[way]}x)",
        flush=True,
    )
    return {"seconds": wall, "ratio": peer[0] / wall}


def clock(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall time, processor time of all threads, and what the call returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def noise_map(network: Network, strengths: tuple[float, ...]) -> list[Variant]:
    """Each layer's weights with Gaussian noise of each strength times the layer's standard deviation."""

    def noise(weight: str, seed: int) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        def direction(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            lot = torch.Generator().manual_seed(seed)
            return {weight: torch.randn(tensors[weight].shape, generator=lot) * tensors[weight].std()}

        return direction

    return [
        Variant(
            {"layer": layer.name, "strength": strength},
            Shift((layer.weight,), noise(layer.weight, seed), strength, f"noise {seed}"),
        )
        for seed, layer in enumerate(network.layers)
        for strength in strengths
    ]


def perturbed(network: Network, cell: Variant) -> nn.Module:
    """A deep copy with the cell's weights."""
    assert cell.edit is not None
    module = copy.deepcopy(network.module)
    weights = apply_edit(cell.edit, compute_values(cell.edit, network.tensors), network.tensors)
    module.load_state_dict(weights, strict=False)
    return module


@torch.inference_mode()
def evaluate(module: nn.Module, images: Tensor, batch: int) -> Tensor:
    """Predicted classes."""
    return torch.cat([module(images[i : i + batch]).argmax(1) for i in range(0, len(images), batch)])


def case(name: str) -> tuple[Network, Samples]:
    """The network and the images of a case; FileNotFoundError where the real data are not there."""
    if name == "digits":
        return load_network("netopsy:digits-a"), load_samples("digits")
    data = Path(os.environ.get("NETOPSY_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
    if not data.is_dir():
        raise FileNotFoundError(f"{data} is not a folder (set NETOPSY_SHARED)")
    with tempfile.TemporaryDirectory() as folder:
        packed = f"{folder}/cifar10.npz"
        subprocess.run([sys.executable, data / "unpack.py", "cifar10", "test", packed], check=True, capture_output=True)
        samples = load_samples(packed)
        samples.digest  # noqa: B018 -- reads the file while it is there
    if name == "vgg16_bn":
        return load_network("netopsy:vgg16_bn"), samples.subset(500)
    return load_network(f"netopsy:{name}", weights=data / "networks" / f"cifar10-{name}.safetensors"), samples


if __name__ == "__main__":
    main()

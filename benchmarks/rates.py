"""Images a second of one core, by processor time: the forward pass, the activations study, training and its parts.

    OMP_NUM_THREADS=1 python benchmarks/rates.py torchvision:vgg16_bn --size 224 --images 48
    OMP_NUM_THREADS=1 python benchmarks/rates.py netopsy:vgg16_bn --size 32 --images 2000 --width 8

Random pixels and weights: neither changes the work. With --jpeg also the decoding and resizing of photographs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

import netopsy
from common import add_tiny, shrink, tell
from netopsy import Recipe, fit, observe
from netopsy.tallies.sparsity import ZeroShare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="torchvision:vgg16_bn")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--width", type=int)
    parser.add_argument("--jpeg", action="store_true", help="also decode and resize JPEGs of 500x375")
    add_tiny(parser)
    given = parser.parse_args()
    shrink(given, network="netopsy:vgg16_bn", size=32, images=4, width=1)
    rates: dict[str, float] = {}
    torch.set_num_threads(1)
    options: dict[str, Any] = {} if given.width is None else {"width": given.width}
    network = netopsy.load_network(given.network, weights="random", **options)
    with tempfile.TemporaryDirectory() as folder:
        samples = random_samples(Path(folder) / "random.npz", given.images, given.size)
        last = network.layers[-1].name
        first = network.layers[0].name
        frozen = [layer.name for layer in network.layers if layer.name != last]
        recipe = Recipe(epochs=1, batch_size=16, learning_rate=1e-4)
        runs: dict[str, Callable[[], Any]] = {
            "forward pass (observe)": lambda: observe(network, samples, {"x": (last, ZeroShare())}),
            "activations study": lambda: netopsy.activations(network, samples),
            "training, all thawed": lambda: fit(network, samples, recipe),
            f"training, all but {last} frozen": lambda: fit(network, samples, recipe, frozen=frozen),
            f"training, all but {first} frozen": lambda: fit(
                network, samples, recipe, frozen=[layer.name for layer in network.layers if layer.name != first]
            ),
        }
        if given.jpeg:
            jpegs = photographs(Path(folder) / "jpeg", given.images)
            runs["decoding JPEGs"] = lambda: list(jpegs.batches(network.preprocessing, 16, workers=0))
        observe(network, samples.subset(len(samples.classes)), {"x": (last, ZeroShare())})  # warm up
        for name, run in runs.items():
            begun = time.process_time()
            run()
            seconds = time.process_time() - begun
            rates[name] = given.images / seconds
            print(f"{name}: {given.images / seconds:.2f} images a second ({seconds:.1f} s)", flush=True)
    tell("rates", None, network=given.network, rates=rates)


def random_samples(path: Path, count: int, size: int) -> netopsy.Samples:
    """`count` random pictures of two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.savez(path, x=pixels, y=np.arange(count) % 2)
    return netopsy.load_samples(path)


def photographs(folder: Path, count: int) -> netopsy.Samples:
    """`count` JPEGs of 500x375 in two classes: smooth random fields, which compress as photographs do."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=92)
    return netopsy.load_samples(folder)


if __name__ == "__main__":
    main()

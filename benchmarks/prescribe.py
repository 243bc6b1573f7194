"""Which measure of one layer's harm predicts best what all layers together do: random allocations on ResNet-20.

    python benchmarks/prescribe.py --weights cifar10-resnet20.safetensors --samples cifar10.npz --split test

Each candidate of each layer is measured alone on some images by four measures: the divergence of the outputs, the rise
of the cross-entropy, the drop of top-1 accuracy, and the share of predictions that change. Then random allocations of
all layers together are measured on other images. Printed is how well the sum of the layers' measures predicts the
divergence and the drop there (rank correlation, and the median of measured over predicted), and what an allocation
chosen by each measure does at equal bytes.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr

import netopsy
from common import add_tiny, shrink, tell
from netopsy.engine.sweep.edits import Variant
from netopsy.studies.prescribe.candidates import Joint, candidates
from netopsy.studies.prescribe.compensate import Rounder, input_products
from netopsy.studies.prescribe.divergence import effects
from netopsy.studies.prescribe.knapsack import Allocation, allocations
from netopsy.studies.prescribe.plan import losses, sensitivity

FLOOR = 1e-5
BYTES = (45_000, 55_000, 65_000, 80_000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="netopsy:resnet20")
    parser.add_argument("--weights")
    parser.add_argument("--samples", default="digits")
    parser.add_argument("--split", default=None)
    parser.add_argument("--images", type=int, nargs=3, default=(200, 400, 800), help="to learn, to probe, to test on")
    parser.add_argument("--random", type=int, default=30, help="random allocations")
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, network="netopsy:lenet5", weights=None, samples="digits", images=(20, 10, 20), random=4)
    torch.set_num_threads(1)
    network = netopsy.load_network(options.network, weights=options.weights)
    samples = netopsy.load_samples(options.samples, split=options.split, count=sum(options.images))
    rows = np.random.default_rng(0).permutation(sum(options.images))
    parts = np.split(rows, np.cumsum(options.images)[:2])
    learn, probe, other = (samples.select(np.sort(part), "part") for part in parts)
    products = input_products(network, learn, network.layers)
    tensors = network.tensors
    rounders = {
        layer.name: Rounder(tensors[layer.weight].detach().numpy(), products[layer.name]) for layer in network.layers
    }
    choices = {name: candidates(rounder, "uniform", 4) for name, rounder in rounders.items()}
    joint = Joint(network, network.layers, rounders, choices, "exact", "benchmark")
    measured = sensitivity(network, probe, network.layers, rounders, choices, how="benchmark")
    (plain,) = effects(network, probe, [Variant({}, None)], "plain")["loss"]
    measures = {
        "divergence": pl.col("divergence"),
        "cross-entropy": pl.col("loss") - plain,
        "drop": pl.col("drop"),
        "changed predictions": 1 - pl.col("agreement"),
    }
    expected = {
        name: losses(choices, measured.with_columns(divergence=pl.max_horizontal(value, pl.lit(FLOOR))))
        for name, value in measures.items()
    }
    lot, plans = np.random.default_rng(1), []
    for _ in range(options.random):
        limit, choice = 10 ** lot.uniform(-4.5, -1.5), {}
        for name, layer_losses in expected["divergence"].items():
            choice[name] = max(i for i, loss in enumerate(layer_losses) if loss <= limit * 10 ** lot.uniform(-1, 1))
        plans.append(("random", 0, choice))
    for measure, layer_losses in expected.items():
        points = {
            name: [(one.bytes, loss) for one, loss in zip(choices[name], layer_losses[name], strict=True)]
            for name in choices
        }
        path = allocations(points)
        for size in BYTES:
            near = min(path, key=lambda allocation: abs(allocation.bytes - size))
            plans.append((measure, size, near.choice))
    variants = []
    for how, size, choice in plans:
        total = sum(choices[name][i].bytes for name, i in choice.items())
        settings: dict[str, Any] = {"chosen by": how, "about": size, "bytes": round(total)}
        settings |= {
            f"sum of {name}": sum(layer_losses[k][i] for k, i in choice.items())
            for name, layer_losses in expected.items()
        }
        variants.append(joint.variant(Allocation(choice, total, 0.0), settings))
    results = effects(network, other, variants, "all layers together")
    random_rows = results.filter(pl.col("chosen by") == "random")
    ranks = {}
    for name in measures:
        for target in ("divergence", "drop"):
            x, y = random_rows[f"sum of {name}"].to_numpy(), random_rows[target].to_numpy()
            ranks[f"{name} -> {target}"] = float(spearmanr(x, y)[0])
            print(f"{name:20s} -> {target:10s} rank correlation {spearmanr(x, y)[0]:.3f}", end=" ")
            print(f"measured/predicted {np.median(y / x):.2f}")
    pl.Config.set_tbl_rows(-1)
    print(
        results.filter(pl.col("chosen by") != "random").select("chosen by", "bytes", "divergence", "drop", "agreement")
    )
    tell("prescribe", None, rank_correlations=ranks)


if __name__ == "__main__":
    main()

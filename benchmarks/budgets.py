"""How often `prescribe` keeps its budget on images that it did not choose on, over many splits of one set of images.

    python benchmarks/budgets.py --weights cifar10-resnet20.safetensors --samples cifar10.npz --split test --count 2000

Each split parts the images anew into a half that chooses and a half that reports. Printed is the share of splits in
which the reporting half loses no more than the budget, in how many a smaller file was certified, and the bytes of the
files beside those of the files that the count alone would have chosen. With `--keep` a second run goes on where the
first one stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import netopsy
from common import add_tiny, shrink, tell


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", default="netopsy:resnet20")
    parser.add_argument("--weights")
    parser.add_argument("--samples", default="digits")
    parser.add_argument("--split", default=None)
    parser.add_argument("--count", type=int, default=None, help="images of the split; all by default")
    parser.add_argument("--budget", type=float, default=1.0, help="points")
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="a file of the splits that are done, one a line")
    add_tiny(parser)
    given = parser.parse_args()
    shrink(given, network="netopsy:lenet5", weights=None, samples="digits", count=60, splits=1, budget=50.0)
    torch.set_num_threads(1)
    network = netopsy.load_network(given.network, weights=given.weights)
    samples = netopsy.load_samples(given.samples, split=given.split, count=given.count)
    kept = given.keep.read_text().splitlines() if given.keep and given.keep.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in kept]
    for seed in range(len(rows), given.splits):
        rows.append(measure(network, samples, given.budget, given.confidence, seed))
        print(rows[-1], flush=True)
        if given.keep:
            with given.keep.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    certified = [row for row in rows if row["how"] == "certified"]
    figures = {
        "splits": len(rows),
        "budget": given.budget,
        "confidence": given.confidence,
        "kept": float(np.mean([row["drop"] <= given.budget + 1e-9 for row in rows])),
        "certified": len(certified) / len(rows),
        "drop_mean": float(np.mean([row["drop"] for row in rows])),
        "drop_most": max(row["drop"] for row in rows),
        "bytes": float(np.median([row["bytes"] for row in rows])),
        "bytes_by_count": float(np.median([row["bytes_by_count"] for row in rows])),
        "price": float(np.median([row["bytes"] / row["bytes_by_count"] - 1 for row in rows])),
    }
    print(f"budget of {given.budget:g} points kept in {figures['kept']:.0%} of {len(rows)} splits")
    tell("budgets", None, **figures)


def measure(
    network: netopsy.Network, samples: netopsy.Samples, budget: float, confidence: float, seed: int
) -> dict[str, Any]:
    """One split: the promise, and what the reporting half loses, in points."""
    tables = netopsy.prescribe(network, samples, budget=budget, confidence=confidence, seed=seed).tables
    promise = tables["promise"].row(0, named=True)
    return {
        "seed": seed,
        "drop": 100 * tables["scores"]["drop"][1],
        "counted": 100 * promise["drop"],
        "bound": 100 * promise["bound"],
        **{key: promise[key] for key in ("how", "bytes", "bytes_by_count")},
    }


if __name__ == "__main__":
    main()

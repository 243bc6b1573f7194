"""Train the networks that the findings on compression and triage start from, for which no weights are published.

    python scripts/train_baselines.py lenet_300_100 --samples mnist.npz --seed 0 --out lenet300-seed0.safetensors
    python scripts/train_baselines.py lenet5 --samples mnist.npz --seed 0 --out lenet5-seed0.safetensors
    python scripts/train_baselines.py vgg16_bn --samples cifar10.npz --out vgg16_bn.safetensors
    python scripts/train_baselines.py vgg16_bn --width 8 --augment flip --samples cifar10.npz --out vgg8.safetensors

The samples need the parts `train` and `test`. The file names its architecture, so that load_network reads it alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import get_args

import safetensors.torch

from netopsy import Recipe, fit, load_network, load_samples, score
from netopsy.engine.train.recipe import Augment

RECIPES = {
    "lenet_300_100": Recipe(epochs=25, learning_rate=0.1, weight_decay=5e-4, schedule="cosine", augment="crop", pad=1),
    "lenet5": Recipe(epochs=15, learning_rate=0.02, weight_decay=5e-4, schedule="cosine", augment="crop", pad=1),
    "vgg16_bn": Recipe(
        epochs=10,
        learning_rate=0.1,
        nesterov=True,
        weight_decay=5e-4,
        schedule="onecycle",
        augment="crop+flip",
        fill="reflect",
        precision="bfloat16",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", choices=RECIPES, default="lenet5")
    parser.add_argument("--samples", default="digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, help="filters in the first block of vgg16_bn, 64 by default")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--augment", choices=get_args(Augment))
    parser.add_argument("--out", default="trained.safetensors")
    parser.add_argument("--tiny", action="store_true", help="LeNet-5 for one epoch on a few digits")
    given = parser.parse_args()
    if given.tiny:
        given.network, given.samples, given.epochs, given.out = "lenet5", "digits", 1, "tiny.safetensors"
    count = 40 if given.tiny else None
    train, test = (load_samples(given.samples, split=part, count=count) for part in ("train", "test"))
    source = f"netopsy:{given.network}"
    options = {"num_classes": len(train.classes)} | ({} if given.width is None else {"width": given.width})
    network = load_network(source, weights="random", seed=given.seed, **options).to(given.device)
    changes = {name: value for name in ("epochs", "augment") if (value := getattr(given, name)) is not None}
    history = fit(network, train, replace(RECIPES[given.network], seed=given.seed, **changes))
    print(history.table)
    state = {name: value.cpu().contiguous() for name, value in history.network.module.state_dict().items()}
    safetensors.torch.save_file(state, given.out, metadata={"architecture": source, "options": json.dumps(options)})
    error = 1 - score(history.network, test)["top1"].item()
    print(f"{source}, seed {given.seed}: top-1 error {error:.2%}")
    print(json.dumps({"script": "train_baselines", "network": source, "seed": given.seed, "error": error}))


if __name__ == "__main__":
    main()

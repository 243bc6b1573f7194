"""Is it the closeness to the output or the activation function that skews the weights? (Lorieul et al., Section II.C.)

    python scripts/skewness.py --samples mnist.npz --count 10000 --epochs 10 --seeds 5 --out skewness.csv
    python scripts/skewness.py --network netopsy:resnet20 --weights resnet20.safetensors

In AlexNet the last linear layer is the most skewed; it is also the only one without a ReLU behind it, so the paper
cannot tell which of the two is the cause. Here small networks of four linear layers are trained in which the two part:
the same function behind every layer, the last too; none anywhere; ReLU left out before the last layer; tanh and sigmoid
networks; and linear classifiers on features that a ReLU or a tanh made. The first table has the skewness of
each layer's weights, the second the contrasts that answer the question, each with Student's 95 % interval over seeds.

With --network the layers of a trained network are listed, each with the function behind it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from scipy.stats import skew
from torch import Tensor, nn

from netopsy import load_network, load_samples
from netopsy.stats.hypothesis_tests import mean_interval

FUNCTIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "none": nn.Identity}
# the functions behind the four layers, and the loss: softmax cross-entropy, or the squared error to 0 and 1
DESIGNS: dict[str, tuple[tuple[str, str, str, str], str]] = {
    "AlexNet's: ReLU, softmax": (("relu", "relu", "relu", "none"), "softmax"),
    "tanh, softmax": (("tanh", "tanh", "tanh", "none"), "softmax"),
    "sigmoid, softmax": (("sigmoid", "sigmoid", "sigmoid", "none"), "softmax"),
    "none, softmax": (("none", "none", "none", "none"), "softmax"),
    "ReLU, no ReLU before the last": (("relu", "relu", "none", "none"), "softmax"),
    "ReLU, tanh before the last": (("relu", "relu", "tanh", "none"), "softmax"),
    "tanh, ReLU before the last": (("tanh", "tanh", "relu", "none"), "softmax"),
    "ReLU throughout": (("relu", "relu", "relu", "relu"), "squared"),
    "tanh throughout": (("tanh", "tanh", "tanh", "tanh"), "squared"),
    "none throughout": (("none", "none", "none", "none"), "squared"),
}
LAYERS = ("layer 1", "layer 2", "layer 3", "last")
FIXED = {"classifier after ReLU": "relu", "classifier after tanh": "tanh"}  # on random features that stay


def train(module: nn.Module, x: Tensor, y: Tensor, loss: str, epochs: int, seed: int) -> float:
    """Train in place by Adam; the share of the training images that it gets right."""
    generator = torch.Generator().manual_seed(seed)
    learned = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(128):
            out = module(x[rows])
            error = (
                F.cross_entropy(out, y[rows]) if loss == "softmax" else F.mse_loss(out, F.one_hot(y[rows], 10).float())
            )
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float((module(x).argmax(1) == y).float().mean())


def build(functions: Sequence[str], inputs: int, width: int, seed: int) -> nn.Sequential:
    """Four linear layers with the functions behind them."""
    torch.manual_seed(seed)
    sizes = (inputs, width, width, width, 10)
    parts: list[nn.Module] = []
    for i, name in enumerate(functions):
        parts += [nn.Linear(sizes[i], sizes[i + 1]), FUNCTIONS[name]()]
    return nn.Sequential(*parts)


def rows_of(design: str, seed: int, module: nn.Sequential, accuracy: float) -> list[dict[str, object]]:
    """Skewness of each layer that was trained."""
    layers = [layer for layer in module if isinstance(layer, nn.Linear)]
    return [
        {"design": design, "seed": seed, "layer": name, "skewness": skewness(layer.weight), "accuracy": accuracy}
        for name, layer in zip(LAYERS, layers, strict=True)
        if layer.weight.requires_grad
    ]


def skewness(weight: Tensor) -> float:
    """Of all weights of a layer together."""
    return float(skew(weight.detach().double().flatten().numpy()))


def experiment(x: Tensor, y: Tensor, width: int, epochs: int, seeds: int) -> pl.DataFrame:
    """A row a layer of every network."""
    rows = []
    for seed in range(seeds):
        for design, (functions, loss) in DESIGNS.items():
            module = build(functions, x.shape[1], width, seed)
            rows += rows_of(design, seed, module, train(module, x, y, loss, epochs, seed))
        for design, function in FIXED.items():
            module = build((function, function, function, "none"), x.shape[1], width, seed)
            for layer in list(module)[:-2]:
                layer.requires_grad_(False)
            rows += rows_of(design, seed, module, train(module, x, y, "softmax", epochs, seed))
        print(f"seed {seed} done", flush=True)
    return pl.DataFrame(rows)


def value(frame: pl.DataFrame, design: str, layers: Sequence[str]) -> np.ndarray:
    """The mean skewness of some layers of a design, by seed."""
    chosen = frame.filter(pl.col("design") == design, pl.col("layer").is_in(layers))
    return chosen.group_by("seed").agg(pl.col("skewness").mean()).sort("seed")["skewness"].to_numpy()


HIDDEN = ("layer 2", "layer 3")  # the first sees pixels, which are no values of a function


def contrasts(frame: pl.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """(what is varied, in words, the difference by seed)."""
    alexnet = "AlexNet's: ReLU, softmax"
    listed = [
        ("place", f"last less hidden, {design}", value(frame, design, ["last"]) - value(frame, design, HIDDEN))
        for design in ("ReLU throughout", "tanh throughout", "none throughout", "none, softmax")
    ]
    listed += [
        ("both", f"last less hidden, {design}", value(frame, design, ["last"]) - value(frame, design, HIDDEN))
        for design in (alexnet, "tanh, softmax", "sigmoid, softmax")
    ]
    pairs = [
        ("behind", "last", "none throughout", "ReLU throughout", "nothing less ReLU behind it"),
        ("behind", "layer 3", "ReLU, no ReLU before the last", alexnet, "nothing less ReLU behind it"),
        ("behind", "layer 3", "ReLU, tanh before the last", alexnet, "tanh less ReLU behind it"),
        (
            "in front",
            "last",
            "ReLU, no ReLU before the last",
            alexnet,
            "nothing less ReLU in front of it, ReLU network",
        ),
        ("in front", "last", "ReLU, tanh before the last", alexnet, "tanh less ReLU in front of it, ReLU network"),
        (
            "in front",
            "last",
            "tanh, softmax",
            "tanh, ReLU before the last",
            "tanh less ReLU in front of it, tanh network",
        ),
        (
            "in front",
            "last",
            "classifier after tanh",
            "classifier after ReLU",
            "tanh less ReLU in front of it, features that stay",
        ),
    ]
    return listed + [
        (kind, f"{layer}: {words}", value(frame, a, [layer]) - value(frame, b, [layer]))
        for kind, layer, a, b, words in pairs
    ]


def interval(values: Sequence[float]) -> str:
    """The mean with its interval."""
    low, high = mean_interval(list(values))
    return f"{np.mean(values):+.2f}" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})")


def report(frame: pl.DataFrame) -> None:
    """Print both tables as Markdown."""
    print("| network | " + " | ".join(LAYERS) + " | training images right |\n|---|" + "---|" * (len(LAYERS) + 1))
    for design in frame["design"].unique(maintain_order=True):
        rows = frame.filter(pl.col("design") == design)
        by_layer = {name: rows.filter(pl.col("layer") == name)["skewness"].to_list() for name in LAYERS}
        cells = [interval(values) if values else "stays" for values in by_layer.values()]
        print(f"| {design} | " + " | ".join(cells) + f" | {rows['accuracy'].mean():.1%} |")
    print("\n| varied | difference of the skewness | |\n|---|---|---|")
    for kind, words, values in contrasts(frame):
        print(f"| {kind} | {words} | {interval(values.tolist())} |")
    print()
    for kind, words in (
        ("place", "Nearer to the output, with one function throughout"),
        ("behind", "Another function behind the layer"),
        ("in front", "Another function in front of the layer"),
    ):
        seen = [mean_interval(values.tolist()) for each, _, values in contrasts(frame) if each == kind]
        sure = sum(low is not None and high is not None and (low > 0 or high < 0) for low, high in seen)
        print(f"{words}: the skewness differs measurably in {sure} of {len(seen)} comparisons.")


def list_network(source: str, weights: str | None) -> None:
    """The layers of a trained network with the function behind each."""
    network = load_network(source, weights=weights)
    print("| layer | function behind it | skewness |\n|---|---|---|")
    for layer in network.layers:
        behind = network.nodes[layer.nodes[-1]]
        while len(behind.users) == 1 and behind.users[0].operator in ("batch_norm", "add", "dropout"):
            behind = behind.users[0]
        names = ", ".join(sorted({user.operator for user in behind.users})) or "the output"
        print(f"| {layer.name} | {names} | {skewness(network.tensors[layer.weight]):+.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", default="digits", help="images of ten classes")
    parser.add_argument("--split", default="train", help="empty for a file of one part")
    parser.add_argument("--count", type=int)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--network")
    parser.add_argument("--weights")
    parser.add_argument("--out", help="a CSV file with a row a layer of every network")
    parser.add_argument("--tiny", action="store_true", help="two seeds, one epoch, a few digits")
    given = parser.parse_args()
    if given.network:
        list_network(given.network, given.weights)
        return
    if given.tiny:
        given.count, given.epochs, given.seeds, given.width = 100, 1, 2, 8
    samples = load_samples(given.samples, split=given.split or None, count=given.count)
    pixels = np.stack([np.asarray(samples.read(i), np.float32) for i in range(len(samples))])
    x = torch.from_numpy(pixels).flatten(1)
    x = (x - x.mean()) / x.std()
    frame = experiment(x, torch.as_tensor(np.asarray(samples.labels)), given.width, given.epochs, given.seeds)
    if given.out:
        frame.write_csv(given.out)
    report(frame)
    differences = {words: round(float(values.mean()), 3) for _, words, values in contrasts(frame)}
    print(json.dumps({"script": "skewness", "differences": differences}))


if __name__ == "__main__":
    main()

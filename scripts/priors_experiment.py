"""Does it help to begin from priors? `python scripts/priors_experiment.py --data DATA --networks NETWORKS --out RUNS`.

Networks are trained from several beginnings, with the same images in the same order, the same recipe and as many
epochs; priors are taken from other networks than the one that is trained. A run is one file in RUNS; a run that is
there is not repeated, so that the experiment goes on where it was stopped, and several processes may share it by
`--tasks` or `--seeds`. `--summary` prints the tables of all runs that are there.

DATA holds `mnist`, `cifar10` and `cifar100` as `NAME-train.npz` and `NAME-test.npz`, of x (uint8) and y. NETWORKS holds
the public CIFAR ResNets (akamaster/pytorch_resnet_cifar10) as `cifar10-resnet20.safetensors`, `-resnet32`, `-resnet56`
and two MNIST networks (sidak/otfusion) as `mnist-mlp-seed0.safetensors`, `-seed1`.

Beginnings: `he` (normal, fan in), `glorot` (normal), `orthogonal` (of gain sqrt(2)), `law` (each weight from the
priors), `basis` (the law along the filter basis), `codebook` (as basis, and trained within a codebook of 32 values per
layer), and a control, `he basis`: the filter basis of the priors at the scale of He.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import stats
from torch import Tensor, nn

import netopsy
from netopsy import Network, Preprocessing, Recipe, fit, load_network, load_samples
from netopsy.files import atomic_write
from netopsy.network.zoo.papers import CIFAR, BasicBlock
from netopsy.weight_priors import Priors, priors

BEGINNINGS = ("he", "glorot", "orthogonal", "law", "basis", "codebook", "he basis")
REACHED = (0.9, 0.95, 0.99)
GRAY = Preprocessing(size=(28, 28), mean=(0.1307,), std=(0.3081,), channels="L")


class ResNet(nn.Module):
    """ResNet-20 for CIFAR with `width` filters in its first stage (16 in He et al., CVPR 2016)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        blocks, depth = [], width
        for stage, filters in enumerate((width, 2 * width, 4 * width)):
            for index in range(3):
                blocks.append(BasicBlock(depth, filters, 2 if stage and not index else 1, False))
                depth = filters
        self.blocks, self.linear = nn.Sequential(*blocks), nn.Linear(depth, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.blocks(self.bn1(self.conv1(x)).relu()).mean((2, 3)))


def vgg(channels: int, classes: int, width: int) -> nn.Module:
    """Five 3x3 convolutions with batch normalisation, three poolings, one linear layer."""
    plan = (width, "pool", 2 * width, "pool", 4 * width, 4 * width, "pool", 4 * width)
    layers: list[nn.Module] = []
    for step in plan:
        if isinstance(step, str):
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, step, 3, padding=1), nn.BatchNorm2d(step), nn.ReLU(inplace=True)]
            channels = step
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def mlp() -> nn.Module:
    """784-300-150-75-10 without biases: other widths than the networks whose priors it begins from."""
    sizes = (784, 300, 150, 75, 10)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class TaskOfExperiment:
    """data: its images. build: the network, of a width. sources: whose priors it begins from. recipe: of training."""

    data: str
    build: Callable[[int], nn.Module]
    sources: tuple[str, ...]
    preprocessing: Preprocessing
    recipe: dict[str, Any]


_CIFAR_RECIPE = {"learning_rate": 0.1, "schedule": "cosine", "weight_decay": 5e-4, "augment": "crop+flip"}
_MNIST_RECIPE = {"learning_rate": 0.05, "schedule": "cosine", "weight_decay": 1e-4}
_RESNETS = ("cifar10-resnet32", "cifar10-resnet56")
TASKS = {
    "mnist-mlp": TaskOfExperiment(
        "mnist", lambda _: mlp(), ("mnist-mlp-seed0", "mnist-mlp-seed1"), GRAY, _MNIST_RECIPE
    ),
    "mnist-vgg": TaskOfExperiment("mnist", lambda w: vgg(1, 10, w), ("digits-a", "digits-b"), GRAY, _MNIST_RECIPE),
    "cifar10-vgg": TaskOfExperiment("cifar10", lambda w: vgg(3, 10, w), _RESNETS, CIFAR, _CIFAR_RECIPE),
    "cifar10-resnet20": TaskOfExperiment("cifar10", lambda w: ResNet(10, w), _RESNETS, CIFAR, _CIFAR_RECIPE),
    "cifar100-vgg": TaskOfExperiment("cifar100", lambda w: vgg(3, 100, w), _RESNETS, CIFAR, _CIFAR_RECIPE),
    "cifar100-resnet20": TaskOfExperiment(
        "cifar100", lambda w: ResNet(100, w), ("cifar10-resnet20", *_RESNETS), CIFAR, _CIFAR_RECIPE
    ),
}


def source(name: str, folder: Path) -> Network:
    """One of the networks that priors are taken from."""
    if name.startswith("digits"):
        return load_network(f"netopsy:{name}")
    architecture = "mnist_mlp" if name.startswith("mnist") else name.removeprefix("cifar10-")
    return load_network(f"netopsy:{architecture}", weights=folder / f"{name}.safetensors")


def taken_from(sources: tuple[str, ...], settings: argparse.Namespace) -> Priors:
    """The priors of these networks; a file in the folder of the runs keeps them."""
    path = settings.out / f"{'+'.join(sources)}.safetensors"
    if path.exists():
        return Priors.load(path)
    known = priors([source(each, settings.networks) for each in sources])
    known.save(path)
    return known


def begin(module: nn.Module, beginning: str, knowledge: Priors, seed: int) -> None:
    """Draw the weights of convolutions and linear layers; biases are 0, norms as they come."""
    torch.manual_seed(seed)
    drawn = {n: p for n, p in module.named_parameters() if p.ndim > 1}
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    if beginning in ("law", "basis", "codebook"):
        knowledge.initialise(module, seed=seed, basis=beginning != "law")
        return
    if beginning == "he basis":
        knowledge.initialise(module, seed=seed)
        with torch.no_grad():
            for weight in drawn.values():
                weight.mul_(math.sqrt(2 / weight[0].numel()) / weight.std(correction=0))
        return
    for weight in drawn.values():
        if beginning == "he":
            nn.init.kaiming_normal_(weight)
        elif beginning == "glorot":
            nn.init.xavier_normal_(weight)
        else:
            nn.init.orthogonal_(weight, gain=math.sqrt(2))


def run(name: str, beginning: str, seed: int, settings: argparse.Namespace, knowledge: Priors) -> dict[str, Any]:
    """Train one network; the row of its run, with the accuracy on the test images after each epoch."""
    task = TASKS[name]
    module = task.build(settings.width)
    begin(module, beginning, knowledge, seed)
    train, test = (
        load_samples(settings.data / f"{task.data}-{part}.npz", count=count, seed=0)
        for part, count in (("train", settings.images), ("test", settings.test_images))
    )
    network = Network(f"{name} {beginning}", module, task.preprocessing)
    chosen = {} if settings.learning_rate is None else {"learning_rate": settings.learning_rate}
    recipe = Recipe(**task.recipe | chosen, epochs=settings.epochs, batch_size=settings.batch_size, seed=seed)
    codebooks = knowledge.codebook_constraint(module, 32) if beginning == "codebook" else None
    started = time.time()
    history = fit(network, train, recipe, validation=test, codebooks=codebooks)
    return {
        "task": name,
        "beginning": beginning,
        "seed": seed,
        "accuracy": history.table["validation_top1"].to_list(),
        "loss": history.table["loss"].to_list(),
        "scale": {key: getattr(settings, key) for key in ("images", "test_images", "epochs", "batch_size", "width")},
        "recipe": asdict(recipe),
        "sources": list(task.sources),
        "parameters": network.parameters,
        "seconds": round(time.time() - started, 1),
    }


def epochs_to(curve: Iterable[float], goal: float) -> float:
    """Epochs until the accuracy first reaches `goal`, on a line between epochs; infinite where it never does."""
    before = 0.0
    for epoch, value in enumerate(curve):
        if value >= goal:
            return epoch + (goal - before) / (value - before) if epoch and value > before else epoch + 1.0
        before = value
    return math.inf


def interval(values: list[float]) -> str:
    """The mean and its 95 % interval by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.2f} ({np.mean(values) - half:.2f} to {np.mean(values) + half:.2f})"


def summary(runs: list[dict[str, Any]], name: str) -> pl.DataFrame:
    """One row a beginning: the final accuracy, its difference to He's seed by seed, and the epochs to 90, 95 and 99 %
    of the mean final accuracy of He; all over the seeds that every beginning has.
    """
    some = {(run["beginning"], run["seed"]): run["accuracy"] for run in runs if run["task"] == name}
    present = [b for b in BEGINNINGS if any(key[0] == b for key in some)]
    seeds = sorted(s for s in {key[1] for key in some} if all((b, s) in some for b in present))
    if len(seeds) < 2:
        return pl.DataFrame()
    final = float(np.mean([some["he", seed][-1] for seed in seeds]))
    rows = []
    for beginning in present:
        curves = [some[beginning, seed] for seed in seeds]
        row = {"beginning": beginning, "seeds": len(seeds), "final": interval([100 * c[-1] for c in curves])}
        gains = [100 * (some[beginning, seed][-1] - some["he", seed][-1]) for seed in seeds]
        row["minus he"] = "" if beginning == "he" else interval(gains)
        row["first epoch"] = interval([100 * c[0] for c in curves])
        for share in REACHED:
            times = [epochs_to(curve, share * final) for curve in curves]
            count = sum(map(math.isfinite, times))
            row[f"to {100 * share:.0f} %"] = (
                interval(times) if count == len(times) else f"{count} of {len(times)} reach it"
            )
        rows.append(row)
    return pl.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--networks", type=Path, default=Path("networks"))
    parser.add_argument("--out", type=Path, default=Path("priors-runs"))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--beginnings", nargs="+", choices=BEGINNINGS, default=list(BEGINNINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--images", type=int, default=50_000, help="training images; as many as there are at most")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, help="in place of the recipe's")
    parser.add_argument("--width", type=int, default=16, help="filters of the first stage")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no run after so many; run again to go on"
    )
    parser.add_argument("--summary", action="store_true", help="print the tables of the runs that are there, and end")
    settings = parser.parse_args()
    settings.out.mkdir(parents=True, exist_ok=True)
    knowledge: dict[tuple[str, ...], Priors] = {}
    started = time.time()
    for seed in () if settings.summary else settings.seeds:
        for name in settings.tasks:
            for beginning in settings.beginnings:
                if name == "mnist-mlp" and "basis" in beginning:
                    continue  # it has no filters
                path = settings.out / f"{name}-{beginning.replace(' ', '_')}-{seed}.json"
                if path.exists() or time.time() - started > 60 * settings.minutes:
                    continue
                sources = TASKS[name].sources
                if sources not in knowledge:
                    knowledge[sources] = taken_from(sources, settings)
                row = run(name, beginning, seed, settings, knowledge[sources])
                with atomic_write(path) as part:
                    part.write_text(json.dumps(row))
                print(f"{path.stem}: {100 * row['accuracy'][-1]:.2f} % in {row['seconds']} s", flush=True)
    runs = [json.loads(path.read_text()) for path in sorted(settings.out.glob("*.json"))]
    print(f"netopsy {netopsy.__version__}")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, fmt_str_lengths=40, tbl_formatting="ASCII_MARKDOWN"):
        for name in TASKS:
            table = summary(runs, name)
            if table.height:
                scale = next(run["scale"] for run in runs if run["task"] == name)
                print(f"\n{name}: {scale}\n{table}")


if __name__ == "__main__":
    main()

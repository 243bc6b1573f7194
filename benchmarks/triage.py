"""One block's six cells, {RW, MW, STN} x {FM, TM}, of VGG-16-BN, against a plain PyTorch loop of the usual kind.

    python benchmarks/triage.py [--samples cifar10.npz] [--width 8] [--block 4] [--images 4000] [--epochs 3]
        [--stn-epochs 2] [--test 2000] [--parent-epochs 10] [--workers 1] [--device cpu]

Ours: `netopsy.triage`, from the trained parent to the finished tables, exported graph and stored activations included.
Peer: a copy of the module with the block replaced, a DataLoader with a worker a core over PIL images, float32, frozen
layers by requires_grad and eval() but run every epoch, hooks on teacher and student for STN. Both have all cores, the
same parent (trained beforehand, not timed), optimizer, schedule, epochs and scored images. Printed are both times, and
the best and last accuracy of each cell with the 95 % interval of Wilson over the scored images. On synthetic images
where no samples are given: classes that differ by their mean picture.
"""

from __future__ import annotations

import argparse
import copy
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import netopsy
from common import add_tiny, ratio, seconds, shrink, tell
from netopsy.engine.trials.pool import workers
from netopsy.stats.hypothesis_tests import wilson

RATE, LEAST, FACTOR, MOMENTUM, DECAY, BATCH = 0.001, 0.00001, 0.7, 0.9, 0.0005, 128
CELLS = [(start, training) for start in ("RW", "MW", "STN") for training in ("FM", "TM")]
TARGET = {"cpu": 1.3, "cuda": 3.0}

Scores = dict[tuple[str, str], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", help="an .npz with x_train, y_train, x_test, y_test, 32x32 RGB")
    parser.add_argument("--device", default="cpu")
    for name, default in (
        ("width", 8),
        ("block", 4),
        ("images", 4000),
        ("test", 2000),
        ("epochs", 3),
        ("stn-epochs", 2),
        ("parent-epochs", 10),
        ("workers", 1),
        ("threads", os.cpu_count()),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    add_tiny(parser)
    options = parser.parse_args()
    small = {name: 1 for name in ("epochs", "stn_epochs", "parent_epochs", "workers", "threads")}
    shrink(options, width=1, images=40, test=20, **small)
    torch.set_num_threads(options.threads)
    train, test = read(options)
    network = netopsy.load_network("netopsy:vgg16_bn", weights="random", width=options.width).to(options.device)
    recipe = netopsy.Recipe(
        epochs=options.parent_epochs, learning_rate=0.1, schedule="onecycle", weight_decay=DECAY, augment="flip"
    )
    parent = netopsy.fit(network, train, recipe).network
    print(
        f"torch {torch.__version__}, {options.threads} threads, {options.device}, load {os.getloadavg()[0]:.1f}; "
        f"{train.name}: {len(train):,} images to train on, {len(test):,} to score; VGG-16-BN of width {options.width}, "
        f"parent {netopsy.score(parent, test)['top1'][0]:.2%}, block {options.block}, {options.epochs} epochs",
        flush=True,
    )
    theirs, peer = seconds(lambda: Peer(parent, train, test, options).cells())
    print(f"plain loop: {theirs:.1f} s", flush=True)
    ours, scores_here = seconds(lambda: cells(parent, train, test, options))
    print(f"netopsy: {ours:.1f} s, {options.workers} trials at a time; load {os.getloadavg()[0]:.1f}")
    print("cell     netopsy: best [95 % interval], last     plain: best [95 % interval], last")
    apart = 0
    for cell in CELLS:
        texts, ranges = [], []
        for scores in (scores_here[cell], peer[cell]):
            low, high = wilson(max(scores) * len(test), len(test))
            ranges.append((low, high))
            texts.append(f"{max(scores):.2%} [{low:.2%}, {high:.2%}], {scores[-1]:.2%}")
        apart += ranges[0][0] > ranges[1][1] or ranges[1][0] > ranges[0][1]
        print(f"{cell[0]:>3} {cell[1]}   {texts[0]:40s} {texts[1]}")
    print(f"{len(CELLS) - apart} of {len(CELLS)} pairs of best accuracies have intervals that overlap")
    ratio(ours, theirs, f"a plain loop with {options.threads} workers", f" (target {TARGET[options.device]:.1f}x)")
    tell("triage", theirs / ours, netopsy=ours, peer=theirs, cells=len(CELLS), overlapping=len(CELLS) - apart)


def read(options: argparse.Namespace) -> tuple[netopsy.Samples, netopsy.Samples]:
    """Images to train on, and to score."""
    if options.samples:
        return tuple(
            netopsy.load_samples(options.samples, split=split, count=count)
            for split, count in (("train", options.images), ("test", options.test))
        )  # type: ignore[return-value]
    draw = np.random.default_rng(0)
    labels = np.arange(options.images + options.test) % 10
    mean = draw.normal(128, 25, (10, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    pixels = np.clip(mean[labels] + draw.normal(0, 60, (len(labels), 32, 32, 3)), 0, 255).astype(np.uint8)
    names = [str(i) for i in range(10)]
    cut = options.images
    return tuple(
        netopsy.load_samples((pixels[part], labels[part]), classes=names) for part in (slice(0, cut), slice(cut, None))
    )  # type: ignore[return-value]


def cells(
    parent: netopsy.Network, train: netopsy.Samples, test: netopsy.Samples, options: argparse.Namespace
) -> Scores:
    """Accuracies after each epoch of every cell, by the study; what it measures besides is kept small."""
    with workers(options.workers, threads=max(1, options.threads // options.workers)):
        result = netopsy.triage(
            parent,
            test,
            train=train,
            blocks=(f"block{options.block}",),
            epochs=options.epochs,
            stn_epochs=options.stn_epochs,
            learning_rate=RATE,
            min_learning_rate=LEAST,
            factor=FACTOR,
            momentum=MOMENTUM,
            weight_decay=DECAY,
            batch_size=BATCH,
            augment="flip",
            repeats=1,
            control=False,
            pictures=0,
            matching_images=2,
        )
    rows = result.tables["history"].sort("epoch").to_dicts()
    return {cell: [row["validation_top1"] for row in rows if (row["start"], row["training"]) == cell] for cell in CELLS}


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images in memory as a Dataset of PIL images gives them."""

    def __init__(self, samples: netopsy.Samples, normalise: transforms.Normalize, flip: bool) -> None:
        self.pixels = np.stack([samples.image(i) for i in range(len(samples))])
        self.labels = samples.labels
        flips = [transforms.RandomHorizontalFlip()] if flip else []
        self.transform = transforms.Compose([*flips, transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


@dataclass
class Peer:
    """The plain loop."""

    parent: netopsy.Network
    train: netopsy.Samples
    test: netopsy.Samples
    options: argparse.Namespace

    def cells(self) -> Scores:
        """Accuracies after each epoch of every cell."""
        torch.manual_seed(0)
        self.device, self.name = torch.device(self.options.device), f"block{self.options.block}"
        scale = transforms.Normalize(self.parent.preprocessing.mean, self.parent.preprocessing.std)
        how: dict[str, Any] = {
            "batch_size": BATCH,
            "num_workers": self.options.threads,
            "persistent_workers": True,
            "pin_memory": self.device.type == "cuda",
        }
        self.images = DataLoader(Pictures(self.train, scale, True), shuffle=True, **how)
        self.scored = DataLoader(Pictures(self.test, scale, False), **how)
        taught = self.student("RW")
        self.teach(taught)
        scores = {}
        for start, training in CELLS:
            module = copy.deepcopy(taught) if start == "STN" else self.student(start)
            scores[start, training] = self.trained(module, frozen=training == "FM")
        return scores

    def student(self, start: str) -> nn.Module:
        """The parent with one convolution, norm and activation in the block's place."""
        module = copy.deepcopy(self.parent.module)
        block = getattr(module, self.name)
        convolutions = [part for part in block if isinstance(part, nn.Conv2d)]
        new = nn.Conv2d(convolutions[0].in_channels, convolutions[-1].out_channels, 3, padding=1)
        nn.init.xavier_uniform_(new.weight)
        nn.init.zeros_(new.bias)
        if start == "MW":
            with torch.no_grad():
                new.weight[:] = torch.cat([part.weight.reshape(-1, 3, 3) for part in convolutions]).mean(0)
        setattr(module, self.name, nn.Sequential(new, nn.BatchNorm2d(new.out_channels), nn.ReLU(), nn.MaxPool2d(2)))
        return module.to(self.device)

    def teach(self, student: nn.Module) -> None:
        """STN: the new layer alone comes near to what the block gives, after the pooling."""
        teacher, seen = self.parent.module.eval(), {}
        hooks = [
            getattr(module, self.name).register_forward_hook(lambda m, i, out, who=who: seen.__setitem__(who, out))
            for who, module in (("teacher", teacher), ("student", student))
        ]
        optimizer, schedule = self.optimizer(student, frozen=True)
        for _ in range(self.options.stn_epochs):
            self.mode(student, frozen=True)
            total = 0.0
            for images, _labels in self.images:
                images = images.to(self.device, non_blocking=True)
                with torch.no_grad():
                    teacher(images)
                student(images)
                loss = F.mse_loss(seen["student"], seen["teacher"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            schedule.step(total)
        for hook in hooks:
            hook.remove()

    def trained(self, module: nn.Module, frozen: bool) -> list[float]:
        """Accuracy after each epoch."""
        optimizer, schedule = self.optimizer(module, frozen)
        scores = []
        for _ in range(self.options.epochs):
            self.mode(module, frozen)
            for images, labels in self.images:
                images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
                loss = F.cross_entropy(module(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss_sum, right = 0.0, 0
            module.eval()
            with torch.no_grad():
                for images, labels in self.scored:
                    images, labels = images.to(self.device), labels.to(self.device)
                    outputs = module(images)
                    loss_sum += F.cross_entropy(outputs, labels, reduction="sum").item()
                    right += int((outputs.argmax(1) == labels).sum())
            schedule.step(loss_sum / len(self.test))
            scores.append(right / len(self.test))
        return scores

    def mode(self, module: nn.Module, frozen: bool) -> None:
        """To train; frozen layers as in evaluation."""
        module.train(not frozen)
        getattr(module, self.name).train()

    def optimizer(self, module: nn.Module, frozen: bool) -> tuple[torch.optim.Optimizer, Any]:
        """Momentum and a plateau, as the study has them: Keras counts `patience` and `cooldown` one epoch shorter."""
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith(f"{self.name}."))
        free = [parameter for parameter in module.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in free if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in free if p.ndim == 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(groups, lr=RATE, momentum=MOMENTUM)
        return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=FACTOR, patience=0, cooldown=2, min_lr=LEAST
        )


if __name__ == "__main__":
    main()

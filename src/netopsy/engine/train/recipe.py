"""How a network is trained: plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from netopsy.checks import check_choice, check_int, check_real
from netopsy.errors import SettingsError

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "step", "cosine", "onecycle", "plateau"]
Augment = Literal["none", "flip", "crop", "crop+flip"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """The settings of `fit`.

    epochs: passes over the images.
    batch_size: images a step, over all devices together. An epoch is split into steps of equal size (within one
        image), so that it sees every image and no step is small.
    optimizer: sgd (with `momentum`, 0 for none, and `nesterov`) or adamw (betas 0.9 and 0.999).
    learning_rate: the learning rate, which the schedule scales.
    weight_decay: added to the gradient by sgd, apart from it by adamw; on matrices and filters only, unless
        `decay_all`. Tables of shared weights never decay.
    schedule: constant; step (times `factor` at each of `milestones`, shares of the epochs); cosine (down to `final`
        times the rate); onecycle (Smith & Topin, 2019: up from 1/25 in the first 30 %, then down to 1/250,000);
        plateau (times `factor` once the loss, on the validation images if given, has not fallen by 1e-4 of itself for
        more than `patience` epochs; then `cooldown` epochs are not counted; never below `final` times the rate).
    warmup: epochs in which the rate first rises to the schedule's; not with onecycle.
    augment: none, flip (left to right, half of the images), crop (a shift by up to `pad` pixels each way), crop+flip.
    pad, fill: of crops; fill zero (black pixels) or reflect (mirrored at the edge pixel).
    label_smoothing: share of each label that is spread over all classes.
    table_learning_rate: times the rate, for the tables of shared weights.
    table_gradient: sum (Han et al., ICLR 2016, Section 3.3) or mean of the gradients of an entry's weights.
    alpha, temperature: with a teacher, loss = (1 - alpha) loss + alpha T^2 KL(teacher || network) at temperature T
        (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).
    precision: float32, or bfloat16 (autocast; the weights stay float32).
    devices: how many GPUs of the network's kind, or processes on the CPU. Each takes its share of every batch.
    seed: of the order of the images, the augmentation and dropout.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_all: bool = False
    schedule: Schedule = "constant"
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    final: float = 0.0
    patience: int = 3
    cooldown: int = 0
    warmup: float = 0.0
    augment: Augment = "none"
    pad: int = 4
    fill: Literal["zero", "reflect"] = "zero"
    label_smoothing: float = 0.0
    table_learning_rate: float = 1.0
    table_gradient: Literal["sum", "mean"] = "sum"
    alpha: float = 0.5
    temperature: float = 4.0
    precision: Precision = "float32"
    devices: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice(self, "optimizer", get_args(Optimizer))
        check_choice(self, "schedule", get_args(Schedule))
        check_choice(self, "augment", get_args(Augment))
        check_choice(self, "fill", ("zero", "reflect"))
        check_choice(self, "table_gradient", ("sum", "mean"))
        check_choice(self, "precision", get_args(Precision))
        for name in ("epochs", "batch_size", "devices"):
            check_int(self, name, 1)
        for name in ("patience", "cooldown", "pad", "seed"):
            check_int(self, name, 0)
        for name in ("learning_rate", "factor", "table_learning_rate", "temperature"):
            check_real(self, name, 0, math.inf, open_low=True)
        for name in ("weight_decay", "warmup"):
            check_real(self, name, 0, math.inf)
        for name in ("final", "alpha"):
            check_real(self, name, 0, 1)
        for name in ("momentum", "label_smoothing"):
            check_real(self, name, 0, 0.999999)
        if self.nesterov and not self.momentum:
            raise SettingsError("nesterov needs a momentum above 0; 0.9 is usual.")
        if any(not 0 < share < 1 for share in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise SettingsError(f"milestones {self.milestones} must be ascending shares of the epochs, as 0.5,0.75.")

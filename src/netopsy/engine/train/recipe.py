"""How a network is trained: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from netopsy.errors import SettingsError
from netopsy.settings import (
    Interval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Share,
    check_settings,
)

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "step", "cosine", "onecycle", "plateau"]
Augment = Literal["none", "flip", "crop", "crop+flip"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """The settings of `fit`.

    epochs: passes over the samples.
    batch_size: samples a step, over all devices together. An epoch is split into steps of equal size (within one
        sample), so that it sees every sample and no step is small.
    optimizer: sgd (with `momentum`, 0 for none, and `nesterov`) or adamw (betas 0.9 and 0.999).
    learning_rate: the learning rate, which the schedule scales.
    weight_decay: added to the gradient by sgd, apart from it by adamw; on matrices and filters only, unless
        `decay_all`. Tables of shared weights never decay.
    schedule: constant; step (times `factor` at each of `milestones`, shares of the epochs); cosine (down to `final`
        times the rate); onecycle (Smith & Topin, 2019: up from 1/25 in the first 30 %, then down to 1/250,000);
        plateau (times `factor` once the loss, on the validation images if given, has not fallen by 1e-4 of itself for
        more than `patience` epochs; then `cooldown` epochs are not counted; never below `final` times the rate).
    warmup: epochs in which the rate first rises to the schedule's; not with onecycle.
    augment: of images: none, flip (left to right, half of the images), crop (a shift by up to `pad` pixels each way),
        crop+flip. A class for each pixel moves along.
    pad, fill: of crops; fill zero (black pixels) or reflect (mirrored at the edge pixel).
    label_smoothing: share of each label that is spread over all classes.
    regression_loss: of numbers to be given: mse, or huber (the absolute error beyond 1; Huber, 1964).
    table_learning_rate: times the rate, for the tables of shared weights.
    table_gradient: sum (Han et al., ICLR 2016, Section 3.3) or mean of the gradients of an entry's weights.
    alpha, temperature: with a teacher, loss = (1 - alpha) loss + alpha T^2 KL(teacher || network) at temperature T
        (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015); of numbers the error to the teacher's.
    precision: float32, or bfloat16 (autocast; the weights stay float32).
    devices: how many GPUs of the network's kind, or processes on the CPU. Each takes its share of every batch.
    seed: of the order of the samples, the augmentation and dropout.
    """

    epochs: PositiveInt = 10
    batch_size: PositiveInt = 128
    optimizer: Optimizer = "sgd"
    learning_rate: PositiveFloat = 0.01
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0
    decay_all: bool = False
    schedule: Schedule = "constant"
    milestones: Annotated[tuple[float, ...], Interval(gt=0, lt=1)] = (0.5, 0.75)
    factor: PositiveFloat = 0.1
    final: Share = 0.0
    patience: NonNegativeInt = 3
    cooldown: NonNegativeInt = 0
    warmup: NonNegativeFloat = 0.0
    augment: Augment = "none"
    pad: NonNegativeInt = 4
    fill: Literal["zero", "reflect"] = "zero"
    label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    regression_loss: Literal["mse", "huber"] = "mse"
    table_learning_rate: PositiveFloat = 1.0
    table_gradient: Literal["sum", "mean"] = "sum"
    alpha: Share = 0.5
    temperature: PositiveFloat = 4.0
    precision: Precision = "float32"
    devices: PositiveInt = 1
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.nesterov and not self.momentum:
            raise SettingsError("nesterov needs a momentum above 0; 0.9 is usual.")
        if list(self.milestones) != sorted(self.milestones):
            raise SettingsError(f"milestones {self.milestones} must ascend, as 0.5,0.75.")

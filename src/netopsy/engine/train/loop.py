"""The loop over epochs and steps, in one process or in each of several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from netopsy.codec.shared import SharedTensor
from netopsy.engine.train.activations import ActivationSet, TrainingActivations
from netopsy.engine.train.constraints import Constraints
from netopsy.engine.train.data import Taken, TrainingBatch, TrainingSamples, epoch_seed, steps_an_epoch, takes_images
from netopsy.engine.train.objective import (
    Loss,
    Measured,
    Penalty,
    measure,
    rate_at,
    squared_error,
    targets_of,
    weight_of,
)
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.workspace.checkpoint import Checkpoint, State
from netopsy.errors import DivergedError, SettingsError
from netopsy.network.capture import call
from netopsy.network.graph import find_output, name_outputs
from netopsy.network.network import tensor_state
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import CLASSIFICATION, Task

_LOOK = 25  # steps between two looks at the loss, each of which waits for the device
_ROOM = 2**26  # outputs that a step holds at once: logits of a vocabulary at each token


@dataclass
class TrainingJob:
    """All that a process needs to train: plain data and a module of its own, so that it can be sent to one.

    fixed: names of parameters that stay. still: names of modules that run as in evaluation. task, validation_task: what
    is counted, on each of the two. learned: whose loss is lowered. outputs: values that the module gives a sample.
    codebooks: the values that weights may take, by parameter name. penalty: see `Penalty`.
    sequence: of several, as an encoder's and a decoder's, the one that the outputs go along.
    """

    module: nn.Module
    preprocessing: Taken | None
    samples: Samples | ActivationSet
    validation: Samples | ActivationSet | None
    recipe: Recipe
    masks: dict[str, Tensor]
    shared: dict[str, SharedTensor]
    fixed: set[str]
    still: set[str]
    teacher: nn.Module | None
    checkpoint: Checkpoint
    loss: Loss = "labels"
    returned: tuple[str | int | None, str | int | None] = (None, None)  # which output, of the network and its teacher
    task: Task = CLASSIFICATION
    validation_task: Task = CLASSIFICATION
    learned: Task = CLASSIFICATION
    outputs: int = 1
    codebooks: dict[str, Tensor] = field(default_factory=dict)
    penalty: Penalty | None = None
    sequence: str = ""


class Trainer:
    """A training under way, in one process. fabric: a lightning Fabric. report: called with (steps done, of all)."""

    def __init__(self, fabric: Any, job: TrainingJob, report: Callable[[int, int], None]) -> None:
        self.fabric, self.job, self.recipe, self.report = fabric, job, job.recipe, report
        device = fabric.device
        self.module = job.module.to(device)
        if has_maps(self.module):
            self.module = self.module.to(memory_format=torch.channels_last)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name not in job.fixed)
        self.constraints = Constraints(self.module, job.masks, job.shared, job.recipe, job.codebooks)
        self.teacher = None if job.teacher is None else job.teacher.to(device).eval().requires_grad_(False)
        processes = fabric.world_size
        self.data = read_data(job.samples, job, device, processes)
        self.dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        norms = (nn.modules.batchnorm._BatchNorm,)
        splits = job.learned.learns == "places" and not any(isinstance(part, norms) for part in self.module.modules())
        self.most = max(1, _ROOM // job.outputs) if splits else None
        self.validation = None
        if job.validation is not None and fabric.is_global_zero:
            self.validation = read_data(job.validation, job, device, processes)
        self.steps = steps_an_epoch(len(job.samples), job.recipe)
        self.optimizer = self._optimizer()
        self.rows: list[dict[str, Any]] = []
        self._take_up(job.checkpoint.load()[1])
        self.model, self.stepper = fabric.setup(self.module, self.optimizer, move_to_device=False)

    def run(self) -> State:
        """Train the epochs that are left; the state after the last."""
        while len(self.rows) < self.recipe.epochs:
            self.rows.append(self._epoch(len(self.rows)))
            if self.fabric.is_global_zero:
                self.job.checkpoint.save(len(self.rows), self.state, final=True)
        self.fabric.barrier()
        return self.state()

    def state(self) -> State:
        """What is trained, by name, and the history's rows; until the last epoch the optimizer's state too."""
        state: State = {
            "module": {name: value.detach().cpu() for name, value in tensor_state(self.module).items()},
            "tables": {name: trained.detach().cpu() for name, trained in self.constraints.trained().items()},
            "rows": list(self.rows),
        }
        if len(self.rows) < self.recipe.epochs:
            state["optimizer"] = self.optimizer.state_dict()
        return state

    def _take_up(self, state: State) -> None:
        if not {"module", "tables", "rows"} <= state.keys():
            return
        if len(state["rows"]) < self.recipe.epochs and "optimizer" not in state:
            return
        self.module.load_state_dict(state["module"], strict=False)
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.rows = list(state["rows"])
        with torch.no_grad():
            trained = self.constraints.trained()
            for name, values in state["tables"].items():
                trained[name].copy_(values)

    def _optimizer(self) -> torch.optim.Optimizer:
        """SGD or AdamW over filters and matrices, other parameters, and tables."""
        recipe, tables, quantized = self.recipe, self.constraints.tables, self.constraints.quantized
        free = {name: p for name, p in self.module.named_parameters() if p.requires_grad and name not in tables}
        free |= {name: quantized[name].latent for name in free if name in quantized}
        shapes = (
            ([p for p in free.values() if p.ndim > 1], recipe.weight_decay, 1.0),
            ([p for p in free.values() if p.ndim <= 1], recipe.weight_decay if recipe.decay_all else 0.0, 1.0),
            ([t.entries for name, t in tables.items() if name not in self.job.fixed], 0.0, recipe.table_learning_rate),
        )
        groups = [
            {"params": parameters, "weight_decay": decay, "scale": scale}
            for parameters, decay, scale in shapes
            if parameters
        ]
        if not groups:
            raise SettingsError("every parameter is frozen; leave something to train.")
        fused = self.fabric.device.type == "cuda"
        if recipe.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=fused)
        return torch.optim.SGD(
            groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused
        )

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch (from 0); its row of the history."""
        started, device, column = time.monotonic(), self.fabric.device, self.job.task.column
        losses = [row["loss" if self.job.validation is None else "validation_loss"] for row in self.rows]
        totals = torch.zeros(4, dtype=torch.float64, device=device)
        done, rate, rank = epoch * self.steps, 0.0, self.fabric.global_rank
        self.module.train()
        for name, part in self.module.named_modules():
            if name in self.job.still:
                part.eval()
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(epoch_seed(self.recipe.seed, epoch, rank + 1))  # dropout has no generator of its own
            for at, step in enumerate(self.data.epoch(self.recipe, epoch, rank, self.fabric.world_size)):
                rate = rate_at(self.recipe, done + at, self.steps, losses)
                totals += self._step(step, rate)
                if at % _LOOK == 0 or at == self.steps - 1:
                    self._look(totals[0], epoch)
                    self.report(done + at + 1, self.steps * self.recipe.epochs)
        self._look(torch.stack(torch._foreach_norm([p.detach() for p in self.module.parameters()])).sum(), epoch)
        sums = self.fabric.all_reduce(totals, reduce_op="sum")
        loss, score = (sums[::2] / sums[1::2].clamp_min(1)).tolist()
        row = {"epoch": epoch + 1, "rate": rate, "loss": loss, column: self._counted(score)}
        row |= self.fabric.broadcast(self._validate())
        return {**row, "seconds": time.monotonic() - started}

    def _step(self, step: TrainingBatch, rate: float) -> Tensor:
        """One step of the optimizer; the share's sums, as `Measured` has them, float64 (4,) on the device.

        The gradient is divided by the weight of the whole batch: DDP then takes the mean over processes.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.module.zero_grad(set_to_none=True)
        self.constraints.zero_grad()
        whole: float | Tensor = step.size
        learned = self.job.learned
        if self.job.loss == "labels" and learned.learns in ("places", "outputs"):
            counted = weight_of(step, targets_of(step, learned), learned)
            whole = self.fabric.all_reduce(counted.clone(), reduce_op="sum").clamp_min(1)
        totals = torch.zeros(4, dtype=torch.float64, device=self.fabric.device)
        size = len(step.labels)
        for first in range(0, size, self.most or max(1, size)):
            piece = step if self.most is None or self.most >= size else step.part(slice(first, first + self.most))
            outputs = self._outputs(self.model, piece, 0)
            teacher = None
            if self.teacher is not None:
                with torch.no_grad(), self.fabric.autocast():
                    teacher = self._outputs(self.teacher, piece, 1).float()
            measured = self._measure(outputs, piece, self.job.task, self.recipe, teacher)
            loss = measured.loss * (self.fabric.world_size / whole)
            if self.job.penalty is not None and first == 0:
                loss = loss + self.job.penalty(dict(self.module.named_parameters())) / len(self.job.samples)
            self.fabric.backward(loss)
            totals += measured.totals()
        self.constraints.gradients()
        self.stepper.step()
        self.constraints.apply()
        return totals

    def _outputs(self, module: nn.Module, step: TrainingBatch, which: int) -> Tensor:
        """What the network (0) or its teacher (1) gives."""
        inputs = {n: x.to(self.dtype) if x.is_floating_point() else x for n, x in step.inputs.items()}
        return main_output(call(module, inputs), self.job.returned[which])

    def _measure(
        self, outputs: Tensor, step: TrainingBatch, task: Task, recipe: Recipe, teacher: Tensor | None
    ) -> Measured:
        """The summed loss and score of a batch; no score is counted where stored values are learned."""
        if self.job.loss == "labels":
            return measure(outputs, step, task, self.job.learned, recipe, teacher)
        targets = step.targets if teacher is None else teacher
        assert targets is not None
        loss = squared_error(outputs, targets, self.job.loss, step.mask)
        weight = torch.tensor(float(len(step.labels)), dtype=torch.float64, device=loss.device)
        return Measured(loss, weight, torch.zeros_like(weight), weight)

    def _counted(self, score: float) -> float | None:
        return score if self.job.loss == "labels" else None

    def _look(self, value: Tensor, epoch: int) -> None:
        """Raise SettingsError, in all processes at once, where the loss or a weight is no longer finite."""
        total = value.detach().double().clone()  # a sum over processes is taken in place
        if math.isfinite(self.fabric.all_reduce(total, reduce_op="sum").item()):
            return
        hint = "" if self.job.checkpoint.path is None or not epoch else f" The state after epoch {epoch} is kept."
        raise DivergedError(
            f"training diverged in epoch {epoch + 1}: the loss or a weight is NaN or infinite. The learning rate "
            f"{self.recipe.learning_rate:.4g} is too high; try {self.recipe.learning_rate / 10:.2g}.{hint}"
        )

    @torch.no_grad()
    def _validate(self) -> dict[str, float | None]:
        """Loss (without the part of a teacher of labels) and score, in evaluation mode and float32."""
        column = f"validation_{self.job.task.column}"
        if self.validation is None:
            return {"validation_loss": None, column: None}
        self.module.eval()
        totals = torch.zeros(4, dtype=torch.float64, device=self.fabric.device)
        plain = Recipe(regression_loss=self.recipe.regression_loss, temperature=self.recipe.temperature)
        followed = self.teacher if self.job.loss != "labels" or self.job.learned.learns == "outputs" else None
        for step in self.validation.ordered(self._validation_size()):
            outputs = self._outputs(self.module, step, 0)
            teacher = None if followed is None else self._outputs(followed, step, 1).float()
            measured = self._measure(outputs, step, self.job.validation_task, plain, teacher)
            totals += measured.totals()
        loss, score = (totals[::2] / totals[1::2].clamp_min(1)).tolist()
        return {"validation_loss": loss, column: self._counted(score)}

    def _validation_size(self) -> int:
        """Samples at once: many of images and stored values, of others as many as a step has at most."""
        assert self.validation is not None
        if not isinstance(self.validation, TrainingSamples) or takes_images(self.validation.preprocessing):
            values = 2**23 if self.fabric.device.type == "cuda" else 2**20
            return max(32, values // math.prod(self.validation.shape))
        return max(1, min(self.recipe.batch_size, _ROOM // self.job.outputs))


def read_data(
    data: Samples | ActivationSet, job: TrainingJob, device: torch.device, processes: int
) -> TrainingSamples | TrainingActivations:
    """What a training reads, on its device where it fits."""
    if isinstance(data, ActivationSet):
        return TrainingActivations.of(data, device)
    assert job.preprocessing is not None
    return TrainingSamples.of(data, job.preprocessing, device, processes, job.sequence)


def has_maps(module: nn.Module) -> bool:
    """Whether the module convolves images, which is faster with channels last."""
    if isinstance(module, fx.GraphModule) and any(
        n.target is torch.ops.aten.conv2d.default for n in module.graph.nodes
    ):
        return True
    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def main_output(outputs: Any, wanted: str | int | None = None) -> Tensor:
    """The network's own output, of several the `wanted` one: in training mode auxiliary classifiers may give theirs."""
    if isinstance(outputs, Tensor):
        return outputs
    named = name_outputs(outputs)
    name = find_output(named, [name for name, value in named.items() if isinstance(value, Tensor)], wanted)
    if name is None:
        raise SettingsError(f"the network has no output '{wanted}' in training; it returns {', '.join(named)}.")
    found: Tensor = named[name]
    return found

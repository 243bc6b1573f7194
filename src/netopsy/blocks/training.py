"""Train a copy of any module, on images or on stored values, to labels or to what a teacher gives."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import polars as pl
import torch
from torch import Tensor, nn

from netopsy.engine.train.activations import ActivationSet, check_recipe
from netopsy.engine.train.constraints import frozen_parts
from netopsy.engine.train.data import Taken, check_augment, check_devices, steps_an_epoch
from netopsy.engine.train.fit import history_table, launch
from netopsy.engine.train.loop import TrainingJob, main_output
from netopsy.engine.train.objective import Loss
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import NetworkError, SamplesError, SettingsError
from netopsy.network.capture import call
from netopsy.network.network import digest_of, tensor_state
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import CLASSIFICATION, Task


@dataclass(frozen=True)
class TrainingResult:
    """table: a row an epoch, as of History; top1 and validation_top1 are null where no labels are learned. state: the
    trained module's parameters and buffers, on the CPU.
    """

    table: pl.DataFrame
    state: dict[str, Tensor]


def train_module(
    module: nn.Module,
    data: Samples | ActivationSet,
    recipe: Recipe | None = None,
    *,
    spec: Mapping[str, Any],
    preprocessing: Taken | None = None,
    validation: Samples | ActivationSet | None = None,
    frozen: Collection[str] = (),
    teacher: nn.Module | None = None,
    loss: Loss = "labels",
    label: str = "fit",
    task: Task = CLASSIFICATION,
    learned: Task | None = None,
    sequence: str = "",
) -> TrainingResult:
    """Train a copy of `module` where its parameters lie, as `fit` trains a network; the module itself stays as it is.

    data, validation: images, prepared by `preprocessing`, or stored values. frozen: modules or parameters that stay.
    loss: `labels`, as of `fit`, to which a `teacher` adds its divergence; `mse`, the mean squared error to the
        teacher's outputs or, without a teacher, to `targets` of the data; `sse`, the squared error summed over the
        values of an image and averaged over images, which is Nowak & Corso's Eq 3 as printed. Both have outputs of any
        shape, and no accuracy.
    teacher: a module that is run, in evaluation mode and without gradients, on the same inputs, augmented alike.
    task: what is counted. learned: what is learned, where that is another task. sequence: of an encoder and a decoder
        the one that the outputs go along, whose padding does not count.
    spec: plain data that says what the module computes. In a `workspace` with a folder a checkpoint is written after
        each epoch; its name is a digest of spec, recipe, data, what is frozen and all weights.

    Errors: SettingsError for what does not fit, and where training diverges. UnknownLayer for a name of nothing.
    SamplesError for labels that the module has no outputs for.
    """
    recipe = Recipe() if recipe is None else recipe
    parameter = next(module.parameters(), None)
    if parameter is None:
        raise SettingsError("the module has no parameters; give one that can be trained.")
    if loss not in get_args(Loss):
        raise SettingsError(f"loss {loss!r} is unknown; give one of {', '.join(get_args(Loss))}.")
    device = parameter.device
    outputs = 1
    for part in (data, *(() if validation is None else (validation,))):
        outputs = _check(module, part, preprocessing, teacher, loss, device, learned or task)
    if isinstance(data, ActivationSet):
        check_recipe(data, recipe)
    elif preprocessing is not None:
        check_augment(recipe, preprocessing, data)
    steps_an_epoch(len(data), recipe)
    check_devices(recipe, device)
    fixed, still = frozen_parts(module, frozen)
    place, full_spec = current_workspace(), {}
    if place.folder is not None:
        full_spec = {
            "spec": dict(spec),
            "recipe": asdict(recipe),
            "data": data.digest,
            "validation": None if validation is None else validation.digest,
            "preprocessing": None if preprocessing is None else preprocessing.record(),
            "frozen": [sorted(fixed), sorted(still)],
            "weights": digest_of(tensor_state(module)),
            "teacher": None if teacher is None else digest_of(tensor_state(teacher)),
            "loss": loss,
            "torch": torch.__version__,
        }
    job = TrainingJob(
        copy.deepcopy(module),
        preprocessing,
        data,
        validation,
        recipe,
        {},
        {},
        fixed,
        still,
        None if teacher is None else copy.deepcopy(teacher),
        place.checkpoint("fit", full_spec),
        loss,
        task=task,
        validation_task=task,
        learned=learned or task,
        outputs=outputs,
        sequence=sequence,
    )
    state = launch(job, device, lambda done, total: place.report(label, done, total))
    return TrainingResult(
        history_table(state["rows"], task.column), {name: value.contiguous() for name, value in state["module"].items()}
    )


@torch.no_grad()
def _check(
    module: nn.Module,
    data: Samples | ActivationSet,
    preprocessing: Taken | None,
    teacher: nn.Module | None,
    loss: Loss,
    device: torch.device,
    task: Task,
) -> int:
    """How many values an output has; raise unless the outputs for two samples of `data` fit what they are to be."""
    if isinstance(data, ActivationSet):
        shape, target_shape = data.shape, data.target_shape
    elif preprocessing is None:
        raise SettingsError("samples need their preprocessing; give preprocessing=network.preprocessing.")
    else:
        shape, target_shape = preprocessing.input_shape, None
    inputs: dict[str, Tensor] = {"x": torch.zeros((2, *shape), device=device)}
    if isinstance(data, ActivationSet):
        inputs |= {name: torch.from_numpy(kept[:2]).to(device) for name, kept in data.beside.items()}
    elif preprocessing is not None:
        inputs = preprocessing.signature.example(2, module)
    output_shape = tuple(_evaluate(module, inputs).shape)
    if teacher is not None:
        taught = tuple(_evaluate(teacher, inputs).shape)
        if target_shape is not None and loss != "labels":
            raise SettingsError("there are targets and a teacher to learn from; give one of both.")
        target_shape = taught[1:]
    if loss != "labels" and target_shape is None:
        raise SettingsError(f"loss '{loss}' needs something to come near to; give a teacher, or data with targets.")
    if target_shape is not None and (loss != "labels" or teacher is not None) and output_shape[1:] != target_shape:
        raise SettingsError(
            f"the module gives {output_shape[1:]} an image, and is to learn {target_shape}; both must be the same."
        )
    values = max(1, math.prod(output_shape[1:]))
    if loss != "labels" or task.learns != "classes":
        return values
    if len(output_shape) != 2:
        raise NetworkError(
            f"the module does not give one score a class: its output is {output_shape}, not (batch, classes)."
        )
    fits = data.labels.shape[1] == output_shape[1] if data.multilabel else int(data.labels.max()) < output_shape[1]
    if not fits:
        largest = f"{data.labels.shape[1]} labels an image" if data.multilabel else f"label {int(data.labels.max())}"
        raise SamplesError(
            f"{data.name} has {largest} and the module {output_shape[1]} outputs; both must know the classes."
        )
    return values


def _evaluate(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The outputs in evaluation mode; the module's own mode comes back."""
    training = {part: part.training for part in module.modules()}
    try:
        return main_output(call(module.eval(), inputs))
    finally:
        for part, before in training.items():
            part.training = before

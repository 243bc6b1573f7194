"""Train a copy of a network: in this process, or in several that share its batches."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from netopsy.codec.shared import SharedTensor
from netopsy.engine.train.constraints import check_codebooks, check_constraints, frozen_parts
from netopsy.engine.train.data import check_augment, check_devices, steps_an_epoch
from netopsy.engine.train.loop import Trainer, TrainingJob, main_output
from netopsy.engine.train.objective import Penalty
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.workspace.checkpoint import Checkpoint, State
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.errors import NetopsyError, NetworkError, SettingsError
from netopsy.network.capture import call
from netopsy.network.network import Network, check_network
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import CLASSIFICATION, MASKED_TOKEN, Task, find_task, gives_features, suggest_task


def history_columns(score: str = "top1") -> dict[str, Any]:
    """Names and types of the columns of a history; score: what the task calls its score."""
    names = ("rate", "loss", score, "validation_loss", f"validation_{score}", "seconds")
    return {"epoch": pl.Int64, **dict.fromkeys(names, pl.Float64)}


@dataclass(frozen=True)
class History:
    """A trained copy of a network, and how it came about.

    table: a row an epoch: epoch (from 1), rate (at its last step), loss and top1 (means over the epoch's samples as
        they were trained on: augmented, while the weights moved), validation_loss and validation_top1 (afterwards, in
        evaluation mode and float32; null without validation samples), seconds. Means are over samples, or over the
        tokens or pixels that count. Other tasks have their own score in place of top1: r2, agreement, cosine, score.
    network: the trained copy.
    shared: the moved tables of shared weights, by parameter name; decoded they are the weights of `network`.
    """

    table: pl.DataFrame
    network: Network
    shared: dict[str, SharedTensor]


def history_table(rows: Sequence[dict[str, Any]], score: str = "top1") -> pl.DataFrame:
    """The rows of a history as its table."""
    return pl.DataFrame(list(rows), schema=history_columns(score))


def launch(job: TrainingJob, device: torch.device, report: Any) -> State:
    """The state after the training, in this process or in others."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    with _quiet():
        fabric_options: dict[str, Any] = {
            "accelerator": device.type,
            "precision": "bf16-mixed" if job.recipe.precision == "bfloat16" else "32-true",
        }
        if job.recipe.devices == 1:
            devices = 1 if device.type == "cpu" else [device.index or 0]
            fabric = Fabric(devices=devices, **fabric_options)
            return train_here(fabric, job, report)
        with tempfile.TemporaryDirectory() as folder:
            if job.checkpoint.path is None:  # the processes hand the outcome over in a file
                job.checkpoint = Checkpoint(Path(folder) / "fit.safetensors")
            job.module, job.teacher = job.module.cpu(), None if job.teacher is None else job.teacher.cpu()
            job.masks = {name: mask.cpu() for name, mask in job.masks.items()}
            strategy = DDPStrategy(
                start_method="spawn", process_group_backend="gloo" if device.type == "cpu" else "nccl"
            )
            fabric = Fabric(devices=job.recipe.devices, strategy=strategy, **fabric_options)
            failure = fabric.launch(partial(_work, job=job))
            if failure:
                raise SettingsError(failure)
            _, state = job.checkpoint.load()
            assert state
            return state


def train_here(fabric: Any, job: TrainingJob, report: Any) -> State:
    """The state after the training in this process; SettingsError where a step is too large or too small."""
    try:
        return Trainer(fabric, job, report).run()
    except torch.OutOfMemoryError as error:
        first_line = str(error).splitlines()[0]
        raise SettingsError(f"the device's memory is too small: {first_line} Give a smaller batch_size.") from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SettingsError("batch norm cannot learn from a step of one image; give a larger batch_size.") from error


def _work(fabric: Any, *, job: TrainingJob) -> str | None:
    """What each of several processes does; the message where it fails, which all of them do at once."""
    job.module = copy.deepcopy(job.module)  # what is sent to a process on the CPU lies in memory that all share
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    try:
        train_here(fabric, job, lambda done, total: None)
    except NetopsyError as error:
        return str(error)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes of lightning out of what a user sees; once it is imported, which sets the level anew."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def fit(
    network: Network,
    samples: Samples,
    recipe: Recipe | None = None,
    *,
    validation: Samples | None = None,
    masks: Mapping[str, Tensor] | None = None,
    shared: Mapping[str, SharedTensor] | None = None,
    frozen: Collection[str] = (),
    teacher: Network | None = None,
    codebooks: Mapping[str, Tensor] | None = None,
    penalty: Penalty | None = None,
    label: str = "fit",
) -> History:
    """Train a copy of `network` on `samples`, where the network lies; the network itself stays as it is.

    validation: samples that are scored after each epoch. masks: by parameter name, bool of its shape; weights that are
    False stay exactly zero. shared: by parameter name; the codes stay and the table moves, by the summed gradient of
    each entry's weights (Han et al., ICLR 2016, Section 3.3); the entry 0.0 stays. Both are by parameter name, such as
    `conv1.weight`. frozen: layers, modules or parameters that stay; a frozen module runs as in evaluation, so its batch
    norm statistics stay too. teacher: a network whose outputs are learned too (`Recipe.alpha`).
    codebooks: by parameter name, the values that its weights may take, ascending, such as
    `Priors.codebook_constraint` gives: each weight is the nearest to a latent one, which is trained. penalty: what is
    asked of the weights besides, such as `Priors.regulariser` gives; `loss` does not count it. label: of the progress.

    What is learned is what the samples' task says (`find_task`): one class by cross-entropy, several by binary
    cross-entropy; the next token, and a class for each place, by cross-entropy over the places that count, each with
    the same weight; numbers by the squared error (`Recipe.regression_loss`); without labels a teacher's outputs, by KL
    divergence, or an embedding by the squared error. For a task that is a function of the user's, labels say what is
    learned and the function what is counted. Padding counts nowhere. Samples are read once and stay on the device where
    they take at most half of its free memory, for as long as `samples` lives.

    In a `workspace` with a folder a checkpoint is written after each epoch, whole or not at all; the same training, run
    again, goes on after it and ends with the same weights bit for bit (on the CPU with as many threads; a GPU may
    round differently). One that is complete is not repeated, and its checkpoint holds no more than the outcome.

    With several devices each takes its share of every batch and gradients are averaged, so that the outcome is that of
    one device up to rounding; batch norm takes its statistics over a device's share, and the first device's running
    statistics are kept, as DistributedDataParallel has it. Processes are started anew: a script needs the usual guard
    `if __name__ == "__main__":`, and their progress is not shown.

    Errors: SettingsError for settings that do not fit, and where training diverges: the checkpoint of the last epoch
    stays. SamplesError for labels that the network has no outputs for.
    """
    check_network(network)
    recipe = Recipe() if recipe is None else recipe
    samples, validation = (_prepared(network, part) for part in (samples, validation))
    task, validation_task, learned, outputs = _check(network, samples, recipe, validation, teacher)
    own_masks, own_shared = check_constraints(network, masks or {}, shared or {})
    levels = check_codebooks(network, codebooks or {}, {*own_masks, *own_shared})
    fixed, still = frozen_parts(network.module, frozen, network.layer)
    place, spec = current_workspace(), {}
    if place.folder is not None:
        spec = _spec(network, samples, recipe, validation, own_masks, own_shared, fixed, still, teacher)
        if levels:
            spec["codebooks"] = {name: _digest(values.numpy()) for name, values in sorted(levels.items())}
        if penalty is not None:
            spec["penalty"] = penalty.digest
    job = TrainingJob(
        copy.deepcopy(network.module),
        network.preprocessing,
        samples,
        validation,
        recipe,
        own_masks,
        own_shared,
        fixed,
        still,
        None if teacher is None else copy.deepcopy(teacher.module),
        place.checkpoint("fit", spec),
        returned=(network.returned, None if teacher is None else teacher.returned),
        task=task,
        validation_task=validation_task,
        learned=learned,
        outputs=outputs,
        codebooks={name: values for name, values in levels.items() if name not in fixed},
        penalty=penalty,
        sequence=network.output_sequence,
    )
    state = launch(job, network.device, lambda done, total: place.report(label, done, total))
    values = {name: value for name, value in state["module"].items() if name in network.tensors}
    moved = {name: SharedTensor.of(values[name].contiguous().numpy()) for name in own_shared}
    values |= {name: torch.from_numpy(tensor.decode()) for name, tensor in moved.items()}
    trained = network.with_tensors(values)
    trained.provenance["trained"] = {"recipe": asdict(recipe), "images": samples.name, "count": len(samples)}
    return History(history_table(state["rows"], task.column), trained, moved)


def _check(
    network: Network, samples: Samples, recipe: Recipe, validation: Samples | None, teacher: Network | None
) -> tuple[Task, Task, Task, int]:
    """The task of the samples and of the validation samples, what is learned, and how many values an output has."""
    shape = _output_shape(network)
    task = _task(network, samples, shape)
    learned = task if task.learns != "labels" else _by_labels(network, samples)
    if learned.learns == "outputs" and teacher is None:
        raise SettingsError(
            f"{samples.name} has nothing to learn from: give labels, or a teacher whose outputs are to be learned."
        )
    validation_task = task
    if validation is not None:
        if validation.labelled != samples.labelled or (
            samples.labelled and validation.multilabel != samples.multilabel
        ):
            raise SettingsError(
                "the validation samples must have one label each, or several, or none, as the training samples have."
            )
        validation_task = _task(network, validation, shape)
        if validation_task.column != task.column or validation_task.learns != task.learns:
            raise SettingsError(
                f"the validation samples are of the task '{validation_task}' and those to train on of '{task}'; give "
                "both the same labels, or the same task."
            )
    check_augment(recipe, network.preprocessing, samples)
    if teacher is not None and (
        _output_shape(teacher) != shape or teacher.preprocessing.record() != network.preprocessing.record()
    ):
        raise SettingsError(
            f"the teacher {teacher.name} must have the outputs and the preprocessing of {network.name}."
        )
    steps_an_epoch(len(samples), recipe)
    check_devices(recipe, network.device)
    return task, validation_task, learned, max(1, math.prod(shape))


def _task(network: Network, samples: Samples, shape: tuple[int, ...]) -> Task:
    """The task of the samples; plain classes are known without the network's graph, whose export takes time."""
    classes = samples.labelled and (samples.multilabel or (samples.labels.ndim, samples.labels.dtype.kind) == (1, "i"))
    if (
        not classes
        or samples.task is not None
        or gives_features(network)
        or (samples.multilabel and not samples.classes)
    ):
        return find_task(network, samples)
    if len(shape) != 1:
        raise NetworkError(f"{network.name} does not give one score a class: its output must be (batch, classes).")
    samples.check(shape[0])
    return CLASSIFICATION


def _prepared(network: Network, samples: Any) -> Any:
    """What is shown of the samples: of masked tokens the masks, drawn once for all epochs."""
    if samples is None or (samples.labelled and getattr(samples.task, "name", samples.task) != MASKED_TOKEN.name):
        return samples
    return find_task(network, samples).prepare(network, samples)


def _by_labels(network: Network, samples: Samples) -> Task:
    """What is learned where a function of the user's says what is counted: what the labels suggest."""
    suggested = suggest_task(network, samples)
    suggested.fits(network, samples)
    return suggested


@torch.no_grad()
def _output_shape(network: Network) -> tuple[int, ...]:
    """Of a sample's output, by running the network: its graph is not needed for training."""
    example = network.signature.example(2, network.module)
    outputs = main_output(call(network.module, example), network.returned)
    if outputs.ndim < 1:
        raise NetworkError(f"{network.name} gives a single number for a whole batch; its output must be (batch, ...).")
    return tuple(outputs.shape[1:])


def _spec(
    network: Network,
    samples: Samples,
    recipe: Recipe,
    validation: Samples | None,
    masks: dict[str, Tensor],
    shared: dict[str, SharedTensor],
    fixed: set[str],
    still: set[str],
    teacher: Network | None,
) -> dict[str, Any]:
    """All that the outcome depends on."""
    return {
        **conditions(network, samples),
        "recipe": asdict(recipe),
        "validation": None if validation is None else validation.digest,
        "masks": {name: _digest(np.packbits(mask.cpu().numpy())) for name, mask in sorted(masks.items())},
        "shared": {name: [_digest(tensor.table), _digest(tensor.codes)] for name, tensor in sorted(shared.items())},
        "frozen": [sorted(fixed), sorted(still)],
        "teacher": None if teacher is None else conditions(teacher),
    }


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()

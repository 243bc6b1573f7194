"""Start a training: in this process, or in several that share its batches."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from netopsy.engine.train import checkpoint
from netopsy.engine.train.loop import Job, Trainer
from netopsy.errors import NetopsyError, SettingsError


def launched(job: Job, device: torch.device, report: Any) -> checkpoint.State:
    """The state after the training, in this process or in others."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    with _quiet():
        how: dict[str, Any] = {
            "accelerator": device.type,
            "precision": "bf16-mixed" if job.recipe.precision == "bfloat16" else "32-true",
        }
        if job.recipe.devices == 1:
            devices = 1 if device.type == "cpu" else [device.index or 0]
            fabric = Fabric(devices=devices, **how)
            return trained_here(fabric, job, report)
        with tempfile.TemporaryDirectory() as folder:
            job.path = job.path or Path(folder) / "fit.pt"
            job.module, job.teacher = job.module.cpu(), None if job.teacher is None else job.teacher.cpu()
            job.masks = {name: mask.cpu() for name, mask in job.masks.items()}
            strategy = DDPStrategy(
                start_method="spawn", process_group_backend="gloo" if device.type == "cpu" else "nccl"
            )
            fabric = Fabric(devices=job.recipe.devices, strategy=strategy, **how)
            failure = fabric.launch(partial(_work, job=job))
            if failure:
                raise SettingsError(failure)
            state = checkpoint.load(job.path)
            assert state is not None
            return state


def trained_here(fabric: Any, job: Job, report: Any) -> checkpoint.State:
    """The state after the training in this process; SettingsError where a step is too large or too small."""
    try:
        return Trainer(fabric, job, report).run()
    except torch.OutOfMemoryError as error:
        what = str(error).splitlines()[0]
        raise SettingsError(f"the device's memory is too small: {what} Give a smaller batch_size.") from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise SettingsError("batch norm cannot learn from a step of one image; give a larger batch_size.") from error


def _work(fabric: Any, *, job: Job) -> str | None:
    """What each of several processes does; the message where it fails, which all of them do at once."""
    job.module = copy.deepcopy(job.module)  # what is sent to a process on the CPU lies in memory that all share
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    try:
        trained_here(fabric, job, lambda done, total: None)
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

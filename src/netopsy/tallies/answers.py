"""What a classifier answers: whom it confuses with whom, how sure it is, and its surest mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from netopsy.engine.observe.tally import Tally

BINS = 15  # of confidence, as in Guo et al. 2017
TEMPERATURES = 2.0 ** np.linspace(-2, 3, 26)  # 1 is among them
_SURE = 1 - 1e-6  # a probability that rounds to one
_SUMS = 1e-3  # how far the sum of probabilities may be from one


def halves(indices: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """0 or 1 for each sample, as good as drawn: in whatever order the classes come, each half has all of them."""
    return (indices * 0x9E3779B1 % 2**32) >> 31


@dataclass(frozen=True)
class AnswersResult:
    """What `Answers` counted over `images` samples.

    confusion: samples by half (see `halves`), label and predicted class; a sample with an output that is not
        finite is in none. top5: samples whose label is among the five highest. unanswered: of those, by label.
    bins: of each bin of confidence the samples, the sum of their confidence, and how many are right.
    loss: the mean cross-entropy when the outputs are divided by each of `TEMPERATURES`.
    sure: samples whose highest probability is one to a millionth. probabilities, log_probabilities: samples whose
        outputs are such already. mistakes: (confidence, sample, label, predicted) of the surest wrong answers.
    """

    images: int
    top5: int
    confusion: Int64[np.ndarray, "2 classes classes"]
    unanswered: Int64[np.ndarray, " classes"]
    bins: Float64[np.ndarray, "bins 3"]
    loss: Float64[np.ndarray, " temperatures"]
    sure: int
    probabilities: int
    log_probabilities: int
    mistakes: Float64[np.ndarray, "k 4"]

    @property
    def right(self) -> int:
        """How many samples are classified right."""
        return int(self.confusion.sum(0).trace())

    @property
    def at_one(self) -> int:
        """Where in `TEMPERATURES` the outputs as they are stand."""
        return int(np.abs(TEMPERATURES - 1).argmin())

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, 0..1 (Guo et al., ICML 2017, Equation 3); NaN without samples."""
        counted = self.bins[:, 0].sum()
        return float(np.abs(self.bins[:, 1] - self.bins[:, 2]).sum() / counted) if counted else float("nan")

    @property
    def temperature(self) -> float:
        """What the outputs would have to be divided by to be surest where they are right (Guo et al., Section 4.2)."""
        return float(TEMPERATURES[self.loss.argmin()])


class Answers(Tally):
    """The confusions, the confidence and the surest mistakes of a classifier.

    classes: their number. k: mistakes that are kept.
    update: outputs (batch, classes) and labels int64 (batch,), of a tally over (the output, LABELS).
    result: `AnswersResult`. Outputs that are probabilities are taken as such. State: 16 bytes a pair of classes.
    """

    by_sample = True

    def __init__(self, classes: int, k: int = 64) -> None:
        self.classes, self.k = classes, k
        self.confusion = torch.zeros(2, classes, classes, dtype=torch.int64)
        self.unanswered = torch.zeros(classes, dtype=torch.int64)
        self.bins = torch.zeros(BINS, 3, dtype=torch.float64)
        self.loss = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
        self.counts = torch.zeros(5, dtype=torch.int64)  # samples, sure, probabilities, log probabilities, top5
        self.mistakes = torch.zeros(0, 4, dtype=torch.float64)

    def update(self, values: tuple[Tensor, Tensor], indices: Tensor) -> None:
        outputs, labels = values[0].double().cpu(), values[1].long().cpu()
        finite = outputs.isfinite().all(1)
        self.counts[0] += len(outputs)
        self.unanswered += torch.bincount(labels[~finite], minlength=self.classes)
        outputs, labels, indices = outputs[finite], labels[finite], indices.cpu()[finite]
        given = (outputs >= 0).all(1) & ((outputs.sum(1) - 1).abs() < _SUMS)
        outputs = torch.where(given[:, None], outputs.clamp_min(1e-45).log(), outputs)
        logs = outputs.log_softmax(1)
        highest, predicted = logs.max(1)
        confidence = highest.exp()
        right = predicted == labels
        self.confusion.view(-1).scatter_add_(
            0, (halves(indices) * self.classes + labels) * self.classes + predicted, torch.ones_like(labels)
        )
        which = (confidence * BINS).long().clamp(max=BINS - 1)
        rows = torch.stack([torch.ones_like(confidence), confidence, right.double()], 1)
        self.bins.index_add_(0, which, rows)
        for i, temperature in enumerate(TEMPERATURES):
            self.loss[i] -= (outputs / temperature).log_softmax(1).gather(1, labels[:, None]).sum()
        self.counts[1] += (confidence > _SURE).sum()
        self.counts[2] += given.sum()
        self.counts[3] += (~given & (outputs <= 0).all(1) & (outputs.logsumexp(1).abs() < _SUMS)).sum()
        # as `judge_classes`: of equal outputs the first comes first
        order = outputs.sort(dim=1, descending=True, stable=True).indices[:, :5]
        self.counts[4] += (order == labels[:, None]).any(1).sum()
        wrong = torch.stack([confidence, indices.double(), labels.double(), predicted.double()], 1)[~right]
        self._keep(wrong)

    def _keep(self, rows: Tensor) -> None:
        """Keep the surest of the mistakes so far and of `rows`; equally sure ones in the order of the samples."""
        rows = torch.cat([self.mistakes, rows])
        order = np.lexsort((rows[:, 1].numpy(), -rows[:, 0].numpy()))[: self.k]
        self.mistakes = rows[torch.from_numpy(order)]

    def merge(self, other: Answers) -> None:
        for name in ("confusion", "unanswered", "bins", "loss", "counts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._keep(other.mistakes)

    def result(self) -> AnswersResult:
        images, sure, probabilities, logs, top5 = self.counts.tolist()
        return AnswersResult(
            images,
            top5,
            self.confusion.numpy().copy(),
            self.unanswered.numpy().copy(),
            self.bins.numpy().copy(),
            self.loss.numpy() / max(1, images),
            sure,
            probabilities,
            logs,
            self.mistakes.numpy().copy(),
        )

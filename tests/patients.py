"""Small networks of every kind of input with samples of their own: what any study must take, built in a second each.

    network, samples = patient("causal")

Their weights are random. Three quarters of the labels are what the network itself predicts and the rest are drawn, so
that there is something to lose; the language model has no labels and is near chance. Texts and recordings are 2 to
LENGTH places long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy import Network, Samples, load_network
from netopsy.network.signature import Input, Signature
from netopsy.samples.records import ArrayRecords, TextRecords

LENGTH = 12
LETTERS = " abcdefghijklmnopqrstuvwxyz"


class Letters:
    """A tokenizer: a token a letter, 0 for padding (and the space), as `netopsy.network.tokenizer` has them."""

    pad = 0
    digest = "letters"

    def encode(self, texts: list[str], length: int) -> list[list[int]]:
        return [[LETTERS.index(letter) for letter in text][:length] for text in texts]

    def decode(self, ids: list[int]) -> str:
        return "".join(LETTERS[i] for i in ids)


class ConvSeries(nn.Module):
    """Two convolutions over recordings of two channels; the mean over the places that the mask has."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.second, self.head = nn.Conv1d(6, 8, 3, padding=1, stride=2), nn.Linear(8, classes)

    def forward(self, waves: Tensor, mask: Tensor) -> Tensor:
        kept = mask[:, None].to(waves.dtype)
        x = F.relu(self.norm(self.first(waves * kept))) * kept
        x = F.relu(self.second(x)) * kept[:, :, ::2]
        return self.head(x.sum(2) / kept[:, :, ::2].sum(2))


class TableNet(nn.Module):
    """A perceptron on the numeric columns of a table, and on an embedding of one column of categories."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.hidden, self.head = nn.Linear(9, 16), nn.Linear(16, outputs)

    def forward(self, numbers: Tensor, category: Tensor) -> Tensor:
        x = torch.cat([numbers, self.embedding(category[:, 0])], 1)
        return self.head(F.relu(self.hidden(x)))


class UNet(nn.Module):
    """Down once and up again, the first features joined to the last: a class a pixel."""

    def __init__(self, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.up, self.last = nn.ConvTranspose2d(8, 6, 2, stride=2), nn.Conv2d(12, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.first(x))
        deep = F.relu(self.down(first))
        return self.last(torch.cat([first, F.relu(self.up(deep))], 1))


class LSTMClassifier(nn.Module):
    """An embedding, an LSTM, and a linear map of the mean of its states over the real tokens."""

    def __init__(self, vocabulary: int = 27, classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 8)
        self.lstm, self.head = nn.LSTM(8, 10, batch_first=True), nn.Linear(10, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(input_ids))
        kept = attention_mask[:, :, None].to(states.dtype)
        return self.head((states * kept).sum(1) / kept.sum(1))


class VolumeNet(nn.Module):
    """A 3-D convolution, pooling, a linear map."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.deeper, self.head = nn.Conv3d(1, 6, 3, padding=1), nn.Conv3d(6, 8, 3), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.conv(x)), 2)
        return self.head(F.relu(self.deeper(x)).mean((2, 3, 4)))


class SpectralNet(nn.Module):
    """Two convolutions over images of five channels."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv, self.deeper = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.deeper(F.relu(self.conv(x)))).mean((2, 3)))


TEXT = Signature(
    (
        Input("input_ids", (LENGTH,), torch.int64, "tokens", 0),
        Input("attention_mask", (LENGTH,), torch.int64, "mask", 0),
    ),
    Letters(),
)


def texts(count: int, labels: np.ndarray | None = None, classes: int = 0, seed: int = 0) -> Samples:
    """Random words of 2 to LENGTH letters."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, LENGTH + 1, count)
    words = ["".join(LETTERS[i] for i in generator.integers(1, len(LETTERS), length)) for length in lengths]
    return Samples("words", TextRecords(words), labels, tuple("abcdef"[:classes]))


def _classes(count: int, classes: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, count)


def _arrays(
    fields: dict[str, np.ndarray], kind: str, labels: np.ndarray | None, classes: int = 0, **options: object
) -> Samples:
    records = ArrayRecords(fields, kind, **options)  # type: ignore[arg-type]
    return Samples(kind, records, labels, tuple("abcdef"[:classes]))


def _learnt(network: Network, samples: Samples) -> tuple[Network, Samples]:
    """The same samples with the network's own predictions as three quarters of the labels, numbers with noise."""
    (batch,) = samples.batches(network.preprocessing, len(samples))
    names = [entry.name for entry in network.signature.inputs]
    with torch.no_grad():
        outputs = network.module(**dict(zip(names, batch.inputs.values(), strict=True)))
    labels, drawn = samples.labels, np.arange(len(samples)) % 4 == 0
    if labels.dtype.kind == "f":
        labels = (outputs + 0.3 * outputs.std() * torch.from_numpy(labels).reshape(outputs.shape)).numpy()
    else:
        predicted = outputs.argmax(1).numpy()
        labels = np.where(drawn.reshape(-1, *[1] * (labels.ndim - 1)), labels, predicted)
    return network, Samples(samples.name, samples.records, labels, samples.classes)


def _values(*shape: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _causal(count: int) -> tuple[Network, Samples]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(LETTERS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        use_cache=False,
        pad_token_id=0,
        attn_implementation="eager",
    )
    return load_network(LlamaForCausalLM(config), example=TEXT), texts(count)


def _encoder(count: int) -> tuple[Network, Samples]:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(LETTERS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        attn_implementation="eager",
    )
    return load_network(BertModel(config), example=TEXT, output="last_hidden_state"), texts(count)


def _series(count: int) -> tuple[Network, Samples]:
    waves, lengths = _values(count, 2, LENGTH), np.random.default_rng(3).integers(4, LENGTH + 1, count)
    samples = _arrays({"waves": waves}, "series", _classes(count), 3, lengths=lengths)
    inputs = (
        Input("waves", (2, LENGTH), torch.float32, "series", 1),
        Input("mask", (LENGTH,), torch.int64, "mask", 0),
    )
    return load_network(ConvSeries(), example=Signature(inputs)), samples


def _table(count: int, labels: np.ndarray, outputs: int, classes: int = 0) -> tuple[Network, Samples]:
    category = np.random.default_rng(4).integers(0, 7, (count, 1))
    samples = _arrays({"numbers": _values(count, 5), "category": category}, "vector", labels, classes)
    return load_network(TableNet(outputs), example=samples), samples


def _segmented(count: int) -> tuple[Network, Samples]:
    labels = np.random.default_rng(5).integers(0, 4, (count, 12, 12))
    samples = _arrays({"x": _values(count, 3, 12, 12)}, "image", labels, 4)
    return load_network(UNet(), example=samples), samples


def _shaped(module: nn.Module, values: np.ndarray, kind: str) -> tuple[Network, Samples]:
    samples = _arrays({"x": values}, kind, _classes(len(values)), 3)
    return load_network(module, example=samples), samples


_MAKERS: dict[str, Callable[[int], tuple[Network, Samples]]] = {
    "causal": _causal,
    "encoder": _encoder,
    "series": _series,
    "table": lambda count: _table(count, _classes(count), 3, 3),
    "regression": lambda count: _table(count, _values(count, seed=6), 1),
    "unet": _segmented,
    "lstm": lambda count: (load_network(LSTMClassifier(), example=TEXT), texts(count, _classes(count), 3)),
    "volume": lambda count: _shaped(VolumeNet(), _values(count, 1, 6, 6, 6), "array"),
    "spectral": lambda count: _shaped(SpectralNet(), _values(count, 5, 8, 8), "image"),
}
PATIENTS = tuple(_MAKERS)
"""causal: a Llama, next token, tied head. encoder: a BERT whose output is its last hidden state. series: a 1-D
convolution. table, regression: a perceptron on numbers and categories. unet: a class a pixel. lstm: classes of texts.
volume: a 3-D convolution. spectral: images of five channels."""


@cache
def patient(name: str, count: int = 40) -> tuple[Network, Samples]:
    """The network called `name` of PATIENTS and `count` samples; built once for all tests of a process."""
    torch.manual_seed(0)
    network, samples = _MAKERS[name](count)
    return _learnt(network, samples) if samples.labelled else (network, samples)

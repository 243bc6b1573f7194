"""Train the small networks of docs/findings-beyond-images.md on the CPU, and say what they reach held out.

    python scripts/beyond_images.py audio --data FOLDER      # spoken-digits.npz: a 1-D convolution
    python scripts/beyond_images.py questions --data FOLDER  # trec-train.csv, trec-test.csv: an LSTM over words
    python scripts/beyond_images.py cancer | forest          # perceptrons on tables, with embeddings of categories
    python scripts/beyond_images.py shapes                   # a U-Net on drawn shapes

Each writes NAME.safetensors and prints its score; NETWORKS gives the module (`scripts.beyond_images:audio_net`, ...).
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from netopsy import Network, Samples, fit, load_network
from netopsy.engine.sweep.sweep import score
from netopsy.engine.train.recipe import Recipe
from netopsy.network.signature import Input, Signature
from netopsy.samples.records import ArrayRecords


class AudioNet(nn.Module):
    """The log-energies of 48 learned bands, three convolutions over time, the mean over what is no padding."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.bands = nn.Conv1d(1, 48, 256, 64, padding=96, bias=False)
        window = torch.hann_window(256) * torch.cos(
            torch.arange(256) * torch.linspace(0.08, 2.8, 24)[:, None]
            + torch.tensor([0.0, torch.pi / 2])[:, None, None]
        )
        self.bands.weight.data.copy_(window.reshape(48, 1, 256) / 8)  # begun as a bank of band passes
        self.norm = nn.BatchNorm1d(24)
        self.convolutions = nn.ModuleList(nn.Conv1d(a, 64, 5, 2, 2) for a in (24, 64, 64))
        self.norms = nn.ModuleList(nn.BatchNorm1d(64) for _ in range(3))
        self.dropout, self.head = nn.Dropout(0.3), nn.Linear(64, classes)

    def forward(self, waves: Tensor, mask: Tensor) -> Tensor:
        x, real = self.bands(waves), mask[:, None].to(waves.dtype)
        energy = x[:, :24] ** 2 + x[:, 24:] ** 2
        x = self.norm(torch.log(1e-4 + energy))
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = x * F.adaptive_max_pool1d(real, x.shape[2])
            x = self.dropout(F.relu(norm(convolution(x))))
        real = F.adaptive_max_pool1d(real, x.shape[2])
        return self.head((x * real).sum(2) / real.sum(2))


class QuestionNet(nn.Module):
    """An embedding of words, an LSTM both ways, and the mean over the words of the question."""

    def __init__(self, vocabulary: int, classes: int = 6) -> None:
        super().__init__()
        self.embed, self.dropout = nn.Embedding(vocabulary, 64), nn.Dropout(0.4)
        self.lstm = nn.LSTM(64, 64, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, classes)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        real = mask[..., None].to(torch.float32)
        x = self.lstm(self.dropout(self.embed(words)) * real)[0] * real
        return self.head(self.dropout(x.sum(1) / real.sum(1)))


class TableNet(nn.Module):
    """Numbers and an embedding of one column of categories, through two hidden layers."""

    def __init__(self, numbers: int, categories: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(categories, 8)
        self.first, self.second, self.head = nn.Linear(numbers + 8, 64), nn.Linear(64, 32), nn.Linear(32, classes)

    def forward(self, numbers: Tensor, category: Tensor) -> Tensor:
        x = torch.cat([numbers, self.embed(category)], 1)
        return self.head(F.relu(self.second(F.relu(self.first(x)))))


class ShapeNet(nn.Module):
    """A U-Net of two levels (after Ronneberger et al., MICCAI 2015)."""

    def __init__(self, classes: int = 4, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = self._pair(3, width), self._pair(width, 2 * width)
        self.bottom = self._pair(2 * width, 4 * width)
        self.up2, self.up1 = self._pair(6 * width, 2 * width), self._pair(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int) -> nn.Sequential:
        layers = (nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
        return nn.Sequential(*layers, nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.bottom(F.max_pool2d(two, 2))
        two = self.up2(torch.cat([two, F.interpolate(low, scale_factor=2.0)], 1))
        return self.head(self.up1(torch.cat([one, F.interpolate(two, scale_factor=2.0)], 1)))


Split = tuple[Network, Samples, Samples, Recipe]


def audio(data: Path) -> Split:
    """Spoken digits: takes 0 and 1 of each speaker and digit are held out."""
    stored = np.load(data / "spoken-digits.npz")
    waves, lengths, held_out = stored["x"].astype(np.float32)[:, None] / 32768, stored["length"], stored["take"] < 2
    test, train = (
        _samples("digits", {"waves": waves[w]}, "series", stored["y"][w], 10, lengths[w]) for w in (held_out, ~held_out)
    )
    inputs = (Input("waves", (1, waves.shape[2]), kind="series", length_axis=1), _mask(waves.shape[2]))
    recipe = Recipe(
        epochs=40, batch_size=32, optimizer="adamw", learning_rate=3e-3, weight_decay=0.05, schedule="onecycle"
    )
    return load_network(AudioNet(), example=Signature(inputs)), train, test, recipe


def questions(data: Path) -> Split:
    """TREC: words that occur twice in the training questions, 1 for any other, 0 for padding."""
    rows = {part: list(csv.DictReader((data / f"trec-{part}.csv").open())) for part in ("train", "test")}
    words = [[re.findall(r"\w+|[^\w\s]", row["text"].lower()) for row in rows[part]] for part in ("train", "test")]
    counts: dict[str, int] = {}
    for text in words[0]:
        for word in text:
            counts[word] = counts.get(word, 0) + 1
    number = {word: i + 2 for i, word in enumerate(w for w, count in counts.items() if count > 1)}
    classes = sorted({row["label"] for row in rows["train"]})
    length = max(map(len, words[0]))
    parts = []
    for part, texts in zip(("train", "test"), words, strict=True):
        ids = np.zeros((len(texts), length), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text[:length])] = [number.get(word, 1) for word in text[:length]]
        y = np.array([classes.index(row["label"]) for row in rows[part]])
        parts.append(
            _samples(f"TREC {part}", {"words": ids}, "tokens", y, 6, np.array([len(t[:length]) for t in texts]))
        )
    inputs = (Input("words", (length,), torch.int64, "tokens", 0), _mask(length))
    recipe = Recipe(
        epochs=12, batch_size=64, optimizer="adamw", learning_rate=3e-3, weight_decay=0.02, schedule="onecycle"
    )
    return load_network(QuestionNet(len(number) + 2), example=Signature(inputs)), parts[0], parts[1], recipe


def cancer(data: Path) -> Split:
    """scikit-learn's breast cancer set (569 rows, 30 columns); the mean radius in ten bins is the category."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer()
    bins = np.digitize(table.data[:, 0], np.quantile(table.data[:, 0], np.arange(0.1, 1, 0.1)))
    return _table(table.data, bins, table.target, 10, 2, epochs=40)


def forest(data: Path) -> Split:
    """A drawn table in the manner of forest cover: 20,000 rows, 10 numbers, a soil of 40 kinds, 7 covers.

    The cover is the best of seven: linear in the numbers and their squares, and in what the soil favours.
    """
    generator = np.random.default_rng(0)
    x, soil = generator.normal(size=(20_000, 10)), generator.integers(0, 40, 20_000)
    chances = x @ generator.normal(size=(10, 7)) + x**2 @ generator.normal(size=(10, 7)) * 0.5
    chances += 2 * generator.normal(size=(40, 7))[soil]
    return _table(x, soil, (chances + generator.gumbel(size=chances.shape)).argmax(1), 40, 7, epochs=15)


def shapes(data: Path) -> Split:
    """Pictures of 48 x 48: a disc, a square and a cross on a noisy ground; a class a pixel."""
    train, test = (_draw(count, seed) for count, seed in ((1_500, 1), (300, 2)))
    recipe = Recipe(
        epochs=8, batch_size=32, optimizer="adamw", learning_rate=3e-3, weight_decay=0.01, schedule="onecycle"
    )
    return load_network(ShapeNet(), example=torch.zeros(2, 3, 48, 48)), train, test, recipe


def _mask(length: int) -> Input:
    return Input("mask", (length,), torch.int64, "mask", 0)


def _samples(
    name: str, fields: dict[str, np.ndarray], kind: str, y: np.ndarray, classes: int, lengths: np.ndarray | None = None
) -> Samples:
    records = ArrayRecords(fields, kind, None if lengths is None else lengths.astype(np.int64), name)  # type: ignore[arg-type]
    return Samples(name, records, y.astype(np.int64), tuple(map(str, range(classes))))


def _table(x: np.ndarray, category: np.ndarray, y: np.ndarray, categories: int, classes: int, epochs: int) -> Split:
    held_out = np.random.default_rng(0).permutation(len(x)) < len(x) // 5
    x = ((x - x[~held_out].mean(0)) / x[~held_out].std(0)).astype(np.float32)
    test, train = (
        _samples("rows", {"numbers": x[w], "category": category[w].astype(np.int64)}, "vector", y[w], classes)
        for w in (held_out, ~held_out)
    )
    inputs = (Input("numbers", (x.shape[1],), kind="vector"), Input("category", (), torch.int64, "vector"))
    recipe = Recipe(
        epochs=epochs, batch_size=64, optimizer="adamw", learning_rate=3e-3, weight_decay=0.05, schedule="onecycle"
    )
    return load_network(TableNet(x.shape[1], categories, classes), example=Signature(inputs)), train, test, recipe


def _draw(count: int, seed: int, side: int = 48) -> Samples:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    pictures = generator.normal(0.4, 0.15, (count, 3, side, side))
    labels = np.zeros((count, side, side), np.int64)
    for picture, label in zip(pictures, labels, strict=True):
        for kind in generator.permutation([1, 2, 3]):
            cy, cx, radius = *generator.integers(8, side - 8, 2), generator.integers(5, 10)
            dy, dx = abs(y - cy), abs(x - cx)
            inside = {
                1: dy**2 + dx**2 < radius**2,
                2: np.maximum(dy, dx) < radius * 0.85,
                3: (np.minimum(dy, dx) < radius / 3) & (np.maximum(dy, dx) < radius),
            }[kind]
            label[inside] = kind
            picture[:, inside] = generator.uniform(0, 1, (3, 1)) + generator.normal(0, 0.1, (3, int(inside.sum())))
    return _samples("shapes", {"x": pictures.astype(np.float32)}, "image", labels, 4)


NETWORKS: dict[str, Callable[[Path], Split]] = {
    "audio": audio,
    "questions": questions,
    "cancer": cancer,
    "forest": forest,
    "shapes": shapes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data", type=Path, default=Path("."))
    parser.add_argument("--out", type=Path, default=Path("."))
    options = parser.parse_args()
    torch.manual_seed(0)
    network, train, test, recipe = NETWORKS[options.network](options.data)
    network = fit(network, train, recipe).network
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(network.module.state_dict(), options.out / f"{options.network}.safetensors")
    for name, part in (("train", train), ("held out", test)):
        row = score(network, part).to_dicts()[0]
        low, high = 100 * row["top1_low"], 100 * row["top1_high"]
        what = f"{options.network}, {network.parameters:,} parameters, {name}, {len(part):,} samples"
        print(f"{what}: {100 * row['top1']:.2f} % ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()

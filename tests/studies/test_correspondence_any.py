"""`correspondence` beyond images: places of padded samples and of two tokenizers, against loops over the samples."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netopsy
from netopsy import Network, Samples, load_network
from netopsy.errors import SettingsError
from netopsy.network.signature import Input, Signature
from netopsy.network.sources.huggingface_inputs import Encoded
from netopsy.samples.records import ArrayRecords
from netopsy.studies.correspondence.comoments.cross_moments import cross_moments
from netopsy.studies.correspondence.comoments.mutual_information import pair_information
from patients import _MAKERS, LENGTH, LETTERS, patient, texts

PAIR = [("hidden", "hidden")]


class Pieces:
    """A tokenizer of pieces of `size` letters, with a first and a last token of its own around them if `ends`."""

    pad = 0

    def __init__(self, size: int, ends: bool = False) -> None:
        self.size, self.ends, self.digest = size, ends, f"{size} {ends}"

    def align(self, texts: list[str], length: int | None = None) -> list[Encoded]:
        return [self._encode(text, length) for text in texts]

    def encode(self, texts: list[str], length: int | None = None) -> list[tuple[int, ...]]:
        return [one.ids for one in self.align(texts, length)]

    def _encode(self, text: str, length: int | None) -> Encoded:
        spans = [(i, min(i + self.size, len(text))) for i in range(0, len(text), self.size)]
        ids = [3 + sum(LETTERS.index(c) * 27**k for k, c in enumerate(text[a:b])) % 751 for a, b in spans]
        if self.ends:
            room = len(ids) if length is None else length - 2
            ids, spans = [1, *ids[:room], 2], [(0, 0), *spans[:room], (0, 0)]
        return Encoded(tuple(ids[:length]), tuple(spans[:length]))


class Encoder(nn.Module):
    """Embeddings, each token mixed with the one before it, and a rectified linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(3 + 27 * 28, 6), nn.Linear(6, width)
        self.position, self.head = nn.Embedding(64, 6), nn.Linear(width, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids) + self.position(torch.arange(input_ids.shape[1]))
        x = F.relu(self.hidden(x + F.pad(x, (0, 0, 1, -1))))
        kept = attention_mask[:, :, None].to(x.dtype)
        return self.head((x * kept).sum(1) / kept.sum(1))


@cache
def encoder(seed: int, tokenizer: object, length: int = LENGTH, width: int = 5) -> Network:
    torch.manual_seed(seed)
    inputs = tuple(
        Input(name, (length,), torch.int64, kind, 0)  # type: ignore[arg-type]
        for name, kind in (("input_ids", "tokens"), ("attention_mask", "mask"))
    )
    return load_network(Encoder(width), example=Signature(inputs, tokenizer))


def tokens(network: Network, text: str) -> tuple[np.ndarray, Encoded]:
    """The hidden layer's values on one text alone, (token, channel), before the rectifier, and its tokens."""
    (encoded,) = network.signature.tokenizer.align([text], network.signature.length)
    rows: list[Tensor] = []
    handle = network.module.hidden.register_forward_hook(lambda _m, _i, out: rows.append(out))
    ids = torch.tensor([encoded.ids])
    with torch.no_grad():
        network.module(ids, torch.ones_like(ids))
    handle.remove()
    return rows[0][0].double().numpy(), encoded


def aligned(one: Network, other: Network, words: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each text the rows of both, by hand: for each token of `one` the last of `other` with its last character."""
    pairs = []
    for text in words:
        (x, a), (y, b) = tokens(one, text), tokens(other, text)
        rows = [
            (k, max(j for j, (low, high) in enumerate(b.spans) if low <= end - 1 < high))
            for k, (start, end) in enumerate(a.spans)
            if end > start and any(low <= end - 1 < high for low, high in b.spans)
        ]
        left, right = zip(*rows, strict=True) if rows else ((), ())
        pairs.append((x[list(left)], y[list(right)]))
    return pairs


def correlation(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    x, y = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
    return np.corrcoef(x, y, rowvar=False)[: x.shape[1], x.shape[1] :]


def words(samples: Samples) -> list[str]:
    return [samples.read(i) for i in range(len(samples))]


LETTER, PAIRS, ENDS = Pieces(1), Pieces(2), Pieces(3, ends=True)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((LETTER, LENGTH), (PAIRS, LENGTH)),
        ((PAIRS, LENGTH), (LETTER, LENGTH)),
        ((PAIRS, 8), (ENDS, 6)),
        ((LETTER, LENGTH), (ENDS, 4)),
    ],
)
def test_tokens_of_two_tokenizers_go_together_by_their_last_character(
    a: tuple[Pieces, int], b: tuple[Pieces, int]
) -> None:
    one, other, samples = encoder(0, *a), encoder(1, *b, width=7), texts(41)
    rows = aligned(one, other, words(samples))
    for size in (None, 7):
        pair = cross_moments(one, other, samples, PAIR, batch_size=size)["hidden", "hidden"]
        np.testing.assert_allclose(pair.correlation, correlation(rows), atol=1e-6)
        assert pair.n == sum(len(x) for x, _ in rows) and pair.images == 41


def test_the_control_turns_the_rows_of_each_batch_by_half() -> None:
    one, other, samples = encoder(0, LETTER), encoder(1, PAIRS), texts(40)
    pair = cross_moments(one, other, samples, PAIR, batch_size=10, seed=3)["hidden", "hidden"]
    rows, order = aligned(one, other, words(samples)), np.random.default_rng(3).permutation(40)
    shuffled = []
    for start in range(0, 40, 10):
        x, y = (np.concatenate([rows[i][k] for i in order[start : start + 10]]) for k in (0, 1))
        shuffled.append((x, np.roll(y, len(y) // 2, 0)))
    np.testing.assert_allclose(pair.control().correlation, correlation(shuffled), atol=1e-6)
    units = np.array([[0, 1], [2, 3]])
    information, control = pair_information(one, other, samples, {PAIR[0]: units})[PAIR[0]]
    assert information.rows == control.rows == pair.n


def test_one_tokenizer_gives_the_same_places_without_padding() -> None:
    one, other, samples = encoder(0, LETTER), encoder(1, Pieces(1), width=7), texts(40)
    pair = cross_moments(one, other, samples, PAIR)["hidden", "hidden"]
    pairs = [(tokens(one, text)[0], tokens(other, text)[0]) for text in words(samples)]
    np.testing.assert_allclose(pair.correlation, correlation(pairs), atol=1e-6)
    itself = cross_moments(one, one, samples, PAIR)["hidden", "hidden"]
    np.testing.assert_allclose(np.diag(itself.correlation), 1, atol=1e-6)
    mean = cross_moments(one, other, samples, [("hidden", "head")])["hidden", "head"]
    assert mean.n == 40 and mean.grid == ()
    rows = np.stack([x.mean(0) for x, _ in pairs])
    np.testing.assert_allclose(mean.mean_a, rows.mean(0), atol=1e-5)


def test_of_two_lengths_only_the_places_that_both_see_count() -> None:
    """The shorter one's last token is an end where the longer one reads on."""
    one, other, samples = encoder(0, Pieces(1, ends=True)), encoder(1, Pieces(1, ends=True), 7), texts(40)
    pairs = []
    for text in words(samples):
        (x, a), (y, b) = tokens(one, text), tokens(other, text)
        same = [k for k in range(min(len(a.ids), len(b.ids))) if a.ids[k] == b.ids[k]]
        pairs.append((x[same], y[same]))
    pair = cross_moments(one, other, samples, PAIR)["hidden", "hidden"]
    np.testing.assert_allclose(pair.correlation, correlation(pairs), atol=1e-6)
    assert 200 < pair.n == sum(len(x) for x, _ in pairs) < 300


def test_a_study_of_two_tokenizers_shows_texts() -> None:
    one, other, samples = encoder(0, LETTER), encoder(1, PAIRS), texts(30)
    result = netopsy.correspondence(one, samples, other=other, images=20, top=2, drawn=1)
    row = result.tables["layers"].row(0, named=True)
    assert row["rows"] == sum(map(len, words(samples)))
    groups = list(result.texts["pairs"].groups.values())
    assert set(result.images) == {"matrices embedding"} and all(1 <= len(passages) <= 2 for passages in groups)
    assert "".join(groups[0][0].pieces) in words(samples)
    again = netopsy.correspondence(one, samples, other=one, untrained=False, images=20, top=0)
    assert again.tables["layers"].row(0, named=True)["cka"] == pytest.approx(1, abs=1e-6)
    assert not any("image" in finding for finding in result.findings)


class Blind(Pieces):
    """A tokenizer that does not say where its tokens stand."""

    align = None  # type: ignore[assignment]

    def encode(self, texts: list[str], length: int | None = None) -> list[tuple[int, ...]]:
        return [self._encode(text, length).ids for text in texts]


def test_what_cannot_be_aligned_is_explained() -> None:
    blind = Blind(2)
    blind.digest = "blind"
    with pytest.raises(SettingsError, match="does not say which characters its tokens stand for"):
        cross_moments(encoder(0, LETTER), encoder(1, blind), texts(10), PAIR)
    numbers = np.random.default_rng(0).integers(3, 20, (10, LENGTH))
    rows = Samples("numbers", ArrayRecords({"input_ids": numbers}, "tokens", np.full(10, LENGTH)), None)
    with pytest.raises(SettingsError, match="take up to 12 and 7 places of a sample, and numbers is no text"):
        cross_moments(encoder(0, None), encoder(1, None, 7), rows, PAIR)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("series", "lstm")]


@pytest.mark.parametrize("name", ["table", "volume", "spectral", *SLOW])
def test_every_kind_of_sample_is_compared(name: str) -> None:
    network, samples = patient(name)
    torch.manual_seed(5)
    other = _MAKERS[name](40)[0]
    result = netopsy.correspondence(network, samples, other=other, untrained_draws=1, images=20, top=2, drawn=1)
    layers = result.tables["layers"]
    assert not layers.select("semi", "cka", "information").to_series(1).is_nan().any()
    assert set(layers["of"]) == {"networks", "shuffled", "untrained"}
    assert set(result.texts or result.images) >= {"pairs", "pairs best partner"}
    assert bool(result.texts) == (name in ("table", "lstm")) == ("pairs" not in result.images)
    itself = netopsy.correspondence(network, samples, other=network, untrained=False, images=20, top=0)
    rows = itself.tables["layers"].filter(of="networks")
    np.testing.assert_allclose(rows["bipartite"], 1, atol=1e-5)


def test_strided_layers_of_recordings_count_their_real_places() -> None:
    network, samples = patient("series")
    torch.manual_seed(5)
    other = _MAKERS["series"](40)[0]
    pair = cross_moments(network, other, samples, [("relu_1", "relu_1")])["relu_1", "relu_1"]
    lengths = samples.records.lengths  # type: ignore[union-attr]
    assert pair.n == sum(-(-int(n) // 2) for n in lengths) and pair.grid == (LENGTH // 2,)

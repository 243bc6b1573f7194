"""What right means: each task against a plain loop, and the intervals against closed forms and draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from test_signature import LENGTH, VOCABULARY, encoder, texts
from torch import Tensor, nn

from netopsy import Samples, load_network, load_samples
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.engine.sweep.sweep import score, sweep
from netopsy.errors import NetworkError, SamplesError, SettingsError
from netopsy.network.network import Network
from netopsy.network.signature import Input, Signature
from netopsy.samples.records import ArrayRecords
from netopsy.samples.tasks import (
    AGREEMENT,
    CLASSIFICATION,
    EMBEDDING,
    MASKED_TOKEN,
    NEXT_TOKEN,
    REGRESSION,
    SEGMENTATION,
    find_task,
    masked_token,
)
from netopsy.samples.verdicts import IGNORED
from patients import LENGTH as LENGTH_OF_TEXT
from patients import TEXT, Letters
from patients import texts as letters


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(VOCABULARY, 6), nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, VOCABULARY)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.gru(self.embed(input_ids))[0])}


@pytest.fixture(scope="module")
def language() -> Network:
    torch.manual_seed(2)
    return load_network(Language(), example=Signature((Input("input_ids", (LENGTH,), torch.int64, "tokens", 0),)))


def unlabelled(samples: Samples, task: object = None) -> Samples:
    return Samples(samples.name, samples.records, None, task=task)


def double(name: str) -> Variant:
    return Variant({"layer": name}, Replace((name,), lambda tensors: {name: tensors[name] * 2}, "double"))


def by_token(network: Network, samples: Samples) -> list[tuple[int, list[float], list[bool]]]:
    """Of each sample: its number of tokens that count, their losses, and whether each is right; one by one."""
    out = []
    for ids, length in zip(samples.records.fields["input_ids"], samples.records.lengths, strict=True):
        logits = network.module(torch.from_numpy(ids[None, :length]))["logits"][0].double()
        pairs = [
            (F.cross_entropy(logits[i], torch.tensor(ids[i + 1])).item(), bool(logits[i].argmax() == ids[i + 1]))
            for i in range(length - 1)
        ]
        out.append((length - 1, [loss for loss, _ in pairs], [right for _, right in pairs]))
    return out


def test_next_token_is_a_mean_over_tokens_and_its_interval_over_samples(language: Network) -> None:
    samples = unlabelled(texts(count=40))
    assert find_task(language, samples) is NEXT_TOKEN
    edited = language.with_tensors({"head.weight": language.tensors["head.weight"] * 2})
    with torch.no_grad():
        before, after = by_token(language, samples), by_token(edited, samples)
    frame = sweep(language, samples, [Variant({"layer": ""}, None), double("head.weight")])
    tokens = np.array([count for count, *_ in before], float)
    for row, rows in zip(frame.to_dicts(), (before, after), strict=True):
        assert row["top1"] == pytest.approx(sum(sum(right) for *_, right in rows) / tokens.sum(), abs=1e-9)
        assert row["loss"] == pytest.approx(sum(sum(loss) for _, loss, _ in rows) / tokens.sum(), abs=1e-5)
    means = np.array([np.mean(right) for *_, right in before])
    m, n = frame["top1"][0], len(tokens)
    error = math.sqrt(n / (n - 1) * (tokens**2 * (means - m) ** 2).sum()) / tokens.sum()
    assert frame["top1_high"][0] - m == pytest.approx(stats.t.ppf(0.975, n - 1) * error, rel=1e-6)
    rise = np.array([np.mean(a[1]) - np.mean(b[1]) for a, b in zip(after, before, strict=True)])
    mean = (tokens * rise).sum() / tokens.sum()
    spread = math.sqrt(n / (n - 1) * (tokens**2 * (rise - mean) ** 2).sum()) / tokens.sum()
    assert frame["rise"][1] == pytest.approx(mean, abs=1e-5)
    assert frame["rise_high"][1] - frame["rise"][1] == pytest.approx(stats.t.ppf(0.975, n - 1) * spread, rel=1e-3)
    assert frame["drop"].to_list()[0] == 0 == frame["drop_low"][0] == frame["drop_high"][0]


def test_the_interval_of_a_mean_over_tokens_holds_it_as_often_as_it_says() -> None:
    from netopsy.engine.sweep.score import COUNTS, count, task_row
    from netopsy.samples.verdicts import Verdicts

    generator, held = np.random.default_rng(0), 0
    for _ in range(400):
        n = 60
        weight = torch.from_numpy(generator.integers(2, 30, n).astype(float))
        values = torch.from_numpy(generator.beta(2, 3, n))[None]
        verdicts = Verdicts(values, values, 1 - values, weight=weight)
        plain = Verdicts(values[0], values[0], 1 - values[0], weight=weight)
        row = task_row(NEXT_TOKEN, dict(zip(COUNTS, count(verdicts, plain)[0].tolist(), strict=True)), n)
        held += row["top1_low"] <= 0.4 <= row["top1_high"]
    assert 0.92 <= held / 400 <= 0.98


def vectors(count: int = 30, labels: object = None, task: object = None) -> Samples:
    x = np.random.default_rng(3).normal(size=(count, 5)).astype(np.float32)
    return Samples("rows", ArrayRecords({"x": x}, "vector"), labels, task=task)  # type: ignore[arg-type]


def linear(outputs: int) -> Network:
    torch.manual_seed(4)
    return load_network(nn.Sequential(nn.Linear(5, outputs)), example=vectors())


@pytest.mark.parametrize("values", [1, 3])
def test_regression_scores_r2(values: int) -> None:
    from sklearn.metrics import mean_absolute_error, r2_score

    network = linear(values)
    y = np.random.default_rng(5).normal(size=(30, values)).astype(np.float32)
    samples = vectors(labels=y[:, 0] if values == 1 else y)
    assert find_task(network, samples).name == REGRESSION.name
    row = score(network, samples).to_dicts()[0]
    with torch.no_grad():
        outputs = network.module(torch.from_numpy(samples.records.fields["x"])).numpy()
    assert row["r2"] == pytest.approx(r2_score(y, outputs), abs=1e-6) and row["r2_low"] < row["r2"] < row["r2_high"]
    assert row["loss"] == pytest.approx(mean_absolute_error(y, outputs), abs=1e-6)


def test_without_labels_the_unedited_network_is_the_measure() -> None:
    network, samples = linear(4), vectors()
    assert find_task(network, samples) is AGREEMENT
    frame = sweep(
        network,
        samples,
        [
            Variant({"layer": ""}, None),
            Variant({"layer": "0"}, Replace(("0.bias",), lambda t: {"0.bias": t["0.bias"].flip(0)}, "flip")),
        ],
    )
    with torch.no_grad():
        x = torch.from_numpy(samples.records.fields["x"])
        before = network.module(x).double()
        after = (x @ network.tensors["0.weight"].T + network.tensors["0.bias"].flip(0)).double()
    assert frame["agreement"].to_list() == [
        1.0,
        pytest.approx((before.argmax(1) == after.argmax(1)).double().mean().item()),
    ]
    kl = F.kl_div(after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean").item()
    assert frame["loss"][1] == pytest.approx(kl, rel=1e-4) and frame["drop"][1] == pytest.approx(
        1 - frame["agreement"][1]
    )


def test_vectors_are_held_against_themselves() -> None:
    network, samples = encoder(), unlabelled(texts())
    assert find_task(network, samples) is EMBEDDING
    frame = sweep(network, samples, [Variant({"layer": ""}, None), double("down.weight")])
    assert frame["cosine"][0] == 1 and 0 < frame["cosine"][1] < 1
    (batch,) = samples.batches(network.preprocessing, 12)
    edited = network.with_tensors({"down.weight": network.tensors["down.weight"] * 2})
    with torch.no_grad():
        before, after = (
            n.module(**batch.inputs)["last_hidden_state"] * batch.mask[..., None] for n in (network, edited)
        )
    expected = F.cosine_similarity(before.flatten(1).double(), after.flatten(1).double()).mean().item()
    assert frame["cosine"][1] == pytest.approx(expected, abs=1e-6)


def test_segmentation_is_pixel_accuracy() -> None:
    torch.manual_seed(6)
    x = torch.rand(6, 3, 5, 5)
    labels = np.random.default_rng(7).integers(0, 4, (6, 5, 5))
    labels[:, 0] = -100
    samples = Samples("pictures", ArrayRecords({"x": x.numpy()}, "image"), labels)
    network = load_network(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), example=x)
    assert find_task(network, samples) is SEGMENTATION
    with torch.no_grad():
        predicted = network.module(x).argmax(1).numpy()
    row = score(network, samples).to_dicts()[0]
    assert row["top1"] == pytest.approx((predicted == labels)[:, 1:].mean()) and row["agreement"] == 1
    ious = []
    for one, other in zip(predicted[:, 1:], labels[:, 1:], strict=True):
        pairs = [((one == k) & (other == k), (one == k) | (other == k)) for k in range(4)]
        ious.append(np.mean([both.sum() / either.sum() for both, either in pairs if either.any()]))
    assert row["iou"] == pytest.approx(np.mean(ious)) and "top5" not in row


def test_a_function_of_the_users_is_a_task() -> None:
    network = linear(1)
    samples = vectors(labels=np.zeros(30, np.float32), task=lambda outputs, targets: -(outputs[:, 0] - targets).abs())
    row = score(network, samples).to_dicts()[0]
    with torch.no_grad():
        outputs = network.module(torch.from_numpy(samples.records.fields["x"]))[:, 0]
    assert row["score"] == pytest.approx(-outputs.abs().mean().item(), abs=1e-6)


def test_tasks_that_do_not_fit_are_one_sentence(language: Network) -> None:
    with pytest.raises(SamplesError, match="no task 'next_tokn'; nearest: next token"):
        score(language, unlabelled(texts(), "next_tokn"))
    with pytest.raises(SamplesError, match="needs labels"):
        score(language, unlabelled(texts(), "classification"))
    with pytest.raises(NetworkError, match="one score a class"):
        score(language, Samples("t", texts().records, texts().labels, ("a", "b", "c"), task="classification"))
    with pytest.raises(SamplesError, match=r"1 number a sample and .* gives 4"):
        score(linear(4), vectors(labels=np.zeros(30, np.float32)))
    assert CLASSIFICATION.binary and not NEXT_TOKEN.needs_labels


def test_samples_of_another_kind_than_the_inputs_are_refused_as_such(language: Network) -> None:
    pictures = load_samples((np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 2]))
    with pytest.raises(SamplesError, match="these samples are pictures, and the network takes input_ids"):
        score(language, pictures)
    with pytest.raises(SamplesError, match=r"the network takes input \(5, float32\)"):
        score(linear(4), unlabelled(texts()))


class MaskedLetters(Letters):
    """Letters, with 0 for special tokens and padding and a token for a masked letter."""

    mask, vocabulary, special, digest = 27, 28, frozenset({0, 27}), "masked letters"


@pytest.fixture(scope="module")
def restorer() -> Network:
    """A masked language model that transformers makes."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=28,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH_OF_TEXT,
        attn_implementation="eager",
    )
    return load_network(BertForMaskedLM(config), example=Signature(TEXT.inputs, MaskedLetters()))


def test_masked_tokens_cost_what_transformers_says(restorer: Network) -> None:
    samples = letters(30)
    assert find_task(restorer, samples) is MASKED_TOKEN
    row = score(restorer, samples).row(0, named=True)
    masked = MASKED_TOKEN.prepare(restorer, samples)
    (batch,) = masked.batches(restorer.preprocessing, 30)
    (plain,) = samples.batches(restorer.preprocessing, 30)
    chosen = batch.labels != IGNORED
    assert torch.equal(batch.labels[chosen], plain.inputs["input_ids"][chosen]), "labels are the tokens before"
    assert (batch.inputs["input_ids"][chosen] == 27).all() and (plain.inputs["input_ids"][chosen] != 0).all()
    assert torch.equal(batch.inputs["input_ids"][~chosen], plain.inputs["input_ids"][~chosen])
    tokens = plain.mask.sum(1)
    assert chosen.sum(1).tolist() == [max(1, round(0.15 * int(n))) for n in tokens]
    with torch.no_grad():
        outputs = restorer.module(**batch.inputs, labels=batch.labels)
    right = (outputs.logits.argmax(-1) == batch.labels)[chosen].double().mean()
    assert row["loss"] == pytest.approx(outputs.loss.item(), abs=1e-6)
    assert row["top1"] == pytest.approx(right.item(), abs=1e-12)


def test_masks_are_the_same_whatever_is_scored_with_them(restorer: Network) -> None:
    samples = letters(20)
    masked = MASKED_TOKEN.prepare(restorer, samples)
    part = MASKED_TOKEN.prepare(restorer, samples.select(np.array([7, 3]), "two"))
    assert np.array_equal(part.labels, masked.labels[[7, 3]])
    frame = sweep(restorer, samples, [Variant({"k": k}, None) for k in range(2)], batch_size=3)
    assert frame["loss"][0] == frame["loss"][1] == pytest.approx(score(restorer, samples)["loss"][0])
    other = load_samples(list(samples.records.texts), task="masked-token", seed=1)
    again = find_task(restorer, other).prepare(restorer, other)
    assert not np.array_equal(again.labels, masked.labels) and again.digest != masked.digest


def test_masks_may_keep_or_exchange_tokens_as_in_the_training_of_bert(restorer: Network) -> None:
    samples = letters(300).with_task(masked_token(0.5, mixture=(0.6, 0.3, 0.1)))
    masked = find_task(restorer, samples).prepare(restorer, samples)
    (batch,) = masked.batches(restorer.preprocessing, 300)
    chosen = batch.labels != IGNORED
    shown, before = batch.inputs["input_ids"][chosen], batch.labels[chosen]
    shares = [(shown == 27).double().mean(), (shown == before).double().mean()]
    assert shares[0] == pytest.approx(0.6 + 0.3 / 28, abs=0.05)
    assert shares[1] == pytest.approx(0.1 + 0.3 / 28, abs=0.04)


def test_masked_tokens_are_learned_and_prescribed_for(restorer: Network) -> None:
    from netopsy import Recipe, fit, noise, prescribe

    samples = letters(40)
    done = fit(restorer, samples, Recipe(epochs=3, learning_rate=0.01, optimizer="adamw"), validation=samples)
    assert done.table["loss"][-1] < done.table["loss"][0]
    assert done.table["validation_loss"][-1] == pytest.approx(score(done.network, samples)["loss"][0], rel=1e-4)
    assert "perplexity" in " ".join(noise(restorer, samples, strengths=(0.2,), one_layer_at_a_time=False).findings)
    assert prescribe(restorer, samples, budget="20%").tables["promise"].height


def test_without_a_mask_token_nothing_is_masked(restorer: Network) -> None:
    bare = restorer.with_tensors({})
    bare.preprocessing = Signature(TEXT.inputs, Letters())
    assert find_task(bare, letters(3)) is AGREEMENT
    with pytest.raises(SamplesError, match="no mask token"):
        find_task(bare, letters(3).with_task("masked token"))
    with pytest.raises(SettingsError, match="share"):
        masked_token(0.0)


@pytest.mark.slow
def test_optical_flow_is_torchvisions_and_scored_by_its_error() -> None:
    import torchvision

    network = load_network("torchvision:raft_small", seed=3)
    theirs = torchvision.models.get_model("raft_small", weights=None).eval()
    theirs.load_state_dict(network.module.state_dict())
    pair = torch.rand(2, 3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for count in (1, 3):
        with torch.no_grad():
            flow = theirs(*pair[:, :count])[-1]
        torch.testing.assert_close(
            network.graph(image1=pair[0, :count], image2=pair[1, :count])["flow"], flow, rtol=1e-4, atol=1e-3
        )
    first, second = pair.numpy()
    truth = 0.5 * flow.numpy()  # of random weights the flow is large, and so must the error be
    row = score(network, load_samples({"image1": first, "image2": second, "label": truth})).row(0, named=True)
    error = (flow.numpy() - truth).astype(float)
    spread = truth.astype(float).std((0, 2, 3), keepdims=True)
    assert row["loss"] == pytest.approx(np.abs(error).mean(), rel=1e-3)
    assert row["r2"] == pytest.approx(1 - ((error / spread) ** 2).mean(), rel=1e-3, abs=1e-3)
    assert find_task(network, load_samples({"image1": first, "image2": second})) is EMBEDDING

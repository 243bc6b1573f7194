"""Networks with named inputs of any kind, samples of any kind, and padding that counts nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import netopsy
from netopsy import Samples, load_network, observe, score, sweep
from netopsy.engine.interpreter import plan
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.errors import NetworkError, NotApplicable, SamplesError, SettingsError
from netopsy.network.network import Network
from netopsy.network.signature import Input, Signature, signature_of
from netopsy.network.units import unit_nodes
from netopsy.samples.records import ArrayRecords, TextRecords
from netopsy.tallies import ClassMeans, Collect, Moments, TopImages, ZeroShare
from patients import Letters

LENGTH, VOCABULARY, WIDTH = 9, 11, 8


class Encoder(nn.Module):
    """One layer of masked attention and an MLP over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embed(input_ids)
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = (q @ k.mT / 2).masked_fill(attention_mask[:, None, None] == 0, -torch.inf)
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return {"last_hidden_state": x + self.down(F.relu(self.up(x)))}


@cache
def encoder(length: int = LENGTH) -> Network:
    torch.manual_seed(0)
    inputs = [
        Input(name, (length,), torch.int64, kind, 0)
        for name, kind in (("input_ids", "tokens"), ("attention_mask", "mask"))
    ]  # type: ignore[arg-type]
    return load_network(Encoder(), example=Signature(tuple(inputs)))


def texts(seed: int = 0, count: int = 12) -> Samples:
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, VOCABULARY, (count, LENGTH))
    lengths = generator.choice([5, 7, LENGTH], count)  # three, as each is exported alone
    ids[np.arange(LENGTH)[None] >= lengths[:, None]] = 0
    return Samples("texts", ArrayRecords({"input_ids": ids}, "tokens", lengths), np.arange(count) % 3, ("a", "b", "c"))


@pytest.fixture(scope="module")
def network() -> Network:
    return encoder()


def test_inputs_have_their_names_and_outputs_theirs(network: Network) -> None:
    assert network.signature.names == ("input_ids", "attention_mask")
    assert network.nodes["input_ids"].op == "placeholder" and network.output_name == "last_hidden_state"
    assert network.nodes[network.output].shape == (LENGTH, WIDTH)


def test_the_graph_computes_what_the_module_does(network: Network) -> None:
    (batch,) = texts().batches(network.preprocessing, 12)
    got = plan(network, [network.output]).run(batch.to(network.device), batch=12)[network.output]
    torch.testing.assert_close(got, network.module(**batch.inputs)["last_hidden_state"])


def test_axes_of_length_are_known_and_hold_no_units(network: Network) -> None:
    attention = next(node for node in network.nodes.values() if node.operator == "softmax")
    assert attention.full_shape == (1, 2, LENGTH, LENGTH)
    assert attention.length_axes == (2, 3) and attention.channel_axis == 1, "heads are the units"
    assert network.nodes["up"].length_axes == (1,) and network.nodes["up"].channel_axis == -1


def alone(samples: Samples, row: int) -> tuple[Network, dict[str, Tensor]]:
    """One sample without its padding, and the network for its length."""
    length = int(samples.records.lengths[row])
    ids = torch.from_numpy(samples.records.fields["input_ids"][row : row + 1, :length])
    return encoder(length), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_padding_counts_nowhere(network: Network, tmp_path) -> None:
    """Against the same samples unpadded, one by one."""
    samples = texts()
    names = {
        "relu": network.node("relu").name,
        "attention": next(n for n, x in network.nodes.items() if x.operator == "softmax"),
    }
    tallies = {
        "moments": (names["relu"], Moments(2, axis=-1)),
        "zeros": (names["relu"], ZeroShare(axis=-1)),
        "heads": (names["attention"], Moments(2)),
        "top": (names["relu"], TopImages(3, axis=-1)),
        "pooled": (names["relu"], Collect(tmp_path / "rows.npy", len(samples), "relu", pool="mean", axis=-1)),
        "classes": (names["relu"], ClassMeans(samples.labels, 3, axis=-1)),
    }
    results = observe(network, samples, tallies, batch_size=5)
    rows: dict[str, list[Tensor]] = {"relu": [], "attention": []}
    for row in range(len(samples)):
        other, inputs = alone(samples, row)
        with torch.no_grad():
            values = plan(other, list(names.values())).run(inputs, batch=1)
        for key, name in names.items():
            rows[key].append(values[name][0])
    every = torch.cat(rows["relu"]).double()
    assert results["moments"].count == len(every)
    torch.testing.assert_close(results["moments"].mean, every.mean(0), atol=1e-6, rtol=1e-5)
    assert results["zeros"].zeros.tolist() == (every == 0).sum(0).tolist() and results["zeros"].seen == len(every)
    heads = torch.cat([maps.flatten(1) for maps in rows["attention"]], 1).double()
    torch.testing.assert_close(results["heads"].mean, heads.mean(1), atol=1e-6, rtol=1e-5)
    peaks = torch.stack([maps.amax(0) for maps in rows["relu"]])
    torch.testing.assert_close(results["top"].values, peaks.topk(3, 0).values.T, atol=1e-5, rtol=1e-5)
    means = torch.stack([maps.mean(0) for maps in rows["relu"]])
    np.testing.assert_allclose(np.load(results["pooled"]), means, atol=1e-5)
    expected = torch.stack([means[torch.from_numpy(samples.labels) == k].double().mean(0) for k in range(3)], 1)
    torch.testing.assert_close(results["classes"].mean, expected, atol=1e-6, rtol=1e-5)


def test_a_reader_may_be_shared_over_any_batches(network: Network) -> None:
    samples = texts()
    few, many = (list(samples.batches(network.preprocessing, size)) for size in (3, 12))
    for name in network.signature.names:
        assert torch.equal(torch.cat([batch.inputs[name] for batch in few]), many[0].inputs[name])
    assert torch.equal(many[0].mask, many[0].inputs["attention_mask"].bool())


@dataclass
class Two:
    logits: Tensor
    hidden: Tensor


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.kinds = nn.Linear(3, 4), nn.Embedding(5, 4)

    def forward(self, numbers: Tensor, kinds: Tensor) -> Two:
        hidden = F.relu(self.numbers(numbers) + self.kinds(kinds).sum(1))
        return Two(hidden[:, :2] * 2, hidden)


def table(count: int = 7) -> Samples:
    generator = np.random.default_rng(1)
    fields = {
        "numbers": generator.normal(size=(count, 3)).astype(np.float32),
        "kinds": generator.integers(0, 5, (count, 2)),
    }
    return Samples("table", ArrayRecords(fields, "vector"), np.arange(count) % 2, ("no", "yes"))


def test_samples_say_the_shapes_of_a_network() -> None:
    samples = table()
    network = load_network(Sum(), example=samples)
    assert [entry.shape for entry in network.signature.inputs] == [(3,), (2,)]
    assert network.output_name == "logits" and network.nodes[network.output].shape == (2,)
    (batch,) = samples.batches(network.preprocessing, 7)
    got = plan(network, [network.output]).run(batch.to(network.device), batch=7)[network.output]
    torch.testing.assert_close(got, network.module(**batch.inputs).logits)


@pytest.mark.parametrize(
    "example", [torch.zeros(2, 6), (torch.zeros(2, 6),), {"input": torch.zeros(2, 6)}, np.zeros((2, 6), np.float32)]
)
def test_an_example_may_be_a_tensor_a_tuple_or_a_mapping(example: object) -> None:
    network = load_network(nn.Sequential(nn.Linear(6, 3), nn.ReLU()), example=example)
    assert network.signature.input_shape == (6,) and "input" in network.nodes
    assert network.nodes["input"].full_shape == (1, 6)


@pytest.mark.parametrize("shape", [(1, 4, 5, 6), (2, 3, 4, 4, 4), (5, 8, 8), (16,), (3, 40)])
def test_inputs_of_any_shape_are_taken(shape: tuple[int, ...]) -> None:
    network = load_network(
        nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 4)), example=torch.zeros(2, *shape)
    )
    samples = Samples("any", ArrayRecords({"x": np.zeros((3, *shape), np.float32)}), None)
    (batch,) = samples.batches(network.preprocessing, 3)
    assert batch.inputs["input"].shape == (3, *shape) and not samples.labelled


def test_what_does_not_fit_is_one_sentence(network: Network) -> None:
    with pytest.raises(SamplesError, match=r"takes 'input_ids'.* nearest: input_id"):
        fields = {"input_id": np.zeros((2, LENGTH), np.int64), "other": np.zeros((2, 2))}
        list(Samples("s", ArrayRecords(fields, "tokens"), None).batches(network.preprocessing, 2))
    with pytest.raises(SamplesError, match=r"samples of shape \(4,\).*takes numbers"):
        fields = {"numbers": np.zeros((2, 4), np.float32), "kinds": np.zeros((2, 2), np.int64)}
        list(Samples("s", ArrayRecords(fields), None).batches(load_network(Sum(), example=table()).preprocessing, 2))
    with pytest.raises(SamplesError, match="NaN or infinite in row 1"):
        ArrayRecords({"x": np.array([[1.0], [np.nan]])})
    with pytest.raises(SamplesError, match="has no labels"):
        _ = Samples("s", ArrayRecords({"x": np.zeros((2, 1))}), None).labels
    with pytest.raises(NetworkError, match=r"takes input_ids.* no images"):
        _ = network.image_preprocessing
    with pytest.raises(SettingsError, match="describe an image"):
        load_network(nn.Linear(2, 2), example=torch.zeros(2, 2), size=3)
    with pytest.raises(SettingsError, match="no batch"):
        signature_of({"x": torch.tensor(1.0)})
    with pytest.raises(NetworkError, match=r"takes input_ids, attention_mask\. Give an example"):
        _ = load_network(Encoder()).nodes


def test_a_network_of_tokens_keeps_its_digest_apart(network: Network) -> None:
    assert encoder().structure == network.structure
    assert Signature(network.signature.inputs).record()["inputs"]["input_ids"]["length_axis"] == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_come_in_the_type_in_which_a_network_computes(kind: torch.dtype) -> None:
    network = load_network(nn.Sequential(nn.Linear(5, 3), nn.ReLU()), example=torch.zeros(2, 5)).to(kind)
    samples = Samples("rows", ArrayRecords({"x": np.ones((4, 5), np.float32)}, "vector"), None)
    seen = observe(network, samples, {"mean": ("1", Moments(2))})["mean"].mean
    expected = network.module(torch.ones(1, 5, dtype=kind))[0].double()
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("number", [-1, VOCABULARY, 10**9])
def test_a_token_out_of_the_vocabulary_is_one_sentence(network: Network, number: int) -> None:
    ids = np.full((2, LENGTH), 3)
    ids[1, 4] = number
    samples = Samples("other", ArrayRecords({"input_ids": ids}, "tokens"), None)
    with pytest.raises(SamplesError, match=rf"'embed' has rows 0 to {VOCABULARY - 1}.*another network"):
        observe(network, samples, {"mean": (network.node("up").name, Moments(2, axis=-1))})


class Rows(nn.Module):
    """A linear map over the rows of all tokens together, as GPT-2 has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.weight, self.bias = (
            nn.Embedding(VOCABULARY, 4),
            nn.Parameter(torch.ones(4, 6)),
            nn.Parameter(torch.ones(6)),
        )

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return torch.addmm(self.bias, x.view(-1, 4), self.weight).view(*x.shape[:2], 6)


def test_units_of_a_map_over_the_rows_of_all_tokens_are_found_behind_it() -> None:
    tokens = Input("input_ids", (LENGTH,), torch.int64, "tokens", 0)
    table, node = unit_nodes(load_network(Rows(), example=Signature((tokens,)))).values()
    assert table.operator == "embedding"
    assert (node.operator, node.full_shape, node.length_axes) == ("view", (1, LENGTH, 6), (1,))


class Lines(Letters):
    """Letters, for a decoder that begins with a space."""

    start, digest = 0, "lines"


PAIRS = [("abcdefg", "xy"), ("h", "zyxw"), ("ijkl", "v"), ("mn", "uts")]
KINDS = ["own", pytest.param("t5", marks=pytest.mark.slow), pytest.param("bart", marks=pytest.mark.slow)]


class Translator(nn.Module):
    """An encoder of one layer, and a decoder that attends to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(27, 8), nn.Linear(8, 8)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 27)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> dict[str, Tensor]:
        source, written = F.relu(self.read(self.embed(input_ids))), self.embed(decoder_input_ids)
        q, k, v = (
            part(x).unflatten(-1, (2, 4)).transpose(1, 2)
            for part, x in ((self.query, written), (self.key, source), (self.value, source))
        )
        scores = (q @ k.mT).masked_fill(attention_mask[:, None, None] == 0, -torch.inf)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return {"logits": self.head(written + F.relu(self.out(seen)))}


@cache
def translator(kind: str) -> tuple[Network, Samples]:
    """A small encoder with a decoder, and texts with what it is to write: 1 to 7 letters, 1 to 4."""
    import transformers

    torch.manual_seed(0)
    small = {"vocab_size": 27, "d_model": 16, "decoder_start_token_id": 0, "pad_token_id": 0, "use_cache": False}
    module: nn.Module
    if kind == "own":
        module = Translator()
    elif kind == "t5":
        config = transformers.T5Config(
            **small, d_kv=4, d_ff=24, num_layers=1, num_heads=2, eos_token_id=26, attn_implementation="eager"
        )
        module = transformers.T5ForConditionalGeneration(config)
    else:
        heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
        sizes = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 24)
        layers = {"encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 16}
        config = transformers.BartConfig(**small, **heads, **sizes, **layers, attn_implementation="eager")
        module = transformers.BartForConditionalGeneration(config)
    sizes = {"input_ids": 9, "attention_mask": 9, "decoder_input_ids": 6}
    sizes |= {} if kind == "own" else {"decoder_attention_mask": 6}
    shown = signature_of({name: torch.ones(2, size, dtype=torch.int64) for name, size in sizes.items()})
    samples = Samples("pairs", TextRecords([a for a, _ in PAIRS], "pairs", [b for _, b in PAIRS]), None)
    return load_network(module, example=Signature(shown.inputs, Lines())), samples


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_and_a_decoder_have_a_length_each(kind: str) -> None:
    network, _ = translator(kind)
    assert network.signature.lengths == {"input_ids": 9, "decoder_input_ids": 6}
    maps = [node for node in network.nodes.values() if node.operator == "softmax"]
    read, written = "input_ids", "decoder_input_ids"
    assert maps[-1].full_shape[2:] == (6, 9) and maps[-1].sequences == (written, read)
    assert all(node.length_axes == (2, 3) and node.channel_axis == 1 for node in maps)
    if kind != "own":
        assert [node.full_shape[2:] for node in maps] == [(9, 9), (6, 6), (6, 9)]
        assert [node.sequences for node in maps] == [(read, read), (written, written), (written, read)]


@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_two_lengths_counts_nowhere(kind: str) -> None:
    """Against the module on each pair alone and without padding: its activations, and transformers' own loss."""
    network, samples = translator(kind)
    linear = {layer.name: layer.nodes[0] for layer in network.layers if layer.kind == "linear"}
    alone: dict[str, list[Tensor]] = {name: [] for name in linear}
    losses, hits, sizes = [], [], []
    hooks = [
        network.module.get_submodule(name).register_forward_hook(
            lambda part, given, value, name=name: alone[name].append(value[0])
        )
        for name in linear
    ]
    for text, target in PAIRS:
        ids, labels = (torch.tensor(Lines().encode([one], 9)) for one in (text, target))
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            logits = network.module(**given, decoder_input_ids=F.pad(labels, (1, 0)))["logits"][0]
        losses.append(F.cross_entropy(logits[:-1], labels[0]).item())
        hits.append((logits[:-1].argmax(1) == labels[0]).double().mean().item())
        sizes.append(labels.shape[1])
    for hook in hooks:
        hook.remove()
    if kind != "own":
        pairs = [[torch.tensor(Lines().encode([one], 9)) for one in pair] for pair in PAIRS]
        with torch.no_grad():
            theirs = [network.module(input_ids=ids, labels=labels).loss.item() for ids, labels in pairs]
        assert losses == pytest.approx(theirs, abs=1e-5)
    row = score(network, samples).row(0, named=True)
    assert row["loss"] == pytest.approx(np.average(losses, weights=sizes), abs=1e-5)
    assert row["top1"] == pytest.approx(np.average(hits, weights=sizes), abs=1e-9)
    tallies = {name: (node, Moments(2, axis=-1)) for name, node in linear.items()}
    counted = observe(network, samples, tallies, batch_size=3)
    for name, parts in alone.items():
        values = torch.cat(parts).double()
        assert counted[name].count == len(values), name
        torch.testing.assert_close(torch.as_tensor(counted[name].mean), values.mean(0), rtol=1e-4, atol=1e-6)


def test_nodes_of_two_sequences_are_not_counted_together() -> None:
    network, samples = translator("own")
    with pytest.raises(NotApplicable, match="two sequences"):
        observe(network, samples, {"both": (("read", "out"), Moments(2, axis=-1))})


def test_stimuli_of_a_decoder_are_tokens_that_it_writes(tmp_path) -> None:
    from netopsy import load_samples, stimuli

    network, _ = translator("own")
    (tmp_path / "pairs.csv").write_text("from,to\n" + "".join(f"{a},{b}\n" for a, b in PAIRS))
    samples = load_samples(tmp_path / "pairs.csv", text=("from", "to"))
    table = stimuli(network, samples, layers=("read", "out"), top=4).tables["stimuli"]
    assert set(table["layer"]) == {"read", "out"}
    for one in table.iter_rows(named=True):
        source, target = PAIRS[one["image"]]
        assert one["token"] == (source if one["layer"] == "read" else " " + target)[one["position"]], one


class Reader(nn.Module):
    """Each place of the encoder sums all places up to its own; each of the decoder adds the mean of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(27, 4), nn.Linear(4, 27)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> dict[str, Tensor]:
        real = attention_mask[..., None].to(torch.float32)
        read = (self.embed(input_ids) * real).cumsum(1)
        written = self.embed(decoder_input_ids) + ((read * real).sum(1) / real.sum(1))[:, None]
        return {"logits": self.head(written), "read": self.head(read)}


@cache
def reader(output: str | None = None) -> Network:
    torch.manual_seed(1)
    sizes = {"input_ids": 9, "attention_mask": 9, "decoder_input_ids": 6}
    shown = signature_of({name: torch.ones(2, size, dtype=torch.int64) for name, size in sizes.items()})
    return load_network(Reader(), example=Signature(shown.inputs, Lines()), output=output)


def test_attributions_and_distances_of_an_encoder_go_by_its_own_length() -> None:
    """The derivative of a sum is the same at each place up to the unit's, and none behind."""
    network, (_, samples) = reader(), translator("own")
    assert network.output_sequence == "decoder_input_ids" and reader("read").output_sequence == "input_ids"
    result = netopsy.reconstruct(network, samples, units=("cumsum:2", "head:3:1"), rules=("gradient",), survey=4)
    table = result.tables["attributions"]
    embedding = network.module.embed.weight.detach()
    for number, (text, _) in enumerate(PAIRS):
        rows = table.filter(text=number)
        for unit in ("cumsum:2", "head:3:1"):
            some = rows.filter(pl.col("unit").str.starts_with(unit))
            assert "".join(some["token"]) == text and some["position"].to_list() == list(range(len(text)))
        own = embedding[Lines().encode([text], 9)[0], 2].numpy()
        place = int(own.cumsum().argmax())
        expected = np.where(np.arange(len(text)) <= place, own, 0)
        some = rows.filter(unit=f"cumsum:2:{place}")
        np.testing.assert_allclose(some["attribution"].to_numpy(), expected, atol=1e-6)
    positions = result.tables["units"].select("unit", "position").rows()
    assert all((place is None) == unit.startswith("head") for unit, place in positions)
    assert any("Without attributions: decoder_input_ids" in sentence for sentence in result.findings)

    told = netopsy.field(network, samples, units=("cumsum:0",), layers=0)
    row = told.tables["distances"].row(0, named=True)
    places = np.array([3 * len(text) // 4 for text, _ in PAIRS])
    assert row["samples"] == len(PAIRS) and row["mean"] == pytest.approx((places / 2).mean())
    assert row["itself"] == pytest.approx((1 / (places + 1)).mean()) and row["after"] == 0
    assert any("another sequence" in sentence for sentence in told.findings)


def test_the_output_of_an_encoder_is_scored_at_its_own_places() -> None:
    """Against the texts one by one without padding; and `fit` against a teacher counts the same places."""
    (_, samples), change = translator("own"), torch.linspace(-1, 1, 27)
    network = reader("read")
    edit = Replace(("head.bias",), lambda tensors: {"head.bias": tensors["head.bias"] + change}, "shift")
    row = sweep(network, samples.with_task("agreement"), [Variant({"layer": ""}, edit)]).row(0, named=True)
    same, nats = [], []
    for text, target in PAIRS:
        ids, labels = (torch.tensor(Lines().encode([one], 9)) for one in (text, target))
        with torch.no_grad():
            before = network.module(ids, torch.ones_like(ids), labels)["read"][0]
        same += (before.argmax(-1) == (before + change).argmax(-1)).tolist()
        p, q = before.log_softmax(-1), (before + change).log_softmax(-1)
        nats += (p.exp() * (p - q)).sum(-1).tolist()
    assert row["agreement"] == pytest.approx(np.mean(same)) and row["loss"] == pytest.approx(np.mean(nats), rel=1e-4)
    student = network.with_tensors({"head.bias": network.module.head.bias.detach() + change})
    recipe = netopsy.Recipe(epochs=1, learning_rate=1e-30, batch_size=4, temperature=1)
    compared = samples.with_task("agreement")
    history = netopsy.fit(student, compared, recipe, teacher=network, validation=compared)
    assert history.table["validation_loss"][-1] == pytest.approx(np.mean(nats), rel=1e-4)

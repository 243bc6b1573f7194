"""What `reconstruct` says of texts, recordings and rows, against torch's derivatives; tokens keep their spaces."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from test_findings import check_findings
from torch import Tensor, nn

import netopsy
from netopsy import Network, Samples, load_network
from netopsy.charts.passages import pieces_of, token_name
from netopsy.errors import NotApplicable
from netopsy.network.signature import Input, Signature
from netopsy.network.sources.huggingface_inputs import Tokenizer
from netopsy.samples.records import ArrayRecords, TextRecords
from patients import PATIENTS, TEXT, patient

DOWN = "model.layers.1.mlp.down_proj"


def attributions(table: pl.DataFrame, rule: str, **where: object) -> np.ndarray:
    return table.filter(rule=rule, **where)["attribution"].to_numpy()


def by_autograd(network: Network, inputs: dict[str, Tensor], place: int, channel: int, guided: bool) -> Tensor:
    """Embedding times derivative, summed over the embedding, (1, length)."""
    values, module = {}, network.module
    hooks = [
        module.model.embed_tokens.register_forward_hook(lambda m, i, o: values.setdefault("e", o.requires_grad_())),
        module.model.layers[1].mlp.down_proj.register_forward_hook(lambda m, i, o: values.update(v=o)),
    ]
    for layer in module.model.layers if guided else ():
        act = layer.mlp.act_fn
        hooks.append(act.register_forward_hook(lambda m, i, o: values.update({m: i[0].detach()})))

        def back(m: nn.Module, before: tuple[Tensor, ...], behind: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = values[m]
            derivative = x.sigmoid() * (1 + x * (1 - x.sigmoid()))
            return (derivative * behind[0].clamp(min=0),)

        hooks.append(act.register_full_backward_hook(back))
    module(**inputs)
    (gradient,) = torch.autograd.grad(values["v"][0, place, channel], values["e"])
    for hook in hooks:
        hook.remove()
    return (gradient * values["e"]).sum(2).detach()


@pytest.mark.parametrize("rule", ["gradient", "guided"])
def test_attributions_of_tokens_are_those_of_autograd(rule: str) -> None:
    network, samples = patient("causal")
    result = netopsy.reconstruct(network, samples, units=(f"{DOWN}:4:1",), rules=(rule,), images=(3, 4), survey=0)
    for number in (3, 4):
        (batch,) = samples.batches(network.preprocessing, 1, order=[number])
        expected = by_autograd(network, batch.inputs, 1, 4, rule == "guided")[0]
        mine = attributions(result.tables["attributions"], rule, text=number)
        np.testing.assert_allclose(mine, expected[: len(mine)].numpy(), rtol=1e-4, atol=1e-7)
        assert len(mine) == len(samples.read(number)) and mine[:2].any() and not mine[2:].any()


@pytest.mark.parametrize("name", ["causal", "encoder", "lstm"])
def test_every_token_of_a_text_has_a_row_and_padding_has_none(name: str) -> None:
    network, samples = patient(name)
    result = netopsy.reconstruct(network, samples)
    for (_, number, _), rows in result.tables["attributions"].group_by("unit", "text", "rule"):
        assert "".join(rows["token"]) == samples.read(number)
        assert rows["position"].to_list() == list(range(len(samples.read(number))))
    passages = [p for group in result.texts["reconstructions"].groups.values() for p in group]
    assert passages and all("".join(p.pieces) in [samples.read(0), samples.read(1)] for p in passages)
    assert all(max(map(abs, p.shades)) == 1 and p.mark < len(p.pieces) for p in passages)
    check_findings(result)
    assert result.question == "What in a text makes a unit fire?"
    refused = [sentence for sentence in result.findings if "Left out" in sentence]
    assert len(refused) == 1 and "deconvnet, masked" in refused[0] and "image" not in " ".join(result.findings)


class LoudPadding(nn.Module):
    """No mask: whatever stands at padding counts, and more than any token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(27, 4), nn.Conv1d(4, 5, 3, padding=1)
        self.head = nn.Linear(5, 2)
        with torch.no_grad():
            self.embedding.weight.abs_()[0] = 100
            self.mix.weight.abs_()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = torch.relu(self.mix(self.embedding(input_ids).transpose(1, 2)))
        return self.head((x * attention_mask[:, None].to(x.dtype)).sum(2))


@pytest.mark.parametrize("units", [(), ("relu:2",)])
def test_no_unit_is_taken_and_no_attribution_given_at_padding(units: tuple[str, ...]) -> None:
    network = load_network(LoudPadding(), example=TEXT)
    samples = Samples("words", TextRecords(["abc", "abcdefgh"]), None, ())
    tables = netopsy.reconstruct(network, samples, units=units).tables
    for number, length in ((0, 3), (1, 8)):
        assert tables["units"].filter(text=number)["position"].max() < length
        assert tables["attributions"].filter(text=number)["position"].max() == length - 1


def test_attributions_of_recordings_are_those_of_autograd() -> None:
    network, samples = patient("series")
    result = netopsy.reconstruct(network, samples, units=("relu_1:3:1",), rules=("gradient",), images=(2,), survey=0)
    (batch,) = samples.batches(network.preprocessing, 1, order=[2])
    waves, module, values = batch.inputs["waves"].requires_grad_(), network.module, {}
    handle = module.second.register_forward_hook(lambda m, i, o: values.update(v=torch.relu(o)))
    module(**batch.inputs)
    handle.remove()
    expected = waves.detach() * torch.autograd.grad(values["v"][0, 3, 1], waves)[0]
    length = int(batch.mask.sum())
    table = result.tables["attributions"]
    for channel in (0, 1):
        mine = attributions(table, "gradient", channel=channel)
        np.testing.assert_allclose(mine, expected[0, channel, :length], rtol=1e-4, atol=1e-7)
    assert result.images["reconstructions"].pixels.std() > 5
    assert "recording" in " ".join(result.findings)


def test_attributions_of_a_row_are_weight_times_column() -> None:
    network, samples = patient("table")
    result = netopsy.reconstruct(network, samples, rules=("gradient",))
    for unit, number in result.tables["units"].filter(pl.col("value") > 0).select("unit", "row").iter_rows():
        channel = int(unit.split(":")[1])
        numbers = samples.read(number)["numbers"]
        expected = network.module.hidden.weight[channel, :5].detach().numpy() * numbers
        mine = attributions(result.tables["attributions"], "gradient", unit=unit, row=number)
        np.testing.assert_allclose(mine, expected, rtol=1e-5)
    assert any("Without attributions: category" in sentence for sentence in result.findings)
    assert result.tables["attributions"]["column"][0].startswith("numbers[0] ")


@pytest.mark.parametrize("name", ["table", "causal"])
def test_rules_that_give_the_same_are_shown_once(name: str) -> None:
    network, samples = patient(name)
    result = netopsy.reconstruct(network, samples, survey=0)
    rules = set(result.tables["attributions"]["rule"])
    for passages in result.texts["reconstructions"].groups.values():
        names = [name for passage in passages for name in passage.note.split(", ")]
        assert sorted(names) == sorted(rules)
        for i, one in enumerate(passages):
            assert not any(np.allclose(one.shades, other.shades, atol=1e-5) for other in passages[:i])
        shared = max(len(passage.note.split(", ")) for passage in passages)
        assert name != "table" or shared > 1  # it has rectifiers alone


def test_volumes_and_the_exchange_of_masks_on_texts_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"images, texts, recordings and rows only"):
        netopsy.reconstruct(*patient("volume"))
    with pytest.raises(NotApplicable, match="experiment"):
        netopsy.reconstruct(*patient("lstm"), experiment=1)


@pytest.mark.parametrize("name", ["unet", "spectral"])
def test_images_of_other_channels_and_labels_have_maps(name: str) -> None:
    result = netopsy.reconstruct(*patient(name), survey=2)
    assert result.images["reconstructions"].pixels.std() > 5 and result.tables["units"]["label"].dtype == pl.String


@pytest.mark.parametrize("name", PATIENTS)
def test_fields_are_measured_where_there_are_places(name: str) -> None:
    network, samples = patient(name)
    if name in ("table", "regression", "volume"):
        with pytest.raises(NotApplicable, match="fields of view are measured on images"):
            netopsy.field(network, samples)
        return
    result = netopsy.field(network, samples, layers=3, averaged=4)
    assert result.findings and result.tables["fields"].height


class ImageAndNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deeper, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        x = torch.relu(self.deeper(torch.relu(self.conv(x)))) + more[:, :1, None, None]
        return self.head(torch.cat([x.mean((2, 3)), more], 1))


def test_images_with_other_inputs_have_fields_and_maps() -> None:
    generator = np.random.default_rng(0)
    fields = {
        "x": generator.standard_normal((6, 3, 10, 10)).astype(np.float32),
        "more": generator.standard_normal((6, 2)).astype(np.float32),
    }
    inputs = Signature((Input("x", (3, 10, 10), kind="image"), Input("more", (2,), kind="vector")))
    network = load_network(ImageAndNumbers(), example=inputs)
    samples = Samples("both", ArrayRecords(fields, "image"), None, ())
    assert netopsy.field(network, samples, layers=2).tables["effective"]["effective_side"].drop_nulls().len()
    assert netopsy.reconstruct(network, samples, survey=2).tables["units"].height


@pytest.mark.parametrize("name", ["causal", "series", "regression", "lstm"])
def test_facets_call_samples_what_they_are(name: str) -> None:
    network, samples = patient(name)
    text = " ".join(netopsy.facets(network, samples, chosen=2).findings)
    assert "image" not in text and "class none" not in text
    assert name == "lstm" or samples.noun in text


def byte_level(trim: bool) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder, backend.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=trim)
    letters = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters))
    return Tokenizer(backend, 0, "byte-level")


def sentence_piece(prefix: str) -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    backend.decoder = decoders.Metaspace(prepend_scheme=prefix)
    backend.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=80, special_tokens=["<unk>"]))
    return Tokenizer(backend, 0, "metaspace")


def words_alone() -> Tokenizer:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=80, special_tokens=["[UNK]"]))
    return Tokenizer(backend, 0, "words")


WORDS = ["the ox was a strange machine with lots of wheels"] * 3
MAKERS = {
    "Ġ": lambda: byte_level(False),
    "Ġ trimmed": lambda: byte_level(True),
    "▁": lambda: sentence_piece("always"),
    "▁ between": lambda: sentence_piece("never"),
    "words": words_alone,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("text", ["the ox was a strange machine", "a  strange ox\nwith lots"])
def test_tokens_keep_the_spaces_between_words(kind: str, text: str) -> None:
    tokenizer = MAKERS[kind]()
    inputs = (Input("input_ids", (40,), torch.int64, "tokens", 0), TEXT.inputs[1].with_length(40))
    network = load_network(LoudPadding(), example=Signature(inputs, tokenizer))
    pieces = pieces_of(network, Samples("words", TextRecords([text]), None, ()), 0)
    assert "".join(pieces) == text and len(pieces) == len(tokenizer.encode([text])[0])
    if not kind.startswith("words"):
        names = [token_name(tokenizer, n) for n in tokenizer.encode(["the ox was"])[0]]
        assert "".join(names).strip() == "the ox was"

"""Blocks of networks that take tokens with a mask: found, left out, replaced by the fit to what is no padding."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from netopsy import Network, Samples, load_network, score
from netopsy.blocks import (
    compressed_network,
    default_blocks,
    find_block,
    least_squares,
    list_blocks,
    new_layer,
    section,
)
from netopsy.blocks.block import Block
from netopsy.errors import NotApplicable, SettingsError
from netopsy.network.graph import name_outputs
from netopsy.network.signature import Input, Signature
from patients import LENGTH, TEXT, patient, texts

LAYERS = {"causal": "model.layers", "encoder": "encoder.layer"}
TOKENS = tuple(LAYERS)


def values(network: Network, samples: Samples, path: str) -> tuple[np.ndarray, np.ndarray]:
    """What the module at `path` reads and gives at the tokens of each text, run alone without padding."""
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(_: nn.Module, given: tuple, output: object) -> None:
        pairs.append((given[0][0], (output[0] if isinstance(output, tuple) else output)[0]))  # type: ignore[index]

    handle = network.module.get_submodule(path).register_forward_hook(keep)
    for row in range(len(samples)):
        (batch,) = samples.batches(network.preprocessing, 1, order=[row])
        length = int(batch.mask.sum())
        with torch.no_grad():
            network.module(**{name: tokens[:, :length] for name, tokens in batch.inputs.items()})
    handle.remove()
    x, y = (torch.cat(parts).double().numpy() for parts in zip(*pairs, strict=True))
    return x, y


def outputs(network: Network, module: nn.Module, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the module gives, at the tokens alone; all values)"""
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        given = module(**batch.inputs)
    given = given if isinstance(given, torch.Tensor) else name_outputs(given)[network.output_name]
    return given[batch.mask], given


@pytest.mark.parametrize("name", TOKENS)
def test_transformer_layers_are_blocks(name: str) -> None:
    network, _ = patient(name)
    frame = list_blocks(network)
    paths = [f"{LAYERS[name]}.{i}" for i in range(2)]
    rows = {row["block"]: row for row in frame.iter_rows(named=True)}
    for path in paths:
        row = rows[path]
        assert row["kind"] == "tokens" and row["obstacle"] is None and row["layer"] == "linear"
        assert (row["input"], row["output"], row["layer_parameters"]) == ("12x16", "12x16", 16 * 17)
        assert row["parameters"] == sum(p.numel() for p in network.module.get_submodule(path).parameters())
    assert [block.name for block in default_blocks(network)] == paths


def test_segments_are_no_second_input_of_a_block() -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 27, "hidden_size": 16, "intermediate_size": 24, "max_position_embeddings": LENGTH}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=4, attn_implementation="eager", **sizes)
    segments = Input("token_type_ids", (LENGTH,), torch.int64, "segments", 0)
    network = load_network(
        BertModel(config), example=Signature((*TEXT.inputs, segments), TEXT.tokenizer), output="last_hidden_state"
    )
    assert [block.name for block in default_blocks(network)] == ["encoder.layer.0", "encoder.layer.1"]
    table = next(layer for layer in network.layers if "token_type" in layer.name)
    with pytest.raises(SettingsError, match="is made from a mask or segments alone, so it is in no block"):
        find_block(network, f"{table.name}:encoder.layer.0")


@pytest.mark.parametrize("name", TOKENS)
def test_least_squares_is_that_of_the_real_places(name: str) -> None:
    network, samples = patient(name)
    path = f"{LAYERS[name]}.0"
    block = find_block(network, path)
    layer = new_layer(network, block)
    told = least_squares(network, block, layer, samples)
    x, y = values(network, samples, path)
    solution = np.linalg.lstsq(np.concatenate([x, np.ones((len(x), 1))], 1), y, rcond=None)[0]
    fitted = x @ solution[:-1] + solution[-1]
    with torch.no_grad():  # the maps themselves differ where features depend on each other, as behind a layer norm
        np.testing.assert_allclose(layer(torch.from_numpy(x).float()).numpy(), fitted, rtol=1e-3, atol=2e-3)
    left = y - fitted
    assert told["r2"] == pytest.approx(1 - left.var(0).sum() / y.var(0).sum(), abs=1e-5)
    assert told["rows"] == len(x) and told["share"] == 1.0


def test_rows_are_drawn_from_the_real_places_of_each_text() -> None:
    network, samples = patient("causal")
    block = find_block(network, "model.layers.0")
    layer = new_layer(network, block)
    lengths = np.array([len(text) for text in samples.records.texts])
    told = least_squares(network, block, layer, samples, rows=120, batch_size=7)  # three of each of 40 texts
    assert told["rows"] == np.minimum(lengths, 3).sum()
    assert told["share"] == pytest.approx(np.minimum(lengths, 3).sum() / lengths.sum())
    same, other = new_layer(network, block), new_layer(network, block)
    least_squares(network, block, same, samples, rows=120, batch_size=7)
    least_squares(network, block, other, samples, rows=120, batch_size=7, seed=1)
    assert layer.map.weight.equal(same.map.weight) and not layer.map.weight.equal(other.map.weight)


@cache
def without_first(name: str) -> Network:
    """The network with its first transformer layer left out."""
    network, _ = patient(name)
    return compressed_network(network, [(find_block(network, f"{LAYERS[name]}.0"), nn.Identity())])


@pytest.mark.parametrize("name", ["causal", pytest.param("encoder", marks=pytest.mark.slow)])
def test_a_block_left_out_is_skipped_by_hand(name: str) -> None:
    network, samples = patient(name)
    block, left_out = find_block(network, f"{LAYERS[name]}.0"), without_first(name)
    by_hand = copy.deepcopy(network.module)
    holder, attribute = by_hand.get_submodule(LAYERS[name].rpartition(".")[0]), LAYERS[name].rpartition(".")[2]
    setattr(holder, attribute, nn.ModuleList(list(getattr(holder, attribute))[1:]))
    ours, theirs = (outputs(network, module, samples)[0] for module in (left_out.module, by_hand))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert left_out.output_name == network.output_name
    unread = 0 if name == "causal" else sum(p.numel() for p in network.module.pooler.parameters())
    assert left_out.parameters == network.parameters - block.parameters - unread


def test_a_compressed_language_model_is_scored_by_the_next_token() -> None:
    network, samples = patient("causal")
    row = score(without_first("causal"), samples).row(0, named=True)
    by_hand = copy.deepcopy(network.module)
    by_hand.model.layers = by_hand.model.layers[1:]
    (batch,) = samples.batches(network.preprocessing, len(samples))
    logits = outputs(network, by_hand, samples)[1]
    tokens, counted = batch.inputs["input_ids"][:, 1:], batch.mask[:, 1:]
    hits = (logits[:, :-1].argmax(-1) == tokens)[counted]
    assert row["top1"] == pytest.approx(hits.double().mean().item())


@pytest.mark.parametrize("name", TOKENS)
def test_a_section_takes_the_mask_beside_the_value_it_begins_with(name: str) -> None:
    network, samples = patient(name)
    first, second = (find_block(network, f"{LAYERS[name]}.{i}") for i in range(2))
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        before = section(network, end=first.output)(**batch.inputs)
        after = section(network, start=first.output)(x=before, attention_mask=batch.inputs["attention_mask"])
    torch.testing.assert_close(after, outputs(network, network.module, samples)[1])
    assert first.output == second.input


def test_a_section_of_a_network_of_several_inputs_is_the_network() -> None:
    network, samples = patient("table")
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        assert section(network)(**batch.inputs).equal(network.module(**batch.inputs))


def test_padded_maps_have_no_least_squares() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
            self.head = nn.Linear(4, 3)

        def forward(self, waves: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            x = self.block(waves[:, None])
            return self.head(torch.relu(x * mask[:, None, None]).sum((2, 3)))

    inputs = (
        Input("waves", (2, LENGTH), torch.float32, "series", 1),
        Input("mask", (LENGTH,), torch.int64, "mask", 0),
    )
    network = load_network(Spectrum(), example=Signature(inputs))
    block: Block = find_block(network, "block")
    with pytest.raises(NotApplicable, match="needs maps of one size, and those of Spectrum are padded"):
        least_squares(network, block, new_layer(network, block), patient("series")[1])


def test_words_of_one_length_are_as_before() -> None:
    """Without padding the places are rows of every sample, drawn as those of images are."""
    network, _ = patient("causal")
    samples = texts(30)
    records = type(samples.records)([text.ljust(LENGTH, "a") for text in samples.records.texts])
    whole = Samples("whole", records, None)
    block = find_block(network, "model.layers.0")
    told = least_squares(network, block, new_layer(network, block), whole, rows=90)
    assert told["rows"] == 90 and told["share"] == 3 / LENGTH

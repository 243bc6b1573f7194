"""Networks as small files: what is stored is what was measured, and comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from reference_compress import code_width, entries_with_fillers, half, largest, relative_bits
from torch import Tensor, nn

from netopsy import Network, Preprocessing, load_network
from netopsy.codec.file import read_compressed
from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.compress import (
    BITS,
    apply_masks,
    bits_of,
    compress,
    densities_of,
    keep_share,
    masks_at,
    masks_beyond,
    share_layers,
)
from netopsy.deep_compression.save import (
    aliases,
    bits_before,
    describe,
    expand,
    expanded_network,
    others,
    save_shared,
    storage_table,
)
from netopsy.errors import NetopsyError, NetworkError, SettingsError, UnknownLayer, WeightsError

FILE = "small.netopsy.safetensors"


class Small(nn.Module):
    """Convolution, batch norm, and a linear layer that is applied twice under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Linear(24, 24)
        self.again = nn.Linear(24, 24, bias=False)
        self.again.weight = self.first.weight
        self.out = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().flatten(1)
        return self.out(self.again(self.first(x).relu()).relu())


_SQUEEZENET = {"num_classes": 3, "size": (64, 80), "resize": 90, "channels": "BGR"}
PREPROCESSING = Preprocessing((4, 4), mean=(0.1,), std=(1 / 3,), channels="L", scale=1 / 256)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(1)
    module = Small()
    module(torch.randn(50, 1, 4, 4))  # running statistics and a count of batches that are not those of a fresh one
    return Network("small", module, PREPROCESSING, {"source": "Small"})


def same(one: nn.Module, other: nn.Module) -> None:
    left, right = one.state_dict(), other.state_dict()
    assert list(left) == list(right)
    for name in left:
        assert left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("coder", ["ans", "huffman"])
@pytest.mark.parametrize("other_dtype", ["exact", "float16"])
def test_the_file_gives_back_what_is_measured(network: Network, tmp_path: Path, other_dtype: str, coder: str) -> None:
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    path = compress(network, tmp_path / FILE, density=0.4, bits=("4", "out=3"), other_dtype=other_dtype, coder=coder)  # type: ignore[arg-type]
    shared = read_compressed(path).shared
    assert set(shared) == {"conv.weight", "first.weight", "out.weight"}
    stands = expanded_network(network, shared, other_dtype)  # type: ignore[arg-type]
    again = load_network(network.module, weights=path)
    same(stands.module, again.module)
    assert again.preprocessing == network.preprocessing
    x = torch.randn(7, 1, 4, 4)
    assert torch.equal(stands.module(x), again.module(x))
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


def test_each_layer_keeps_its_largest_weights_and_has_as_many_values_as_its_bits_say(
    network: Network, tmp_path: Path
) -> None:
    path = compress(network, tmp_path / FILE, density=("0.4", "out=0.7"), bits="3, conv=2")
    for layer in network.layers:
        shared = read_compressed(path).shared[layer.weight]
        density, bits = (0.7 if layer.name == "out" else 0.4), (2 if layer.kind == "conv" else 3)
        expected = largest(network.tensors[layer.weight], density)
        assert (shared.decode().reshape(-1) != 0).tolist() == expected
        assert len(shared.table) == 2**bits and shared.zero is not None
        # each kept weight has the nearest value that is not 0, give or take rounding
        large_weights = network.tensors[layer.weight].detach().numpy().reshape(-1)[expected]
        values = shared.table[shared.table != 0]
        distance = np.abs(large_weights - shared.decode().reshape(-1)[expected])
        assert (distance <= np.abs(large_weights[:, None] - values).min(1) + 1e-6).all()


def test_without_density_nothing_is_pruned_and_layers_without_bits_stay_exact(network: Network, tmp_path: Path) -> None:
    path = compress(network, tmp_path / FILE, bits=("first=5",))
    read = read_compressed(path)
    assert set(read.shared) == {"first.weight"} and read.shared["first.weight"].kept == 576
    assert np.array_equal(read.kept["conv.weight"], network.tensors["conv.weight"].detach().numpy())


def test_all_else_is_kept_exactly_or_in_16_bits(network: Network) -> None:
    exact, halves = (others(network, {}, dtype) for dtype in ("exact", "float16"))  # type: ignore[arg-type]
    state = network.module.state_dict()
    assert set(exact) == set(state) - {"again.weight"}
    for name, array in exact.items():
        assert torch.equal(torch.from_numpy(array), state[name])
        if state[name].is_floating_point():
            assert halves[name].dtype == np.float16
            assert np.array_equal(halves[name].astype(np.float32), half(state[name].numpy()))
        else:
            assert halves[name].dtype == np.int64 and halves[name] == state[name] == 1


def test_values_too_large_for_16_bits_stay_exact(network: Network) -> None:
    wide = network.with_tensors({"norm.running_var": torch.tensor([1.0, 2, 3, 4, 5, 70000])})
    assert others(wide, {}, "float16")["norm.running_var"].dtype == np.float32


def test_tied_weights_are_coded_once_and_expanded_under_each_name(network: Network, tmp_path: Path) -> None:
    assert aliases(network.module) == {"again.weight": "first.weight"}
    path = compress(network, tmp_path / FILE, bits=4)
    assert "again.weight" not in read_compressed(path).state()
    state = expand(path, tmp_path / "out.safetensors")
    assert torch.equal(state["again.weight"], state["first.weight"])
    torch.manual_seed(5)
    plain = Small()
    plain.load_state_dict(state, strict=True)
    written = load_network(Small(), weights=tmp_path / "out.safetensors")
    same(plain.eval(), written.module)
    table = storage_table(path)
    assert table["weights"][-1] == sum(p.numel() for p in network.module.parameters()) + 13


def test_expanded_16_bit_values_are_ordinary_float32(network: Network, tmp_path: Path) -> None:
    state = expand(compress(network, tmp_path / FILE, bits=4, other_dtype="float16"))
    floats = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    assert floats == {torch.float32}


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("netopsy:lenet5", {"weights": "random", "num_classes": 7, "mean": (0.25,)}),
        pytest.param("netopsy:digits-a", {"interpolation": "nearest"}, marks=pytest.mark.slow),
        pytest.param("torchvision:squeezenet1_1", _SQUEEZENET, marks=pytest.mark.slow),
        pytest.param("torchvision:googlenet", {"num_classes": 3, "size": 64}, marks=pytest.mark.slow),
        pytest.param("timm:test_vit", {"num_classes": 4, "size": 64, "scale": 1 / 128}, marks=pytest.mark.slow),
    ],
)
def test_a_file_names_its_network(source: str, options: dict[str, object], tmp_path: Path) -> None:
    one = load_network(source, seed=3, **options)  # type: ignore[arg-type]
    path = compress(one, tmp_path / FILE, bits=2, start="linear")
    again = load_network(path)
    stands = expanded_network(one, read_compressed(path).shared)
    same(stands.module, again.module)
    assert again.name == one.name and again.preprocessing == one.preprocessing and again.classes == one.classes
    expand(path, tmp_path / "plain.safetensors")
    with safetensors.safe_open(tmp_path / "plain.safetensors", "pt") as file:
        assert file.metadata() == describe(one)
    same(load_network(tmp_path / "plain.safetensors").module, again.module)
    x = torch.rand(2, *one.preprocessing.input_shape)
    assert torch.equal(stands.module(x), again.module(x))


def test_options_given_go_before_those_of_the_file_and_wild_ones_are_passed_over(tmp_path: Path) -> None:
    one = load_network("netopsy:lenet5", weights="random", num_classes=7)
    state, metadata = one.module.state_dict(), describe(one)
    path = tmp_path / "plain.safetensors"
    for wild in ('{"num_classes": 1000000000000}', '{"width": 3, "num_classes": null}', "[" * 5000, "3"):
        safetensors.torch.save_file(state, path, metadata=metadata | {"options": wild})
        assert load_network(path).module.ip2.out_features == 7
    safetensors.torch.save_file(state, path, metadata=metadata)
    with pytest.raises(WeightsError, match="mis-shaped"):
        load_network(path, num_classes=9)


def test_a_file_of_a_module_says_that_its_code_must_be_named(network: Network, tmp_path: Path) -> None:
    path = compress(network, tmp_path / FILE, bits=4)
    with pytest.raises(NetworkError, match="code of its own, 'Small'"):
        load_network(path)


def test_bytes_of_the_account_sum_to_the_file_and_bits_before_are_those_of_a_walk(
    network: Network, tmp_path: Path
) -> None:
    path = compress(network, tmp_path / FILE, density=0.1, bits=3)
    table = storage_table(path)
    whole = table.row(-1, named=True)
    assert whole["layer"] == "all" and whole["bytes"] == path.stat().st_size == sum(table["bytes"][:-1])
    assert whole["ratio"] == pytest.approx(4 * whole["weights"] / path.stat().st_size)
    assert table["layer"].to_list() == ["conv", "first", "out", "kept as they are", "header", "all"]
    rows = {row["layer"]: row for row in table.iter_rows(named=True)}
    for name, shared in read_compressed(path).shared.items():
        values, row = shared.decode().reshape(-1).tolist(), rows[name.removesuffix(".weight")]
        nonzero = sum(value != 0 for value in values)
        assert row["kept"] == nonzero and row["kept_share"] == nonzero / len(values)
        assert row["bits_before"] * nonzero == pytest.approx(relative_bits(values, code_width(values)))
        assert row["float32"] == 4 * len(values)


@pytest.mark.parametrize("zeros", [0, 6, 7, 8, 15, 16, 17, 300])
def test_fillers_are_counted_as_a_walk_counts_them(zeros: int) -> None:
    values = np.array([0.0] * zeros + [1.0] + [0.0] * (2 * zeros) + [2.0, 0.0, 0.0], np.float32)
    codes, gaps = bits_before(SharedTensor.of(values))
    options = {gap: entries_with_fillers(values.tolist(), gap) for gap in (3, 4, 5, 8)}
    assert (codes + gaps) * 2 == min(entries * (1 + gap) for gap, entries in options.items())


@pytest.mark.parametrize(
    ("weight", "density", "mask"),
    [
        ([2.0, -1.0, 1.0, 1.0, -1.0, 0.5], 0.5, [1, 1, 1, 0, 0, 0]),
        ([0.0, 0.0, 3.0, 0.0], 0.75, [0, 0, 1, 0]),
        ([1.0, 2.0, 0.0], 0.0, [0, 1, 0]),
        ([0.0, 0.0], 1.0, [0, 0]),
    ],
)
def test_of_equal_weights_the_first_stay_and_zeros_never_do(
    weight: list[float], density: float, mask: list[int]
) -> None:
    assert keep_share(torch.tensor(weight), density).int().tolist() == mask


def test_thresholds_are_multiples_of_the_standard_deviation(network: Network) -> None:
    masks = masks_beyond(network, {"out": 1.0, "conv": 0.0})
    weight = network.tensors["out.weight"].detach().numpy()
    assert np.array_equal(masks["out.weight"].numpy(), np.abs(weight) > weight.std())
    assert bool(masks["conv.weight"].all())


def test_masks_pruned_in_two_steps_are_those_of_one(network: Network) -> None:
    densities = densities_of(network.layers, 0.2)
    once = masks_at(network, densities)
    twice = masks_at(apply_masks(network, masks_at(network, densities_of(network.layers, 0.5))), densities)
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"density": 1.5}, SettingsError, "from 0 to 1"),
        ({"density": "conv=much"}, SettingsError, "LAYER=NUMBER"),
        ({"density": "cnov=0.1"}, UnknownLayer, "nearest: conv"),
        ({"bits": 13}, SettingsError, "1 to 12"),
        ({"bits": 0.5}, SettingsError, "1 to 12"),
        ({"density": 0.5, "bits": "conv=4"}, SettingsError, "first is pruned but has no bits"),
        ({"start": "middle"}, SettingsError, "dp, linear, density, random"),
        ({"other_dtype": "float8"}, SettingsError, "exact, float16"),
        ({"coder": "zip"}, SettingsError, "huffman"),
    ],
)
def test_mistakes_are_said_in_a_sentence(
    network: Network, tmp_path: Path, settings: dict[str, object], error: type[NetopsyError], message: str
) -> None:
    with pytest.raises(error, match=message):
        compress(network, tmp_path / FILE, **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_refused(network: Network, tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    for place, message in ((FILE, "is a folder"), ("x.bin", "must end in"), (f"none/{FILE}", "there is no folder")):
        with pytest.raises(SettingsError, match=message):
            save_shared(network, {}, tmp_path / place)


def test_shared_weights_must_fit_the_network(network: Network) -> None:
    one = SharedTensor.of(np.zeros((2, 2), np.float32))
    for name, message in (("out.weight", "which is"), ("out.wieght", "nearest: out.weight")):
        with pytest.raises(SettingsError, match=message):
            expanded_network(network, {name: one})


def test_bits_and_densities_may_be_numbers_text_or_lists(network: Network) -> None:
    for given in (4, "4", "conv=4,linear=4", ["4"], ("conv=4", "linear=4"), ("8", 4)):
        assert bits_of(network.layers, given) == {"conv": 4.0, "first": 4.0, "out": 4.0}  # type: ignore[arg-type]


def test_settings_are_kept_in_the_file(network: Network, tmp_path: Path) -> None:
    settings = read_compressed(compress(network, tmp_path / FILE, density=0.25, bits=4)).settings
    assert settings["density"]["out"] == 0.25 and settings["bits"]["conv"] == 4 and json.dumps(settings)


def test_all_zero_layers_have_no_weights_left(network: Network, tmp_path: Path) -> None:
    empty = network.with_tensors({"out.weight": torch.zeros(5, 24)})
    table = storage_table(compress(empty, tmp_path / FILE, bits=4))
    row = table.row(2, named=True)
    assert (row["layer"], row["kept"], row["entries"]) == ("out", 0, 1)
    shared = share_layers(empty, {}, {"out": 4.0})
    assert shared["out.weight"].kept == 0


def test_the_default_bits_suit_a_network_without_linear_layers(network: Network) -> None:
    conv = [layer for layer in network.layers if layer.kind == "conv"]
    assert bits_of(network.layers, BITS) == {"conv": 8.0, "first": 5.0, "out": 5.0}
    assert bits_of(conv, BITS) == {"conv": 8.0}
    with pytest.raises(UnknownLayer, match="linear=4"):
        bits_of(conv, ("8", "linear=4"))

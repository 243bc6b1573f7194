"""Features of a network's nodes: against hooks on the plain module, under interruption, and in bounded memory."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import netopsy
from netopsy import Features, Network, Preprocessing, Samples, workspace
from netopsy.engine.observe.observe import observe
from netopsy.errors import NetworkError, SamplesError, SettingsError, UnknownLayer
from netopsy.features.extract import default_node, dimensions, extract, split_rows, split_samples
from netopsy.samples.images import ArrayImages
from netopsy.tallies.collect import Collect


class Plain(nn.Module):
    """Convolutions, a head with dropout; maps, then vectors."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(6 * 36, 10)
        self.head = nn.Linear(10, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv(x)) * self.scale)
        return self.head(self.drop(torch.sigmoid(self.hidden(x.flatten(1)))))


class Tokens(nn.Module):
    """Patches as a sequence, as in a vision transformer, with a learned first token; then maps with channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 5, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, 1, 5))
        self.mix = nn.Linear(5, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        x = torch.tanh(self.mix(x))
        return self.head(x.transpose(1, 2).mean(2))


def noise(count: int, seed: int, size: int = 12) -> Samples:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = np.arange(count) % 4
    return Samples(f"noise {seed}", ArrayImages(pixels), labels, ("a", "b", "c", "d"))


@pytest.fixture
def network() -> Network:
    return Network("plain", Plain(), Preprocessing(size=(12, 12)))


@pytest.fixture
def parts() -> tuple[Samples, Samples]:
    return noise(40, 1), noise(20, 2)


def hooked(network: Network, samples: Samples, modules: list[str]) -> dict[str, Tensor]:
    """What the named modules put out on all samples, by hooks on the plain module."""
    values: dict[str, Tensor] = {}
    handles = [
        network.module.get_submodule(name).register_forward_hook(
            lambda _module, _given, value, name=name: values.update({name: value.detach().clone()})
        )
        for name in modules
    ]
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        network.module(batch.images)
    for handle in handles:
        handle.remove()
    return values


def test_flattened_features_are_those_of_the_plain_module_in_the_order_of_flatten(network, parts) -> None:
    nodes = ["pool", "hidden", "head"]
    features = extract(network, *parts, nodes)
    assert list(features) == nodes
    for part, name in ((0, "x_train"), (1, "x_test")):
        expected = hooked(network, parts[part], nodes)
        for node in nodes:
            rows = torch.from_numpy(np.array(getattr(features[node], name)))
            assert rows.dtype == torch.float32
            torch.testing.assert_close(rows, expected[node].flatten(1), rtol=1e-5, atol=1e-6)
    assert features["pool"].dimensions == 6 * 36
    assert np.array_equal(features["pool"].y_train, parts[0].labels)
    assert features["pool"].classes == ("a", "b", "c", "d") and not features["pool"].multilabel


def test_pooled_features_are_the_means_and_maxima_of_the_maps(network, parts) -> None:
    maps = hooked(network, parts[0], ["pool"])["pool"]
    for pool, expected in (("mean", maps.mean((2, 3))), ("max", maps.amax((2, 3)))):
        features = extract(network, *parts, ["pool"], pool=pool)["pool"]
        torch.testing.assert_close(torch.from_numpy(np.array(features.x_train)), expected, rtol=1e-5, atol=1e-6)
    vectors = extract(network, *parts, ["hidden"], pool="max")["hidden"]
    expected = hooked(network, parts[0], ["hidden"])["hidden"]
    torch.testing.assert_close(torch.from_numpy(np.array(vectors.x_train)), expected, rtol=1e-5, atol=1e-6)


def test_tokens_are_pooled_over_the_sequence_wherever_the_channels_are(parts) -> None:
    network = Network("tokens", Tokens(), Preprocessing(size=(12, 12)))
    module = network.module
    (batch,) = parts[0].batches(network.preprocessing, len(parts[0]))
    with torch.no_grad():
        tokens = torch.cat([module.first.expand(40, -1, -1), module.patch(batch.images).flatten(2).mT], 1)
        mixed = torch.tanh(module.mix(tokens))
    expected = {"cat": tokens, "mix": module.mix(tokens).detach(), "tanh": mixed, "transpose": mixed}
    features = extract(network, *parts, list(expected), pool="mean")
    for node, value in expected.items():
        assert features[node].dimensions == dimensions(network.node(node), "mean") == 5
        torch.testing.assert_close(torch.from_numpy(np.array(features[node].x_train)), value.mean(1))


def test_float16_features_are_the_float32_ones_rounded(network, parts) -> None:
    full = extract(network, *parts, ["pool"])["pool"]
    half = extract(network, *parts, ["pool"], dtype="float16")["pool"]
    assert half.x_train.dtype == np.float16
    assert np.array_equal(half.x_train, full.x_train.astype(np.float16))
    assert half.digest != full.digest


def test_the_default_node_feeds_the_last_layer(network) -> None:
    assert default_node(network) in ("sigmoid", "drop")  # some releases of torch export dropout at rest
    digits = netopsy.load_network("netopsy:digits-a")
    last = digits.node(digits.layers[-1].nodes[0])
    assert digits.nodes[default_node(digits)] in last.inputs


def test_features_of_a_convolution_that_makes_the_classes_are_its_maps() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.conv(x))).relu().mean((2, 3))

    assert default_node(Network("wide", Wide(), Preprocessing(size=(12, 12)))) == "relu"


def test_the_default_node_feeds_the_last_call_of_a_layer_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(432, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.head(torch.relu(self.body(x.flatten(1))))))

    assert default_node(Network("twice", Twice(), Preprocessing(size=(12, 12)))) == "tanh"


def test_finished_features_are_used_again(network, parts, tmp_path) -> None:
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        first = extract(network, *parts, ["pool"])
        assert calls
        calls.clear()
        again = extract(network, *parts, ["pool"])
        assert not calls and again["pool"].digest == first["pool"].digest
        files = set(tmp_path.glob("features-*.npy"))
        assert len(files) == 2 and not list(tmp_path.glob("*.part"))
        extract(network, *parts, ["pool"], pool="mean")
        extract(network, *parts, ["pool"], dtype="float16")
        extract(network, parts[0], noise(20, 3), ["pool"])
        extract(Network("other", Plain(), Preprocessing(size=(12, 12))), *parts, ["pool"])
        assert len(set(tmp_path.glob("features-*.npy"))) == 2 + 2 + 2 + 1 + 2


def test_a_damaged_file_is_written_again(network, parts, tmp_path) -> None:
    with workspace(tmp_path):
        first = extract(network, *parts, ["pool"])["pool"].digest
        for path in tmp_path.glob("features-*.npy"):
            path.write_bytes(path.read_bytes()[:-100])
        assert extract(network, *parts, ["pool"])["pool"].digest == first


def test_without_a_workspace_the_files_go_with_the_features(network, parts) -> None:
    features = extract(network, *parts, ["pool", "head"])
    folder = Path(features["pool"].x_train.filename).parent
    assert folder.is_dir()
    del features["head"]
    gc.collect()
    assert folder.is_dir()
    del features
    gc.collect()
    assert not folder.exists()
    pooled = extract(network, *parts, ["pool"])["pool"]
    pooled.close()
    assert not Path(pooled.x_train.filename).parent.exists()


class Stop(Exception):
    pass


def stopping(after: int):
    def progress(_label: str, done: int, _total: int) -> None:
        if done >= after:
            raise Stop

    return progress


def test_a_stopped_pass_goes_on_and_gives_the_same(network, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("netopsy.engine.observe.observe.default_batch_size", lambda _network: 5)
    whole = extract(network, *parts, ["pool", "head"])
    with pytest.raises(Stop), workspace(tmp_path, stopping(20), every=0):
        extract(network, *parts, ["pool", "head"])
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        again = extract(network, *parts, ["pool", "head"])
    assert calls[0] in (15, 20)
    assert {name: f.digest for name, f in again.items()} == {name: f.digest for name, f in whole.items()}


def test_a_pass_whose_rows_are_gone_begins_anew(network, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("netopsy.engine.observe.observe.default_batch_size", lambda _network: 5)
    whole = extract(network, *parts, ["pool", "head"])
    for damage in ("delete", "cut"):
        folder = tmp_path / damage
        with pytest.raises(Stop), workspace(folder, stopping(20), every=0):
            extract(network, *parts, ["pool", "head"])
        part = next(folder.glob("*.part"))
        part.unlink() if damage == "delete" else part.write_bytes(part.read_bytes()[:300])
        with workspace(folder):
            again = extract(network, *parts, ["pool", "head"])
        assert {name: f.digest for name, f in again.items()} == {name: f.digest for name, f in whole.items()}


def test_passes_over_other_nodes_in_between_do_no_harm(network, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("netopsy.engine.observe.observe.default_batch_size", lambda _network: 5)
    whole = extract(network, *parts, ["pool", "head"])
    for nodes, after in ((["pool", "head"], 30), (["pool"], 10), (["head"], 15)):
        with pytest.raises(Stop), workspace(tmp_path, stopping(after), every=0):
            extract(network, *parts, nodes)
    with workspace(tmp_path):
        again = extract(network, *parts, ["pool", "head"])
    assert {name: f.digest for name, f in again.items()} == {name: f.digest for name, f in whole.items()}


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_features import features_of_script, workspace
def progress(label, done, total):
    print("done", done, flush=True)
    time.sleep(0.05)
with workspace({folder!r}, progress, every=0):
    features_of_script()
"""


def features_of_script() -> dict[str, Features]:
    """What the process that is killed works on."""
    import importlib

    torch.manual_seed(0)
    importlib.import_module("netopsy.engine.observe.observe").default_batch_size = lambda _network: 10
    network = Network("plain", Plain(), Preprocessing(size=(12, 12)))
    return extract(network, noise(200, 1), noise(20, 2), ["pool", "head"])


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netopsy.engine.observe.observe.default_batch_size", lambda _network: 10)  # put back afterwards
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("done 100"):
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait(60) == -signal.SIGKILL
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        resumed = features_of_script()
    assert calls[0] in (100, 110)
    assert {name: f.digest for name, f in resumed.items()} == {n: f.digest for n, f in features_of_script().items()}


MEMORY = """
import resource, sys
sys.path.insert(0, {tests!r})
import torch
from test_features import Network, Preprocessing, extract, noise
module = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten())
network = Network("wide", torch.nn.Sequential(module, torch.nn.Linear(64 * 32 * 32, 4)), Preprocessing(size=(32, 32)))
peaks = []
for count in (40, 1600):
    features = extract(network, noise(count, count, 32), noise(20, 2, 32), ["0.1"], folder=sys.argv[1])
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(features["0.1"].x_train.nbytes / 2**20, (peaks[1] - peaks[0]) / 2**10)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    code = MEMORY.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    written, grown = map(float, done.stdout.split())
    assert written == 400 and grown < 160, f"{written:.0f} MB of features took {grown:.0f} MB more memory"


def test_mistakes_get_one_sentence(network, parts, tmp_path) -> None:
    for nodes, options, error, message in (
        (["nosuch"], {}, UnknownLayer, "nearest"),
        ([], {}, SettingsError, "at least one"),
        (["pool"], {"pool": "sum"}, SettingsError, "none, mean, max"),
        (["pool"], {"dtype": "int8"}, SettingsError, "float32 or float16"),
    ):
        with pytest.raises(error, match=message):
            extract(network, *parts, nodes, **options)
    with pytest.raises(SamplesError, match="the same samples"):
        extract(network, parts[0], parts[0], ["pool"])
    with pytest.raises(SamplesError, match="different classes"):
        other = Samples("other", ArrayImages(np.zeros((4, 12, 12, 3), np.uint8)), np.arange(4), ("a", "b", "c", "e"))
        extract(network, parts[0], other, ["pool"])


def test_float16_overflow_and_infinity_are_refused_and_nothing_is_finished(parts, tmp_path) -> None:
    large = Network("large", Plain(1e6), Preprocessing(size=(12, 12)))
    with workspace(tmp_path):
        with pytest.raises(SettingsError, match=r"node 'pool' reaches .* float16.*float32"):
            extract(large, *parts, ["pool"], dtype="float16")
        assert extract(large, *parts, ["pool"])["pool"].x_train.max() > 65504
        broken = Network("broken", Plain(float("inf")), Preprocessing(size=(12, 12)))
        with pytest.raises(NetworkError, match="node 'pool' is NaN or infinite on image 0"):
            extract(broken, *parts, ["pool"])
    assert len(list(tmp_path.glob("features-*.npy"))) == 2 and not list(tmp_path.glob("*.part"))


def test_nodes_without_a_row_of_real_numbers_an_image_are_refused(parts) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(432, 4)

        def forward(self, x: Tensor) -> Tensor:
            best = x.flatten(1).argmax(1)
            mixed = x.flatten(1).T * 2
            return self.head(mixed.T) + best[:, None]

    network = Network("odd", Odd(), Preprocessing(size=(12, 12)))
    for node in ("argmax", "mul"):
        with pytest.raises(NetworkError, match=f"node '{node}' of odd has no row of real numbers an image"):
            extract(network, *parts, [node])


def test_a_full_disk_is_seen_before_the_pass(network, parts, tmp_path, monkeypatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10, 10, 10))
    with workspace(tmp_path), pytest.raises(SettingsError, match="GB free; pool them"):
        extract(network, *parts, ["pool"])


def test_collected_rows_stand_at_their_indices(network, parts, tmp_path) -> None:
    path = tmp_path / "rows.npy"
    tally = Collect(path, 40, "head")
    values, order = torch.randn(40, 3, 2), torch.randperm(40)
    for rows in order.split(7):
        tally.update(values[rows], rows)
    assert tally.result() == path
    assert np.array_equal(np.load(path), values.flatten(1).numpy())
    assert observe(network, parts[1], {"a": ("head", Collect(tmp_path / "b.npy", 20, "head"))})["a"].exists()
    with pytest.raises(SettingsError, match="holds float32"):
        Collect(path, 41, "head").update(values[:1], torch.tensor([0]))


def test_parting_keeps_each_class_on_both_sides_and_is_the_seeds_own() -> None:
    labels = np.repeat(np.arange(5), [40, 20, 10, 3, 2])
    for share in (0.1, 0.5, 0.9):
        train, test = split_rows(labels, share, 1, "x", tuple("abcde"))
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(75))
        assert set(labels[train]) == set(labels[test]) == set(range(5))
        assert abs(np.bincount(labels[test])[0] - 40 * share) <= 1
        again, other = (
            split_rows(labels, share, 1, "x", tuple("abcde")),
            split_rows(labels, share, 2, "x", tuple("abcde")),
        )
        assert np.array_equal(again[1], test) and not np.array_equal(other[1], test)
    with pytest.raises(SamplesError, match="class 'e' of x has a single item"):
        split_rows(labels[:-1], 0.5, 0, "x", tuple("abcde"))
    for share in (0, 1, 1.5, True, "half"):
        with pytest.raises(SettingsError, match="test_share"):
            split_rows(labels, share, 0, "x", tuple("abcde"))


def test_parted_samples_are_the_samples(parts) -> None:
    train, test = split_samples(parts[0], 0.25, 0)
    assert (len(train), len(test)) == (30, 10) and train.digest != test.digest
    images = {train.image(i).tobytes() for i in range(30)} | {test.image(i).tobytes() for i in range(10)}
    assert images == {parts[0].image(i).tobytes() for i in range(40)}


REAL = [
    ("netopsy:resnet20", "cifar10-resnet20.safetensors", "c10t.npz", ["layer2", "layer3.2.relu_1"]),
    pytest.param(
        "torchvision:squeezenet1_1",
        "imagenet-squeezenet1_1.safetensors",
        "im.npz",
        ["features.5", "features.12"],
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.real
@pytest.mark.parametrize(("source", "weights", "images", "modules"), REAL)
def test_features_of_real_networks_are_those_that_hooks_see(source, weights, images, modules, shared) -> None:
    path = Path.home() / ".cache" / "netopsy-check" / images
    if not path.exists():
        pytest.skip(f"no {path}")
    network = netopsy.load_network(source, weights=str(shared / "data" / "networks" / weights))
    samples = netopsy.load_samples(path)
    rows = np.arange(24)
    parts = samples.select(rows[:16], "first"), samples.select(rows[16:], "next")
    train, test = (Samples(x.name, x.records, np.arange(len(x)) % 4, samples.classes, x._rows) for x in parts)
    modules = [name for name in modules if name in dict(network.module.named_modules())]
    expected = hooked(network, train, modules)
    for pool, pooled in (
        ("none", lambda v: v.flatten(1)),
        ("mean", lambda v: v.mean((2, 3))),
        ("max", lambda v: v.amax((2, 3))),
    ):
        by_node = extract(network, train, test, modules, pool=pool)
        for module, (_, features) in zip(modules, by_node.items(), strict=True):
            right = pooled(expected[module])
            wrong = (torch.from_numpy(np.array(features.x_train)) - right).abs().max()
            assert wrong <= 1e-5 * right.abs().max()
    assert extract(network, train, test, [default_node(network)])[default_node(network)].dimensions > 60

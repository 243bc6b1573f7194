"""What drives a unit: against the convolution written out, and as shares that add up."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import netopsy
from netopsy import Network, Preprocessing, Samples, load_network, load_samples, workspace
from netopsy.engine.interpreter import plan
from netopsy.network.units import Unit, find_unit
from netopsy.samples.images import ArrayImages
from netopsy.studies.facets.contributions import AffineStep, ChannelContributions, find_affine_step
from netopsy.studies.facets.measure import Contributions, StrongStimuli, decided_by, record, stimulus_shares
from networks import shipped

SIZE = 12


class Branches(nn.Module):
    """Batch norms, a join of channels, a sum with a shortcut, pools, and a linear head over a map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(8, 5, 1), nn.BatchNorm2d(5), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(8, 7, 3, padding=1, groups=1), nn.BatchNorm2d(7), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.joined = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, stride=1, bias=False), nn.BatchNorm2d(12))
        self.last = nn.Conv2d(12, 6, 3, padding=1, dilation=1)
        self.act = nn.GELU()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = F.relu(self.joined(x) + x)
        x = self.pool(F.dropout(x, training=self.training))
        x = self.act(self.last(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    module = Branches()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return Network("branches", module, Preprocessing(size=(SIZE, SIZE)))


def measured(network: Network, unit: str, images: Tensor) -> tuple[AffineStep, ChannelContributions, dict[str, Tensor]]:
    drive = find_affine_step(network, find_unit(network, unit))
    assert isinstance(drive, AffineStep), drive
    walk = plan(network, (*drive.sources, drive.end.node))
    with torch.no_grad():
        values = walk.run({"input": images}, batch=len(images))
    return drive, drive.measure(values), values


@pytest.mark.parametrize(
    "unit",
    ["left.2:3", "right.2:6", "left.0:2", "cat:9", "relu:4", "relu:4:2:7", "pool:4", "act:5", "last:0:0:5", "head:2"],
)
def test_shares_add_up_to_the_pre_activation_less_the_same_constant(network: Network, unit: str) -> None:
    images = torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    drive, driven, values = measured(network, unit, images)
    space = values[drive.end.node].select(1, drive.end.channel).reshape(6, -1)
    assert torch.equal(driven.value, space.gather(1, driven.place[:, None])[:, 0])
    if drive.end.place is None:
        assert torch.equal(driven.value, space.amax(1))
    # the constant is what the step gives for no activation at all, at the same place
    silent = {name: torch.zeros_like(values[name]) for name in drive.sources}
    constant = drive.measure(silent, driven.place).value
    torch.testing.assert_close(driven.value - driven.shares.sum(1), constant, rtol=1e-4, atol=1e-5)
    assert driven.shares.shape == driven.strength.shape == (6, len(drive.inputs))


def test_shares_are_weights_times_activations_over_the_window(network: Network) -> None:
    """The joined convolution with its batch norm and shortcut, written out with unfolded windows."""
    images = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    drive, _, values = measured(network, "relu:4", images)
    driven = drive.measure(values, torch.tensor([0, 40, 70, 100, 143]))
    module = network.module
    assert isinstance(module, Branches)
    conv, norm = module.joined
    assert drive.sources == ("left.2", "right.2") and drive.end.node == "add"
    before = torch.cat([values["left.2"], values["right.2"]], 1)
    windows = F.unfold(before, 3, padding=1).reshape(5, 12, 9, -1)
    place = driven.place[:, None, None, None].expand(-1, 12, 9, 1)
    window = windows.gather(3, place)[..., 0]
    weight = conv.weight[4].reshape(12, 9) * norm.weight[4] / (norm.running_var[4] + norm.eps).sqrt()
    expected = (window * weight).sum(2).detach()
    expected[:, 4] += window[:, 4, 4]  # the shortcut reads the same channel at the same place
    torch.testing.assert_close(driven.shares, expected, rtol=1e-4, atol=1e-5)
    # rectified activations are never below the padding, so the largest of the window is the strength
    torch.testing.assert_close(driven.strength, window.amax(2))
    assert [str(u) for u in drive.inputs] == [f"left.2:{c}" for c in range(5)] + [f"right.2:{c}" for c in range(7)]


def test_a_unit_of_a_join_or_a_pool_is_found_where_it_was_made(network: Network) -> None:
    joined = find_affine_step(network, Unit("cat", 9))
    pooled = find_affine_step(network, Unit("pool", 4))
    assert isinstance(joined, AffineStep) and isinstance(pooled, AffineStep)
    assert joined.end == Unit("right.1", 4) and joined.sources == ("stem.2",)
    assert pooled.end == Unit("add", 4) and pooled.rectified


@pytest.mark.parametrize(("unit", "word"), [("stem.2:0", "image itself"), ("pool:4:1:1", "max_pool2d")])
def test_a_unit_without_an_affine_step_before_it_is_said_to_be(network: Network, unit: str, word: str) -> None:
    reason = find_affine_step(network, find_unit(network, unit))
    assert isinstance(reason, str) and word in reason and unit in reason


def test_the_weights_stay_as_they_were_and_gather_no_gradient(network: Network) -> None:
    before = network.digest
    measured(network, "relu:4", torch.randn(3, 3, SIZE, SIZE))
    del network.__dict__["digest"]
    assert network.digest == before and all(p.grad is None for p in network.module.parameters())


@pytest.mark.parametrize(
    ("source", "unit", "sources"),
    [
        ("netopsy:resnet20", "layer3.1.relu2:17", 2),
        pytest.param("netopsy:googlenet", "inception_4b.cat:200", 1, marks=pytest.mark.slow),
        pytest.param("netopsy:googlenet", "inception_4b.relu_1:3", 4, marks=pytest.mark.slow),
    ],
)
def test_the_identity_holds_on_networks_of_real_size(source: str, unit: str, sources: int) -> None:
    net = networks(source)
    images = torch.randn(2, *net.preprocessing.input_shape, generator=torch.Generator().manual_seed(3))
    drive, driven, values = measured(net, unit, images)
    assert len(drive.sources) == sources
    silent = {name: torch.zeros_like(values[name]) for name in drive.sources}
    constant = drive.measure(silent, driven.place).value
    torch.testing.assert_close(driven.shares.sum(1), driven.value - constant, rtol=1e-4, atol=1e-4)


_cache: dict[str, Network] = {}


def networks(source: str) -> Network:
    if source not in _cache:
        _cache[source] = load_network(source)
    return _cache[source]


class Tokens(nn.Module):
    """A patch embedding, then a perceptron over tokens behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 7, 4, 4), nn.LayerNorm(7)
        self.inner, self.outer, self.head = nn.Linear(7, 11), nn.Linear(11, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.outer(F.gelu(self.inner(self.norm(tokens))))
        return self.head(tokens.mean(1))


def test_tokens_are_places_and_their_features_inputs() -> None:
    net = Network("tokens", Tokens(), Preprocessing(size=(SIZE, SIZE)))
    images = torch.randn(4, 3, SIZE, SIZE)
    drive, driven, values = measured(net, "gelu:6", images)
    assert drive.sources == ("norm",) and drive.grid == (9,) and drive.end == Unit("inner", 6)
    module = net.module
    assert isinstance(module, Tokens)
    token = values["norm"][torch.arange(4), driven.place]
    torch.testing.assert_close(driven.shares, token * module.inner.weight[6].detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(driven.strength, token)


def noise(count: int = 70) -> Samples:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    return Samples("noise", ArrayImages(pixels), rng.integers(0, 4, count), ("a", "b", "c", "d"))


def test_the_passes_give_what_all_images_at_once_do(network: Network) -> None:
    samples, rng = noise(), np.random.default_rng(1)
    images = next(iter(samples.batches(network.preprocessing, 70))).images
    steps, whole = [], []
    for unit in ("relu:4", "act:2", "cat:8"):
        step, contributions, _ = measured(network, unit, images)
        steps.append(step)
        whole.append(contributions)
    visited = rng.permutation(70)[:50]
    recorded = record(network, samples, steps, visited, [np.array([2, 0])] * 3)
    decided = decided_by(network, samples, steps, visited)
    for own, expected, share in zip(recorded, whole, decided, strict=True):
        np.testing.assert_allclose(own.value, expected.value[visited], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own.inputs, expected.strength[visited][:, [2, 0]], rtol=1e-4, atol=1e-5)
        value, shares = expected.value[visited].double().numpy(), expected.shares[visited].double().numpy()
        covariance = [np.cov(value, column, bias=True)[0, 1] for column in shares.T]
        np.testing.assert_allclose(share, np.array(covariance) / value.var(), rtol=1e-3, atol=1e-4)
    stimuli = [StrongStimuli(np.zeros(9), torch.from_numpy(rng.permutation(70)[:9]), torch.arange(9)) for _ in steps]
    for step, own, shares in zip(steps, stimuli, stimulus_shares(network, samples, steps, stimuli), strict=True):
        values = plan(network, step.sources).run({"input": images}, batch=70)
        given = {name: v[own.images] for name, v in values.items()}
        np.testing.assert_allclose(shares, step.measure(given, own.places).shares, rtol=1e-4, atol=1e-5)


def recorded_unit() -> tuple[np.ndarray, np.ndarray]:
    """A unit of the shipped network and two of its inputs on 100 digits, in another order than theirs."""
    network, samples = shipped("a"), load_samples("digits", count=120)
    step = find_affine_step(network, Unit("block5.relu3", 6))
    assert isinstance(step, AffineStep)
    images = np.random.default_rng(0).permutation(120)[:100]
    (recording,) = record(network, samples, [step], images, [np.array([1, 3])])
    return recording.value, recording.inputs


def test_a_pass_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    begun: list[int] = []
    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, stop, every=0):
        recorded_unit()
    with workspace(tmp_path, lambda label, done, total: begun.append(done)):
        again = recorded_unit()
    assert begun[0] == 64 and all(np.array_equal(*pair) for pair in zip(recorded_unit(), again, strict=True))


@pytest.mark.slow
def test_a_pass_over_workers_is_one_pass() -> None:
    with netopsy.workers(2, threads=1):
        parts = recorded_unit()
    for one, other in zip(recorded_unit(), parts, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_parts_of_contributions_are_merged_in_order_and_a_step_can_be_sent(network: Network) -> None:
    step = find_affine_step(network, Unit("relu", 4))
    assert isinstance(step, AffineStep)
    values = torch.randn(12, 5, SIZE, SIZE).relu(), torch.randn(12, 7, SIZE, SIZE).relu()
    tallies = [Contributions(step, ("value", "shares"), places={2: 0, 5: 1, 9: 3}) for _ in range(3)]
    with torch.inference_mode():
        for tally, rows in zip(tallies, (slice(12), slice(4), slice(4, 12)), strict=True):
            tally.update(tuple(v.clone()[rows] for v in values), torch.arange(12)[rows])
    tallies[1].merge(Contributions(step, ("value", "shares")))
    tallies[1].merge(tallies[2])
    one, two = tallies[0].result(), tallies[1].result()
    assert one["value"].shape == (3,) and all(np.allclose(one[name], two[name]) for name in one)
    assert all(x.size == 0 for x in Contributions(step, ("value",)).result().values())
    zoo = find_affine_step(shipped("a"), Unit("block5.relu3", 6))
    sent = pickle.loads(pickle.dumps(zoo))
    assert isinstance(zoo, AffineStep) and sent.end == zoo.end and sent.sources == zoo.sources

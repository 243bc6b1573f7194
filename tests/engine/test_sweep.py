"""The exact sweep against the naive loop; that the network is left alone; that a killed sweep goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import reference_sweep as naive
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy.engine.sweep import plan
from netopsy.engine.sweep.edits import Edit, Replace, Shift, Variant
from netopsy.engine.sweep.full import predictions
from netopsy.engine.sweep.plan import EditGroup, make_plan
from netopsy.engine.sweep.rerun import Rerun
from netopsy.engine.sweep.sweep import score, sweep
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import workspace
from netopsy.errors import EditError, NetworkError, SettingsError
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.load import load_samples
from netopsy.samples.samples import Samples
from networks import shipped, trained_resnet20
from processes import run_process

SMALL = Preprocessing(size=(12, 12), mean=(0.5,) * 3, std=(0.25,) * 3)


class Residual(nn.Module):
    """Batch norm, a shortcut, a module called twice, a tied weight, in-place and functional activations, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.split = nn.Conv2d(8, 12, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm2 = nn.BatchNorm2d(12)
        self.first = nn.Linear(12, 12, bias=False)
        self.second = nn.Linear(12, 12, bias=False)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(12, 7)
        for norm in (self.norm, self.norm2):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = x + self.twice(F.relu(self.twice(x)))
        left, right = self.split(x).relu_().chunk(2, dim=1)
        x = torch.cat([right, left], 1)
        x = F.max_pool2d(self.norm2(self.depthwise(x)) + x, 2).relu()
        x = F.gelu(self.second(F.gelu(self.first(x.mean((2, 3))))))
        return self.fc(x)


def make_samples() -> Samples:
    """Pictures of many colours and contrasts."""
    lot = np.random.default_rng(0)
    colour, contrast = lot.uniform(0, 255, (90, 1, 1, 3)), lot.uniform(0, 80, (90, 1, 1, 1))
    pictures = (colour + contrast * lot.normal(size=(90, 12, 12, 3))).clip(0, 255).astype(np.uint8)
    return load_samples((pictures, np.arange(90) % 7))


def make_network() -> Network:
    """Random weights, with the classifier scaled so that every class is predicted now and then."""
    torch.manual_seed(1)
    network = Network("tests:residual", Residual(), SMALL)
    with torch.no_grad():
        out = network.module(naive.inputs(network, make_samples()))
        fc = network.module.fc
        fc.bias.copy_((fc.bias - out.mean(0)) / out.std(0))
        fc.weight.div_(out.std(0)[:, None])
    return network


@pytest.fixture
def network() -> Network:
    return make_network()


@pytest.fixture(scope="module")
def samples() -> Samples:
    return make_samples()


def noise(*tensors: str, seed: int = 0) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
    def direction(tensors_now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        lot = torch.Generator().manual_seed(seed)
        return {t: torch.randn(tensors_now[t].shape, generator=lot) * (tensors_now[t].std() + 0.1) for t in tensors}

    return direction


def rounded(*tensors: str, decimals: int) -> Replace:
    def function(tensors_now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {t: tensors_now[t].detach().round(decimals=decimals) for t in tensors}

    return Replace(tensors, function, f"round {decimals}")


def everything(network: Network) -> list[Variant]:
    """Every layer shifted and replaced, weights and biases, all together, and nothing."""
    variants = [Variant({"layer": "none", "how": ""}, None)]
    for layer in network.layers:
        both = tuple(name for name in (layer.weight, layer.bias) if name)
        edits: list[Edit] = [Shift(both, noise(*both), scale, "noise") for scale in (0.05, 0.3, 1.0)]
        edits += [Shift((layer.weight,), noise(layer.weight, seed=s), 0.4, f"noise {s}") for s in (1, 2)]
        edits += [rounded(layer.weight, decimals=d) for d in (0, 1)]
        variants += [
            Variant({"layer": layer.name, "how": f"{edit.key} {getattr(edit, 'scale', 0)}"}, edit) for edit in edits
        ]
    weights = tuple(layer.weight for layer in network.layers)
    variants.append(Variant({"layer": "all", "how": "shift"}, Shift(weights, noise(*weights), 0.2, "all")))
    variants.append(Variant({"layer": "all", "how": "round"}, rounded(*weights, decimals=1)))
    bias = network.layers[0].bias
    assert bias is not None
    variants.append(Variant({"layer": "bias", "how": "shift"}, Shift((bias,), noise(bias), 0.5, "bias")))
    norm = "norm.weight"
    variants.append(Variant({"layer": norm, "how": "shift"}, Shift((norm,), noise(norm), 0.5, "norm")))
    return variants


def assert_same_predictions(network: Network, samples: Samples, variants: list[Variant]) -> None:
    images = naive.inputs(network, samples)
    expected = torch.stack([naive.outputs(network, variant, images).argmax(1) for variant in variants])
    assert torch.equal(predictions(network, samples, variants).long(), expected)
    assert len(expected.unique(dim=0)) > len(variants) // 2  # the edits are not without effect


def test_every_edit_of_every_layer_predicts_as_the_naive_loop(network: Network, samples: Samples) -> None:
    variants = everything(network)
    assert_same_predictions(network, samples, variants)
    groups = make_plan(network, variants).groups
    assert any(group.linear for group in groups)  # both ways are taken
    assert any(group.head for group in groups)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_scores_are_those_of_the_naive_loop(network: Network, samples: Samples, batch_size: int) -> None:
    variants = everything(network)[:12]
    table = sweep(network, samples, variants, batch_size=batch_size)
    assert table["how"].to_list() == [variant.settings["how"] for variant in variants]
    for row, expected in zip(table.iter_rows(named=True), naive.scores(network, samples, variants), strict=True):
        assert {k: row[k] for k in expected} == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert row["images"] == 90
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
        assert row["top1_low"] <= row["top1"] <= row["top1_high"]


def test_shipped_network_with_noise_predicts_as_the_naive_loop() -> None:
    network, samples = shipped("a"), load_samples("digits").subset(150)
    layers = network.layers[::4]
    shifts = [
        Variant({"layer": layer.name, "strength": s}, Shift((layer.weight,), noise(layer.weight), s, "n"))
        for layer in layers
        for s in (0.1, 1.0, 3.0)
    ]
    assert_same_predictions(network, samples, shifts)


@pytest.mark.real
def test_cifar_resnet_with_noise_predicts_as_the_naive_loop(shared: Path, tmp_path: Path) -> None:
    packed = tmp_path / "cifar10.npz"
    subprocess.run([sys.executable, shared / "data/unpack.py", "cifar10", "test", packed, "--sheets", "1"], check=True)
    network = trained_resnet20(shared)
    samples = load_samples(packed).subset(60)
    shifts = [
        Variant({"layer": layer.name, "strength": s}, Shift((layer.weight,), noise(layer.weight), s, "n"))
        for layer in network.layers
        for s in (0.3,)
    ]
    assert_same_predictions(network, samples, shifts)


def test_network_is_bit_identical_afterwards_also_after_an_error(network: Network, samples: Samples) -> None:
    before = {name: tensor.clone() for name, tensor in network.tensors.items()}

    def in_place(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"stem.weight": tensors["stem.weight"].mul_(2)}

    def failing(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors["fc.weight"].zero_()
        raise RuntimeError("no")

    sweep(network, samples, [*everything(network), Variant({}, Replace(("stem.weight",), in_place, "x2"))])
    with pytest.raises(RuntimeError, match="no"):
        sweep(network, samples, [*everything(network), Variant({}, Replace(("fc.weight",), failing, "fails"))])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.tensors.items())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Shift(("stem.weight",), noise("stem.weight"), 0.0, "n"), "layer=stem, strength=0.* changes no weight"),
        (Replace(("stem.weight",), lambda own: {"stem.weight": own["stem.weight"]}, "same"), "changes no weight"),
        (Shift(("stem.wait",), noise("stem.weight"), 1.0, "n"), "nearest: stem.weight"),
        (Replace(("stem.weight",), lambda own: {"stem.weight": own["stem.bias"]}, "b"), "must stay"),
        (Replace(("stem.weight",), lambda own: {}, "b"), "must give"),
        (Replace((), lambda own: {}, "b"), "names no tensors"),
    ],
)
def test_wrong_edits_are_refused(network: Network, samples: Samples, edit: Edit, message: str) -> None:
    with pytest.raises(EditError, match=message):
        sweep(network, samples, [Variant({"layer": "stem", "strength": 0}, edit)])


def test_wrong_settings_are_refused(network: Network, samples: Samples) -> None:
    with pytest.raises(SettingsError, match="precision"):
        sweep(network, samples, [Variant({}, None)], precision=0)
    with pytest.raises(SettingsError, match="batch size"):
        sweep(network, samples, [Variant({}, None)], batch_size=0)
    with pytest.raises(NetworkError, match="one score a class"):
        score(Network("maps", nn.Sequential(nn.Conv2d(3, 4, 1)), SMALL), samples)


def test_outputs_that_are_not_finite_are_wrong(network: Network, samples: Samples) -> None:
    def scaled(factor: float) -> Variant:  # of a weight that two layers in a row share
        edit = Replace(
            ("first.weight",), lambda tensors: {"first.weight": tensors["first.weight"] * factor}, str(factor)
        )
        return Variant({"factor": factor}, edit)

    table = sweep(network, samples, [Variant({"factor": 1.0}, None), scaled(1e30), scaled(-1e35), scaled(1e3)])
    for column in ("top1", "top5", "agreement"):
        assert table[column].to_list()[1:3] == [0.0, 0.0]
    assert table["loss"].to_list()[1:3] == [float("inf")] * 2
    assert table["drop"][1] == table["top1"][0]
    for factor in (float("nan"), float("inf")):
        with pytest.raises(EditError, match="NaN or infinite"):
            sweep(network, samples, [scaled(factor)])


def test_score_is_the_unedited_row(network: Network, samples: Samples) -> None:
    (row,) = score(network, samples).iter_rows(named=True)
    (expected,) = naive.scores(network, samples, [Variant({}, None)])
    assert {k: row[k] for k in expected} == pytest.approx(expected)
    assert row["agreement"] == 1 and row["drop"] == 0


def test_several_labels_count_any_of_them_as_right(network: Network) -> None:
    single = make_samples()
    pictures = np.stack([single.image(i) for i in range(40)])
    labels = (np.random.default_rng(3).random((40, 7)) < 0.3).astype(np.float32)
    samples = load_samples((pictures, labels))
    assert samples.multilabel
    out = naive.outputs(network, Variant({}, None), naive.inputs(network, samples))
    (row,) = score(network, samples).iter_rows(named=True)
    targets = torch.from_numpy(labels)
    assert row["top1"] == pytest.approx(targets[range(40), out.argmax(1)].mean().item())
    best = out.topk(5).indices
    assert row["top5"] == pytest.approx((targets.gather(1, best).amax(1)).mean().item())
    p = out.double().sigmoid()
    entropy = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean().item()
    assert row["loss"] == pytest.approx(entropy, rel=1e-5)


def test_a_parameter_that_cannot_reach_the_output_changes_nothing(samples: Samples) -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.spare = nn.Conv2d(3, 7, 3), nn.Conv2d(3, 7, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3))

    edit = Shift(("spare.weight",), noise("spare.weight"), 1.0, "n")
    table = sweep(Network("spare", Spare(), SMALL), samples, [Variant({}, edit)])
    assert table["agreement"][0] == 1


def count_work(patch: pytest.MonkeyPatch, log: Path, then: Callable[[], object]) -> None:
    """Blocks of 30 images, a checkpoint after each group, and for each group that is run a line in `log`: the outputs
    that it makes. Then `then` is called.
    """
    plain, own = Checkpoint.__init__, Rerun._outputs

    def outputs(self: Rerun, group: EditGroup, members: list[int], held: Mapping[str, Tensor], n: int) -> object:
        result = own(self, group, members, held, n)
        with log.open("a") as file:
            file.write(f"{len(members) * n}\n")
        then()
        return result

    patch.setattr(plan, "BLOCK_IMAGES", 30)
    patch.setattr(Checkpoint, "__init__", lambda self, path, every=0.0: plain(self, path, 0.0))
    patch.setattr(Rerun, "_outputs", outputs)


def sweep_everything(
    folder: Path, log: Path, precision: float | None, then: Callable[[], object] = bool
) -> pl.DataFrame:
    with pytest.MonkeyPatch.context() as patch, workspace(folder):
        count_work(patch, log, then)
        network = make_network()
        return sweep(network, make_samples(), everything(network), precision=precision)


KILLED = """
import os, signal, sys
from pathlib import Path
import test_sweep as here
groups = iter(range(20))
die = lambda: next(groups, None) is None and os.kill(os.getpid(), signal.SIGKILL)
here.sweep_everything(Path(sys.argv[1]), Path(sys.argv[2]), None, die)
"""


@pytest.mark.parametrize(("precision", "ending"), [(None, "killed"), (1.0, "interrupted")])
def test_a_stopped_sweep_goes_on_without_redoing_finished_work(
    tmp_path: Path, precision: float | None, ending: str
) -> None:
    folder, log, other = tmp_path / "work", tmp_path / "log", tmp_path / "other.log"
    if ending == "killed":
        killed = run_process(KILLED, folder, log)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    else:

        def interrupt() -> None:
            if len(log.read_text().split()) == 21:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep_everything(folder, log, precision, interrupt)
    assert len(log.read_text().split()) == 21
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, again = (sweep_everything(*at, precision) for at in ((tmp_path / "whole", other), (folder, log)))
        done, needed = ([int(n) for n in path.read_text().split()] for path in (log, other))
        assert len(needed) > 30
        assert sum(done) - sum(needed) <= 30 * 8  # at most the one group in hand: its variants on one block
        assert whole.equals(again)
        assert sweep_everything(folder, log, precision).equals(whole)
    finally:
        torch.set_num_threads(threads)
    assert len(log.read_text().split()) == len(done)  # a finished sweep runs nothing

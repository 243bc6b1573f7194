"""One pass, many tallies: against forward hooks on the plain module, under interruption, and in bounded memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference_tallies import moments, zeros
from torch import Tensor, nn

from netopsy import Network, Preprocessing, Samples, observe, workspace
from netopsy.engine.observe.observe import default_batch_size
from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.samples.images import ArrayImages
from netopsy.tallies.histogram import Histogram
from netopsy.tallies.moments import Moments
from netopsy.tallies.sparsity import ZeroShare


class Branching(nn.Module):
    """A residual block with in-place ReLUs, one module called twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv1(x)))
        x = self.relu(self.conv2(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def network() -> Network:
    return Network("branching", Branching(), Preprocessing(size=(12, 12)))


@pytest.fixture
def samples() -> Samples:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (50, 12, 12, 3), np.uint8)
    return Samples("noise", ArrayImages(pixels), generator.integers(0, 4, 50), ("a", "b", "c", "d"))


class Order(Tally):
    """The samples seen, in order; and how often each value was shown."""

    def __init__(self) -> None:
        self.seen: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        assert len(values) == len(indices)
        self.seen = indices.clone() if self.seen is None else torch.cat([self.seen, indices])

    def merge(self, other: Order) -> None:
        raise NotImplementedError

    def result(self) -> list[int]:
        return [] if self.seen is None else self.seen.tolist()


def hooked(network: Network, samples: Samples) -> dict[str, Tensor]:
    """Values of the plain module, taken by its own code written out."""
    module = network.module
    assert isinstance(module, Branching)
    (batch,) = samples.batches(network.preprocessing, len(samples))
    with torch.no_grad():
        conv1 = module.conv1(batch.images)
        first = module.bn(conv1).relu()
        second = (module.conv2(first) + first).relu()
        return {"conv1": conv1, "relu": first, "relu_1": second, "head": module.head(second.mean((2, 3)))}


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64, None])
def test_every_node_is_seen_as_the_plain_module_computes_it(
    network: Network, samples: Samples, batch_size: int | None
) -> None:
    expected = hooked(network, samples)
    tallies: dict[str, tuple[str, Tally]] = {}
    for node in expected:
        tallies |= {f"{node} m": (node, Moments(4)), f"{node} z": (node, ZeroShare())}
        tallies |= {f"{node} h": (node, Histogram(None))}
    results = observe(network, samples, tallies, batch_size=batch_size)
    assert list(results) == list(tallies)
    for node, values in expected.items():
        truth, result = moments(values), results[f"{node} m"]
        np.testing.assert_allclose(result.mean, truth["mean"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(result.variance, truth["variance"], rtol=1e-4)
        np.testing.assert_allclose(result.max, truth["max"], rtol=1e-5, atol=1e-6)
        assert results[f"{node} z"].zeros.tolist() == zeros(values)
        assert int(results[f"{node} h"].count.sum()) == values.numel()
        at_zero = results[f"{node} h"].count[results[f"{node} h"].left == 0].sum()
        assert int(at_zero) == int((values == 0).sum())


def test_each_sample_is_shown_once_in_order(network: Network, samples: Samples) -> None:
    results = observe(network, samples, {"a": ("input", Order()), "b": ("head", Order())}, batch_size=8)
    assert results == {"a": list(range(50)), "b": list(range(50))}


def test_layers_and_modules_name_nodes_too(network: Network, samples: Samples) -> None:
    results = observe(network, samples, {"layer": ("conv2", Moments()), "module": ("bn", Moments())})
    assert len(results["layer"].mean) == len(results["module"].mean) == 6


def test_nodes_that_nobody_watches_are_not_run(network: Network, samples: Samples) -> None:
    assert network.nodes
    network.module.get_parameter("head.weight").data = torch.ones(4, 5)  # whoever runs the head now, fails
    observe(network, samples, {"z": ("relu", ZeroShare())})
    with pytest.raises(RuntimeError):
        observe(network, samples, {"z": ("head", ZeroShare())})


def test_network_and_tallies_are_left_as_they_were(network: Network, samples: Samples) -> None:
    before, tally = network.digest, Moments()
    results = [observe(network, samples, {"m": ("relu", tally)})["m"] for _ in range(2)]
    fresh = Network("again", network.module, network.preprocessing).digest
    assert fresh == before and tally.result().count == 0 and not network.module.training
    assert torch.equal(results[0].mean, results[1].mean)


class Failing(Order):
    def update(self, values: Tensor, indices: Tensor) -> None:
        raise ArithmeticError("no")


def test_weights_survive_an_exception(network: Network, samples: Samples) -> None:
    before = {name: tensor.clone() for name, tensor in network.tensors.items()}
    with pytest.raises(ArithmeticError):
        observe(network, samples, {"f": ("relu_1", Failing())})
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.tensors.items())


def test_errors_say_what_to_give(network: Network, samples: Samples) -> None:
    with pytest.raises(UnknownLayer, match="no node 'rleu' in branching; nearest: relu"):
        observe(network, samples, {"a": ("rleu", ZeroShare())})
    with pytest.raises(SettingsError, match="no tally to count"):
        observe(network, samples, {})
    with pytest.raises(SettingsError, match=r"tally 'a' is .* give \(node name, tally\)"):
        observe(network, samples, {"a": ZeroShare()})  # type: ignore[dict-item]
    with pytest.raises(SettingsError, match="batch size 0"):
        observe(network, samples, {"a": ("relu", ZeroShare())}, batch_size=0)


def test_batches_shrink_as_activations_grow(network: Network) -> None:
    large = Network("large", nn.Sequential(nn.Conv2d(3, 64, 3)), Preprocessing(size=(258, 258)))
    assert default_batch_size(network) == 32 and default_batch_size(large) == 1


def test_progress_runs_from_nothing_to_all(network: Network, samples: Samples) -> None:
    calls: list[tuple[str, int, int]] = []
    with workspace(None, lambda *call: calls.append(call)):
        observe(network, samples, {"a": ("relu", ZeroShare())}, batch_size=20)
    assert calls == [("observe", done, 50) for done in (0, 20, 40, 50)]


class Stop(Exception):
    pass


def stopping(at: int) -> Callable[[str, int, int], None]:
    def progress(label: str, done: int, total: int) -> None:
        if done >= at:
            raise Stop

    return progress


TALLIES: dict[str, tuple[str, Tally]] = {
    "m": ("relu", Moments(4)),
    "z": ("relu_1", ZeroShare()),
    "h": ("conv1", Histogram(32)),
    "o": ("head", Order()),
}


def check_equal(one: dict, other: dict) -> None:
    for name in ("m", "z", "h"):
        for key, value in vars(one[name]).items():
            equal = (
                torch.equal(value, vars(other[name])[key])
                if isinstance(value, Tensor)
                else value == vars(other[name])[key]
            )
            assert equal, (name, key)
    assert one["o"] == other["o"]


def test_an_interrupted_pass_goes_on_where_it_was(network: Network, samples: Samples, tmp_path: Path) -> None:
    whole = observe(network, samples, TALLIES, batch_size=6)
    with pytest.raises(Stop), workspace(tmp_path, stopping(30), every=0):
        observe(network, samples, TALLIES, batch_size=6)
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        check_equal(whole, observe(network, samples, TALLIES, batch_size=6))
        assert calls[0] == 30
        calls.clear()
        check_equal(whole, observe(network, samples, TALLIES, batch_size=6))
        assert set(calls) == {50}, "a finished pass was run again"


def test_other_work_takes_no_checkpoint_up(network: Network, samples: Samples, tmp_path: Path) -> None:
    calls: list[int] = []
    with workspace(tmp_path, lambda _label, done, _total: calls.append(done)):
        observe(network, samples, {"a": ("relu", ZeroShare())}, batch_size=25)
        changes = [
            lambda: observe(network, samples, {"a": ("relu_1", ZeroShare())}, batch_size=25),
            lambda: observe(network, samples, {"a": ("relu", ZeroShare(0.1))}, batch_size=25),
            lambda: observe(network, samples, {"a": ("relu", Moments())}, batch_size=25),
            lambda: observe(network, samples, {"a": ("relu", ZeroShare())}, batch_size=10),
            lambda: observe(network, samples.subset(40), {"a": ("relu", ZeroShare())}, batch_size=25),
            lambda: observe(
                Network("x", network.module, Preprocessing(size=(12, 12), scale=1.0)),
                samples,
                {"a": ("relu", ZeroShare())},
                batch_size=25,
            ),
            lambda: observe(
                Network("x", Branching(), network.preprocessing), samples, {"a": ("relu", ZeroShare())}, batch_size=25
            ),
        ]
        for change in changes:
            calls.clear()
            change()
            assert calls[0] == 0


SCRIPT = """
import sys, time
import numpy as np, torch
from netopsy import Network, Preprocessing, Samples, observe, workspace
from netopsy.tallies import Moments
from netopsy.samples.images import ArrayImages
torch.manual_seed(0); torch.set_num_threads(1)
module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
pixels = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
samples = Samples("noise", ArrayImages(pixels), np.zeros(200, np.int64), ("a",))
def progress(label, done, total):
    print("done", done, flush=True)
    time.sleep(float(sys.argv[2]))
with workspace(sys.argv[1], progress, every=0):
    result = observe(Network("n", module, Preprocessing(size=(8, 8))), samples, {"m": ("1", Moments(4))}, batch_size=10)
figures = torch.stack([result["m"].mean, result["m"].variance, result["m"].kurtosis])
print("result", [x.hex() for x in figures.flatten().tolist()])
"""


def run_script(folder: Path, pause: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    first, whole = run_script(tmp_path / "killed", 0.05), run_script(tmp_path / "whole", 0)
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("done") and int(line.split()[1]) >= 100:
            os.kill(first.pid, signal.SIGKILL)
            break
    assert first.wait(60) == -signal.SIGKILL
    again = run_script(tmp_path / "killed", 0)
    (resumed, _), (uninterrupted, _) = again.communicate(timeout=120), whole.communicate(timeout=120)
    assert resumed.splitlines()[0] in ("done 100", "done 110")
    assert uninterrupted.splitlines()[0] == "done 0"
    assert resumed.splitlines()[-1] == uninterrupted.splitlines()[-1] != ""


MEMORY = """
import resource, sys
import numpy as np, torch
from netopsy import Network, Preprocessing, Samples, observe
from netopsy.tallies import Histogram, Moments, ZeroShare
torch.set_num_threads(1)
class Same:
    "Pictures that are all one array: memory grows only if observe keeps something."
    workers = 1
    def __init__(self, n): self.n, self.one = n, np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    def __len__(self): return self.n
    def load(self, rows, preprocessing): return self.one[rows % 64]
count = int(sys.argv[1])
samples = Samples("same", Same(count), np.zeros(count, np.int64), ("a",))
module = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU())
tallies = {"m": ("1", Moments(4)), "z": ("1", ZeroShare()), "h": ("1", Histogram())}
observe(Network("n", module, Preprocessing(size=(8, 8))), samples, tallies)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_memory_does_not_grow_with_the_samples() -> None:
    """Tenfold samples: activations alone would take 230 MB in the one case and 2.3 GB in the other."""
    runs = [
        subprocess.Popen([sys.executable, "-c", MEMORY, str(n)], stdout=subprocess.PIPE, text=True)
        for n in (5_000, 50_000)
    ]
    few, many = (int(run.communicate(timeout=300)[0]) for run in runs)
    assert many < 1.1 * few

"""One pass, many tallies: against forward hooks on the plain module, under interruption, and in bounded memory."""

from __future__ import annotations

import signal
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
from netopsy.tallies.moments import Histogram, Moments
from netopsy.tallies.sparsity import ZeroShare
from networks import branching, branching_values, noise_images
from processes import Stop, run_process, stopping


@pytest.fixture(scope="module")
def network() -> Network:
    return branching()


@pytest.fixture(scope="module")
def samples() -> Samples:
    return noise_images(50, 12, 4)


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


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64, None])
def test_every_node_is_seen_as_the_plain_module_computes_it(
    network: Network, samples: Samples, batch_size: int | None
) -> None:
    values = branching_values(network, samples, len(samples))
    expected = {name: values[name] for name in ("conv1", "relu", "relu_1", "head")}
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


def test_nodes_that_nobody_watches_are_not_run(samples: Samples) -> None:
    network = branching()
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
    with pytest.raises(UnknownLayer, match="no node 'rleu' in branching0; nearest: relu"):
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
            lambda: observe(branching(1), samples, {"a": ("relu", ZeroShare())}, batch_size=25),
        ]
        for change in changes:
            calls.clear()
            change()
            assert calls[0] == 0


def count_resumably(folder: Path, progress: Callable[[str, int, int], object]) -> list[Tensor]:
    with workspace(folder, progress, every=0):
        moments = observe(branching(), noise_images(200, 12, 4), {"m": ("relu", Moments(4))}, batch_size=10)["m"]
    return [moments.mean, moments.variance, moments.kurtosis]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import test_observe as here
torch.set_num_threads(1)
here.count_resumably(Path(sys.argv[1]), lambda label, done, total: done < 100 or os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    killed = run_process(KILLED, tmp_path / "killed")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    calls: list[int] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, whole = (
            count_resumably(tmp_path / folder, lambda _label, done, _total: calls.append(done))
            for folder in ("killed", "whole")
        )
    finally:
        torch.set_num_threads(threads)
    assert calls[0] in (90, 100) and calls[calls.index(200) + 1] == 0
    assert all(torch.equal(one, other) for one, other in zip(resumed, whole, strict=True))


MEMORY = """
import resource, sys
import numpy as np, torch
from netopsy import Network, Preprocessing, Samples, observe
from netopsy.tallies import Histogram, Moments, ZeroShare
class Same:
    "Pictures that are all one array: memory grows only if observe keeps something."
    workers = 1
    def __init__(self, n): self.n, self.one = n, np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    def __len__(self): return self.n
    def load(self, rows, preprocessing): return self.one[rows % 64]
module = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU())
network = Network("n", module, Preprocessing(size=(8, 8)))
for count in 2_000, 20_000:
    samples = Samples("same", Same(count), np.zeros(count, np.int64), ("a",))
    observe(network, samples, {"m": ("1", Moments(4)), "z": ("1", ZeroShare()), "h": ("1", Histogram())})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_memory_does_not_grow_with_the_samples() -> None:
    """Tenfold samples: activations alone would take 90 MB in the one case and 900 MB in the other."""
    done = run_process(MEMORY)
    few, many = map(int, done.stdout.split())
    assert many < 1.1 * few

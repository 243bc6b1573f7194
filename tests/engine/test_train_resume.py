"""A training that was stopped goes on to the same weights; several processes train as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference_train import Tiny
from test_train import SHORT, noise, same, tiny, weights

from netopsy import Network, Samples, workspace
from netopsy.deep_compression.compress import keep_share, share
from netopsy.engine.train.fit import fit
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.errors import SettingsError
from netopsy.weight_priors.training import LogPrior, Term

# killed at the first step of the third epoch
RECIPE = Recipe(
    epochs=4, batch_size=6, learning_rate=0.01, augment="crop+flip", pad=2, schedule="cosine", weight_decay=0.01
)


PRIOR = LogPrior((Term("conv.weight", "Laplace", None, 0.1, 0.2), Term("norm.weight", "normal", None, 1.0, 0.01)))


class Doubled(Tiny):
    """The same weights, and another function of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def everything() -> tuple[Network, Samples, dict[str, Any]]:
    """A training with dropout, batch norm, masks, tables, codebooks, a prior, a teacher and validation images."""
    network = tiny(dropout=0.3)
    mask = {"conv.weight": keep_share(network.tensors["conv.weight"], 0.5)}
    shared = {"fc.weight": share(network.tensors["fc.weight"], 8, mask=keep_share(network.tensors["fc.weight"], 0.5))}
    further = {"masks": mask, "shared": shared, "teacher": tiny(seed=4), "validation": noise(20, seed=2)}
    further |= {"codebooks": {"norm.weight": torch.linspace(0.9, 1.1, 9)}, "penalty": PRIOR}
    return network, noise(), further


def test_killed_in_the_middle_of_an_epoch_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    network, samples, further = everything()
    whole = fit(network, samples, RECIPE, **further)
    script = Path(__file__).with_name("train_and_die.py")
    killed = subprocess.run([sys.executable, script, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    (path,) = tmp_path.glob("fit-*.safetensors")
    assert len(Checkpoint(path).load()[1]["rows"]) == 2
    steps: list[int] = []
    threads = torch.get_num_threads()
    with workspace(tmp_path, lambda label, done, total: steps.append(done)):
        resumed = fit(network, samples, RECIPE, **further)
    assert min(steps) > 30 and max(steps) == 60
    if threads == 1:
        assert same(whole, resumed)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], value)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_interrupted_it_keeps_the_last_epoch_and_complete_it_is_not_repeated(tmp_path: Path, optimizer: str) -> None:
    network, samples = tiny(dropout=0.3), noise()
    recipe = replace(SHORT, epochs=3, optimizer=optimizer, learning_rate=0.01)
    whole = fit(network, samples, recipe)

    def interrupt(label: str, done: int, total: int) -> None:
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, interrupt):
        fit(network, samples, recipe)
    (path,) = tmp_path.iterdir()
    assert [row["epoch"] for row in Checkpoint(path).load()[1]["rows"]] == [1]
    reports: list[int] = []
    with workspace(tmp_path, lambda label, done, total: reports.append(done)):
        assert same(whole, fit(network, samples, recipe))
        assert reports
        reports.clear()
        assert same(whole, fit(network, samples, recipe))
    assert not reports
    state = Checkpoint(path).load()[1]
    assert set(state) == {"module", "tables", "rows"} and len(state["rows"]) == 3


def test_a_checkpoint_that_cannot_be_gone_on_from_is_begun_anew(tmp_path: Path) -> None:
    network, samples, recipe = tiny(), noise(), replace(SHORT, epochs=1)
    with workspace(tmp_path):
        whole = fit(network, samples, recipe)
        (path,) = tmp_path.iterdir()
        _, state = Checkpoint(path).load()
        Checkpoint(path).save(1, lambda: state | {"rows": []}, final=True)
        assert same(whole, fit(network, samples, recipe))


def test_a_copy_with_other_weights_exports_no_graph_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, samples, recipe = tiny(), noise(), replace(SHORT, epochs=1)
    other = network.with_tensors({"fc.bias": torch.ones(5)})
    alone = Network("alone", other.module, other.preprocessing)
    assert network.layers and alone.structure == network.structure and alone.layers == network.layers
    monkeypatch.setattr("netopsy.network.network.export_graph", lambda *given: pytest.fail("exported"))
    copied = network.with_tensors({"fc.bias": torch.ones(5)})
    assert copied.structure == alone.structure and copied.layers == alone.layers
    with workspace(tmp_path):
        fit(network, samples, recipe)
        fit(copied, samples, recipe)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_of_anything_else_or_damaged_is_not_taken_up(tmp_path: Path) -> None:
    network, samples, mask = tiny(), noise(), {"fc.weight": torch.ones(5, 72, dtype=torch.bool)}
    recipe = replace(SHORT, epochs=1)
    with workspace(tmp_path):
        first = fit(network, samples, recipe)
        fit(network, samples, replace(recipe, seed=1))
        mask["fc.weight"][0, 0] = False
        fit(network, samples, recipe, masks=mask)
        fit(network, samples, recipe, frozen=("conv",))
        fit(Network("tiny", Doubled(True, 0.0), network.preprocessing).with_tensors(network.tensors), samples, recipe)
        assert len(list(tmp_path.glob("fit-*.safetensors"))) == 5
        for path in tmp_path.iterdir():
            path.write_bytes(path.read_bytes()[:-100])
        assert same(first, fit(network, samples, recipe))


def test_the_momentum_of_pruned_weights_is_zero(tmp_path: Path) -> None:
    network, mask = tiny(), keep_share(tiny().tensors["fc.weight"], 0.5)

    def interrupt(label: str, done: int, total: int) -> None:
        if done == total:  # the checkpoint of a complete training has no momentum
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workspace(tmp_path, interrupt):
        fit(network, noise(), replace(SHORT, weight_decay=0.1), masks={"fc.weight": mask})
    (path,) = tmp_path.iterdir()
    buffers = [s["momentum_buffer"] for s in Checkpoint(path).load()[1]["optimizer"]["state"].values()]
    (momentum,) = (buffer for buffer in buffers if buffer.shape == (5, 72))
    assert (momentum[~mask] == 0).all() and (momentum[mask] != 0).all()


def test_divergence_keeps_the_last_good_epoch(tmp_path: Path) -> None:
    recipe = replace(SHORT, epochs=4, schedule="step", milestones=(0.5,), factor=1e30)
    with pytest.raises(SettingsError, match="state after epoch 2 is kept"), workspace(tmp_path):
        fit(tiny(norm=False), noise(), recipe)
    (path,) = tmp_path.iterdir()
    state = Checkpoint(path).load()[1]
    assert len(state["rows"]) == 2 and all(value.isfinite().all() for value in state["module"].values())


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    network, samples = tiny(norm=False), noise()
    mask = {"fc.weight": keep_share(network.tensors["fc.weight"], 0.5)}
    shared = {"conv.weight": share(network.tensors["conv.weight"], 8)}
    recipe = replace(SHORT, augment="crop+flip", pad=2, table_learning_rate=0.1)
    further = {
        "codebooks": {"conv.bias": torch.linspace(-0.1, 0.1, 65)},
        "penalty": LogPrior((Term("fc.weight", "skew normal", 2.0, 0.0, 0.3),)),
        "validation": samples,
    }
    one = fit(network, samples, recipe, masks=mask, shared=shared, **further)
    two = fit(network, samples, replace(recipe, devices=2), masks=mask, shared=shared, **further)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-4, atol=1e-6)
    for column in ("loss", "top1", "validation_loss"):
        assert one.table[column].to_list() == pytest.approx(two.table[column].to_list(), rel=1e-4)
    assert (weights(two)["fc.weight"][~mask["fc.weight"]] == 0).all()
    with pytest.raises(SettingsError, match="diverged"):
        fit(network, samples, replace(recipe, devices=2, learning_rate=1e30))


@pytest.mark.slow
def test_two_processes_keep_batch_norm_and_resume(tmp_path: Path) -> None:
    network, samples = tiny(), noise()
    recipe = replace(SHORT, devices=2)
    whole = fit(network, samples, recipe)
    with workspace(tmp_path):
        again = fit(network, samples, recipe)
        assert same(whole, again) and same(whole, fit(network, samples, recipe))
    moved = weights(whole)["norm.running_mean"]
    assert not torch.equal(moved, network.module.norm.running_mean)

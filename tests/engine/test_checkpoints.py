"""Checkpoints as people hold them: where the tensors are all there, they load, and what was chosen is reported."""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import pathlib
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from netopsy.errors import NetopsyWarning, SettingsError, WeightsError
from netopsy.network.network import Network
from netopsy.network.sources.load import load_network
from netopsy.network.weights.naming import effective_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Weights that no random initialisation of the default seed gives."""
    return {k: t.clone() for k, t in load_network("netopsy:resnet20", seed=5).module.state_dict().items()}


def quietly(*args: Any, **options: Any) -> Network:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetopsyWarning)
        return load_network(*args, **options)


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def other(state: State) -> State:
    """A second network of the same shape."""
    return {k: t + 1 if t.is_floating_point() else t for k, t in state.items()}


def infix(state: State, part: str) -> State:
    """Names with a wrapper's `part` inside: `layer1.0.conv1.weight` -> `layer1.part.0.conv1.weight`."""
    return {name.replace(".", f".{part}.", 1) if name.startswith("layer") else name: t for name, t in state.items()}


ONE = torch.zeros(1)
SHAPES: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {0: {"exp_avg": ONE}}}},
    "ema": lambda s: {"ema": s},
    "model_ema": lambda s: {"model": {"x": ONE}, "model_ema": s},
    "params_ema": lambda s: {"params_ema": s},
    "params": lambda s: {"params": s},
    "module": lambda s: {"module": s, "global_steps": 7},
    "net": lambda s: {"net": s, "acc": 0.9},
    "network": lambda s: {"network": s},
    "weights": lambda s: {"weights": s},
    "teacher": lambda s: {"teacher": under("backbone.", s)},
    "student": lambda s: {"student": under("module.backbone.", s)},
    "a nest of any name": lambda s: {"what_i_keep": s},
    "deeper nests": lambda s: {"checkpoint": {"best": {"model": s}}},
    "a list of one": lambda s: {"models": [s]},
    "tables a module": lambda s: nested(s),
    "backbone.": lambda s: under("backbone.", s),
    "encoder.": lambda s: under("encoder.", s),
    "module.": lambda s: under("module.", s),
    "model.model.": lambda s: under("model.model.", s),
    "_orig_mod.": lambda s: under("_orig_mod.", s),
    "_fsdp_wrapped_module.": lambda s: under("_fsdp_wrapped_module.", s),
    "module.encoder_q.": lambda s: {"state_dict": under("module.encoder_q.", s) | {"module.queue": torch.zeros(8, 4)}},
    "_forward_module.module.": lambda s: under("_forward_module.module.", s),
    "any.prefix.at.all.": lambda s: under("any.prefix.at.all.", s),
    "fsdp inside": lambda s: infix(s, "_fsdp_wrapped_module"),
    "compile inside": lambda s: infix(s, "_orig_mod"),
    "checkpointing inside": lambda s: infix(s, "_checkpoint_wrapped_module"),
    "parallel inside": lambda s: infix(s, "module"),
    "a head beside the backbone": lambda s: {k if k.startswith("linear") else f"backbone.{k}": t for k, t in s.items()},
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(4), **under("module.", s)},
    "counters of a profiler": lambda s: {**s, "total_ops": ONE, "total_params": ONE, "conv1.total_ops": ONE},
    "a criterion": lambda s: {**s, "criterion.weight": torch.ones(10), "loss_fn.centers": torch.zeros(10, 64)},
    "a lightning module": lambda s: {
        "state_dict": {**under("model.", s), "criterion.weight": torch.ones(10), "train_acc.tp": torch.zeros(10)},
        "pytorch-lightning_version": "2.0.0",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(16, 3, 3, 3)}}}],
        "hyper_parameters": {"lr": 0.1},
    },
    "no counts of batches": lambda s: {k: t for k, t in s.items() if "num_batches" not in k},
    "float16": lambda s: {k: t.half() if t.is_floating_point() else t for k, t in s.items()},
    "bfloat16": lambda s: {k: t.bfloat16() if t.is_floating_point() else t for k, t in s.items()},
    "parameters": lambda s: {k: nn.Parameter(t) if t.is_floating_point() else t for k, t in s.items()},
    "numpy arrays": lambda s: {k: t.numpy() for k, t in s.items()},
    "argparse.Namespace": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("/a/b"))},
    "numpy scalars": lambda s: {"model": s, "best": np.float64(0.9), "epoch": np.int64(3), "ok": np.bool_(True)},
    "numpy's generator": lambda s: {"model": s, "rng": np.random.RandomState(0).get_state(), "log": np.arange(3.0)},
    "defaultdict": lambda s: {"model": s, "log": collections.defaultdict(list, loss=[1.0])},
    "OrderedDict": lambda s: collections.OrderedDict(model=collections.OrderedDict(s)),
    "a date": lambda s: {"model": s, "when": datetime.datetime(2020, 1, 2), "took": datetime.timedelta(seconds=3)},
    "a namespace": lambda s: {"model": s, "config": types.SimpleNamespace(a={1, 2}, b=frozenset({3}), c=slice(1, 2))},
}
KNOWN_LOSS = {"float16": 1e-3, "bfloat16": 1e-2}


def nested(state: State) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, tensor in state.items():
        *path, last = name.split(".")
        table = tree
        for part in path:
            table = table.setdefault(part, {})
        table[last] = tensor
    return tree


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_checkpoint_loads(tmp_path: Path, state: State, name: str) -> None:
    torch.save(SHAPES[name](state), tmp_path / "w.pt")
    module = quietly("netopsy:resnet20", weights=tmp_path / "w.pt").module
    for key, tensor in module.state_dict().items():
        if "num_batches" not in key:
            torch.testing.assert_close(tensor, state[key], rtol=KNOWN_LOSS.get(name, 0), atol=KNOWN_LOSS.get(name, 0))


@pytest.mark.parametrize("name", ["model_ema", "backbone.", "counters of a profiler", "a criterion", "AveragedModel"])
def test_what_is_no_weight_does_not_keep_another_number_of_classes_from_loading(
    tmp_path: Path, state: State, name: str
) -> None:
    few = {**state, "linear.weight": torch.ones(7, 64), "linear.bias": torch.ones(7)}
    torch.save(SHAPES[name](few), tmp_path / "w.pt")
    network = quietly("netopsy:resnet20", weights=tmp_path / "w.pt")
    assert network.module.linear.weight.shape == (7, 64) and network.provenance["num_classes"].startswith("7, ")


def test_what_was_left_out_is_reported(tmp_path: Path, state: State) -> None:
    torch.save(SHAPES["counters of a profiler"](state), tmp_path / "w.pt")
    message = r"3 tensors of 'w.pt' .* were left out \(total_ops, total_params, conv1.total_ops\)"
    with pytest.warns(NetopsyWarning, match=message):
        network = load_network("netopsy:resnet20", weights=tmp_path / "w.pt")
    assert len(network.provenance["notes"]) == 1


@pytest.mark.parametrize(
    ("first", "second"), [("model", "model_ema"), ("student", "teacher"), ("state_dict", "ema_state_dict")]
)
def test_of_several_the_trained_one_is_taken_and_state_chooses(
    tmp_path: Path, state: State, first: str, second: str
) -> None:
    torch.save({second: under("module.", other(state)), first: under("module.", state)}, tmp_path / "w.pt")
    message = f"holds the network 2 times; the one under '{first}.module' was taken, state takes '{second}.module'"
    with pytest.warns(NetopsyWarning, match=message):
        network = load_network("netopsy:resnet20", weights=tmp_path / "w.pt")
    assert torch.equal(network.module.conv1.weight, state["conv1.weight"])
    for key in (second, f"{second}.module"):
        chosen = quietly("netopsy:resnet20", weights=tmp_path / "w.pt", state=key)
        assert torch.equal(chosen.module.conv1.weight, state["conv1.weight"] + 1)
    with pytest.raises(WeightsError, match=f"no state 'best' in 'w.pt'; it has: {second}, {first}"):
        load_network("netopsy:resnet20", weights=tmp_path / "w.pt", state="best")
    with pytest.raises(SettingsError, match="state 'best' chooses within a checkpoint"):
        load_network("netopsy:resnet20", state="best")


def test_two_equal_copies_are_no_choice(tmp_path: Path, state: State) -> None:
    torch.save({"model": state, "state_dict": dict(state)}, tmp_path / "w.pt")
    assert "notes" not in load_network("netopsy:resnet20", weights=tmp_path / "w.pt").provenance


def test_another_architecture_is_still_refused(tmp_path: Path, state: State) -> None:
    larger = load_network("netopsy:resnet32").module.state_dict()
    for content in (larger, {"model": under("module.", larger)}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=r"unexpected \(layer1.3.conv1.weight.*they fit netopsy:resnet32"):
            load_network("netopsy:resnet20", weights=tmp_path / "w.pt")
    torch.save({k: t for k, t in state.items() if not k.startswith("layer2")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"missing \(layer2"):
        load_network("netopsy:resnet20", weights=tmp_path / "w.pt")
    torch.save({**state, "cls_token": torch.zeros(1, 1, 64)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"1 unexpected \(cls_token\)"):
        load_network("netopsy:resnet20", weights=tmp_path / "w.pt")


def test_the_networks_own_prefix_may_be_missing(state: State) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = load_network("netopsy:resnet20").module

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    module = load_network(Wrapped(), weights=state).module
    assert torch.equal(module.body.conv1.weight, state["conv1.weight"])


def test_a_module_gives_its_weights(state: State) -> None:
    trained = load_network("netopsy:resnet20", seed=5).module
    module = load_network("netopsy:resnet20", weights=nn.DataParallel(trained)).module
    assert torch.equal(module.conv1.weight, state["conv1.weight"])


def test_shards_are_put_together(tmp_path: Path, state: State) -> None:
    halves = [dict(list(state.items())[::2]), dict(list(state.items())[1::2])]
    files = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for name, half in zip(files, halves, strict=True):
        save_file(half, tmp_path / name)
    where = {key: name for name, half in zip(files, halves, strict=True) for key in half}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert torch.equal(load_network("netopsy:resnet20", weights=index).module.conv1.weight, state["conv1.weight"])
    index.write_text(json.dumps({"weight_map": {"a": "../w.safetensors"}}))
    with pytest.raises(WeightsError, match="which is no file beside it"):
        load_network("netopsy:resnet20", weights=index)


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo netopsy-was-here > was-here",)


class Reads:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (types.SimpleNamespace(a=1), "a")


@pytest.mark.parametrize("thing", [Runs(), Reads(), nn.Linear(2, 2), print, np.array([{}], dtype=object)])
def test_nothing_else_is_unpickled(
    tmp_path: Path, state: State, thing: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": state, "thing": thing}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="holds Python objects, which Netopsy does not run"):
        load_network("netopsy:resnet20", weights=tmp_path / "w.pt")
    assert not (tmp_path / "was-here").exists()


def test_settings_of_other_libraries_are_passed_over(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EasyDict(dict):  # type: ignore[type-arg]
        """As the library of this name has it."""

    class DictConfig:
        """As OmegaConf has it."""

    for kind, home in ((EasyDict, "easydict"), (DictConfig, "omegaconf.dictconfig")):
        module = types.ModuleType(home)
        kind.__module__, kind.__qualname__ = home, kind.__name__
        setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, home, module)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    config = DictConfig()
    config.__dict__["_content"] = {"lr": 0.1}
    settings = EasyDict(lr=0.1)
    settings.__dict__["lr"] = 0.1
    torch.save({"model": state, "hyper_parameters": settings, "config": config}, tmp_path / "w.pt")
    for home in ("easydict", "omegaconf.dictconfig"):
        monkeypatch.setitem(sys.modules, home, None)
    module = load_network("netopsy:resnet20", weights=tmp_path / "w.pt").module
    assert torch.equal(module.conv1.weight, state["conv1.weight"])


def test_compiled_code_is_called_what_it_is(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    torch.jit.script(module).save(tmp_path / "script.pt")
    with pytest.raises(WeightsError, match=r"is a TorchScript archive.*torch.jit.load\('script.pt'\).state_dict\(\)"):
        load_network(module, weights=tmp_path / "script.pt")
    program = torch.export.export(module, (torch.zeros(2, 4),))
    torch.export.save(program, tmp_path / "p.pt2")
    with pytest.raises(WeightsError, match=r"is an exported program"):
        load_network(module, weights=tmp_path / "p.pt2")


def layers() -> dict[str, nn.Module]:
    return {
        "linear": nn.Linear(6, 4),
        "conv": nn.Conv2d(4, 6, 3),
        "square conv": nn.Conv2d(4, 4, 3),
        "transposed": nn.ConvTranspose2d(4, 6, 3),
        "square transposed": nn.ConvTranspose2d(4, 4, 3),
    }


PARTS: dict[str, Callable[[nn.Module], Any]] = {
    "prune": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "prune twice": lambda m: (prune.random_unstructured(m, "weight", 0.3), prune.ln_structured(m, "weight", 0.5, 2, 0)),
    "prune the bias": lambda m: prune.random_unstructured(m, "bias", 0.5),
    "old weight norm": lambda m: nn.utils.weight_norm(m),
    "old weight norm over all": lambda m: nn.utils.weight_norm(m, dim=None),
    "old weight norm of axis 1": lambda m: nn.utils.weight_norm(m, dim=1),
    "weight norm": lambda m: parametrizations.weight_norm(m),
    "weight norm of axis 1": lambda m: parametrizations.weight_norm(m, dim=1),
    "old spectral norm": lambda m: nn.utils.spectral_norm(m),
    "spectral norm": lambda m: parametrizations.spectral_norm(m, n_power_iterations=20),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", layers())
@pytest.mark.parametrize("how", PARTS)
def test_weights_in_parts_are_put_together(how: str, kind: str) -> None:
    torch.manual_seed(1)
    plain, layer = layers()[kind], layers()[kind]
    PARTS[how](layer)
    x = torch.randn(2, 6) if kind == "linear" else torch.randn(2, 4, 5, 5)
    for _ in range(40):  # spectral norm finds its vectors while it trains
        layer(x)
    layer.eval()
    whole = effective_weights(under("0.", layer.state_dict()))
    assert set(whole) == {"0.weight", "0.bias"}
    plain.load_state_dict({name.removeprefix("0."): tensor for name, tensor in whole.items()})
    torch.testing.assert_close(plain(x), layer(x), rtol=1e-5, atol=1e-5)


def test_a_masked_checkpoint_fits_the_plain_network(tmp_path: Path) -> None:
    trained = load_network("netopsy:lenet5", seed=5).module
    for layer in trained.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(layer, "weight", 0.9)
    torch.save({"model": under("module.", trained.state_dict())}, tmp_path / "w.pt")
    network = load_network("netopsy:lenet5", weights=tmp_path / "w.pt")
    x = torch.rand(2, *network.preprocessing.input_shape)
    assert torch.equal(network.module(x), trained.eval()(x))


def test_an_orthogonal_weight_alone_cannot_be_told() -> None:
    layer = parametrizations.orthogonal(nn.Linear(6, 6))
    with pytest.raises(WeightsError, match=r"'1.weight' is stored under an orthogonal parametrisation.*remove_param"):
        load_network(nn.Sequential(nn.Flatten(), nn.Linear(6, 6)), weights=under("1.", layer.state_dict()))


def test_tied_weights_that_a_file_contradicts() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x.flatten(1)))

    state = {name: tensor.clone() for name, tensor in Tied().state_dict().items()}
    load_network(Tied(), weights=state)
    state["b.weight"] += 1
    with pytest.raises(WeightsError, match=r"different values for 'a.weight' and 'b.weight', which are one tensor"):
        load_network(Tied(), weights=state)

"""Modules as people hold them: each loads, or is refused in one sentence that says what to give instead."""

from __future__ import annotations

import copy
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune

import netopsy
from netopsy.cli.main import main
from netopsy.errors import NetopsyError, NetopsyWarning, NetworkError, SettingsError
from netopsy.network.network import Network, tensor_state
from netopsy.network.sources.load import load_network

pytestmark = pytest.mark.filterwarnings("ignore")
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


class Caching(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        self.seen.append(self.last)
        return self.last


class Extra(Net):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None: ...


class Unusual(Net):
    """Has what cannot be copied, and a `train` that returns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.values = threading.Lock(), (i for i in range(3))

    def train(self, mode: bool = True) -> Any:
        super().train(mode)


class Wrapper(nn.Module):
    """A wrapper of one's own, with the signature that wrappers have."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inside = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inside(*args, **kwargs)


def changed(change: Callable[[Net], Any], make: Callable[[], nn.Module] = Net) -> nn.Module:
    module = make()
    change(module)  # type: ignore[arg-type]
    return module


def called(module: nn.Module) -> nn.Module:
    module(IMAGES)
    return module


def nested(wrap: Callable[[nn.Module], Any]) -> nn.Module:
    return changed(lambda net: setattr(net, "conv", wrap(net.conv)))


def fail(*_: Any) -> None:
    raise RuntimeError("a hook of the user's")


LOADS: dict[str, Callable[[], Any]] = {
    "plain, in training mode": Net,
    "freshly pruned": lambda: changed(lambda net: prune.l1_unstructured(net.fc, "weight", 0.9)),
    "caches activations": lambda: called(Caching()),
    "old weight norm": lambda: changed(lambda net: nn.utils.weight_norm(net.conv)),
    "old spectral norm": lambda: changed(lambda net: nn.utils.spectral_norm(net.conv)),
    "weight norm": lambda: changed(lambda net: parametrizations.weight_norm(net.conv)),
    "extra state": Extra,
    "locks and generators": Unusual,
    "DataParallel": lambda: nn.DataParallel(Net()),
    "DataParallel inside": lambda: nested(nn.DataParallel),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(Net()),
    "compiled": lambda: torch.compile(Net()),
    "compiled in place": lambda: changed(lambda net: net.compile()),
    "compiled inside": lambda: nested(torch.compile),
    "several wrappers": lambda: torch.compile(nn.DataParallel(torch.optim.swa_utils.AveragedModel(Net()))),
    "a wrapper of one's own": lambda: Wrapper(Net()),
    "symbolically traced": lambda: fx.symbolic_trace(Net()),
    "scripted": lambda: torch.jit.script(Net()),
    "traced": lambda: torch.jit.trace(Net().eval(), IMAGES, check_trace=False),
    "exported": lambda: torch.export.export(Net().eval(), (IMAGES,), dynamic_shapes=({0: torch.export.Dim("n")},)),
    "float16": lambda: Net().half(),
    "bfloat16": lambda: Net().bfloat16(),
    "float64": lambda: Net().double(),
    "made in inference mode": lambda: torch.inference_mode()(Net)(),
    "a hook that fails": lambda: changed(lambda net: net.conv.register_forward_hook(fail)),
    "a hook before that fails": lambda: changed(lambda net: net.register_forward_pre_hook(fail)),
    "without parameters": nn.Sequential,
}
EXPORTED = ("caches activations", "compiled inside", "a wrapper of one's own", "symbolically traced", "exported")
EXPORTED += ("scripted", "traced")


def open_network(module: Any) -> Network:
    return load_network(module, size=8, channels="L", mean=0, std=1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "compiled")) for name in LOADS]
)
def test_a_module_loads_and_stays_as_it_is(name: str) -> None:
    torch.manual_seed(1)
    given = LOADS[name]()
    parts = list(given.modules()) if isinstance(given, nn.Module) else []
    before = copy.deepcopy([dict(part.named_buffers(recurse=False)) for part in parts])
    weights = [[(key, p, p.detach().clone()) for key, p in part._parameters.items() if p is not None] for part in parts]
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks), part.training) for part in parts]
    drawn = torch.get_rng_state()
    network = open_network(given)
    if name in EXPORTED:
        assert network.classes == 10 and len(network.layers) == 2
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [(len(part._forward_hooks), len(part._forward_pre_hooks), part.training) for part in parts] == hooks
    for part, buffers, values in zip(parts, before, weights, strict=True):
        assert all(torch.equal(part._buffers[key], value) for key, value in buffers.items())  # type: ignore[arg-type]
        assert all(part._parameters[key] is p and torch.equal(p, value) for key, p, value in values)
    assert not any(part.training for part in network.module.modules())
    if isinstance(given, nn.Module) and "fails" not in name:
        given.eval()
        x = IMAGES.to(next(given.parameters(), IMAGES).dtype)
        with torch.no_grad():
            torch.testing.assert_close(network.module(IMAGES), given(x).float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("name", "message"),
    [("AveragedModel", "averaged weights that AveragedModel keeps"), ("a hook that fails", r"left out .*\(conv\)")],
)
def test_what_matters_of_an_unwrapping_is_reported(name: str, message: str) -> None:
    with pytest.warns(NetopsyWarning, match=message):
        open_network(LOADS[name]())


class One(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).view(1, -1))


class OneChecked(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            raise ValueError("one image please")
        return super().forward(x)


class First(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x))[0].flatten())


class Two(Net):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x) + y


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.max() > 1 else super().forward(x) * 2


def quantized(prepared_only: bool = False) -> nn.Module:
    ao = torch.ao.quantization
    module = nn.Sequential(
        ao.QuantStub(), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10), ao.DeQuantStub()
    ).eval()
    module.qconfig = ao.get_default_qconfig(
        "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "qnnpack"
    )  # type: ignore[assignment]
    ao.prepare(module, inplace=True)
    module(IMAGES)
    return module if prepared_only else ao.convert(module, inplace=True)


def quantized_graph() -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(Net().eval(), get_default_qconfig_mapping(), (IMAGES,))
    prepared(IMAGES)
    return convert_fx(prepared)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


class Packed(Tensor):
    """A tensor of another kind, as torchao's quantized ones are."""


def subclassed() -> nn.Module:
    def pack(net: Net) -> None:
        net.fc.weight = nn.Parameter(torch.Tensor._make_subclass(Packed, net.fc.weight.detach()), requires_grad=False)

    return changed(pack)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "quantize_dynamic": (
        lambda: torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, dtype=torch.qint8),
        "Net is quantized .'fc' is a .*give the float module",
    ),
    "quantized, static": (quantized, "is quantized .*give the float module"),
    "quantized, as a graph": (quantized_graph, "is quantized .*give the float module"),
    "prepared": (lambda: quantized(prepared_only=True), "is prepared for quantization .*give the float module"),
    "a tensor subclass": (subclassed, r"holds 'fc.weight' as a .*Packed.*give the module with float weights"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten()), "is lazy: '0.weight' has no shape until"),
    "scripted inside": (lambda: nested(torch.jit.script), "is TorchScript .'conv' is a"),
    "exported for one batch": (
        lambda: torch.export.export(Net().eval(), (IMAGES,)).module(),
        "traced for one batch size",
    ),
    "on the meta device": (on_meta, "has no values: 'conv.weight' is on the meta device"),
    "batch of one": (One, "takes a single image, but no batch of two"),
    "batch of one, checked": (OneChecked, "one image please. It takes a single image, but no batch of two"),
    "the first image alone": (First, r"an output of shape \(10\) for any number of images"),
    "two inputs": (Two, r"its forward pass takes x, y\. Give an example of a batch by name, as .*example="),
    "branching": (Branching, "must not branch on values"),
    "no forward": (lambda: nn.ModuleList([nn.Linear(2, 2)]), "has no forward"),
    "complex": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2, dtype=torch.complex64)), "of type complex64"),
    "a class": (lambda: Net, r"this is the class Net; give a module made of it: Net\(...\)"),
    "a function": (lambda: fail, "this is the function fail; give the module that it makes"),
    "a state dict": (lambda: Net().state_dict(), "this is a state dict, which says nothing of the architecture"),
    "a network": (lambda: load_network("netopsy:digits-a"), "is a network already"),
    "a path": (lambda: "nowhere/net.pt", "does not exist; give the path"),
    "a number": (lambda: 3, "this is a int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_cannot_be_examined_says_what_to_give_instead(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make, message = REFUSED[name]
    given = make()
    capfd.readouterr()
    with pytest.raises(NetopsyError, match=message) as caught:
        open_network(given).layers if not isinstance(given, str) else load_network(given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert not capfd.readouterr().err.strip()


def test_a_whole_module_in_a_file_is_refused(tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "net.pt")
    with pytest.raises(NetworkError, match=r"holds Python objects, which Netopsy does not run .'test_modules.Net'"):
        load_network(tmp_path / "net.pt")


def test_a_module_with_a_process_group_is_unwrapped(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        module = nn.parallel.DistributedDataParallel(Net())
        assert open_network(module).name == "Net"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "call",
    [
        netopsy.list_layers,
        netopsy.list_blocks,
        lambda net: netopsy.noise(net, None),
        lambda net: netopsy.parameters(net),
        lambda net: netopsy.examine(net),
        lambda net: netopsy.compress(net, "x.netopsy.safetensors"),
        lambda net: netopsy.observe(net, None, {}),
        lambda net: netopsy.sweep(net, None, []),
        lambda net: netopsy.score(net, None),
        lambda net: netopsy.fit(net, None),
        lambda net: netopsy.backproject(net, IMAGES, "fc:1"),
        lambda net: netopsy.correspondence(load_network("netopsy:digits-a"), None, other=net),
    ],
)
def test_every_function_that_takes_a_network_says_how_to_make_one(call: Callable[[Any], Any]) -> None:
    with pytest.raises(
        SettingsError, match=r"is a Net; give a network as load_network returns it: load_network\(module"
    ):
        call(Net())
    with pytest.raises(SettingsError, match=r"is a str; give .*: load_network\('netopsy:digits-a'\)"):
        call("netopsy:digits-a")


SCRIPT = """
import torch
from torch import nn
class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 4)
    def forward(self, x):
        return self.fc(x.flatten(1)) if x.max() > 1 else self.fc(-x.flatten(1))
def parallel():
    return nn.DataParallel(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
def averaged():
    return torch.optim.swa_utils.AveragedModel(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
"""


@pytest.mark.parametrize("factory", ["parallel", "averaged"])
def test_the_command_line_takes_wrappers_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], factory: str
) -> None:
    (tmp_path / "nets_of_mine.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("nets_of_mine", None)
    with warnings.catch_warnings():
        warnings.simplefilter("always", NetopsyWarning)
        main(["layers", f"nets_of_mine:{factory}", "--size", "8", "--channels", "L"])
    shown = capsys.readouterr()
    assert "1 layers hold 260 of 260" in shown.out
    assert len(shown.err.splitlines()) == (factory == "averaged")


def test_on_the_command_line_a_failed_export_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nets_of_mine.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("nets_of_mine", None)
    with pytest.raises(SystemExit) as ended:
        main(["layers", "nets_of_mine:Branching", "--size", "8", "--channels", "L"])
    written = capfd.readouterr().err
    assert ended.value.code == 2 and len(written.splitlines()) == 1, written
    assert "must not branch on values" in written


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([1 / 3], dtype=torch.float64),
        torch.tensor([[1 / 3, 2.0]], dtype=torch.float16),
        torch.tensor([1 / 3, -2.0, 1e30], dtype=torch.bfloat16),
        torch.tensor([1 / 3 + 2j], dtype=torch.complex64),
        torch.tensor([[1 / 3 - 2j, 1j]], dtype=torch.complex128),
        torch.tensor(1 / 3 + 2j, dtype=torch.complex64),
        torch.tensor(1 / 3, dtype=torch.float64),
        torch.tensor(1 / 3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor(True),
        *(torch.tensor([0, 1, 100], dtype=kind) for kind in (torch.uint8, torch.int8, torch.int16, torch.int32)),
        *(torch.tensor(7, dtype=kind) for kind in (torch.int64, torch.uint16, torch.uint32, torch.uint64)),
        torch.zeros(0, dtype=torch.float64),
    ],
    ids=lambda value: f"{value.dtype}-{value.ndim}".removeprefix("torch."),
)
def test_buffers_keep_their_type_through_compress_and_expand(tmp_path: Path, value: Tensor) -> None:
    module = Net()
    module.register_buffer("constant", value)
    network = open_network(module)
    assert tensor_state(network.module)["constant"].dtype == value.dtype
    path = netopsy.compress(network, tmp_path / "n.netopsy.safetensors")
    for state in (netopsy.expand(path), tensor_state(load_network(module, weights=path).module)):
        assert state["constant"].dtype == value.dtype and torch.equal(state["constant"], value)
        assert state["fc.bias"].dtype == torch.float32
    if value.dtype not in (torch.complex128,):
        netopsy.expand(path, tmp_path / "out.safetensors")


def test_of_float16_weights_the_buffers_of_that_type_become_float32_too() -> None:
    module = Net().half()
    module.register_buffer("constant", torch.tensor([1 / 3], dtype=torch.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NetopsyWarning)
        state = tensor_state(open_network(module).module)
    kinds = {name: tensor.dtype for name, tensor in state.items()}
    assert kinds["norm.running_mean"] == kinds["conv.weight"] == torch.float32 and kinds["constant"] == torch.float64


class Pair(nn.Module):
    """Embeddings and an LSTM beside a table; the vector goes through a view that names the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(11, 4), nn.LSTM(4, 5, 2, batch_first=True)
        self.table, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, tokens: Tensor, vector: Tensor) -> Tensor:
        states, _ = self.cell(self.embed(tokens))
        return self.head(states[:, -1] + self.table(vector.view(vector.shape[0], -1)))


PAIR = {"tokens": torch.randint(11, (2, 6)), "vector": torch.rand(2, 3)}


def traced(module: nn.Module) -> Any:
    return torch.jit.trace(module, tuple(PAIR.values()))


@pytest.mark.parametrize("make", [torch.jit.script, pytest.param(traced, marks=pytest.mark.slow)])
def test_torchscript_of_several_inputs_opens_in_memory_and_from_its_file(make: Any, tmp_path: Path) -> None:
    module = Pair().eval()
    script = make(module)
    script.save(tmp_path / "pair.ts")
    by_path = load_network(tmp_path / "pair.ts", example=PAIR)
    for source in (script, str(tmp_path / "pair.ts")):
        network = load_network(source, example=PAIR)
        assert network.digest == by_path.digest and by_path.name == "pair.ts"
        assert [entry.name for entry in network.signature.inputs] == ["tokens", "vector"]
        assert network.name in ("Pair", "pair.ts")
        assert {name for name, _ in network.module.named_parameters()} == dict(module.named_parameters()).keys()
        kinds = {layer.name: layer.kind for layer in network.layers}
        assert kinds["head"] == kinds["table"] == "linear" and "recurrent" in kinds.values()
        inputs = {"tokens": torch.randint(11, (5, 6)), "vector": torch.rand(5, 3)}
        with torch.no_grad():
            torch.testing.assert_close(network.graph(**inputs), module(**inputs))


def test_torchscript_is_copied_and_read_in_eval_mode() -> None:
    script = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)))
    network = load_network(script, example=torch.rand(2, 3))
    before = copy.deepcopy(script.state_dict())
    with torch.no_grad():
        network.module.get_parameter("0.weight").zero_()
    assert script.training and all(torch.equal(value, before[name]) for name, value in script.state_dict().items())


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        words: list[str] = []
        while x.sum() > 3 and len(words) < 5:
            words.append("more")
            x = x / 2
        return x * len(words)


def test_torchscript_without_a_graph_says_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"is TorchScript.*state_dict\(\) as weights, or .*\.pt2") as caught:
        load_network(torch.jit.script(Drawing()), example=torch.rand(2, 3))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    quantized(prepared_only=False)
    torch.jit.script(quantized()).save(tmp_path / "integers.pt")
    with pytest.raises(NetworkError, match=r"code that runs as soon as it is loaded.*give the float module"):
        load_network(tmp_path / "integers.pt")


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.LazyConv1d(4, 3), nn.LazyBatchNorm1d(), nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).flatten(1))


def test_a_lazy_module_takes_its_shapes_from_the_example_in_a_copy() -> None:
    module, batch = Lazy(), torch.rand(4, 2, 9)
    network = load_network(module, example=batch, seed=3)
    shapes = [tuple(network.tensors[layer.weight].shape) for layer in network.layers]
    assert shapes == [(4, 2, 3), (3, 28)]
    assert isinstance(module.conv.weight, nn.UninitializedParameter)
    assert int(network.module.get_buffer("norm.num_batches_tracked")) == 0
    again = load_network(module, example=batch, seed=3)
    assert all(map(torch.equal, tensor_state(network.module).values(), tensor_state(again.module).values()))
    state = tensor_state(network.module)
    filled = load_network(Lazy(), example=batch, weights=state)
    assert all(torch.equal(value, state[name]) for name, value in tensor_state(filled.module).items())
    with pytest.raises(NetworkError, match=r"is lazy: 'conv.weight' has no shape.*example=batch"):
        load_network(module)
    with pytest.raises(NetworkError, match="is lazy and cannot take the example"):
        load_network(module, example=torch.rand(4, 2, 9, 9, 9))


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("old", [True, False])
def test_recurrent_modules_load_with_norms_on_their_weights(recurrent: type[nn.Module], old: bool) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = recurrent(5, 6, batch_first=True), nn.Linear(6, 6)
            (nn.utils.spectral_norm if old else parametrizations.orthogonal)(self.head)
            (nn.utils.weight_norm if old else parametrizations.weight_norm)(self.cell, "weight_hh_l0")

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])

    module, x = Reader().eval(), torch.rand(3, 4, 5)
    network = load_network(module, example=x)
    with torch.no_grad():
        torch.testing.assert_close(network.graph(x), module(x))
    assert {"cell.weight_hh_l0", "head.weight"} <= dict(network.module.named_parameters()).keys()


def test_a_state_dict_of_parallel_training_fits_the_plain_module() -> None:
    trained = Net()
    state = nn.DataParallel(trained).state_dict()
    assert all(name.startswith("module.") for name in state)
    network = load_network(Net(), weights=state, size=8, channels="L")
    assert torch.equal(network.module.get_parameter("fc.weight"), trained.fc.weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_shared_weights_stay_one_tensor() -> None:
    network = load_network(Tied(), example=torch.randint(9, (2, 5)))
    assert network.module.head.weight is network.module.embed.weight
    assert sum(p.numel() for p in network.module.parameters()) == 36


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_computes_in_its_own_type_where_asked(kind: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Net().eval().to(kind)
    network = load_network(module, size=8, channels="L", dtype="own")
    assert {p.dtype for p in network.module.parameters()} == {kind}
    assert network.provenance["computed_in"] == f"{str(kind).removeprefix('torch.')}, the type of the weights"
    with torch.no_grad():
        assert torch.equal(network.graph(IMAGES.to(kind)), module(IMAGES.to(kind)))
    torch.save(module.state_dict(), tmp_path / "net.pt")
    filled = load_network(Net(), weights=tmp_path / "net.pt", size=8, channels="L", dtype="own")
    assert torch.equal(filled.module.get_parameter("fc.weight"), module.fc.weight)
    assert filled.module.get_parameter("fc.weight").dtype == kind
    images = torch.rand(40, 8, 8, generator=torch.Generator().manual_seed(1))
    samples = netopsy.load_samples((images.numpy(), [i % 10 for i in range(40)]))
    scores = netopsy.score(network, samples)
    with torch.no_grad():
        outputs = module(torch.cat([b.images for b in samples.batches(network.preprocessing, 40)]).to(kind))
    right = float((outputs.argmax(1) == torch.arange(40) % 10).double().mean())
    assert scores["top1"][0] == pytest.approx(right)
    for study in (netopsy.sparsity, netopsy.distributions, netopsy.noise):
        assert study(network, samples).tables


def test_types_are_float32_or_the_networks_own() -> None:
    with pytest.raises(SettingsError, match="dtype 'float16' must be float32, or own"):
        load_network(Net(), dtype="float16")  # type: ignore[call-overload]

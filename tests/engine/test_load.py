"""Sources, options and provenance of `load_network`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from netopsy.errors import NetopsyError, NetworkError, SettingsError, WeightsError
from netopsy.network.capture import call
from netopsy.network.graph import name_outputs
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.sources.load import load_network
from netopsy.samples.load import load_samples
from netopsy.samples.tasks import find_task
from netopsy.settings import stream


def alike(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_torchvision_network_and_preset_are_torchvisions_own() -> None:
    network = load_network("torchvision:ResNet18", seed=3)
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    torch.manual_seed(stream("weights", 3))
    assert alike(network.module, torchvision.models.resnet18())
    assert not network.module.training
    p = network.preprocessing
    assert (p.size, p.resize, p.mean, p.std) == (
        (224, 224),
        preset.resize_size[0],
        tuple(preset.mean),
        tuple(preset.std),
    )
    assert network.provenance["weights"] == "random" and network.provenance["seed"] == 3
    assert network.provenance["preprocessing"]["from"] == "torchvision's ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize("name", ["inception_v3", "efficientnet_b3", "vit_h_14", "swin_v2_t", "regnet_y_128gf"])
def test_torchvision_presets_fit_the_architecture_as_it_is_built(name: str) -> None:
    from netopsy.network.sources.torchvision import TorchvisionSource

    preprocessing, _ = TorchvisionSource(name).preprocessing(nn.Identity(), None, None)
    presets = [entry.transforms() for entry in torchvision.models.get_model_weights(name)]
    modes = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
    assert (preprocessing.size[0], preprocessing.resize, preprocessing.interpolation) in [
        (p.crop_size[0], p.resize_size[0], modes[p.interpolation]) for p in presets
    ]
    assert preprocessing.size[0] == min(p.crop_size[0] for p in presets)


def test_a_file_that_bears_the_name_of_torchvisions_weights_brings_their_preset(tmp_path: Path) -> None:
    for entry in torchvision.models.MobileNet_V2_Weights:
        path = tmp_path / Path(entry.url).name
        torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
        network = load_network("torchvision:mobilenet_v2", weights=path)
        assert network.preprocessing.resize == entry.transforms().resize_size[0]
        assert network.provenance["preprocessing"]["from"] == f"torchvision's {entry}"


def test_auxiliary_heads_are_left_out_and_torchvisions_weights_rescale_inside(tmp_path: Path) -> None:
    whole = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    network = load_network("torchvision:googlenet", weights=tmp_path / "w.pth")
    assert network.parameters == 6_624_904  # torchvision's figure for GoogLeNet_Weights
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(network.module(x), whole.eval()(x))
        whole.transform_input = True
        assert torch.equal(network.module(x), whole(x))
        plain = load_network("torchvision:googlenet", weights=tmp_path / "w.pth", transform_input=False)
        assert not torch.allclose(network.module(x), plain.module(x))


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.a1_in1k",
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.slow),
        "test_vit",
    ],
)
def test_timm_preprocessing_is_that_of_timms_own_transform(name: str) -> None:
    network = load_network(f"timm:{name}", seed=2)
    torch.manual_seed(stream("weights", 2))
    module = timm.create_model(name)
    assert alike(network.module, module)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=module))
    resize, crop, _, normalise = transform.transforms
    p = network.preprocessing
    assert (p.resize, p.size, p.interpolation) == (resize.size, tuple(crop.size), resize.interpolation.value)
    assert p.mean == pytest.approx(normalise.mean.tolist()) and p.std == pytest.approx(normalise.std.tolist())


def test_timm_options_and_sizes() -> None:
    network = load_network("timm:vit_tiny_patch16_224", size=160, num_classes=7)
    assert network.module(torch.zeros(1, 3, 160, 160)).shape == (1, 7)
    grey = load_network("timm:test_resnet", in_chans=1)
    assert grey.preprocessing.channels == "L" and grey.module(torch.zeros(1, 1, 64, 64)).shape == (1, 1000)


FACTORY = """
import torch
from torch import nn

def small(width=3):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten())

class Net(nn.Sequential):
    def __init__(self, num_classes=10):
        super().__init__(nn.Flatten(), nn.Linear(48, num_classes))

made = small(5)
text = 3

def wrong():
    return 7

def broken():
    raise RuntimeError("no disk")
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the current folder."""
    (tmp_path / "my_nets_for_test.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("my_nets_for_test", None)
    return "my_nets_for_test"


def test_factories_functions_classes_and_modules(factories: str) -> None:
    before = list(sys.path)
    small = load_network(f"{factories}:small", width=4, size=8)
    assert small.module[0].out_channels == 4
    assert small.preprocessing.input_shape == (1, 8, 8)
    assert load_network(f"{factories}:Net", num_classes=3).preprocessing.input_shape == (3, 4, 4)
    network = load_network(f"{factories}:made")
    assert network.module[0].out_channels == 5 and network.provenance["weights"] == "the module's own"
    assert small.provenance["weights"] == "the factory's own" and small.provenance["seed"] == 0
    assert alike(load_network(f"{factories}:small").module, load_network(f"{factories}:small").module)
    assert not alike(load_network(f"{factories}:small").module, load_network(f"{factories}:small", seed=1).module)
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "no factory 'smal' in my_nets_for_test; nearest: small"),
        ("text", "no factory 'text'"),
        ("wrong", "made a int; it must make a torch.nn.Module"),
        ("broken", "cannot be built with no options: RuntimeError: no disk"),
    ],
)
def test_factories_that_do_not_work(factories: str, name: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        load_network(f"{factories}:{name}")


def test_a_module_of_the_users_stays_as_it_is(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    other = {name: t + 1 for name, t in before.items()}
    network = load_network(module, weights=other, size=(16, 12), mean=0.0, std=1.0)
    assert module.training and not network.module.training
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert all(torch.equal(t, other[name]) for name, t in network.module.state_dict().items())
    assert network.name == "Sequential" and network.preprocessing.input_shape == (3, 16, 12)
    assert load_network(module).provenance["weights"] == "the module's own"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("netopsy:resnet21", "no network 'netopsy:resnet21'; nearest: resnet32, resnet20"),
        ("torchvision:resnet19", "no network 'torchvision:resnet19'; nearest: resnet1"),
        ("torchvision:quantized_resnet18", "no network 'torchvision:quantized_resnet18'"),
        ("timm:resnet19", "no network 'timm:resnet19'; nearest: resnet1"),
        ("timm:resnet18.nosuch", "has no weights 'nosuch'; it has a1_in1k"),
        ("resnet20", "no network 'resnet20'; write torchvision:NAME.*nearest in the zoo: netopsy:resnet20"),
        ("", "no network ''; write torchvision:NAME"),
        ("no.such.module:net", "cannot import 'no.such.module': ModuleNotFoundError"),
        ("nowhere.pth", "weights file 'nowhere.pth' does not exist"),
        (7, "this is a int"),
    ],
)
def test_sources_that_name_nothing(source: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=message) as caught:
        load_network(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meen": 0.5}, "no option 'meen' for netopsy:resnet20; nearest: mean; all: size, resize, mean"),
        ({"transform_input": True}, "no option 'transform_input'"),
        ({"mean": (0.1, 0.2)}, "must hold 3 numbers each for channels RGB"),
        ({"mean": "a,b,c"}, "mean 'a,b,c' must be made of numbers, for instance"),
        ({"std": 0}, "must be positive"),
        ({"std": float("nan")}, "must be made of numbers"),
        ({"size": 0}, "must be a positive number"),
        ({"size": (1, 2, 3)}, "must be a positive number or"),
        ({"resize": 16}, "no larger than resize 16"),
        ({"channels": "CMYK"}, "must be one of RGB, BGR, L"),
        ({"interpolation": "cubic"}, "must be one of nearest, bilinear, bicubic"),
        ({"scale": -1}, "must be positive"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_network("netopsy:resnet20", **options)


def preprocessing(source: str, **options: Any) -> Preprocessing:
    return load_network(source, **options).preprocessing


def test_options_override_field_by_field() -> None:
    base = preprocessing("netopsy:googlenet")
    assert preprocessing("netopsy:googlenet", mean="103,116,123").std == base.std
    assert preprocessing("netopsy:googlenet", size=112).resize == 128
    assert preprocessing("netopsy:googlenet", size="112x84").size == (112, 84)
    assert preprocessing("netopsy:googlenet", size=(200, 100)).resize == round(100 * 256 / 224)
    assert preprocessing("netopsy:googlenet", size=112, resize=200).resize == 200
    assert preprocessing("netopsy:googlenet", resize="none").resize is None
    assert preprocessing("netopsy:googlenet", channels="rgb").mean == base.mean[::-1]
    assert preprocessing("netopsy:googlenet", channels="RGB", mean=base.mean).mean == base.mean
    assert preprocessing("netopsy:googlenet", scale=1 / 255, mean=0.5).mean == (0.5, 0.5, 0.5)
    grey = load_network("netopsy:vgg16_bn", in_channels=1, width=4).preprocessing
    assert grey.channels == "L" and grey.mean[0] == pytest.approx((0.485 + 0.456 + 0.406) / 3)


def test_metadata_of_the_file_says_mean_and_architecture(tmp_path: Path) -> None:
    state = load_network("netopsy:resnet20").module.state_dict()
    path = tmp_path / "w.safetensors"
    save_file(state, path, metadata={"architecture": "netopsy:resnet20", "mean": "0.1,0.2,0.3", "std": "wide"})
    network = load_network(path)
    assert network.name == "netopsy:resnet20"
    assert "metadata of w.safetensors not understood (std 'wide' must be made of numbers" in preprocessing_source(
        network
    )
    save_file(state, path, metadata={"architecture": "netopsy:resnet20", "mean": "0.1,0.2,0.3"})
    assert load_network(path).preprocessing.mean == (0.1, 0.2, 0.3)
    assert "mean from the metadata of w.safetensors" in preprocessing_source(load_network(path))
    assert load_network(path, mean=0.4).preprocessing.mean == (0.4, 0.4, 0.4)
    with pytest.raises(SettingsError, match="is a weights file itself"):
        load_network(path, weights=path)
    save_file(state, path)
    with pytest.raises(NetworkError, match="does not name its architecture"):
        load_network(path)


def preprocessing_source(network: Network) -> str:
    return network.provenance["preprocessing"]["from"]


def test_provenance_is_plain_data() -> None:
    for network in (load_network("netopsy:digits-b"), load_network("netopsy:lenet5", num_classes=3, size=28)):
        assert json.loads(json.dumps(network.provenance))["source"] == network.name
    assert network.provenance["options"] == {"num_classes": 3}
    assert preprocessing_source(network) == "the zoo's entry netopsy:lenet5; given: size"


def test_random_weights_repeat_and_leave_the_generator_alone() -> None:
    torch.manual_seed(9)
    want = torch.rand(3)
    torch.manual_seed(9)
    a, b, c = (load_network("netopsy:lenet5", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), want)
    assert alike(a.module, b.module) and not alike(a.module, c.module)
    shipped, random = load_network("netopsy:digits-a"), load_network("netopsy:digits-a", weights="random")
    assert shipped.provenance["weights"] == "digits-vgg-a.safetensors" and random.provenance["weights"] == "random"
    assert not alike(shipped.module, random.module)


def test_hub_names(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision.models.resnet18().state_dict()
    urls = []

    def give(url: str, **_: Any) -> dict[str, Tensor]:
        urls.append(Path(url).name)
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", give)
    for name in (True, "hub", "DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"):
        network = load_network("torchvision:resnet18", weights=name)
        assert all(torch.equal(t, state[k]) for k, t in network.module.state_dict().items())
    assert set(urls) == {"resnet18-f37072fd.pth"} and len(urls) == 5
    assert network.provenance["weights"] == "hub: ResNet18_Weights.IMAGENET1K_V1"


def test_hubs_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route")

    def lost(*_: Any, **__: Any) -> None:
        raise OSError("name not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(
        WeightsError, match=r"cannot fetch IMAGENET1K_V1 for torchvision:resnet18: .*no route.*\.pth where"
    ):
        load_network("torchvision:resnet18", weights="hub")
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr("socket.getaddrinfo", lost)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(WeightsError, match=r"cannot fetch the weights of timm:resnet18\.a1_in1k: name not known"):
        load_network("timm:resnet18", weights="a1_in1k")


@pytest.mark.parametrize(
    ("source", "weights", "message"),
    [
        ("netopsy:resnet20", "hub", "netopsy:resnet20 has no weights called 'hub' on a hub; give the path"),
        ("torchvision:resnet18", "V9", "has no weights 'V9'; it has IMAGENET1K_V1"),
        ("timm:resnet18", "v9", "has no weights 'v9'; it has a1_in1k"),
        (nn.Linear(4, 2), "random", "Linear brings the module's own weights; leave weights out"),
        ("netopsy:resnet20", 3, "weights 3 must be the path of a file"),
    ],
)
def test_weights_that_name_nothing(source: Any, weights: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        load_network(source, weights=weights)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_floating_type_are_computed_with_in_float32(kind: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2)).eval()
    module(torch.zeros(1, 3, 8, 8))
    given = module.to(kind)
    network = load_network(given, size=8)
    assert {t.dtype for t in network.tensors.values() if t.is_floating_point()} == {torch.float32}
    assert all(torch.equal(t.to(kind), given.state_dict()[name]) for name, t in network.tensors.items())
    assert next(given.parameters()).dtype == kind
    name = str(kind).removeprefix("torch.")
    assert network.provenance["computed_in"] == f"float32, the weights were given in {name}"


def test_sizes_of_a_linear_first_layer() -> None:
    assert load_network(nn.Sequential(nn.Flatten(), nn.Linear(784, 2))).preprocessing.input_shape == (1, 28, 28)
    assert load_network(nn.Linear(10, 2)).preprocessing == Preprocessing()
    assert math.prod(load_network(nn.Linear(3072, 2)).preprocessing.input_shape) == 3072


def test_torchvision_and_timm_wait_until_they_are_asked_for() -> None:
    script = (
        "import sys; from netopsy.network.sources.load import load_network; load_network('netopsy:digits-a');"
        "print([name for name in ('torchvision', 'timm', 'onnx') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_every_error_is_netopsys_own() -> None:
    for source, options in (
        ("netopsy:vgg16_bn", {"width": "wide"}),
        ("timm:resnet18", {"in_chans": -1}),
        ("torchvision:vgg11", {"num_classes": -1}),
    ):
        with pytest.raises(NetopsyError, match="cannot be built with"):
            load_network(source, **options)


def test_weights_of_other_names_may_be_taken_in_their_order(tmp_path: Path) -> None:
    """As those of a port: 247 tensors of EfficientNet-Lite0 fit timm's, and no name agrees."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    renamed = {f"_{name}": tensor + 1 for name, tensor in module.state_dict().items() if "num_batches" not in name}
    torch.save(renamed, tmp_path / "port.pt")
    options = {"weights": tmp_path / "port.pt", "size": 8}
    with pytest.raises(WeightsError, match="match='order'"):
        load_network(module, **options)
    network = load_network(module, match="order", **options)
    assert network.provenance["weights_matched"] == "in their order, as asked for"
    for name, tensor in renamed.items():
        assert torch.equal(network.tensors[name[1:]], tensor)
    torch.save(dict(list(renamed.items())[::-1]), tmp_path / "turned.pt")
    with pytest.raises(WeightsError, match="choose the architecture"):
        load_network(module, weights=tmp_path / "turned.pt", match="order", size=8)
    with pytest.raises(SettingsError, match="match"):
        load_network(module, match="shape")


@pytest.mark.parametrize(
    ("name", "size", "outputs"),
    [
        pytest.param("lraspp_mobilenet_v3_large", 64, {"out": (21, 64, 64)}, marks=pytest.mark.slow),
        pytest.param("r3d_18", None, {"": (400,)}, marks=pytest.mark.slow),
        pytest.param(
            "ssdlite320_mobilenet_v3_large",
            None,
            {"bbox_regression": (3234, 4), "cls_logits": (3234, 91)},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "retinanet_resnet50_fpn",
            64,
            {"cls_logits": (774, 91), "bbox_regression": (774, 4)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_torchvision_beyond_classification(name: str, size: int | None, outputs: dict[str, tuple[int, ...]]) -> None:
    network = load_network(f"torchvision:{name}", size=size)
    inputs = {key: torch.randn(value.shape) for key, value in network.signature.example(3).items()}
    with torch.no_grad():
        expected, given = (name_outputs(call(part, inputs)) for part in (network.module, network.graph))
    assert {key: tuple(value.shape[1:]) for key, value in given.items()} == outputs
    for key, value in expected.items():
        torch.testing.assert_close(given[key], value, rtol=1e-4, atol=1e-5)
    plain = torchvision.models.get_model(name, weights=None, weights_backbone=None) if size or "ssd" in name else None
    assert plain is None or network.module.state_dict().keys() == plain.state_dict().keys()


def test_timm_beyond_classification() -> None:
    x = np.random.default_rng(0).random((12, 32, 32, 3), np.float32)
    pooled = load_network("timm:resnet10t", size=32, weights="random", num_classes=0)
    assert pooled.nodes[pooled.output].full_shape[1:] == (512,)
    assert find_task(pooled, load_samples(x)).name == "agreement"
    assert find_task(pooled, load_samples((x, [0, 1] * 6), task="embedding")).name == "embedding"
    maps = load_network("timm:resnet10t", size=32, weights="random", features_only=True, output=4)
    assert maps.nodes[maps.output].full_shape[1:] == (512, 1, 1)
    assert find_task(maps, load_samples(x)).name == "embedding"

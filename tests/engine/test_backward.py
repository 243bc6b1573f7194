"""Backward rules: against matrices, autograd on the whole image, captum where it is right, and worked cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import NeuronDeconvolution, NeuronGuidedBackprop
from reference_backward import by_autograd, convolution_matrix, pooling_matrix
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from netopsy import Network, Preprocessing, backproject, load_network
from netopsy.engine.backproject.backproject import trace
from netopsy.engine.backproject.rules import MASKED, gaussian_like, random_weights
from netopsy.engine.backproject.tree import Trunk
from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.units import Unit
from netopsy.network.windows.field import receptive_field

SIZE = 12


def network(module: nn.Module, size: int = SIZE) -> Network:
    return Network("test", module.double(), Preprocessing(size=(size, size)))


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 3), nn.ReLU(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Network:
    torch.manual_seed(1)
    return network(plain())


def picture(size: int = SIZE, n: int = 1) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def matrices(module: nn.Sequential, image: Tensor) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """W and r of the three layers, and P between the first two."""
    with torch.no_grad():
        values = [image]
        for layer in module:
            values.append(layer(values[-1].clone()))
    weights = [
        convolution_matrix(module[0].weight.detach().numpy(), (SIZE, SIZE), padding=1),
        convolution_matrix(module[3].weight.detach().numpy(), (SIZE // 2, SIZE // 2), padding=1),
        convolution_matrix(module[5].weight.detach().numpy(), (SIZE // 2, SIZE // 2)),
    ]
    masks = [(values[i][0].numpy().ravel() > 0).astype(float) for i in (2, 5, 7)]
    return weights, masks, pooling_matrix(values[2][0].numpy(), 2)


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "masked", "masked_random"])
def test_rules_are_products_of_matrices(small: Network, rule: str) -> None:
    image = picture()
    weights, (r1, r2, r3), pool = matrices(small.module, image)  # type: ignore[arg-type]
    if rule == "masked_random":
        random_values = random_weights(MASKED, 7).weights(small)
        sizes = [(SIZE, 1), (SIZE // 2, 1), (SIZE // 2, 0)]
        weights = [
            convolution_matrix(random_values[f"{i}.weight"].numpy(), (n, n), padding=p)
            for i, (n, p) in zip((0, 3, 5), sizes, strict=True)
        ]
    with torch.no_grad():
        top = small.module(image)[0]
    units = [(2, 1, 2), (0, 0, 0), (3, 3, 3), (1, 0, 3)]
    maps = backproject(small, image, [("6", *unit) for unit in units], rule, seed=7, start="activation")
    for unit, map_ in zip(units, maps, strict=True):
        x = np.zeros(top.shape)
        x[unit] = top[unit]
        x = x.ravel()
        ramp = (lambda v: v) if rule == "gradient" else (lambda v: np.maximum(v, 0))
        on = (lambda r: np.ones_like(r)) if rule == "deconvnet" else (lambda r: r)
        x = ramp(weights[2].T @ (on(r3) * x))
        x = ramp(weights[1].T @ (on(r2) * x))
        x = weights[0].T @ (on(r1) * ramp(pool.T @ x))
        np.testing.assert_allclose(map_.numpy().ravel(), x, rtol=1e-9, atol=1e-12)
    assert maps.abs().sum() > 0


def test_one_convolution_gives_its_kernel_at_the_unit() -> None:
    conv = nn.Conv2d(3, 2, 3, stride=2, padding=1)
    net = network(conv)
    (map_,) = backproject(net, picture(), [(net.output, 1, 2, 3)], "gradient")
    expected = torch.zeros_like(map_)
    expected[:, 3:6, 5:8] = conv.weight[1].detach()
    assert torch.equal(map_, expected)


def test_the_corner_unit_keeps_the_part_of_its_kernel_inside_the_image() -> None:
    conv = nn.Conv2d(3, 2, 3, padding=1)
    net = network(conv)
    (map_,) = backproject(net, picture(), [(net.output, 0, 0, SIZE - 1)], "gradient")
    assert torch.equal(map_[:, :2, -2:], conv.weight[0, :, 1:, :2].detach()) and map_.count_nonzero() == 12


def frozen(module: nn.Sequential, masks_of: Tensor, x: Tensor) -> Tensor:
    """The output for `x` with the masks and switches that another image sets; before the last rectifier."""
    a, b, h = module[0](masks_of), None, module[0](x)
    mask = (a > 0).to(a)
    pooled, switches = F.max_pool2d(a * mask, 2, return_indices=True)
    h = (h * mask).flatten(2).gather(2, switches.flatten(2)).view_as(pooled)
    b = module[3](pooled)
    h = module[3](h) * (b > 0)
    return module[5](h)


def test_the_exact_filter_and_the_frozen_networks_bias_give_the_pre_activation(small: Network) -> None:
    image, other = picture(n=2).split(1)
    result = trace(small, image, [("5", 1, 2, 2), ("5", 3, 0, 3)], "gradient")
    with torch.no_grad():
        for unit, weight, value in zip(result.units, result.maps, result.values, strict=True):
            at = (0, unit.channel, *unit.place)
            bias = frozen(small.module, image, torch.zeros_like(image))[at]  # type: ignore[arg-type]
            torch.testing.assert_close((weight * image[0]).sum() + bias, value)
            torch.testing.assert_close(value, small.module[:6](image)[at])  # type: ignore[index]
            # affine: any other image through the frozen masks is the same filter and bias
            torch.testing.assert_close((weight * other[0]).sum() + bias, frozen(small.module, image, other)[at])


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 6), (6, 6), (6, 6)))
        self.out, self.act, self.norm = nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(6)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(self.norm.weight, -1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.b(F.relu(self.a(x)))))


class Reused(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.b(self.act(self.a(x)))))


class Skip(Functional):
    def forward(self, x: Tensor) -> Tensor:
        u = self.a(x)
        return self.out(self.b(F.relu(u)) + u)


class Signed(Functional):
    def forward(self, x: Tensor) -> Tensor:
        u = self.a(x)
        return self.out(self.act(u) - self.act(-u))


class InPlace(Functional):
    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x)).relu_()
        return self.out(torch.cat([self.b(h)[:, :2], self.c(h)[:, 2:]], 1).relu_())


class Branches(Functional):
    def forward(self, x: Tensor) -> Tensor:
        h = F.avg_pool2d(F.local_response_norm(F.relu(self.a(x)), 3, 0.5), 3, 2, 1)
        return self.out(torch.cat([F.relu(self.b(h)), F.max_pool2d(self.c(h), 3, 1, 1)], 1)[:, ::2].relu())


class Strided(Functional):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.out(F.relu(self.b(h)[:, :, ::2, 1::2]) + F.pad(h[:, 2:, ::2, 1::2], [0, 0, 0, 0, 1, 1]))


class Excited(Functional):
    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.a(x)))
        return self.out(F.relu(self.b(h)) * torch.sigmoid(self.c(h).mean((2, 3), keepdim=True)))


CASES = [Functional, Reused, Skip, Signed, InPlace, Branches, Strided, Excited]


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
@pytest.mark.parametrize("kind", CASES)
def test_every_way_to_write_a_relu_is_the_same(kind: type[nn.Module], rule: str) -> None:
    net, image = network(kind()), picture(n=2)
    height = net.nodes["out"].full_shape[-1]
    units = [("out", 1, 0, 0), ("out", 0, height // 2, height - 1), ("out", 2, 3, 2)]
    if kind is Excited and rule == "deconvnet":
        pytest.skip("a sigmoid has no mask to leave out: the flow through it is the derivative, as untreated says")
    for of in ([0, 0, 0], [1, 0, 1]):
        maps = backproject(net, image, units, rule, of=of, start="one")
        for unit, which, map_ in zip(units, of, maps, strict=True):
            torch.testing.assert_close(map_, by_autograd(net, image, unit, rule, which), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.GELU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.Tanh])
def test_guided_knows_any_activation_function(kind: type[nn.Module]) -> None:
    net = network(nn.Sequential(nn.Conv2d(3, 4, 3), kind(), nn.Conv2d(4, 2, 3)))
    image = picture()
    result = trace(net, image, [("2", 1, 2, 2)], "guided")
    torch.testing.assert_close(result.maps[0], by_autograd(net, image, ("2", 1, 2, 2), "guided"))
    assert result.touched == {"1": 1} and not result.untreated


NETWORKS = [
    "netopsy:resnet20",
    pytest.param("torchvision:shufflenet_v2_x0_5", marks=pytest.mark.slow),
    pytest.param("netopsy:googlenet", marks=pytest.mark.slow),
    pytest.param("torchvision:mobilenet_v3_small", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_running_the_field_alone_equals_the_whole_image(name: str) -> None:
    net = load_network(name, weights="random", size=64).to(torch.float64)
    image = picture(64, 2)
    maps_ = [
        n
        for n, node in net.nodes.items()
        if len(node.full_shape) == 4 and node.full_shape[-1] > 1 and node.channel_axis == 1
    ][1:]
    for node in (maps_[2], maps_[len(maps_) // 2], maps_[-2]):
        height, width = net.nodes[node].full_shape[-2:]
        units = [(node, 1, y, x) for y in (0, height // 2, height - 1) for x in (0, width - 1)]
        for rule in ("gradient", "guided"):
            try:
                maps = backproject(net, image, units, rule, of=[i % 2 for i in range(len(units))])
            except SettingsError:
                continue  # no activation before this node
            for i in (0, 3):
                expected = by_autograd(net, image, units[i], rule, i % 2)
                assert (maps[i] - expected).abs().max() <= 1e-7 * expected.abs().max()


@pytest.mark.parametrize(
    "name, node",
    [
        ("alexnet", "features.9"),
        ("squeezenet1_1", "features.7"),
        pytest.param("vgg11", "features.14", marks=pytest.mark.slow),
    ],
)
def test_captum_agrees_where_its_hooks_are_right(name: str, node: str) -> None:
    net = load_network(f"torchvision:{name}", weights="random", size=96).to(torch.float64)
    image = picture(96)
    target = {"features.7": "features.7.expand3x3_activation"}.get(node, node)
    layer = net.module.get_submodule(target)
    for rule, method in (("guided", NeuronGuidedBackprop), ("deconvnet", NeuronDeconvolution)):
        (map_,) = backproject(net, image, [(target, 3, 1, 2)], rule, start="one")
        expected = method(net.module, layer).attribute(image.clone().requires_grad_(), (3, 1, 2))
        torch.testing.assert_close(map_, expected[0].detach(), rtol=1e-7, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layer, size",
    [
        ("googlenet", "inception3a.branch2.1.bn", 64),
        pytest.param("densenet121", "features.denseblock2.denselayer3.conv1", 64, marks=pytest.mark.slow),
        pytest.param("inception_v3", "Mixed_5c.branch5x5_2.bn", 128, marks=pytest.mark.slow),
    ],
)
def test_captum_misses_the_functional_relus_of_published_networks(name: str, layer: str, size: int) -> None:
    net = load_network(f"torchvision:{name}", weights="random", size=size).to(torch.float64)
    image, unit = picture(size), (3, 2, 2)
    (map_,) = backproject(net, image, [(layer, *unit)], "guided")
    module = net.module.get_submodule(layer)
    hooked = NeuronGuidedBackprop(net.module, module).attribute(image.clone().requires_grad_(), unit)[0]
    torch.testing.assert_close(map_, by_autograd(net, image, (layer, *unit), "guided"), rtol=1e-7, atol=1e-14)
    if name != "densenet121":  # its ReLUs are modules, called from a function: the hooks find them
        assert (map_ - hooked).abs().max() > 0.1 * hooked.abs().max()


def test_captum_misses_functional_relus_and_netopsy_does_not() -> None:
    net, image, unit = network(Functional()), picture(), ("out", 1, 4, 4)
    (map_,) = backproject(net, image, [unit], "guided")
    hooked = NeuronGuidedBackprop(net.module, net.module.out).attribute(image.clone().requires_grad_(), unit[1:])
    assert not torch.allclose(map_, hooked[0])
    torch.testing.assert_close(map_, by_autograd(net, image, unit, "guided"))


def test_a_small_field_runs_a_small_part_of_the_image() -> None:
    for kind in (Functional, Strided, InPlace):
        net = network(kind())
        assert Trunk(net, "out").tree((4, 4)).field == receptive_field(net, "out").at(4, 4)
        assert Trunk(net, "out").tree((4, 4)).share < 0.6
    assert Trunk(network(Excited()), "out").tree((4, 4)).field == (0, 0, SIZE, SIZE)


def test_many_units_equal_one_by_one(small: Network) -> None:
    image = picture(n=3)
    units = [("6", c, y, x) for c in (0, 3) for y in range(4) for x in range(4)] + [("1", 2, 5, 5), ("4", 1)]
    of = [i % 3 for i in range(len(units))]
    together = trace(small, image, units, "masked", of=of)
    for i, unit in enumerate(units):
        alone = trace(small, image[of[i]], [unit], "masked")
        torch.testing.assert_close(together.maps[i], alone.maps[0])
        torch.testing.assert_close(together.values[i], alone.values[0])
        assert together.units[i] == alone.units[0]


def test_a_unit_without_a_place_is_the_strongest(small: Network) -> None:
    image = picture()
    result = trace(small, image, [("4", 2)], "gradient")
    with torch.no_grad():
        value = small.module[:5](image)[0, 2]  # type: ignore[index]
    assert result.values[0] == value.max() and value[result.units[0].place] == value.max()


def test_neurons_and_tokens_are_units() -> None:
    mlp = network(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 7), nn.ReLU(), nn.Linear(7, 5)))
    image = picture()
    (map_,) = backproject(mlp, image, [("3", 4)], "guided")
    torch.testing.assert_close(map_, by_autograd(mlp, image, ("3", 4), "guided"))
    tokens = network(VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=40), 32)
    node = "encoder.layers.encoder_layer_1.mlp.0"
    image = picture(32)
    (map_,) = backproject(tokens, image, [(node, 30, 11)], "gradient")
    torch.testing.assert_close(map_, by_autograd(tokens, image, (node, 11, 30), "gradient"))


def test_one_unit_need_not_be_in_a_list(small: Network) -> None:
    assert torch.equal(backproject(small, picture(), "6:1:2:2"), backproject(small, picture(), [("6", 1, 2, 2)]))


def test_start_scales_the_map(small: Network) -> None:
    image = picture()
    one, scaled = (trace(small, image, [("4", 0)], "masked", start=start) for start in ("one", "activation"))
    torch.testing.assert_close(scaled.maps, one.maps * one.values[0])
    torch.testing.assert_close(backproject(small, image, [("4", 0)], "masked"), scaled.maps)


def test_random_weights_have_the_matched_moments_and_come_from_the_seed(small: Network) -> None:
    values = torch.randn(200_000) * 3 + 5
    noise = gaussian_like(values, 1)
    assert abs(float(noise.mean()) - 5) < 0.05 and abs(float(noise.std()) - 3) < 0.05
    image = picture()
    first, again, other = (backproject(small, image, [("4", 0)], "masked_random", seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_it_says_what_was_touched(small: Network) -> None:
    assert trace(small, picture(), [("6", 0), ("4", 1), ("6", 2)], "masked").touched == {"1": 3, "4": 3, "6": 2}
    result = trace(network(Excited()), picture(), [("out", 0, 1, 1)], "masked")
    assert result.untreated == {"sigmoid": "sigmoid", "mul": "mul"} and set(result.touched) == {"relu", "relu_1"}


def test_a_rule_that_meets_no_activation_is_an_error(small: Network) -> None:
    with pytest.raises(SettingsError, match="no activation: use 'gradient'"):
        backproject(small, picture(), [("0", 0)], "masked")
    smooth = network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 3)))
    with pytest.raises(SettingsError, match="only gelu, which it does not know: use the rule 'guided'"):
        backproject(smooth, picture(), [("2", 0)], "deconvnet")


def test_the_network_is_left_as_it_was(small: Network) -> None:
    before = small.digest
    for rule in ("masked_random", "gradient"):
        backproject(small, picture(), [("6", 1)], rule)
    del small.__dict__["digest"]
    assert small.digest == before and all(p.grad is None for p in small.module.parameters())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rule": "masks"}, "no rule 'masks'; nearest: masked"),
        ({"start": "two"}, "neither 'activation' nor 'one'"),
        ({"images": torch.zeros(1, 3, 5, 5)}, r"takes \(n, 3, 12, 12\)"),
        ({"images": torch.full((1, 3, SIZE, SIZE), torch.nan)}, "NaN"),
        ({"images": torch.zeros(2, 3, SIZE, SIZE)}, "one image, one image per unit, or `of`"),
        ({"of": [1]}, "an image from 0 to 0"),
        ({"units": []}, "no unit to start from"),
        ({"units": ["nonsense"]}, "is none: give node:channel"),
    ],
)
def test_mistakes_get_one_sentence(small: Network, change: dict[str, object], message: str) -> None:
    call = {"images": picture(), "units": [("6", 0, 1, 1)] if "images" not in change else [("6", 0)] * 3, **change}
    with pytest.raises(SettingsError, match=message):
        backproject(small, **call)  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", [("7", 0), ("6", 4), ("6", 0, 4, 0), ("6", 0, 1)])
def test_unknown_units_name_what_there_is(small: Network, unit: tuple[object, ...]) -> None:
    with pytest.raises(UnknownLayer, match=r"nearest|give 0 to 3|its places are 4 x 4"):
        backproject(small, picture(), [unit], "gradient")  # type: ignore[list-item]


SLICES = {
    "rows": lambda x: x[:, :, 3:],
    "columns": lambda x: x[:, :, :, 2:5],
    "both": lambda x: x[:, :, 2:, 3:],
    "every other": lambda x: x[:, :, 1::2],
    "dsplit": lambda x: x.dsplit(2)[1],
}


@pytest.mark.parametrize("name", SLICES)
def test_many_units_of_an_image_share_a_pass_that_a_slice_has_cut(name: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
            self.fc = nn.Linear(SLICES[name](torch.zeros(1, 4, 6, 6)).numel(), 4)

        def forward(self, x: Tensor) -> Tensor:
            x = SLICES[name](torch.relu(self.b(torch.relu(self.a(x)))))
            return self.fc(torch.relu(self.c(x)).flatten(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network = load_network(Net(), size=8, mean=0, std=1)
    images = torch.rand(3, 3, 8, 8)
    of = [i for i in range(3) for _ in range(4)]
    units = [Unit("fc", channel) for _ in range(3) for channel in range(4)]
    result = trace(network, images, units, "gradient", of=of, start="one")
    for unit, image, box, crop in zip(units, of, result.fields, result.crops, strict=True):
        x = images[image : image + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(network.module(x)[0, unit.channel], x)
        whole = torch.zeros(3, 8, 8)
        whole[:, box[0] : box[2], box[1] : box[3]] = crop
        torch.testing.assert_close(whole, expected[0], rtol=1e-5, atol=1e-7)

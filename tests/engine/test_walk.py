"""The interpreter of the graph: any part of it, with any parameters, gives what the module gives."""

from __future__ import annotations

import pytest
import torch
from test_sweep import make_network
from torch import Tensor, nn

from netopsy.engine.interpreter import affected_nodes, boundary, plan
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 12, 12)


def values_of(network: Network, images: Tensor) -> dict[str, Tensor]:
    """All nodes' values, copied when they are computed."""
    seen = {}
    whole = plan(network, [network.output], watched=list(network.nodes))
    with torch.no_grad():
        whole.run({"input": images}, batch=len(images), visit=lambda name, value: seen.update({name: value.clone()}))
    return seen


def test_whole_walk_is_the_module_and_visits_every_node_once_in_order(network: Network, images: Tensor) -> None:
    with torch.no_grad():
        expected = network.module(images)
    seen = values_of(network, images)
    assert list(seen) == list(network.nodes)
    assert torch.equal(seen[network.output], expected)


def test_walk_can_start_at_every_boundary(network: Network, images: Tensor) -> None:
    seen = values_of(network, images)
    for layer in network.layers:
        edges = boundary(network, affected_nodes(network, [layer.weight]))
        given = {name: seen[name].clone() for name in edges}
        with torch.no_grad():
            part = plan(network, [network.output], given=edges)
            out = part.run(given, batch=5)[network.output]
        assert torch.equal(out, seen[network.output])
        assert all(torch.equal(given[name], seen[name]) for name in edges)  # what is given is not overwritten
        assert len(part.steps) < len(plan(network, [network.output]).steps) or layer is network.layers[0]


def test_affected_nodes_are_those_that_change(network: Network, images: Tensor) -> None:
    before = values_of(network, images)
    for name in ("stem.weight", "norm.running_mean", "depthwise.weight", "first.weight", "fc.bias"):
        tensor = network.tensors[name]
        old = tensor.detach().clone()
        with torch.no_grad():
            tensor.add_(torch.rand_like(tensor))
            after = values_of(network, images)
            tensor.copy_(old)
        named = {node.name for node in affected_nodes(network, [name])}
        assert {n for n in before if not torch.equal(before[n], after[n])} <= named
        assert network.output in named


def test_overrides_stand_in_for_parameters(network: Network, images: Tensor) -> None:
    new = {"twice.weight": torch.randn(8, 8, 3, 3), "norm.bias": torch.randn(8)}
    with torch.no_grad():
        expected = torch.func.functional_call(network.module, new, (images,))
        for folded in (False, True):
            run = plan(network, [network.output], folded=folded)
            for overrides, target in ((new, expected), (None, network.module(images)), (new, expected)):
                out = run.run({"input": images}, batch=5, overrides=overrides)[network.output]
                torch.testing.assert_close(out, target, rtol=1e-4, atol=1e-4)


def test_folding_takes_the_batch_norms_away(network: Network) -> None:
    plain, folded = plan(network, [network.output]), plan(network, [network.output], folded=True)
    convolutions = [step for step in folded.steps if step.convolution is not None]
    assert len(convolutions) == 2
    assert len(folded.steps) == len(plain.steps) - 2
    watched_plan = plan(network, [network.output], watched=["stem"], folded=True)
    assert len([step for step in watched_plan.steps if step.convolution is not None]) == 1  # its value is asked for


def test_channels_last_gives_the_same(network: Network, images: Tensor) -> None:
    with torch.no_grad():
        out = plan(network, [network.output]).run({"input": images.to(memory_format=torch.channels_last)}, batch=5)
        torch.testing.assert_close(out[network.output], network.module(images), rtol=1e-4, atol=1e-4)


def test_a_value_that_is_read_twice_is_not_overwritten() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            view = y.flatten(2)
            return y.relu().mean((2, 3)) + view.sum(2)

    network = Network("twice", Twice(), Preprocessing(size=(4, 4)))
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(
            plan(network, [network.output]).run({"input": x}, batch=2)[network.output], network.module(x)
        )
        y = network.module.conv(x)  # type: ignore[operator]
        tail = plan(network, [network.output], given=["conv"], consumed=["conv"])
        assert torch.equal(tail.run({"conv": y}, batch=2)[network.output], network.module(x))


def test_gradients_flow_through_a_walk(network: Network, images: Tensor) -> None:
    x = images.clone().requires_grad_()
    plan(network, [network.output]).run({"input": x}, batch=5)[network.output].sum().backward()
    y = images.clone().requires_grad_()
    network.module(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)

"""The script that removes blocks in closed form: its choice of runs, its fit, and what merging a map changes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from netopsy.network.zoo.papers import CifarResNet
from remove_blocks import choose, fit, fitted, resnet_spine


@pytest.mark.parametrize("removed", range(5))
def test_runs_are_chosen_as_by_trying_all(removed: int) -> None:
    blocks = 7
    rng = np.random.default_rng(removed)
    missed = {(i, j): float(rng.random()) for i in range(blocks) for j in range(i + 1, blocks) if i // 4 == j // 4}
    runs = choose(missed, blocks, removed)
    assert sum(j - i for i, j in runs) == removed
    sets = [
        some
        for n in range(4)
        for some in itertools.combinations(sorted(missed), n)
        if sum(j - i for i, j in some) == removed and all(a[1] < b[0] for a, b in itertools.pairwise(some))
    ]
    assert sum(missed[run] for run in runs) == pytest.approx(min(sum(missed[run] for run in some) for some in sets))


def test_the_fit_finds_the_map_and_says_what_it_misses() -> None:
    torch.manual_seed(0)
    branch, passed, weight, offset = torch.randn(500, 4), torch.randn(500, 3), torch.randn(4, 3), torch.randn(3)
    found, shift, missed = fit(branch, passed, passed + branch @ weight + offset, bias=True)
    assert torch.allclose(found, weight, atol=1e-3) and torch.allclose(shift, offset, atol=1e-3) and missed < 1e-6
    noise = torch.randn(500, 3)
    assert fit(branch, torch.zeros(500, 3), noise, bias=True)[2] == pytest.approx(1, abs=0.03)


def test_merging_changes_what_it_should_and_nothing_else() -> None:
    torch.manual_seed(0)
    module = CifarResNet(2).eval()
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.uniform_(0.5, 1.5)
    x = torch.randn(8, 3, 32, 32)
    spine = resnet_spine(module)
    before = module(x)
    same = spine.remove(module, [((0, 0), torch.eye(16), torch.zeros(16))])
    assert torch.allclose(same(x), before, atol=1e-4)
    for block in (module.layer1[1], module.layer3[1]):  # what adds nothing is removed without loss
        block.bn2.weight.data.zero_()
        block.bn2.bias.data.zero_()
    runs, whole = [(0, 1), (4, 5)], module(x)
    short = spine.remove(module, [(run, None, None) for run in runs])
    assert torch.allclose(short(x), whole, atol=1e-5)
    closer = fitted(spine, module, runs, x)
    assert [len(stage) for stage in (closer.layer1, closer.layer2, closer.layer3)] == [1, 2, 1]
    assert torch.equal(module(x), whole), "the network itself is left as it is"

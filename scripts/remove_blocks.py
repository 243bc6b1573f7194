"""Remove blocks without training: `python scripts/remove_blocks.py resnet56|stories260k FOLDER`.

Of a run of residual blocks the first stays and the others go; what they added is fitted by one linear map of the branch
of the block that stays, on calibration data and in closed form, and merged into the last layer of that branch, so that
nothing is added (after Shopkhoev et al., "ReplaceMe", NeurIPS 2025). Which runs go is chosen jointly: of all sets of
runs that do not touch, the one of the least summed share of the states that the fits miss, by dynamic programming.

It compares the fit with plain removal of the same blocks, and with the one run that the least cosine distance chooses,
as in the paper. Every difference is paired over the samples, with a 95 % interval; the draws of the calibration data
are told apart from them.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import netopsy

RIDGE = 1e-4  # of the mean of the diagonal: the branch of a block has directions in which it hardly moves
Run = tuple[int, int]  # the block that stays, and the last of those behind it that go


@dataclass
class Spine:
    """Residual blocks in a row: what each adds to what it passes on.

    states: of each block's branch F, and of the sum P of it and what it passes by, rows by channels, on some inputs.
    stages: for each block the stage it is in; a run lies in one. remove: which runs go, with their maps or None.
    """

    stages: list[int]
    states: Callable[[nn.Module, Any], list[tuple[Tensor, Tensor]]]
    remove: Callable[[nn.Module, Sequence[tuple[Run, Tensor | None, Tensor | None]]], nn.Module]
    bias: bool


def fit(branch: Tensor, passed: Tensor, target: Tensor, bias: bool) -> tuple[Tensor, Tensor, float]:
    """W and b that make passed + branch W + b nearest to target, and the share of target's variance that is missed."""
    x = torch.cat([branch, torch.ones(len(branch), 1)], 1) if bias else branch
    x, y = x.double(), (target - passed).double()
    square = x.T @ x
    ridge = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    solved = torch.linalg.solve(square + ridge, x.T @ y)
    missed = float((y - x @ solved).square().sum() / (target - target.mean(0)).double().square().sum())
    weight, offset = (solved[:-1], solved[-1]) if bias else (solved, torch.zeros(solved.shape[1]).double())
    return weight.float(), offset.float(), missed


def costs(spine: Spine, states: list[tuple[Tensor, Tensor]]) -> dict[Run, float]:
    """For every run the share of the state behind it that the best map misses."""
    missed = {}
    for first, (branch, total) in enumerate(states):
        for last in range(first + 1, len(states)):
            if spine.stages[last] != spine.stages[first]:
                break
            missed[first, last] = fit(branch, total - branch, states[last][1], spine.bias)[2]
    return missed


def choose(missed: dict[Run, float], blocks: int, removed: int) -> list[Run]:
    """The runs without a common block that remove so many and miss least in sum."""
    best: list[list[tuple[float, list[Run]]]] = [[(0.0, [])] + [(math.inf, [])] * removed]
    for end in range(1, blocks + 1):
        row = list(best[end - 1])
        for first in range(end - 1):
            run, gone = (first, end - 1), end - 1 - first
            for n in range(gone, removed + 1):
                before, runs = best[first][n - gone]
                if run in missed and before + missed[run] < row[n][0]:
                    row[n] = before + missed[run], [*runs, run]
        best.append(row)
    return best[blocks][removed][1]


def nearest_run(spine: Spine, states: list[tuple[Tensor, Tensor]], removed: int) -> list[Run]:
    """The one run of so many blocks whose end points most in the direction of its beginning: the paper's choice."""
    runs = [(i, i + removed) for i in range(len(states) - removed) if spine.stages[i] == spine.stages[i + removed]]
    if not runs:
        return []
    likeness = [torch.cosine_similarity(states[i][1], states[j][1], 1).mean().item() for i, j in runs]
    return [runs[int(np.argmax(likeness))]]


def fitted(spine: Spine, module: nn.Module, runs: Sequence[Run], data: Any) -> nn.Module:
    """The module without the runs, each fitted on the states that the runs before it leave, to those of the whole."""
    whole = spine.states(module, data)
    done: list[tuple[Run, Tensor | None, Tensor | None]] = []
    for first, last in runs:
        gone = sum(end - start for (start, end), *_ in done)
        branch, total = spine.states(spine.remove(module, done), data)[first - gone]
        weight, offset, _ = fit(branch, total - branch, whole[last][1], spine.bias)
        done.append(((first, last), weight, offset))
    return spine.remove(module, done)


# ResNet-56 for CIFAR-10


ROWS = 20_000  # places of maps that are kept


def resnet_spine(module: nn.Module) -> Spine:
    stages = [stage for stage in (1, 2, 3) for _ in getattr(module, f"layer{stage}")]

    @torch.no_grad()
    def states(net: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        blocks = [block for stage in (1, 2, 3) for block in getattr(net, f"layer{stage}")]
        kept: list[tuple[Tensor, Tensor]] = []
        seen: dict[int, Tensor] = {}

        def rows(maps: Tensor) -> Tensor:
            flat = maps.movedim(1, -1).reshape(-1, maps.shape[1])
            chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:ROWS]
            return flat[chosen]

        def on_branch(k: int) -> Callable[..., None]:
            return lambda _module, _inputs, output: seen.__setitem__(k, output)

        def on_block(k: int) -> Callable[..., None]:
            def hook(block: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
                branch = seen.pop(k)
                passed = inputs[0] if block.downsample is None else block.downsample(inputs[0])  # type: ignore[operator]
                kept.append((rows(branch), rows(branch + passed)))

            return hook

        hooks = [h for k, b in enumerate(blocks) for h in (
            b.bn2.register_forward_hook(on_branch(k)), b.register_forward_hook(on_block(k))
        )]  # fmt: skip
        net(images)
        for hook in hooks:
            hook.remove()
        return kept

    @torch.no_grad()
    def remove(net: nn.Module, runs: Sequence[tuple[Run, Tensor | None, Tensor | None]]) -> nn.Module:
        net = copy.deepcopy(net)
        names = [(stage, k) for stage in (1, 2, 3) for k in range(len(getattr(net, f"layer{stage}")))]
        gone: set[tuple[int, int]] = set()
        for (first, last), weight, offset in runs:
            stage, k = names[first]
            gone |= set(names[first + 1 : last + 1])
            if weight is None or offset is None:
                continue
            block = getattr(net, f"layer{stage}")[k]
            norm, scale = block.bn2, block.bn2.weight / (block.bn2.running_var + block.bn2.eps).sqrt()
            shift = norm.bias - scale * norm.running_mean
            kernel = torch.einsum("io,ichw->ochw", weight * scale[:, None], block.conv2.weight)
            block.conv2.weight.copy_(kernel)
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())
            norm.running_mean.zero_()
            norm.bias.copy_(shift @ weight + offset)
        for stage in (1, 2, 3):
            blocks = getattr(net, f"layer{stage}")
            setattr(net, f"layer{stage}", nn.Sequential(*(b for k, b in enumerate(blocks) if (stage, k) not in gone)))
        return net

    return Spine(stages, states, remove, bias=True)


@torch.no_grad()
def right(module: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """For each image 1 where the class is right."""
    return torch.cat([module(part).argmax(1) for part in x.split(250)]).eq(y).numpy().astype(float)


def of_images(data: Path, split: str, count: int, seed: int, preprocessing: Any) -> tuple[Tensor, Tensor]:
    samples = netopsy.load_samples(str(data / f"cifar10-{split}.npz"), count=count, seed=seed)
    batches = list(samples.batches(preprocessing, 500))
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


# stories260K, a language model


def llama_spine(module: nn.Module) -> Spine:
    @torch.no_grad()
    def states(net: nn.Module, tokens: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        branches: list[list[Tensor]] = [[] for _ in net.model.layers]  # type: ignore[union-attr,arg-type]
        totals: list[list[Tensor]] = [[] for _ in net.model.layers]  # type: ignore[union-attr,arg-type]
        hooks = []
        for k, layer in enumerate(net.model.layers):  # type: ignore[union-attr,arg-type]
            hooks.append(layer.mlp.register_forward_hook(lambda _m, _i, o, k=k: branches[k].append(o[0])))
            hooks.append(
                layer.register_forward_hook(
                    lambda _m, _i, o, k=k: totals[k].append((o[0] if isinstance(o, tuple) else o)[0])
                )
            )
        for ids in tokens:
            net(ids[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        return [(torch.cat(f), torch.cat(p)) for f, p in zip(branches, totals, strict=True)]

    @torch.no_grad()
    def remove(net: nn.Module, runs: Sequence[tuple[Run, Tensor | None, Tensor | None]]) -> nn.Module:
        net = copy.deepcopy(net)
        layers, gone = net.model.layers, set()  # type: ignore[union-attr]
        for (first, last), weight, _ in runs:
            gone |= set(range(first + 1, last + 1))
            if weight is not None:
                down = layers[first].mlp.down_proj  # type: ignore[index,union-attr]
                down.weight.copy_(weight.T @ down.weight)  # type: ignore[union-attr]
        kept = [layer for k, layer in enumerate(layers) if k not in gone]  # type: ignore[arg-type]
        net.model.layers = nn.ModuleList(kept)  # type: ignore[union-attr]
        net.config.num_hidden_layers = len(kept)  # type: ignore[union-attr]
        return net

    return Spine([0] * len(module.model.layers), states, remove, bias=False)  # type: ignore[union-attr,arg-type]


@torch.no_grad()
def hits(module: nn.Module, tokens: Sequence[Tensor]) -> np.ndarray:
    """For each story the share of next tokens that are guessed."""
    return np.array(
        [(module(t[None], use_cache=False).logits[0, :-1].argmax(1) == t[1:]).float().mean() for t in tokens]
    )


def paired(new: np.ndarray, old: np.ndarray) -> str:
    change = 100 * (new - old)
    half = 1.96 * change.std(ddof=1) / len(change) ** 0.5
    return (
        f"{100 * new.mean():.2f} % ({change.mean():+.2f}, {change.mean() - half:+.2f} to {change.mean() + half:+.2f})"
    )


def compare(
    spine: Spine, module: nn.Module, calibration: Any, score: Callable[[nn.Module], np.ndarray], counts: Sequence[int]
) -> None:
    states, base = spine.states(module, calibration), score(module)
    print(f"whole: {100 * base.mean():.2f} % of {len(base)} samples, {len(states)} blocks", flush=True)
    missed = costs(spine, states)
    for removed in counts:
        jointly, one = choose(missed, len(states), removed), nearest_run(spine, states, removed)
        for name, runs in (("jointly", jointly), ("one run", one)):
            if not runs:
                print(f"{removed} removed, {name}: there is no such run")
                continue
            plain = score(spine.remove(module, [(run, None, None) for run in runs]))
            with_fit = score(fitted(spine, module, runs, calibration))
            share = removed / len(states)
            print(
                f"{removed} removed ({share:.0%}), {name} {runs}: plain {paired(plain, base)}; "
                f"fitted {paired(with_fit, base)}, keeps {with_fit.mean() / base.mean():.1%}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=("resnet56", "stories260k"))
    parser.add_argument("weights", type=Path, help="the weights (resnet56), or the model's folder")
    parser.add_argument(
        "data", type=Path, help="folder of cifar10-train.npz and cifar10-test.npz, or a file of stories"
    )
    parser.add_argument("--calibration", type=int, default=500)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--counts", type=int, nargs="+", default=(1, 2), help="how many blocks to remove")
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    if o.network == "resnet56":
        network = netopsy.load_network("netopsy:resnet56", weights=str(o.weights))
        x, _ = of_images(o.data, "train", o.calibration, o.seed, network.preprocessing)
        test = of_images(o.data, "test", o.test, 0, network.preprocessing)
        compare(resnet_spine(network.module), network.module, x, lambda net: right(net, *test), o.counts)
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(o.weights, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(o.weights)
    stories = [torch.tensor(tokenizer(line)["input_ids"][:256]) for line in o.data.read_text().splitlines() if line]
    order = torch.randperm(len(stories), generator=torch.Generator().manual_seed(o.seed)).tolist()
    half = len(stories) // 2
    calibration, held_out = ([stories[k] for k in part] for part in (order[:half], order[half:]))
    compare(llama_spine(model), model, calibration, lambda net: hits(net, held_out), o.counts)


if __name__ == "__main__":
    main()

"""Two motives of compression, tested on small networks: `python scripts/motives.py interpretable|regularise`.

interpretable: are sparse networks easier to read? MNIST networks of 784-100-60-10 units are trained, then trained on
    as dense ones and with the smallest weights of each layer held at zero, from the same start and on the same batches.
    Of the same units of the second hidden layer it counts facets, measures class selectivity, and how well a Boolean
    formula predicts their firing.
regularise: do networks of small files generalise better? Networks of 784-width-10 units are trained on few images; at
    several epochs their file is the smallest whose training accuracy is within half a point, and its bytes are compared
    with the gap between training and test. Pruned and dense networks of equal training are compared too.

Every figure has a 95 % interval by Student's t over seeds; a seed draws start, batches and the images of the studies.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import netopsy
from netopsy.network.network import Network
from netopsy.stats.describe import spread_indices

Masks = list[Tensor | None]
LAYER, UNITS = 1, 12  # the hidden layer that is looked at, and how many of its units


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with rectifiers between them, for pictures."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def linears(module: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in module if isinstance(layer, nn.Linear)]


def smallest(module: nn.Sequential, sparsity: float) -> Masks:
    """For each layer but the last 1 where a weight is among the largest, 0 where it is pruned."""
    masks: Masks = []
    for layer in linears(module)[:-1]:
        size = layer.weight.detach().abs()
        masks.append((size > size.flatten().kthvalue(max(1, round(sparsity * size.numel()))).values).float())
    return [*masks, None]


def train(
    module: nn.Sequential,
    x: Tensor,
    y: Tensor,
    epochs: int,
    *,
    seed: int,
    rate: float = 0.1,
    masks: Masks = (),  # type: ignore[assignment]
) -> None:
    """SGD with momentum 0.9 under a cosine schedule; masked weights stay zero."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9)
    steps = epochs * -(-len(x) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    hold(module, masks)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(128):
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
            hold(module, masks)


@torch.no_grad()
def hold(module: nn.Sequential, masks: Masks) -> None:
    for layer, mask in zip(linears(module), masks, strict=False):
        if mask is not None:
            layer.weight.mul_(mask)


@torch.no_grad()
def accuracy(module: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((module(x).argmax(1) == y).double().mean())


def images(path: Path, split: str, count: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures (n, 1, 28, 28) as the networks take them, and labels; `count` of them at random."""
    with np.load(path / f"{split}.npz") as data:
        x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"]).long()
    if count is not None:
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
        x, y = x[chosen], y[chosen]
    return ((x[:, None].float() / 255) - 0.1307) / 0.3081, y


def opened(module: nn.Module) -> Network:
    return netopsy.load_network(module, size=28, channels="L", mean=(0.1307,), std=(0.3081,))


# Are sparse networks easier to read?


def readability(module: nn.Sequential, samples: Any, seed: int) -> dict[str, dict[int, float]]:
    """Of `UNITS` units of a hidden layer: facets, the account's F1 and literals, the best single input's F1, and class
    selectivity; by unit, units without an account left out.
    """
    network = opened(module)
    hidden = [name for name, node in network.nodes.items() if node.operator == "relu"][LAYER]
    chosen = spread_indices(linears(module)[LAYER].out_features, UNITS)
    settings = {"chosen": UNITS, "patches": 1, "seed": seed, "stimuli": 100}
    tables = netopsy.facets(network, samples, units=tuple(f"{hidden}:{k}" for k in chosen), **settings).tables
    channel = {f"{hidden}:{k}": k for k in chosen}
    measures: dict[str, dict[int, float]] = {}
    facets = tables["facets"].group_by("unit").len()
    measures["facets"] = {channel[unit]: float(n) for unit, n in facets.iter_rows()}
    for name, column in (("F1", "f1"), ("literals", "literals"), ("single F1", "single_f1")):
        rows = tables["formulas"].select("unit", column).drop_nulls().iter_rows()
        measures[name] = {channel[unit]: float(value) for unit, value in rows}
    measures["fires"] = {channel[u]: float(v) for u, v in tables["formulas"].select("unit", "fires").iter_rows()}
    return measures


@torch.no_grad()
def selectivity(module: nn.Sequential, x: Tensor, y: Tensor) -> dict[int, float]:
    """(a - b) / (a + b): the mean on a unit's best class against that on all others (Morcos et al., 2018)."""
    values = x
    for layer in module[: 2 * (LAYER + 1) + 1]:
        values = layer(values)
    means = torch.stack([values[y == k].mean(0) for k in range(10)])
    best = means.max(0).values
    others = (means.sum(0) - best) / 9
    index = ((best - others) / (best + others)).tolist()
    return {k: index[k] for k in spread_indices(values.shape[1], UNITS) if np.isfinite(index[k])}


def interpretable(data: Path, seeds: Sequence[int], sparsities: Sequence[float], epochs: tuple[int, int]) -> None:
    x, y = images(data, "train")
    test_x, test_y = images(data, "test")
    samples = netopsy.load_samples(str(data / "test.npz"))
    rows: dict[float, list[dict[str, float]]] = {s: [] for s in sparsities}
    for seed in seeds:
        torch.manual_seed(seed)
        start = mlp(784, 100, 60, 10)
        train(start, x, y, epochs[0], seed=seed)
        results = {}
        for sparsity in (0.0, *sparsities):
            module = mlp(784, 100, 60, 10)
            module.load_state_dict(start.state_dict())
            train(
                module,
                x,
                y,
                epochs[1],
                seed=seed + 1000,
                rate=0.05,
                masks=smallest(module, sparsity) if sparsity else [],
            )
            measures = readability(module.eval(), samples, seed)
            measures["selectivity"] = selectivity(module, test_x, test_y)
            results[sparsity] = measures, accuracy(module, test_x, test_y)
        dense, dense_accuracy = results[0.0]
        for sparsity in sparsities:
            sparse, sparse_accuracy = results[sparsity]
            row = {"accuracy dense": dense_accuracy, "accuracy": sparse_accuracy - dense_accuracy}
            for name, values in dense.items():
                both = values.keys() & sparse[name].keys()
                row[f"{name} dense"] = float(np.mean([values[k] for k in both]))
                row[name] = float(np.mean([sparse[name][k] - values[k] for k in both]))
            rows[sparsity].append(row)
            print(json.dumps({"seed": seed, "sparsity": sparsity} | row), flush=True)
    for sparsity, runs in rows.items():
        for name in (name for name in runs[0] if not name.endswith("dense")):
            before = np.mean([row[f"{name} dense"] for row in runs])
            print(f"sparsity {sparsity}: {name} {before:.3f} dense, change {interval([row[name] for row in runs])}")


def interval(values: Sequence[float], reach: float = np.inf) -> str:
    """The mean with its 95 % interval by Student's t, cut at `reach` on either side."""
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    low, high = max(mean - half, -reach), min(mean + half, reach)
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f}, {len(values)} seeds)"


# Do networks of small files generalise better?


def coded_bytes(module: nn.Sequential, x: Tensor, y: Tensor, masks: Masks = ()) -> int:  # type: ignore[assignment]
    """Bytes of the smallest file whose network is within half a point of the module on these images."""
    least, network = accuracy(module, x, y) - 0.005, opened(module)
    kept = {f"{2 * k + 1}": float(mask.mean()) for k, mask in enumerate(masks) if mask is not None}
    density = tuple(f"{name}={share:.6f}" for name, share in kept.items())
    with tempfile.TemporaryDirectory() as folder:
        for bits in range(1, 9):
            path = netopsy.compress(network, Path(folder) / f"{bits}.netopsy.safetensors", bits=bits, density=density)
            shared = mlp(*(layer.in_features for layer in linears(module)), 10)
            shared.load_state_dict(netopsy.expand(path))
            if accuracy(shared, x, y) >= least or bits == 8:
                return path.stat().st_size
    raise AssertionError


def regularise(
    data: Path, seeds: Sequence[int], widths: Sequence[int], count: int, checks: Sequence[int], sparsity: float
) -> None:
    test_x, test_y = images(data, "test")
    rows = []
    for seed in seeds:
        x, y = images(data, "train", count, seed)
        for width in widths:
            torch.manual_seed(seed)
            module, done = mlp(784, width, 10), 0
            for check in checks:
                train(module, x, y, check - done, seed=seed + check, rate=0.05)
                done = check
                rows.append(
                    measure(module, (x, y), (test_x, test_y), seed=seed, width=width, epochs=check, branch="dense")
                )
            for branch in ("dense on", "pruned"):  # from the same weights, on the same batches
                further = mlp(784, width, 10)
                further.load_state_dict(module.state_dict())
                masks = smallest(further, sparsity) if branch == "pruned" else []
                train(further, x, y, checks[-1], seed=seed + 5000, rate=0.05, masks=masks)
                what = {"seed": seed, "width": width, "epochs": 2 * checks[-1], "branch": branch}
                rows.append(measure(further, (x, y), (test_x, test_y), masks, **what))
    summarise(rows, seeds, widths, checks)


def measure(
    module: nn.Sequential,
    seen: tuple[Tensor, Tensor],
    unseen: tuple[Tensor, Tensor],
    masks: Masks = (),
    **what: Any,  # type: ignore[assignment]
) -> dict[str, Any]:
    right = [accuracy(module, *part) for part in (seen, unseen)]
    row = what | {"train": right[0], "test": right[1], "gap": right[0] - right[1]}
    row["bytes"] = coded_bytes(module, *seen, masks)
    print(json.dumps(row), flush=True)
    return row


def summarise(rows: list[dict[str, Any]], seeds: Sequence[int], widths: Sequence[int], checks: Sequence[int]) -> None:
    """Rank correlations over training and over sizes, each seed by itself; and pruned against dense."""

    def of(**what: Any) -> list[dict[str, Any]]:
        return [row for row in rows if all(row[key] == value for key, value in what.items())]

    def rank(some: list[dict[str, Any]], a: str, b: str) -> float:
        return float(stats.spearmanr([row[a] for row in some], [row[b] for row in some]).statistic)

    for width in widths:
        within = [of(seed=seed, width=width, branch="dense") for seed in seeds]
        print(f"over training, width {width}: bytes and gap {interval([rank(w, 'bytes', 'gap') for w in within], 1)}")
        print(f"over training, width {width}: bytes and test {interval([rank(w, 'bytes', 'test') for w in within], 1)}")
    across = [of(seed=seed, epochs=checks[-1], branch="dense") for seed in seeds]
    for other in ("gap", "test"):
        correlation = interval([rank(a, "bytes", other) for a in across], 1)
        print(f"over sizes after {checks[-1]} epochs: bytes and {other} {correlation}")
    for width in widths:
        pairs = [
            (of(seed=s, width=width, branch="pruned")[0], of(seed=s, width=width, branch="dense on")[0]) for s in seeds
        ]
        for name in ("gap", "test", "train"):
            print(f"pruned against dense, width {width}: {name} {interval([a[name] - b[name] for a, b in pairs])}")
        ratio = np.mean([a["bytes"] / b["bytes"] for a, b in pairs])
        print(f"pruned against dense, width {width}: {ratio:.2f} of the bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("motive", choices=("interpretable", "regularise"))
    parser.add_argument("data", type=Path, help="folder with train.npz and test.npz of MNIST (x, y)")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, nargs=2, default=(4, 4), help="before and after pruning (interpretable)")
    parser.add_argument("--sparsities", type=float, nargs="+", default=(0.8, 0.9, 0.95))
    parser.add_argument("--widths", type=int, nargs="+", default=(8, 16, 32, 64, 128))
    parser.add_argument("--count", type=int, default=2000, help="training images (regularise)")
    parser.add_argument(
        "--checks", type=int, nargs="+", default=(1, 2, 4, 8, 16, 32), help="epochs at which to measure"
    )
    o = parser.parse_args()
    seeds = range(o.seeds)
    if o.motive == "interpretable":
        interpretable(o.data, seeds, o.sparsities, tuple(o.epochs))
    else:
        regularise(o.data, seeds, o.widths, o.count, o.checks, 0.9)


if __name__ == "__main__":
    main()

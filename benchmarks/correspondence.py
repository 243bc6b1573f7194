"""Correspondence: all pairs of layers of two networks in one pass, and the lasso of all units of a layer at once.

    python benchmarks/correspondence.py pairs [--images 10000] [--threads 2] [--repeats 3]
    python benchmarks/correspondence.py lasso [--units 256] [--rows 10000] [--repeats 3]

`pairs`: two ResNet-20 with random weights, 32x32 images of noise. Peers: the two forward passes alone, over the same
reader and with the batch size that is fastest; and numpy's corrcoef of each pair of layers on stored activations, timed
on a few images and scaled. Runs alternate; the ratio is the median of the ratios of neighbours.

`lasso`: both solve for the same strengths, one thread each, and must reach the same objective to 1e-7. scikit-learn's
Lasso is given the Gram matrix, so that neither pays for it: once target by target, once all targets in a call, and once
all targets on as few rows as have these moments, which is its solver and little else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np

from common import add_tiny, ratio, seconds, shrink, tell

BATCHES = (8, 16, 32, 64, 128)
FEW = 64  # images for numpy
STRENGTHS = (0.3, 0.1, 0.03, 0.01)
TOLERANCE = 1e-7  # of the objective, for both


def pairs(name: str, images: int, threads: int, repeats: int) -> None:
    """Print the times of the pass, of the forward passes alone and of numpy, and the ratios."""
    import torch

    from netopsy import load_network, load_samples
    from netopsy.network.network import fresh
    from netopsy.studies.correspondence.comoments.cross_moments import cross_moments
    from netopsy.studies.correspondence.comoments.pair import common_grid, layers_of, pool

    torch.set_num_threads(threads)
    few = min(FEW, images)
    networks = [fresh(load_network(name, weights="random"), seed) for seed in (0, 1)]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.npz"
        np.savez(
            path,
            x=rng.integers(0, 256, (images, *networks[0].preprocessing.size, 3), np.uint8),
            y=np.arange(images) % 10,
        )
        samples = load_samples(str(path))

    def forward(size: int, count: int = images) -> None:
        with torch.inference_mode():
            for network in networks:
                for batch in samples.batches(network.preprocessing, size, order=np.arange(count)):
                    network.module(batch.images)

    def corrcoef() -> None:
        outputs: list[dict[str, torch.Tensor]] = [{}, {}]
        with torch.inference_mode():
            for network, moments in zip(networks, outputs, strict=True):
                modules = dict(network.module.named_modules())
                hooks = [
                    modules[name].register_forward_hook(
                        lambda _m, _i, y, n=name, f=moments: f.__setitem__(n, y.clone())
                    )
                    for name in layers_of(network)
                ]
                network.module(next(iter(samples.batches(network.preprocessing, few))).images)
                for hook in hooks:
                    hook.remove()
        for a in outputs[0].values():
            for b in outputs[1].values():
                x, y = (v.movedim(1, -1) for v in (a, b))
                grid = common_grid(tuple(x.shape[1:-1]), tuple(y.shape[1:-1]))
                rows = [pool(v, grid).flatten(0, -2).numpy() for v in (x, y)]
                with np.errstate(all="ignore"):
                    np.corrcoef(*rows, rowvar=False)

    cross_moments(*networks, samples.select(np.arange(few), "few"), pairs="all")  # the graphs are exported once
    batch = min(BATCHES, key=lambda n: seconds(lambda: forward(n, min(images, 512)))[0])
    print(
        f"torch {torch.__version__}, {threads} threads, load {os.getloadavg()[0]:.1f}, "
        f"{images:,d} images, batch {batch}"
    )
    kinds = {
        "units of matching layers": ("matching", False),
        "units of all layers": ("all", False),
        "the same, with the shuffled control": ("all", True),
    }
    times: dict[str, list[float]] = {"forward": [], **{name: [] for name in kinds}}
    for _ in range(repeats):
        times["forward"].append(seconds(lambda: forward(batch))[0])
        for name, (which, shuffled) in kinds.items():
            elapsed, moments = seconds(
                lambda w=which, s=shuffled: cross_moments(*networks, samples, pairs=w, shuffled=s)
            )
            times[name].append(elapsed)
    figures = {}
    for name, elapsed in times.items():
        over = statistics.median(time / base for time, base in zip(elapsed, times["forward"], strict=True))
        print(f"{name:36s} {statistics.median(elapsed):8.2f} s  {over:.2f} x the two forward passes", flush=True)
        figures[name] = {"seconds": statistics.median(elapsed), "over": over}
    slow = seconds(corrcoef)[0] * images / few
    print(f"{len(moments)} pairs of layers; ", end="")
    ours = statistics.median(times["units of all layers"])
    ratio(ours, slow, f"numpy, each pair of layers (timed on {few} images)")
    tell("pairs", slow / ours, times=figures, images=images)


def layers(units: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised values of two rectified layers that mix the same 64 causes of falling strength."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((rows, 64)) * np.arange(1, 65) ** -0.5

    def layer() -> np.ndarray:
        values = causes @ rng.standard_normal((64, units))
        values = np.maximum(values + 0.3 * rng.standard_normal(values.shape), 0)
        return np.asfortranarray((values - values.mean(0)) / values.std(0))

    return layer(), layer()


def lasso(units: int, rows: int, repeats: int) -> None:
    """Print the time of each at each strength, and the ratios."""
    from sklearn.linear_model import Lasso
    from threadpoolctl import threadpool_limits

    from netopsy.studies.correspondence.comoments.pair import Pair
    from netopsy.studies.correspondence.regression import lasso_path

    a, b = layers(units, rows)
    small_a, small_b = fewest_rows(a, b)

    def theirs(x: np.ndarray, y: np.ndarray, strength: float) -> np.ndarray:
        # the Gram matrix of scaled values is the same for any number of rows, but for the factor
        model = Lasso(strength, precompute=gram * len(x), fit_intercept=False, tol=TOLERANCE, max_iter=100_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.atleast_2d(model.fit(x, y).coef_)

    def one_by_one(strength: float) -> np.ndarray:
        return np.concatenate([theirs(b, a[:, i], strength) for i in range(units)])

    def objective(w: np.ndarray, strength: float) -> np.ndarray:
        return 0.5 * ((w @ gram) * w).sum(1) - (w * pair.ab / rows).sum(1) + 0.5 + strength * np.abs(w).sum(1)

    with threadpool_limits(1):
        passed, (aa, bb, ab) = seconds(lambda: (a.T @ a, b.T @ b, a.T @ b))
        zero, gram = np.zeros(units), bb / rows
        pair = Pair("a", "b", rows, rows, (), zero, zero, aa, bb, ab)
        values = np.linalg.eigvalsh(gram)
        print(f"{units} units on {units}, {rows:,d} rows, eigenvalues {values[0]:.1e} to {values[-1]:.1f}; ", end="")
        print(f"the co-moments themselves take numpy {passed:.3f} s")
        runs = {
            "target by target": (one_by_one, 1),
            "all targets": (lambda strength: theirs(b, a, strength), repeats),
            "all targets, fewest rows": (lambda strength: theirs(small_b, small_a, strength), repeats),
        }
        total = dict.fromkeys(("netopsy", *runs), 0.0)
        furthest = 0.0
        for strength in STRENGTHS:
            tries = [seconds(lambda s=strength: lasso_path(pair, [s], coefficients=True)) for _ in range(repeats)]  # type: ignore[misc]
            path = tries[0][1]
            times = {"netopsy": min(time for time, _ in tries)}
            apart = 0.0
            for name, (run, count) in runs.items():
                peers = [seconds(lambda run=run, s=strength: run(s)) for _ in range(count)]  # type: ignore[misc]
                times[name] = min(time for time, _ in peers)
                apart = max(apart, np.abs(objective(peers[0][1], strength) - path.objectives[0]).max())
            furthest = max(furthest, float(apart))
            total = {name: total[name] + time for name, time in times.items()}
            line = "  ".join(f"{name} {time:.4f} s" for name, time in times.items())
            print(f"strength {strength:<5g} {path.mean_used[0]:6.1f} units used  {line}", flush=True)
            print(f"  objectives apart by at most {apart:.1e}, largest gap of netopsy {path.gaps.max():.1e}")
        whole: float = min(seconds(lambda: lasso_path(pair, STRENGTHS))[0] for _ in range(repeats))
    print(f"netopsy, all {len(STRENGTHS)} strengths in one path: {whole:.4f} s")
    for name in runs:
        ratio(whole, total[name], f"scikit-learn, {name}", " (all strengths)")
    peers = {name: {"seconds": total[name], "ratio": total[name] / whole} for name in runs}
    tell("lasso", min(peer["ratio"] for peer in peers.values()), netopsy=whole, peers=peers, apart=furthest)


def fewest_rows(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values with as many rows as units of both and the co-moments, over the rows, of a and b."""
    units = a.shape[1] + b.shape[1]
    r = np.linalg.qr(np.hstack([b, a]), mode="r") * np.sqrt(units / len(a))
    return np.asfortranarray(r[:, b.shape[1] :]), np.asfortranarray(r[:, : b.shape[1]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("pairs", "lasso"), default="pairs")
    parser.add_argument("--network", default="netopsy:resnet20", help="of `pairs`, twice")
    parser.add_argument("--images", type=int, default=10_000, help="of `pairs`")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of `pairs`")
    parser.add_argument("--units", type=int, default=256, help="of each layer")
    parser.add_argument("--rows", type=int, default=10_000, help="of the values that scikit-learn is given")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts")
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, network="netopsy:lenet5", images=16, threads=1, units=16, rows=100, repeats=1)
    if options.part == "pairs":
        pairs(options.network, options.images, options.threads, options.repeats)
    else:
        lasso(options.units, options.rows, options.repeats)


if __name__ == "__main__":
    main()

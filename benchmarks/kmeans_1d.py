"""1-D k-means of N(0, 1) values: netopsy against scikit-learn, faiss, kmeans1d and ckwrap.

    python benchmarks/kmeans_1d.py [--n 10000000] [--k 32] [--slow-n 1000000] [--repeats 3]

Each peer runs in a process of its own on the same values. The clock holds the whole call, from unsorted values to
centroids and codes, without imports. The exact peers, kmeans1d and ckwrap, run on the first `--slow-n` values only,
for they need many minutes or tens of gigabytes on more; netopsy is timed on as many beside them, and their distortion
is the optimum.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import median

import numpy as np

from common import add_tiny, in_own_process, peak_memory, ratio, seconds, shrink, tell

LARGEST_LAYER = 37_748_736  # weights of AlexNet's fc6
Clustered = tuple[np.ndarray, np.ndarray]


def netopsy(k: int) -> Callable[[np.ndarray], Clustered]:
    from netopsy.stats.kmeans1d.kmeans1d import kmeans1d

    def run(values: np.ndarray) -> Clustered:
        codebook = kmeans1d(values, k)
        return codebook.centroids, codebook.codes

    return run


def scikit_learn(k: int) -> Callable[[np.ndarray], Clustered]:
    from sklearn.cluster import KMeans

    def run(values: np.ndarray) -> Clustered:
        model = KMeans(k, n_init=1, random_state=0).fit(values[:, None])
        return model.cluster_centers_[:, 0], model.labels_

    return run


def faiss(k: int) -> Callable[[np.ndarray], Clustered]:
    import faiss as library

    def run(values: np.ndarray) -> Clustered:
        model = library.Kmeans(1, k, niter=25, seed=1, max_points_per_centroid=len(values))
        model.train(values[:, None])
        return model.centroids[:, 0], model.index.search(values[:, None], 1)[1][:, 0]

    return run


def kmeans1d(k: int) -> Callable[[np.ndarray], Clustered]:
    import kmeans1d as library

    def run(values: np.ndarray) -> Clustered:
        codes, centroids = library.cluster(values, k)
        return np.array(centroids), np.array(codes)

    return run


def ckwrap(k: int) -> Callable[[np.ndarray], Clustered]:
    import ckwrap as library

    def run(values: np.ndarray) -> Clustered:
        clusters = library.ckmeans(values.astype(np.float64), k)
        return clusters.centers, clusters.labels

    return run


PEERS = {peer.__name__: peer for peer in (netopsy, scikit_learn, faiss, kmeans1d, ckwrap)}
EXACT = ("kmeans1d", "ckwrap")


def measure(peer: str, n: int, k: int, repeats: int) -> dict[str, float]:
    """Median seconds, distortion and peak memory (GiB) of a peer, and the memory of the process before it ran."""
    cluster = PEERS[peer](k)
    values = np.random.default_rng(5).standard_normal(n, np.float32)
    before = peak_memory()
    times = []
    for _ in range(repeats):
        time, (centroids, codes) = seconds(lambda: cluster(values))
        times.append(time)
    peak = peak_memory()
    parts = range(0, n, 1 << 20)
    centroids = np.asarray(centroids, np.float64)
    squares = sum(float(((values[i : i + (1 << 20)] - centroids[codes[i : i + (1 << 20)]]) ** 2).sum()) for i in parts)
    return {"seconds": median(times), "distortion": squares / n, "peak": peak, "before": before}


def measure_and_print(peer: str, n: int, k: int, repeats: int) -> dict[str, float]:
    """A peer measured in its own process, and printed."""
    row = in_own_process(__file__, "--peer", peer, "--n", str(n), "--k", str(k), "--repeats", str(repeats))
    print(
        f"{peer:13s} n = {n:>10,d}  K = {k:3d}  {row['seconds']:8.3f} s  distortion {row['distortion']:.10f}  "
        f"peak {row['peak']:.2f} GiB ({row['before']:.2f} before)",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000_000, help="values")
    parser.add_argument("--k", type=int, default=32, help="centroids")
    parser.add_argument("--slow-n", type=int, default=1_000_000, help="values for kmeans1d and ckwrap")
    parser.add_argument("--repeats", type=int, default=3, help="runs of netopsy, of which the median counts")
    parser.add_argument("--largest", type=int, default=LARGEST_LAYER, help="values of the largest layer")
    add_tiny(parser)
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shrink(options, n=4000, k=8, slow_n=1000, repeats=1, largest=8000)
    if options.peer:
        print(json.dumps(measure(options.peer, options.n, options.k, options.repeats)))
        return
    ours = measure_and_print("netopsy", options.n, options.k, options.repeats)
    peers = {peer: measure_and_print(peer, options.n, options.k, 1) for peer in ("scikit_learn", "faiss")}
    fewer = min(options.n, options.slow_n)
    beside = measure_and_print("netopsy", fewer, options.k, options.repeats)
    exact = {peer: measure_and_print(peer, fewer, options.k, 1) for peer in EXACT}
    largest = measure_and_print("netopsy", options.largest, options.k, 1)
    optimum = min(row["distortion"] for row in exact.values())
    print(
        f"distortion of netopsy above the optimum, n = {fewer:,d}: {beside['distortion'] / optimum - 1:+.1e} (relative)"
    )
    print(f"largest layer of AlexNet: {largest['seconds']:.2f} s, peak {largest['peak']:.2f} GiB")
    for peer, row in exact.items():
        ratio(beside["seconds"], row["seconds"], peer, f" (on {fewer:,d} values)")
    ratio(ours["seconds"], peers["faiss"]["seconds"], "faiss")
    ratio(ours["seconds"], peers["scikit_learn"]["seconds"], "scikit-learn")
    rows = {"netopsy": ours, "netopsy_fewer": beside, "netopsy_largest": largest}
    rows |= {peer: row | {"ratio": row["seconds"] / ours["seconds"]} for peer, row in peers.items()}
    rows |= {peer: row | {"ratio": row["seconds"] / beside["seconds"]} for peer, row in exact.items()}
    above = beside["distortion"] / optimum - 1
    tell("kmeans_1d", rows["scikit_learn"]["ratio"], rows=rows, n=options.n, fewer=fewer, above_optimum=above)


if __name__ == "__main__":
    main()

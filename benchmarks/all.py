"""Every benchmark, one after the other, and the page docs/benchmarks.md from what they measured.

    python benchmarks/all.py [--only sweep,lasso] [--tiny] [--page]

The last line that a benchmark prints is its figures in JSON. They are kept in docs/benchmarks.json, each with the
command, the day and the machine, and take the place of the figures there; whatever did not run keeps its own. The words
of the page are in benchmarks/page.md. With --tiny everything is small, and neither file is written.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import torch

HERE = Path(__file__).resolve().parent
FIGURES = HERE.parent / "docs" / "benchmarks.json"
PAGE = HERE.parent / "docs" / "benchmarks.md"
# Each set of figures and the command that measures it; SHARED is the folder of real networks and images.
RUNS = {
    "kmeans_1d": "kmeans_1d.py",
    "observe": "observe.py --networks resnet20 --threads 1 --repeats 3",
    "stimuli": "stimuli.py --repeats 3 --images 200",
    "stimuli_few": "stimuli.py --repeats 5 --images 40",
    "backproject_resnet18": "backproject.py --networks resnet18 --units 64 --repeats 3",
    "backproject_vgg16": "backproject.py --networks vgg16 --units 16 --repeats 2",
    "sweep": "sweep.py --networks resnet20,digits --cells 4",
    "sweep_vgg16": "sweep.py --networks vgg16_bn --cells 4",
    "transfer": "transfer.py",
    "codec": "codec.py",
    "triage_one": f"triage.py {(TRIAGE := '--samples cifar10.npz --width 8 --images 10000 --test 10000 --block 3')} "
    f"{(EPOCHS := '--epochs 5 --stn-epochs 3 --parent-epochs 3')} --threads 1 --workers 1",
    "triage_two": f"triage.py {TRIAGE} {EPOCHS} --threads 2 --workers 2",
    "pairs": "correspondence.py pairs --repeats 1",
    "lasso": "correspondence.py lasso --repeats 2",
    "rates": "rates.py torchvision:vgg16_bn --size 224 --images 50 --jpeg",
    "bag_of_words": "bag_of_words.py cifar10.npz",
    "prescribe": "prescribe.py --weights cifar10-resnet20.safetensors --samples cifar10.npz --split test",
}


def measure(command: str, tiny: bool) -> dict[str, Any]:
    """The figures of one benchmark; what it says goes to the terminal meanwhile."""
    words = [sys.executable, *shlex.split(command), *(["--tiny"] if tiny else [])]
    process = subprocess.Popen(["env", "-C", str(HERE), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = ""
    for last in process.stdout:
        print(last, end="", flush=True)
    if process.wait():
        raise SystemExit(f"{command} failed")
    return json.loads(last)


def machine() -> str:
    """What the figures were measured on."""
    return f"{os.cpu_count()} processor cores, torch {torch.__version__.split('+')[0]}"


def page(figures: dict[str, Any]) -> str:
    """docs/benchmarks.md: the words of page.md with the figures."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["fixed"] = lambda value, digits: f"{value:,.{digits}f}"
    return environment.from_string((HERE / "page.md").read_text()).render(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"of {', '.join(RUNS)}")
    parser.add_argument("--tiny", action="store_true", help="everything small: shows that it runs, writes nothing")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page from the figures kept")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(RUNS)
    if wrong := set(names) - set(RUNS):
        parser.error(f"no benchmark {', '.join(sorted(wrong))}; there are {', '.join(RUNS)}")
    figures_kept = json.loads(FIGURES.read_text())
    for name in [] if options.page else names:
        print(f"== {RUNS[name]}", flush=True)
        provenance = {"command": f"python benchmarks/{RUNS[name]}", "day": str(datetime.date.today())}
        figures = measure(RUNS[name], options.tiny)
        if not options.tiny:
            figures_kept[name] = figures | provenance | {"machine": machine()}
            FIGURES.write_text(json.dumps(figures_kept, indent=1) + "\n")
    if not options.tiny:
        PAGE.write_text(page(figures_kept))
        print(f"wrote {PAGE}")
    print(json.dumps({"benchmark": "all", "ran": [] if options.page else names}))


if __name__ == "__main__":
    main()

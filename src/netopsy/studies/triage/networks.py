"""The compressed networks as files that `load_network` opens, and their bytes against their scores."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from netopsy.blocks.find import find_block
from netopsy.blocks.layer import new_layer
from netopsy.blocks.section import compressed_network
from netopsy.codec.file import SUFFIX
from netopsy.deep_compression.compress import bits_of, compress, parse_entries, per_layer
from netopsy.deep_compression.save import describe, expand
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import NetworkError, UnknownLayer
from netopsy.network.capture import export_program, write_program
from netopsy.network.network import Network
from netopsy.result import Finding
from netopsy.samples.tasks import find_task
from netopsy.studies.study import stem_of, whereabouts
from netopsy.studies.triage.design import TriageRun, Trial
from netopsy.studies.triage.storage import right
from netopsy.studies.triage.tables import cell_row
from netopsy.wording import percent, plural, points, size

Kept = Literal["all", "best", "none"]
UNCOMPRESSED, TRAINED, SHARED = "uncompressed", "as trained", "shared weights"

_SIZES: dict[str, Any] = {
    "block": pl.String,
    "start": pl.String,
    "training": pl.String,
    "seed": pl.Int64,
    "weights": pl.String,
    "best": pl.Boolean,
    "bytes": pl.Int64,
    "share": pl.Float64,
    **dict.fromkeys(("top1", "top1_low", "top1_high", "drop", "drop_low", "drop_high"), pl.Float64),
    "file": pl.String,
}


@dataclass
class KeptNetworks:
    """files: by name. sizes: a row a network, see `keep_networks`. notes: what was not kept, and why."""

    files: dict[str, Path] = field(default_factory=dict)
    sizes: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_SIZES))
    notes: list[Finding] = field(default_factory=list)


def keep_networks(run: TriageRun, which: Kept, bits: Sequence[str], limit: float) -> KeptNetworks:
    """Write the compressed networks as programs of torch.export, which `load_network` opens by themselves.

    which: `all`, or of each block the one with the highest score. bits: also write each block's best network, and the
    uncompressed one, with 2^bits shared weights a layer (`netopsy.compress`), and score that; empty for none. limit:
    bytes that the files may take; where all would take more, the best alone are written.

    sizes: block (`uncompressed` is the network before), start, training, seed, weights (`as trained` or `shared
    weights`), best (of its block), bytes (of all values, or of the file with shared weights), share (of the bytes of
    the uncompressed network), score and loss of it with their intervals over the samples, file.
    """
    kept = KeptNetworks()
    trials = [t for t in {id(t): t for t in (*run.cells, *run.deeper)}.values() if t.values is not None]
    base = next((t for t in run.baselines if t.values is not None), None)
    if which == "none" or base is None or not trials:
        return kept
    best = _best(run)
    whole = _bytes(run.parents[base.spec["seed"]].module)
    if which == "all" and whole * len(trials) > limit:
        which = "best"
        kept.notes.append(
            Finding(
                f"{plural(len(trials), 'compressed network')} would take {size(whole * len(trials))}, so each block's "
                "best alone was written; raise storage for all.",
                0.5,
            )
        )
    rows = [_row(base, base, None, TRAINED, whole, whole, "", best=True)]
    folder = _folder()
    programs = _Programs(run)
    failures: list[str] = []
    for trial in trials:
        is_best = any(trial is other for other in best)
        if which == "best" and not is_best:
            continue
        path = folder / f"{_stem(trial)}.pt2"
        try:
            network = programs.write(trial, path)
        except NetworkError as error:
            failures.append(f"{path.stem}: {error}")
            continue
        kept.files[path.name] = path
        rows.append(_row(trial, base, trial, TRAINED, _bytes(network.module), whole, path.name, best=is_best))
        if is_best and bits:
            rows.append(_shared(run, network, trial, base, folder / f"{_stem(trial)}{SUFFIX}", bits, whole, kept.files))
    if bits:
        parent = run.parents[base.spec["seed"]]
        path = folder / f"{stem_of(parent)}{SUFFIX}"
        rows.append(_shared(run, parent, base, base, path, bits, whole, kept.files))
    if failures:
        text = f"{plural(len(failures), 'compressed network')} could not be written as a file; {failures[0]}"
        kept.notes.append(Finding(text, 0.5))
    kept.sizes = pl.DataFrame(rows, schema=_SIZES)
    return kept


def _folder() -> Path:
    """Where the files lie until the case takes them."""
    place = current_workspace().folder
    if place is None:
        return Path(tempfile.mkdtemp(prefix="netopsy-triage-"))
    (place / "triage-networks").mkdir(exist_ok=True)
    return place / "triage-networks"


def _best(run: TriageRun) -> list[Trial]:
    """Of each block the network with the highest score, the first of several."""
    best: dict[str, Trial] = {}
    for trial in run.cells:
        block = trial.spec["blocks"][0]
        if trial.values is not None and (block not in best or trial.score > best[block].score):
            best[block] = trial
    return list(best.values())


def _stem(trial: Trial) -> str:
    """Of the file's name: `block2.TM-STN.seed0`; `deeper3.TM-STN.seed0` with three blocks compressed."""
    spec, blocks = trial.spec, trial.spec["blocks"]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_to_", blocks[0]) if len(blocks) == 1 else f"deeper{len(blocks)}"
    return f"{name}.{spec['training']}-{spec['start']}.seed{spec['seed']}"


def _bytes(module: nn.Module) -> int:
    """Of all parameters and buffers, each once."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


class _Programs:
    """Compressed networks as programs. One that replaces the same blocks in the same way is exported once."""

    def __init__(self, run: TriageRun) -> None:
        self.run = run
        self.made: dict[tuple[str, ...], tuple[Network, ExportedProgram]] = {}

    def write(self, trial: Trial, path: Path) -> Network:
        """Write the network of a trial to `path` and return it; it is good until the next one is written."""
        spec = trial.spec
        parent = self.run.parents[spec["seed"]]
        key = (*spec["blocks"], str(spec["start"] == "ID"))
        if key not in self.made:
            self.made.clear()  # the trials of one block come together
            self.made[key] = self._export(parent, spec)
        network, program = self.made[key]
        tensors = {**dict(network.module.named_parameters()), **dict(network.module.named_buffers())}
        with torch.no_grad():
            for name, value in {**parent.tensors, **state_of(trial)}.items():
                if name in tensors:
                    tensors[name].copy_(value)
        network.forget()
        network.name = path.name
        network.provenance = {"source": path.name, "compressed": spec["blocks"]}
        write_program(program, path, header_of(parent) | {"compressed": ", ".join(spec["blocks"])})
        return network

    def _export(self, parent: Network, spec: Mapping[str, Any]) -> tuple[Network, ExportedProgram]:
        blocks = [find_block(parent, name) for name in spec["blocks"]]
        replaced = [(b, nn.Identity() if spec["start"] == "ID" else new_layer(parent, b, spec["seed"])) for b in blocks]
        compressed = compressed_network(parent, replaced)
        module = copy.deepcopy(compressed.module).cpu().eval()
        network = Network(compressed.name, module, parent.preprocessing)
        return network, export_program(module, parent.signature)


def state_of(trial: Trial) -> dict[str, Tensor]:
    """What the training of a trial changed, by the names of the compressed network."""
    return {name.removeprefix("state "): trial.tensors[name] for name in trial.tensors if name.startswith("state ")}


def header_of(parent: Network) -> dict[str, str]:
    """What a file says of its network's inputs, and where it came from."""
    known = describe(parent)
    header = {key: text for key, text in known.items() if key not in ("options", "tied", "dtypes", "output", "weights")}
    header["from"] = header.pop("architecture")
    folder = header["from"].removeprefix("hf:")
    if header["from"].startswith("hf:") and parent.signature.tokenizer is not None:
        header.setdefault("tokenizer", str(Path(folder).expanduser().absolute()))
    return header


def _shared(
    run: TriageRun,
    network: Network,
    trial: Trial,
    base: Trial,
    path: Path,
    bits: Sequence[str],
    whole: int,
    files: dict[str, Path],
) -> dict[str, Any]:
    """The row of `network` with shared weights, scored as the file gives them back."""
    files[path.name] = compress(network, path, bits=fitting(network, bits))
    decoded = copy.deepcopy(network.module)
    tensors = {**dict(decoded.named_parameters()), **dict(decoded.named_buffers())}
    with torch.no_grad():
        for name, value in expand(path).items():
            if name in tensors:
                tensors[name].copy_(value)
    parent = run.parents[trial.spec["seed"]]
    scores, loss, counts = right(decoded.to(parent.device), parent, run.samples, find_task(parent, run.samples))
    values = {**(trial.values or {}), "loss": loss, **counts, "history": []}
    coded = replace(trial, values=values, tensors=scores)
    known = None if trial is base else trial
    return _row(coded, base, known, SHARED, path.stat().st_size, whole, path.name, best=True)


def fitting(network: Network, bits: Sequence[str]) -> tuple[str | float, ...]:
    """The entries of `bits` that name a layer of this network: the blocks of others are one layer here."""

    def names_a_layer(entry: str | float) -> bool:
        try:
            per_layer(network.layers, [entry], "bits")
        except UnknownLayer:
            return False
        return True

    entries = tuple(entry for entry in parse_entries(bits) if names_a_layer(entry))
    bits_of(network.layers, entries)
    return entries


def _row(
    scored: Trial, base: Trial, trial: Trial | None, weights: str, count: int, whole: int, file: str, *, best: bool
) -> dict[str, Any]:
    blank: dict[str, Any] = {"blocks": [UNCOMPRESSED], "start": None, "training": None}
    score = cell_row(replace(scored, spec={**blank, **scored.spec}), base)
    about = {"block": UNCOMPRESSED, "seed": base.spec["seed"]}
    if trial is not None:
        about = {key: score[key] for key in ("block", "start", "training", "seed")}
    numbers = {key: score[key] for key in _SIZES if key in ("top1", "drop") or key.endswith(("_low", "_high"))}
    rest = {"weights": weights, "best": best, "bytes": count, "share": count / whole, "file": file or None}
    return dict.fromkeys(_SIZES) | about | numbers | rest


def size_findings(kept: KeptNetworks, study: str) -> list[Finding]:
    """The smallest network that does without a measurable loss, or else the smallest, and where the files are."""
    if not kept.files:
        return kept.notes
    rows = kept.sizes.filter((pl.col("block") != UNCOMPRESSED) & pl.col("best")).sort("bytes")
    if rows.is_empty():
        return kept.notes
    spared = rows.filter(pl.col("drop_low").fill_null(0.0) <= 0)
    row = (spared if spared.height else rows).row(0, named=True)
    how = "" if row["weights"] == TRAINED else f" and {row['weights']}"
    low, high = row["drop_low"], row["drop_high"]
    within = "" if low is None or high is None else f" (95 % interval {100 * low:.2f} to {100 * high:.2f})"
    lead = "the smallest without a measurable loss" if spared.height else "the smallest, with a measurable loss"
    text = (
        f"{row['block']} as one layer ({row['training']}-{row['start']}){how} is {lead}: {size(row['bytes'])}, "
        f"{percent(row['share'])} of the uncompressed network, at {points(row['drop'])}{within} lost. It was picked "
        "on the samples that score it."
    )
    files = (
        f"{plural(len(kept.files), 'network')} can be opened by load_network, the first at "
        f"{whereabouts(study, next(iter(kept.files.values())))}; give it to compression or prescribe to go on."
    )
    return [Finding(text, 1.0), Finding(files, 0.5), *kept.notes]

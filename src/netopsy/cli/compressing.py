"""The commands `compress` and `expand`, a network as one small file and back; and `blocks`, which lists its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from netopsy.cli import options as o
from netopsy.cli.output import print_table, progress
from netopsy.cli.sources import load_subject

if TYPE_CHECKING:
    import polars as pl

COMPRESS = "Write a network as one small file: prune, share weights, code; without images and without training."
EXPAND = "Write the network of a compressed file as an ordinary state dict."
_FORCE = o.option("force", bool, "Replace the file where there is one.", False)
_TABLE = [
    "layer",
    "weights",
    "kept_share",
    "entries",
    "code_bits",
    "gap_bits",
    "code_bits_after",
    "gap_bits_after",
    "bytes",
    "share",
]


def compress_options() -> list[o.Option]:
    layers = (
        "A number, or LAYER=NUMBER with a kind (conv, linear, recurrent), a name or a pattern (layer3.*); "
        "with commas between."
    )
    return [
        o.NETWORK,
        o.option("out", str, "The file to write; it must end in .netopsy.safetensors."),
        o.option("density", tuple[str, ...] | None, f"Share of weights to keep, all by default. {layers}", None),
        o.option(
            "bits",
            tuple[str, ...] | None,
            f"Each layer's weights share 2 ** bits values, 4: 16; 8,linear=5 by default. {layers}",
            None,
        ),
        o.option(
            "start",
            Literal["dp", "linear", "density", "random"],
            "How k-means looks for the values: dp finds the best.",
            "dp",
        ),
        o.option("other_dtype", Literal["exact", "float16"], "How biases, norms and other values are stored.", "exact"),
        o.option("coder", Literal["ans", "huffman"], "How the file is packed: ans (smaller), or huffman.", "ans"),
        o.option("seed", int, "Seed of --start random.", 0),
        _FORCE,
        o.JSON,
        *o.NETWORK_OPTIONS,
    ]


def expand_options() -> list[o.Option]:
    out = o.option("out", str, "The .safetensors file to write.")
    return [o.argument("file", "A file that `netopsy compress` wrote."), out, _FORCE]


def compress(network: str, *, out: str, force: bool, json: bool, **options: Any) -> None:
    from netopsy.codec.file import SUFFIX
    from netopsy.deep_compression.compress import compress as write
    from netopsy.deep_compression.save import destination
    from netopsy.deep_compression.storage_table import storage_table
    from netopsy.engine.workspace.workspace import workspace

    destination(out, SUFFIX, force=force)
    settings = {name: options[name] for name in ("density", "bits", "start", "other_dtype", "coder", "seed")}
    subject = load_subject(network, options)
    with progress() as show, workspace(None, show):
        path = write(subject, out, **{name: value for name, value in settings.items() if value is not None})
    table = storage_table(path)
    if json:
        print(table.write_json())
        return
    print_table(table.select(_TABLE), subject.name, rows=table.height)
    print(f"\n{sentence(table, str(path))}")


def sentence(table: pl.DataFrame, path: str) -> str:
    """What a file takes, from its `storage_table`."""
    total = table.row(-1, named=True)
    return (
        f"{path}: {total['bytes']:,} bytes on disk, against {total['float32']:,} for the {total['weights']:,} values "
        f"of the state dict at 4 bytes each: {total['ratio']:.2f} x smaller."
    )


def expand(file: str, *, out: str, force: bool) -> None:
    from netopsy.deep_compression.save import destination
    from netopsy.deep_compression.save import expand as read

    target = destination(out, ".safetensors", force=force)
    state = read(file, target)
    values = sum(tensor.numel() for tensor in state.values())
    print(f"{target}: {len(state)} tensors, {values:,} values, {target.stat().st_size:,} bytes.")


BLOCKS = "List the blocks: stretches with one input and one output, which one layer may stand in for."
_COLUMNS = ["block", "kind", "layers", "parameters", "share", "macs", "input", "output", "layer", "layer_parameters"]
_TITLES = {"layer": "one layer", "layer_parameters": "its parameters"}


def blocks_options() -> list[o.Option]:
    """A network, its options, and --json."""
    return [o.NETWORK, *o.NETWORK_OPTIONS, o.JSON]


def blocks(network: str, *, json: bool, **options: Any) -> None:
    """Print the table."""
    from netopsy.blocks.find import list_blocks

    net = load_subject(network, options)
    frame = list_blocks(net)
    if json:
        print(frame.write_json())
        return
    print_table(frame.select(_COLUMNS).rename(_TITLES), net.name, rows=frame.height)
    print()
    for block, obstacle in frame.filter(frame["obstacle"].is_not_null()).select("block", "obstacle").iter_rows():
        print(f"No one layer fits {block}. {obstacle}")
    chosen = frame.filter(frame["default"])["block"].to_list()
    if chosen:
        print(f"Taken where none is named: {', '.join(chosen)}.")
    else:
        print("No stretch with one input and one output holds two layers; name one as FIRST:LAST by its layers.")

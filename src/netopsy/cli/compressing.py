"""The commands `compress` and `expand`, a network as one small file and back; `layers` and `blocks` list its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from netopsy.cli import options as o
from netopsy.cli.output import Output
from netopsy.cli.progress import show_progress
from netopsy.cli.sources import load_subject

if TYPE_CHECKING:
    import polars as pl

COMPRESS = "Write a network as one small file, without samples and without training."
EXPAND = "Turn a compressed file back into an ordinary state dict."
LAYERS = "List the layers: shapes, parameters, multiply-adds, receptive fields."
_FORCE = o.switch("force", "Replace the file where there is one.")
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
        *o.TABLES,
        o.QUIET,
        *o.NETWORK_OPTIONS,
    ]


def expand_options() -> list[o.Option]:
    out = o.option("out", str, "The .safetensors file to write.")
    return [o.argument("file", "A file that `netopsy compress` wrote."), out, _FORCE]


def compress(network: str, *, out: str, force: bool, **options: Any) -> None:
    from netopsy.codec.file import SUFFIX
    from netopsy.deep_compression.compress import compress as write
    from netopsy.deep_compression.save import destination, storage_table
    from netopsy.engine.workspace.workspace import workspace

    output = Output.take(options)
    destination(out, SUFFIX, force=force)
    settings = {name: options[name] for name in ("density", "bits", "start", "other_dtype", "coder", "seed")}
    subject = load_subject(network, options)
    with show_progress("compress", quiet=output.quiet) as show, workspace(None, show):
        path = write(subject, out, **{name: value for name, value in settings.items() if value is not None})
    table = storage_table(path)
    output.show_frame(table, subject.name, _TABLE, sentence(table, str(path)))


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


BLOCKS = "List the blocks: stretches of layers that a single layer could replace."
_COLUMNS = ["block", "kind", "layers", "parameters", "share", "layer", "layer_parameters", "macs", "input", "output"]


def blocks_options() -> list[o.Option]:
    """A network, its options, and how the table is printed."""
    return [o.NETWORK, *o.NETWORK_OPTIONS, *o.TABLES]


def blocks(network: str, **options: Any) -> None:
    """Print the table."""
    from netopsy.blocks.find import list_blocks

    output, net = Output.take(options), load_subject(network, options)
    frame = list_blocks(net)
    obstacles = frame.filter(frame["obstacle"].is_not_null()).select("block", "obstacle").iter_rows()
    notes = [f"No one layer fits {block}. {obstacle}" for block, obstacle in obstacles]
    chosen = frame.filter(frame["default"])["block"].to_list()
    if chosen:
        notes.append(f"Taken where none is named: {', '.join(chosen)}.")
    else:
        notes.append("No stretch with one input and one output holds two layers; name one as FIRST:LAST by its layers.")
    output.show_frame(frame, net.name, _COLUMNS, "\n".join(notes))


def layers(network: str, **options: Any) -> None:
    from netopsy.network.listing import list_layers, other_parameters

    output, net = Output.take(options), load_subject(network, options)
    frame, rest = list_layers(net), sum(other_parameters(net).values())
    notes = f"{frame.height} layers hold {net.parameters - rest:,} of {net.parameters:,} parameters, others {rest:,}."
    output.show_frame(frame, net.name, _LAYER_COLUMNS, notes)


_LAYER_COLUMNS = ["layer", "kind", "weight", "groups", "parameters", "share", "output", "macs", "field"]

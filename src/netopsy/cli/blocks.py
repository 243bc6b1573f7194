"""The command that lists a network's blocks."""

from __future__ import annotations

from typing import Any

from netopsy.cli import options as o
from netopsy.cli.output import print_table
from netopsy.cli.sources import load_subject

BLOCKS = "List the blocks: stretches with one input and one output, which one layer may stand in for."
_COLUMNS = ["block", "kind", "layers", "parameters", "share", "macs", "input", "output", "layer", "layer_parameters"]
_TITLES = {"layer": "one layer", "layer_parameters": "its parameters"}


def blocks_options() -> list[o.Option]:
    """A network, its options, and --json."""
    return [o.NETWORK, *o.NETWORK_OPTIONS, o.JSON]


def blocks(network: str, *, json: bool, **given: Any) -> None:
    """Print the table."""
    from netopsy.blocks.listing import list_blocks

    net = load_subject(network, given)
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

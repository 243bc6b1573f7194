"""What each layer is given: one value for all, or by kind, name or pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from netopsy.errors import SettingsError, UnknownLayer, nearest
from netopsy.network.layers import Layer


def per_layer(layers: Sequence[Layer], given: Iterable[str | float], what: str) -> dict[str, float]:
    """The value of each layer, by its name; a layer that nothing is said of is left out.

    given: entries such as "0.1" (all), "conv=8" (a kind: conv or linear), "fc=4" (a name), "layer3.*=0.2" (a pattern).
    A later entry goes before an earlier one. what: the setting's name, for messages.
    Errors: SettingsError for an entry that is no number, UnknownLayer for one that names nothing.
    """
    values: dict[str, float] = {}
    for entry in given:
        where, _, text = str(entry).rpartition("=")
        try:
            value = float(text)
        except ValueError as error:
            raise SettingsError(
                f"{what} '{entry}' must be a number, or LAYER=NUMBER such as conv=8, fc=0.1 or layer3.*=0.2."
            ) from error
        chosen = [layer.name for layer in layers if where in ("", layer.kind) or fnmatchcase(layer.name, where)]
        if not chosen:
            names = [layer.name for layer in layers]
            raise UnknownLayer(f"{what} '{entry}' names no layer; nearest: {nearest(where, names)}, or conv, linear.")
        values |= dict.fromkeys(chosen, value)
    return {layer.name: values[layer.name] for layer in layers if layer.name in values}

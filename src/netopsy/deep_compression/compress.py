"""Deep compression of a whole network: prune by magnitude, then share one table of values a layer.

Pruning: Han et al., "Learning both Weights and Connections", NIPS 2015. Sharing, by 1-D k-means: Han et al., "Deep
Compression", ICLR 2016, Section 3. Each layer is given one value for all, or one by its kind, its name or a pattern.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from netopsy.codec.shared import LARGEST_TABLE, SharedTensor
from netopsy.codec.tensor import EntropyCoder
from netopsy.deep_compression.save import OtherDtype, save_shared
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import NetworkError, SettingsError, UnknownLayer, nearest
from netopsy.network.layers import Layer
from netopsy.network.network import Network, check_network
from netopsy.stats.kmeans1d.kmeans1d import SortedValues, Start


def keep_share(weight: Float[Tensor, "..."], density: float) -> Bool[Tensor, "..."]:
    """True at the `density` (0 to 1) of the weights that are largest in magnitude; of equal ones the earlier.

    Zeros are never kept, so that a layer already sparse may keep fewer; at least one weight of a non-zero layer is.
    """
    if not 0 <= density <= 1:
        raise SettingsError(f"density {density} is the share of weights to keep; give a number from 0 to 1.")
    size = weight.detach().abs().reshape(-1)
    count = max(1, round(density * size.numel()))
    order = torch.sort(size, descending=True, stable=True).indices[:count]
    mask = torch.zeros_like(size, dtype=torch.bool)
    mask[order] = size[order] > 0
    return mask.reshape(weight.shape)


def keep_beyond(weight: Float[Tensor, "..."], multiple: float) -> Bool[Tensor, "..."]:
    """True where the magnitude exceeds `multiple` standard deviations of the layer's weights: Han's threshold."""
    if multiple < 0:
        raise SettingsError(f"a threshold of {multiple} standard deviations must be 0 or more; 1 is usual.")
    return weight.detach().abs() > multiple * weight.detach().std(correction=0)


def share(
    weight: Float[Tensor, "..."],
    entries: int,
    *,
    mask: Bool[Tensor, "..."] | None = None,
    start: Start = "dp",
    seed: int = 0,
) -> SharedTensor:
    """`weight` with `entries` shared values, 2 to 4096: 2 ** bits. Where some are pruned, 0.0 is one of the entries.

    mask: True at the weights to keep; by default those that are not zero. start, seed: of the k-means (`kmeans1d`).
    """
    if not 2 <= entries <= LARGEST_TABLE:
        raise SettingsError(f"{entries} shared weights; give 2 to {LARGEST_TABLE}, that is 1 to 12 bits.")
    values = weight.detach().float().cpu().numpy().reshape(-1)
    nonzero = values != 0 if mask is None else mask.detach().cpu().numpy().reshape(-1) & (values != 0)
    decoded = np.zeros_like(values)
    if nonzero.any():
        free = entries if nonzero.all() else entries - 1
        decoded[nonzero] = SortedValues(values[nonzero]).kmeans(free, start=start, seed=seed).decode()
    return SharedTensor.of(decoded.reshape(tuple(weight.shape)))


def decode(shared: SharedTensor, like: Tensor) -> Tensor:
    """The shared tensor as torch has it, on the device and of the type of `like`."""
    return torch.from_numpy(shared.decode()).to(like)


def per_layer(layers: Sequence[Layer], entries: Iterable[str | float], what: str) -> dict[str, float]:
    """The value of each layer, by its name; a layer without an entry is left out.

    entries: such as "0.1" (all), "conv=8" (a kind: conv, linear, recurrent, embedding), "fc=4" (a name),
    "layer3.*=0.2" (a pattern).
    A later entry goes before an earlier one. what: the setting's name, for messages.
    Errors: SettingsError for an entry that is no number, UnknownLayer for one that names nothing.
    """
    values: dict[str, float] = {}
    for entry in entries:
        pattern, _, text = str(entry).rpartition("=")
        try:
            value = float(text)
        except ValueError as error:
            raise SettingsError(
                f"{what} '{entry}' must be a number, or LAYER=NUMBER such as conv=8, fc=0.1 or layer3.*=0.2."
            ) from error
        chosen = [layer.name for layer in layers if pattern in ("", layer.kind) or fnmatchcase(layer.name, pattern)]
        if not chosen:
            names = [layer.name for layer in layers]
            raise UnknownLayer(
                f"{what} '{entry}' names no layer; nearest: {nearest(pattern, names)}, or conv, linear, recurrent, "
                "embedding."
            )
        values |= dict.fromkeys(chosen, value)
    return {layer.name: values[layer.name] for layer in layers if layer.name in values}


LayerSetting = str | float | Iterable[str | float]
BITS = ("8", "linear=5")
"""Han et al.: 8 bits for convolutions, 5 for fully-connected layers (AlexNet, VGG-16)."""


def compress(
    network: Network,
    out: str | Path,
    *,
    density: LayerSetting = (),
    bits: LayerSetting = BITS,
    start: Start = "dp",
    other_dtype: OtherDtype = "exact",
    coder: EntropyCoder = "ans",
    seed: int = 0,
) -> Path:
    """Prune, share and code `network` into the file `out`, without images and without training; returns its path.

    density: the share of weights that a layer keeps, the largest ones: 0.3, "fc=0.1" or ("0.5", "conv=0.3"), see
        `per_layer`; a layer without an entry keeps all.
    bits: 2 ** bits values a layer, 1 to 12; a layer without an entry is kept in float32.
    start, seed: of the k-means. other_dtype: the other values "exact" or in "float16". coder: "ans" or "huffman".
    `load_network(out)` gives the network back, `storage_table(out)` the table of what each layer takes.
    """
    check_network(network)
    if seed < 0:
        raise SettingsError(f"seed {seed} is out of range; give a whole number from 0.")
    densities, widths = densities_of(network.layers, density), bits_of(network.layers, bits)
    masks = masks_at(network, densities)
    shared = share_layers(network, masks, widths, start=start, seed=seed)
    settings = {"density": densities, "bits": widths, "start": start, "seed": seed}
    return save_shared(network, shared, out, other_dtype=other_dtype, coder=coder, settings=settings)


def parse_entries(setting: LayerSetting) -> tuple[str | float, ...]:
    """The entries of a setting: one number, one text with commas, or several of either."""
    parts = (setting,) if isinstance(setting, str | float | int) else tuple(setting)
    return tuple(piece.strip() if isinstance(piece, str) else piece for part in parts for piece in _pieces(part))


def _pieces(part: str | float) -> Sequence[str | float]:
    return [piece for piece in part.split(",") if piece.strip()] if isinstance(part, str) else [part]


def densities_of(layers: Sequence[Layer], setting: LayerSetting) -> dict[str, float]:
    """The density of each layer that has one. SettingsError for one that is not from 0 to 1."""
    values = per_layer(layers, parse_entries(setting), "density")
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise SettingsError(
                f"density {value:g} for {name} must be the share of weights to keep, from 0 to 1; 0.1 is a tenth."
            )
    return values


def bits_of(layers: Sequence[Layer], setting: LayerSetting) -> dict[str, float]:
    """The bits of each layer that has one. SettingsError for any but whole bits from 1 to 12."""
    entries = parse_entries(setting)
    if entries == BITS and not any(layer.kind == "linear" for layer in layers):
        entries = BITS[:1]  # the default names a kind that not every network has
    values = per_layer(layers, entries, "bits")
    for name, value in values.items():
        if not 1 <= value <= 12 or value % 1:
            raise SettingsError(
                f"bits {value:g} for {name} must be a whole number from 1 to 12: 2 to {LARGEST_TABLE} shared weights."
            )
    return values


def check_bits(pruned: Iterable[str], bits: Mapping[str, float]) -> None:
    """Raise SettingsError where a layer, by its name, is pruned and has no bits."""
    bare = [name for name in pruned if name not in bits]
    if bare:
        raise SettingsError(f"{bare[0]} is pruned but has no bits, and pruning alone saves nothing; give bits for it.")


def masks_at(network: Network, densities: Mapping[str, float]) -> dict[str, Tensor]:
    """By weight name, True at the weights that the layers of `densities` keep."""
    tensors = network.tensors
    chosen = [layer for layer in network.layers if layer.name in densities]
    return {layer.weight: keep_share(tensors[layer.weight], densities[layer.name]) for layer in chosen}


def masks_beyond(network: Network, multiples: Mapping[str, float]) -> dict[str, Tensor]:
    """By weight name, True at the weights beyond so many standard deviations of their layer (Han's threshold)."""
    tensors = network.tensors
    chosen = [layer for layer in network.layers if layer.name in multiples]
    return {layer.weight: keep_beyond(tensors[layer.weight], multiples[layer.name]) for layer in chosen}


def apply_masks(network: Network, masks: Mapping[str, Tensor]) -> Network:
    """A copy of `network` with zeros where the masks are False."""
    tensors = network.tensors
    return network.with_tensors({name: tensors[name].detach() * mask for name, mask in masks.items()})


def share_layers(
    network: Network,
    masks: Mapping[str, Tensor],
    bits: Mapping[str, float],
    *,
    start: Start = "dp",
    seed: int = 0,
) -> dict[str, SharedTensor]:
    """By weight name, the shared weights of each layer: 2 ** bits values, one of them 0.0 where some are pruned.

    masks: by weight name; a weight without one keeps all its values that are not zero. bits: by layer name. Errors:
    SettingsError for a mask on a layer without bits, NetworkError for a network without layers to share.
    """
    if start not in get_args(Start):
        raise SettingsError(f"no start '{start}' of the shared weights; give {', '.join(get_args(Start))}.")
    if not network.layers:
        raise NetworkError(f"{network.name} has no convolution or linear layer whose weights could be shared.")
    tensors, shared = network.tensors, {}
    check_bits([layer.name for layer in network.layers if layer.weight in masks], bits)
    chosen = [layer for layer in network.layers if layer.name in bits]
    for number, layer in enumerate(chosen):
        current_workspace().report("share", number, len(chosen))
        entries = round(2 ** bits[layer.name])
        weight = tensors[layer.weight]
        shared[layer.weight] = share(weight, entries, mask=masks.get(layer.weight), start=start, seed=seed)
    current_workspace().report("share", len(chosen), len(chosen))
    return shared

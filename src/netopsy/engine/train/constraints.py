"""What a training must keep to: masks, tables of shared weights, codebooks, and parts that stay."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from netopsy.codec.shared import SharedTensor
from netopsy.engine.train.recipe import Recipe
from netopsy.errors import SettingsError, UnknownLayer, nearest
from netopsy.network.layers import Layer
from netopsy.network.network import Network


@dataclass
class Mask:
    """Weights of a parameter that stay exactly zero: they and their gradients are, hence their momentum too."""

    parameter: nn.Parameter
    pruned: Bool[Tensor, "..."]

    def apply(self) -> None:
        self.parameter.masked_fill_(self.pruned, 0)

    def gradient(self) -> None:
        if self.parameter.grad is not None:
            self.parameter.grad.masked_fill_(self.pruned, 0)


@dataclass
class Table:
    """A parameter whose weights are entries of a table, which is what is trained (Han et al., ICLR 2016, Section 3.3).

    entries: the table without the entry 0.0, which stays. places: where in the parameter's memory its weights are,
    those of an entry together; codes: which entry is there; ends: where in `places` the entries begin and end. mean:
    whether the mean of an entry's gradients is wanted, not the sum.
    """

    parameter: nn.Parameter
    entries: nn.Parameter
    places: Int64[Tensor, " kept"]
    codes: Int64[Tensor, " kept"]
    ends: Int64[Tensor, " k+1"]
    mean: bool

    @classmethod
    def of(cls, parameter: nn.Parameter, shared: SharedTensor, mean: bool) -> Table:
        """The table of a parameter; the parameter's own values are overwritten by `apply`."""
        device = parameter.device
        codes = torch.from_numpy(shared.codes.astype(np.int64)).to(device).reshape(shared.shape)
        in_memory = _flat(torch.empty_like(parameter, dtype=torch.int64).copy_(codes))
        table = torch.from_numpy(shared.table.copy()).to(device)
        places = torch.arange(len(in_memory), device=device)
        if shared.zero is not None:
            places = places[in_memory != shared.zero]
            table = torch.cat([table[: shared.zero], table[shared.zero + 1 :]])
            in_memory = in_memory - (in_memory > shared.zero).long()
        sorted_codes, order = in_memory[places].sort(stable=True)
        counts = torch.bincount(sorted_codes, minlength=len(table))
        with torch.no_grad():
            parameter.zero_()
        return cls(parameter, nn.Parameter(table), places[order], sorted_codes, F.pad(counts.cumsum(0), (1, 0)), mean)

    def apply(self) -> None:
        _flat(self.parameter)[self.places] = self.entries[self.codes]

    def gradient(self) -> None:
        """The sum (or mean) of the gradients of an entry's weights becomes the entry's."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        if gradient.stride() != self.parameter.stride():
            gradient = torch.empty_like(self.parameter).copy_(gradient)
        # a difference of running sums: adding 10^7 weights into a few places would have a GPU wait
        running = F.pad(_flat(gradient)[self.places].double().cumsum(0), (1, 0))
        total = running[self.ends].diff()
        self.entries.grad = (total / self.ends.diff().clamp(min=1) if self.mean else total).float()


@dataclass
class Quantized:
    """A parameter whose weights take the values of a codebook: each the nearest to a latent weight, which is trained.

    The gradient of a weight becomes that of its latent weight as it is (straight through), and latent weights stay
    within the codebook's range: Courbariaux et al., "BinaryConnect", NIPS 2015, Section 2. It limits "the parameters
    search space during training" (Lorieul et al., Section III.D): any code may change, which those of a `Table` do not.

    levels: the values, ascending. A weight halfway between two takes the lower.
    """

    parameter: nn.Parameter
    latent: nn.Parameter
    levels: Float32[Tensor, " k"]

    @classmethod
    def of(cls, parameter: nn.Parameter, levels: Tensor) -> Quantized:
        """From the parameter's own values, which `apply` replaces by the nearest levels."""
        return cls(parameter, nn.Parameter(parameter.detach().clone()), levels.to(parameter))

    def apply(self) -> None:
        self.latent.clamp_(self.levels[0], self.levels[-1])
        halfway = (self.levels[:-1] + self.levels[1:]) / 2
        _flat(self.parameter).copy_(self.levels[torch.bucketize(_flat(self.latent), halfway)])

    def gradient(self) -> None:
        self.latent.grad = self.parameter.grad


def _flat(tensor: Tensor) -> Tensor:
    """A dense tensor's values in the order of its memory, whatever its memory format; a view."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


class Constraints:
    """The masks, tables and codebooks of a module in training, by parameter name."""

    def __init__(
        self,
        module: nn.Module,
        masks: Mapping[str, Tensor],
        shared: Mapping[str, SharedTensor],
        recipe: Recipe,
        codebooks: Mapping[str, Tensor] | None = None,
    ) -> None:
        parameters = dict(module.named_parameters())
        self.masks = [
            Mask(parameters[name], ~mask.to(parameters[name].device))
            for name, mask in masks.items()
            if name not in shared
        ]
        self.tables = {
            name: Table.of(parameters[name], tensor, recipe.table_gradient == "mean") for name, tensor in shared.items()
        }
        self.quantized = {name: Quantized.of(parameters[name], each) for name, each in (codebooks or {}).items()}
        self._all: list[Mask | Table | Quantized] = [*self.masks, *self.tables.values(), *self.quantized.values()]
        self.apply()

    @torch.no_grad()
    def gradients(self) -> None:
        """After the backward pass and before the optimizer's step."""
        for constraint in self._all:
            constraint.gradient()

    @torch.no_grad()
    def apply(self) -> None:
        """After the optimizer's step."""
        for constraint in self._all:
            constraint.apply()

    def zero_grad(self) -> None:
        """Forget the gradients of what is trained in place of parameters."""
        for trained in self.trained().values():
            trained.grad = None

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained in place of a parameter: the entries of its table, or its latent weights."""
        entries = {name: table.entries for name, table in self.tables.items()}
        return entries | {name: each.latent for name, each in self.quantized.items()}


def check_codebooks(
    network: Network, codebooks: Mapping[str, Tensor], others: Collection[str]
) -> dict[str, Float32[Tensor, " k"]]:
    """`codebooks` on the CPU, if they fit the network's parameters; others: parameters with a mask or a table."""
    parameters = dict(network.module.named_parameters())
    checked = {}
    for name, levels in codebooks.items():
        if name not in parameters:
            raise SettingsError(
                f"no parameter '{name}' for a codebook in {network.name}; nearest: {nearest(name, parameters)}."
            )
        if name in others:
            raise SettingsError(f"{name} has a codebook and a mask or a table; give one of them.")
        values = torch.as_tensor(levels).detach().to("cpu", torch.float32)
        if values.ndim != 1 or len(values) < 2 or not values.isfinite().all() or (values.diff() <= 0).any():
            raise SettingsError(f"the codebook of {name} must be at least 2 finite numbers, strictly ascending.")
        checked[name] = values
    return checked


def check_constraints(
    network: Network, masks: Mapping[str, Tensor], shared: Mapping[str, SharedTensor]
) -> tuple[dict[str, Tensor], dict[str, SharedTensor]]:
    """`masks` and `shared`, if they fit the network's parameters; SettingsError says what does not."""
    parameters = dict(network.module.named_parameters())
    every: list[tuple[str, Tensor | SharedTensor]] = [*masks.items(), *shared.items()]
    for name, constraint in every:
        what = "mask" if isinstance(constraint, Tensor) else "shared tensor"
        if name not in parameters:
            raise SettingsError(
                f"no parameter '{name}' for a {what} in {network.name}; nearest: {nearest(name, parameters)}."
            )
        if tuple(constraint.shape) != tuple(parameters[name].shape):
            raise SettingsError(
                f"the {what} of {name} is {tuple(constraint.shape)}; it must be {tuple(parameters[name].shape)}, as "
                "the parameter."
            )
    for name, mask in masks.items():
        if mask.dtype != torch.bool:
            raise SettingsError(f"the mask of {name} is {mask.dtype}; give booleans, False where a weight is pruned.")
        if name in shared and bool((torch.from_numpy(shared[name].decode() != 0) & ~mask.cpu()).any()):
            raise SettingsError(f"the mask of {name} prunes weights that share a value other than 0; give one of both.")
    return dict(masks), dict(shared)


def frozen_parts(
    module: nn.Module, frozen: Collection[str], layer: Callable[[str], Layer] | None = None
) -> tuple[set[str], set[str]]:
    """Names of the parameters that stay, and of the modules that run as in evaluation: their statistics stay.

    frozen: names of modules or parameters, or of what `layer` knows; a module's name covers all inside it. A module all
    of whose own parameters are frozen is itself. Errors: UnknownLayer for a name of nothing.
    """
    names = [name for name, _ in module.named_parameters()]
    modules = dict(module.named_modules())
    fixed: set[str] = set()
    still: set[str] = set()
    for entry in (frozen,) if isinstance(frozen, str) else frozen:
        inside = {name for name in names if name == entry or name.startswith(f"{entry}.")}
        within = {name for name in modules if name == entry or (name.startswith(f"{entry}.") and entry)}
        if not inside and not within:
            if layer is None:
                candidates = [name for name in (*modules, *names) if name]
                raise UnknownLayer(
                    f"no module or parameter '{entry}' to freeze; nearest: {nearest(entry, candidates)}."
                )
            frozen_layer = layer(entry)
            inside = {frozen_layer.weight, *(() if frozen_layer.bias is None else (frozen_layer.bias,))}
        fixed |= inside
        still |= within
    for path, part in modules.items():
        direct = {f"{path}.{name}".lstrip(".") for name, _ in part.named_parameters(recurse=False)}
        if direct and direct <= fixed:
            still.add(path)
    return fixed, still

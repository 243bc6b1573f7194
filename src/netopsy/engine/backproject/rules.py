"""What happens to the backward flow at an activation: one rule a class, with its equation.

Everywhere else the flow goes through the transposed operator: W^T at a convolution or linear map, P^T (the stored
switches) at max-pooling, the derivative at the image for anything else.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from netopsy.errors import SettingsError, nearest
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.graph import operator_name
from netopsy.network.network import Network

RuleName = Literal["gradient", "deconvnet", "masked", "guided", "masked_random"]
# s(x) is 0 or x (or a constant) on stretches: its derivative is the binary mask r of the paper
_MASKING = {"relu", "relu6", "threshold", "hardtanh", "clamp", "clamp_min"}


@dataclass(frozen=True)
class Gradient:
    """The exact linear filter: x_{i-1}^b = W_i^T (r_i * x_i^b), and P_i^T before it (Palmieri et al., Equations 8-9).

    A delta of 1 at the unit. On a network of linear maps, rectifiers and max-pooling the flow is w of the affine map
    w.x + b that the network is around the image. Activations without a binary mask give their derivative.
    """

    name: ClassVar[str] = "gradient"
    start: ClassVar[str] = "one"
    switches: ClassVar[bool] = True  # through max-pooling by the largest value alone
    signed: ClassVar[bool] = True  # the flow itself, not only whether there is one
    needs_activations: ClassVar[bool] = False

    def weights(self, network: Network) -> dict[str, Tensor]:
        """Parameters that the flow meets in place of the network's own, by name."""
        return {}

    def treats(self, node: fx.Node) -> bool:
        """Every activation function has a derivative."""
        return operator_name(node) in ELEMENTWISE

    def activation(self, g: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """r * g."""
        return derivative(g)


@dataclass(frozen=True)
class Deconvnet(Gradient):
    """x_{i-1}^b = R(W_i^T x_i^b), and P_i^T after it (Palmieri et al., Equations 4-5; Zeiler and Fergus, 2014).

    The forward masks are not used; the flow is rectified instead. Starts at the unit's own activation.
    """

    name: ClassVar[str] = "deconvnet"
    start: ClassVar[str] = "activation"
    needs_activations: ClassVar[bool] = True

    def treats(self, node: fx.Node) -> bool:
        """Activations with a binary mask."""
        return operator_name(node) in _MASKING

    def activation(self, g: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """R(g)."""
        return g.clamp(min=0)


@dataclass(frozen=True)
class Masked(Deconvnet):
    """x_{i-1}^b = R(W_i^T (r_i * x_i^b)), and P_i^T after it (Palmieri et al., Equations 6-7).

    The same as guided backpropagation (Springenberg et al., 2015). Starts at the unit's own activation.
    """

    name: ClassVar[str] = "masked"

    def activation(self, g: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """r * R(g)."""
        return derivative(g.clamp(min=0))


@dataclass(frozen=True)
class Guided(Gradient):
    """x.ggrad = I[y.ggrad > 0] y.ggrad ds/dx at y = s(x) (McAllester's lecture, "Guided Backpropagation").

    On rectifiers this is `masked` started at 1. On GELU, SiLU and other activation functions it is an extension: the
    derivative can then be negative, so that the flow behind it is not.
    """

    name: ClassVar[str] = "guided"
    needs_activations: ClassVar[bool] = True

    def activation(self, g: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """I[g > 0] g ds/dx."""
        return derivative(g.clamp(min=0))


@dataclass(frozen=True)
class MaskedRandom(Masked):
    """Equations 6-7 with every weight and bias drawn from a Gaussian of its tensor's mean and variance.

    Palmieri et al., Section 3, "Deconvnet with masks and random parameters". Masks and switches stay those of the
    trained network on the image; only the backward flow meets the random weights.
    """

    name: ClassVar[str] = "masked_random"
    seed: int = 0

    def weights(self, network: Network) -> dict[str, Tensor]:
        """Random parameters by name; each tensor's draw depends on `seed` and its own name alone."""
        return {
            name: gaussian_like(value.detach(), self.seed + zlib.crc32(name.encode()))
            for name, value in network.module.named_parameters()
        }


@dataclass(frozen=True)
class Reach(Gradient):
    """Not a picture but a question: is there a path of active units, switches and non-zero weights to the unit?

    (Palmieri et al., Figure 3.) masks: through active units alone; else through all
    units, and all places of a pooling window.
    """

    name: ClassVar[str] = "reach"
    signed: ClassVar[bool] = False
    masks: bool = True

    @property
    def switches(self) -> bool:  # type: ignore[override]
        """Whether max-pooling lets through the largest value only."""
        return self.masks

    def activation(self, g: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        """Where the activation answers to its operand."""
        return derivative(g) if self.masks else g

    def weights(self, network: Network) -> dict[str, Tensor]:
        """1 where a parameter is not zero."""
        return {name: (value != 0).to(value.dtype) for name, value in network.module.named_parameters()}


Rule = Gradient
RULES: dict[str, type[Gradient]] = {rule.name: rule for rule in (Gradient, Deconvnet, Masked, Guided, MaskedRandom)}


def find_rule(rule: str | Rule, seed: int = 0) -> Rule:
    """The rule called `rule`; `seed` is that of random weights."""
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise SettingsError(f"no rule '{rule}'; nearest: {nearest(str(rule), RULES, 1)}. All: {', '.join(RULES)}.")
    return MaskedRandom(seed) if rule == MaskedRandom.name else RULES[rule]()


def gaussian_like(values: Tensor, seed: int) -> Tensor:
    """Gaussian values of the mean and standard deviation of `values`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values.device, values.dtype)
    return drawn * values.std(correction=0) + values.mean()

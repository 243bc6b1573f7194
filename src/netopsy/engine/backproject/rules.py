"""What happens to the backward flow at an activation: each rule a few functions, with its equation.

Everywhere else the flow goes through the transposed operator: W^T at a convolution or linear map, P^T (the stored
switches) at max-pooling, the derivative at the image for anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from netopsy.errors import SettingsError, nearest
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.macs import RECURRENT
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.settings import stream

RuleName = Literal["gradient", "deconvnet", "masked", "guided", "masked_random", "gated"]
# s(x) is 0 or x (or a constant) on stretches: its derivative is the binary mask r of the paper
MASKING = frozenset({"relu", "relu6", "threshold", "hardtanh", "clamp", "clamp_min"})

Derivative = Callable[[Tensor], Tensor]
"""v -> v ds/dx, with the activation s at the image: r * v where s has a binary mask r."""


def keep_derivative(g: Tensor, derivative: Derivative) -> Tensor:
    """r * g."""
    return derivative(g)


def rectify(g: Tensor, derivative: Derivative) -> Tensor:
    """R(g)."""
    return g.clamp(min=0)


def mask_and_rectify(g: Tensor, derivative: Derivative) -> Tensor:
    """r * R(g)."""
    return derivative(g.clamp(min=0))


def pass_all(g: Tensor, derivative: Derivative) -> Tensor:
    """g."""
    return g


def own_weights(network: Network) -> dict[str, Tensor]:
    """The network's own parameters stay: none is replaced."""
    return {}


@dataclass(frozen=True)
class Rule:
    """How the flow passes the activations between a unit and the image.

    activation: (g, derivative) -> the flow behind an activation. acts_on: names of the operators that it knows; at
    others the flow meets their derivative. start: of the flow at the unit, `one` or its own `activation`.
    weights: of a network, parameters that the flow meets in place of the network's own, by name.
    gates: through recurrent operators with their gates held, as masks are; else by their derivative.
    switches: through max-pooling by the largest value alone. signed: the flow itself counts, not only whether there is
    one. needs_activations: means nothing on a path without one that it knows.
    """

    name: str
    activation: Callable[[Tensor, Derivative], Tensor]
    acts_on: Collection[str] = frozenset(ELEMENTWISE)
    start: str = "one"
    weights: Callable[[Network], dict[str, Tensor]] = own_weights
    gates: bool = False
    switches: bool = True
    signed: bool = True
    needs_activations: bool = False

    def treats(self, node: Node) -> bool:
        """Whether the rule knows this activation."""
        return node.operator in self.acts_on


GRADIENT = Rule("gradient", keep_derivative)
"""The exact linear filter: x_{i-1}^b = W_i^T (r_i * x_i^b), and P_i^T before it (Palmieri et al., Equations 8-9).

A delta of 1 at the unit. On a network of linear maps, rectifiers and max-pooling the flow is w of the affine map w.x +
b that the network is around the image. Activations without a binary mask give their derivative.
"""

DECONVNET = Rule("deconvnet", rectify, MASKING, start="activation", needs_activations=True)
"""x_{i-1}^b = R(W_i^T x_i^b), and P_i^T after it (Palmieri et al., Equations 4-5; Zeiler and Fergus, 2014).

The forward masks are not used; the flow is rectified instead. Starts at the unit's own activation.
"""

MASKED = replace(DECONVNET, name="masked", activation=mask_and_rectify)
"""x_{i-1}^b = R(W_i^T (r_i * x_i^b)), and P_i^T after it (Palmieri et al., Equations 6-7).

The same as guided backpropagation (Springenberg et al., 2015). Starts at the unit's own activation.
"""

GUIDED = Rule("guided", mask_and_rectify, needs_activations=True)
"""x.ggrad = I[y.ggrad > 0] y.ggrad ds/dx at y = s(x) (McAllester's lecture, "Guided Backpropagation").

On rectifiers this is `masked` started at 1. On GELU, SiLU and other activation functions it is an extension: the
derivative can then be negative, so that the flow behind it is not.
"""


GATED = Rule("gated", keep_derivative, frozenset(ELEMENTWISE) | RECURRENT, gates=True, needs_activations=True)
"""`gradient`, with the gates of LSTM and GRU held at their values as the masks r_i are (Palmieri et al., Equation 8).

A gate is a decision: as a rectifier's mask it says what passes, and tanh(z) = r z with r = tanh(z) / z. The flow is the
linear map that the network is with these masks; behind a recurrent layer without biases the maps times the inputs add
up to the unit's value (see `masked_recurrence`). Elsewhere it is `gradient`. The paper leaves LSTMs to future work.
"""


def gaussian_like(values: Tensor, seed: int) -> Tensor:
    """Gaussian values of the mean and standard deviation of `values`, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values.device, values.dtype)
    return noise * values.std(correction=0) + values.mean()


def permuted_like(values: Tensor, seed: int) -> Tensor:
    """The same `values` in another order, the same on every device."""
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(seed)).to(values.device)
    return values.reshape(-1)[order].reshape(values.shape)


def random_weights(
    rule: Rule, seed: int = 0, draw: int = 0, law: Callable[[Tensor, int], Tensor] = gaussian_like
) -> Rule:
    """`rule` with every weight and bias drawn from a Gaussian of its tensor's mean and variance.

    Palmieri et al., Section 3, "Deconvnet with masks and random parameters" (of `MASKED`). Masks and switches stay
    those of the trained network on the image; only the backward flow meets the random weights. Each tensor's values
    depend on `seed`, the number of the `draw` and its own name alone. law: (tensor, seed) -> values in its place.
    """

    def draw_all(network: Network) -> dict[str, Tensor]:
        parameters = network.module.named_parameters()
        return {name: law(value.detach(), stream(name, seed, draw)) for name, value in parameters}

    return replace(rule, name=f"{rule.name}_random", weights=draw_all)


def reach(masks: bool = True) -> Rule:
    """Not a picture but a question: is there a path of active units, switches and non-zero weights to the unit?

    (Palmieri et al., Figure 3.) masks: through active units alone; else through all units, and all places of a pooling
    window.
    """

    def non_zero(network: Network) -> dict[str, Tensor]:
        return {name: (value != 0).to(value.dtype) for name, value in network.module.named_parameters()}

    passed = keep_derivative if masks else pass_all
    return Rule("reach", passed, weights=non_zero, switches=masks, signed=False)


RULES = {rule.name: rule for rule in (GRADIENT, DECONVNET, MASKED, GUIDED, random_weights(MASKED), GATED)}


def find_rule(rule: str | Rule, seed: int = 0) -> Rule:
    """The rule called `rule`; `seed` is that of random weights."""
    if isinstance(rule, Rule):
        return rule
    if rule not in RULES:
        raise SettingsError(f"no rule '{rule}'; nearest: {nearest(str(rule), RULES, 1)}. All: {', '.join(RULES)}.")
    return random_weights(MASKED, seed) if rule == "masked_random" else RULES[rule]

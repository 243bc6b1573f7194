"""Batch norm in a section: the network's own tensors, and statistics of the batch in training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from netopsy.network.graph import aten

_ROLES = ("weight", "bias", "running_mean", "running_var")


class Norm(_BatchNorm):
    """Batch norm over values of any number of axes, on tensors that it shares."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @classmethod
    def of(cls, held: Mapping[str, Tensor], path: str, node: fx.Node, module: nn.Module | None) -> Norm:
        """The norm whose tensors lie at `path` among those `held`, with the settings of `node` and of its `module`."""
        mean = held[f"{path}.running_mean"]
        affine = f"{path}.weight" in held
        momentum = getattr(module, "momentum", node.args[6])
        norm = cls(mean.numel(), eps=float(node.args[7]), momentum=momentum, affine=affine, device="meta")  # type: ignore[arg-type]
        for role in _ROLES[:2] if affine else ():
            norm.register_parameter(role, held[f"{path}.{role}"])  # type: ignore[arg-type]
        for role in _ROLES[2:]:
            norm.register_buffer(role, held[f"{path}.{role}"])
        count = held.get(f"{path}.num_batches_tracked")
        norm.register_buffer("num_batches_tracked", torch.tensor(0, device=mean.device) if count is None else count)
        return norm


def norm_path(held: Mapping[str, Tensor], node: fx.Node) -> str | None:
    """Path at which the tensors of the batch norm `node` lie among those `held`; None for another node or place."""
    if node.target is not aten.batch_norm.default or node.args[5]:
        return None
    names = [None if p is None else str(getattr(p, "target", "")) for p in node.args[1:5]]
    path = (names[2] or "").rpartition(".")[0]
    wanted = [f"{path}.{role}" for role in _ROLES]
    plain = names == wanted or (names[:2] == [None, None] and names[2:] == wanted[2:])
    learned = all(name is None or isinstance(held.get(name), nn.Parameter) for name in names[:2])
    return path if path and plain and learned else None

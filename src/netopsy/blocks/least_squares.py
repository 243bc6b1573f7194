"""The closed-form start: the linear map that is the least-squares fit to what the block computes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netopsy.blocks.block import Block
from netopsy.blocks.fit import last_activation
from netopsy.blocks.layer import OneLayer
from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.errors import NotApplicable, SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.samples.samples import Samples

_CHUNK = 2**21  # values of unfolded patches at once
_ROUNDING, _MENDING = 1e-12, 1e-8  # variance that is rounding of float32, as of features behind a layer norm; its ridge
_LARGEST = 12_000  # unknowns of one output: the normal equations then take 1.2 GB


@torch.no_grad()
def least_squares(
    network: Network,
    block: Block,
    layer: OneLayer,
    samples: Samples,
    *,
    rows: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Set `layer`, in place, to the least-squares fit of its linear map to the block.

    Over all images and places but padding it minimises sum ||W x + b - y||^2, x the patch of the block's input under
    the kernel, y the block's value before its last activation where it ends in one, else its output. The solution is
    that of the normal equations, gathered in float64 in one pass; where they are singular the least ridge that mends it
    is added.
    A norm is then set so that it passes the fit through, with its running statistics as with those of the images.

    rows: patches to gather at most, places drawn evenly from all images by `seed`; None: 20 for each unknown, at least
    20,000. Returns r2 (explained share of the variance of y, over all channels), images, rows, share (of the places
    used), ridge (added to the diagonal, as a share of its mean).
    """
    act = last_activation(network, block)
    before = [network.nodes[block.output]] if act is None else [node.args[0] for node in act]
    axis = _axis(network.nodes[block.output]) if act is not None and len(act) > 1 else 1
    if layer.conv is not None and network.nodes[block.input].length_axes:
        raise NotApplicable(
            f"the least-squares fit to {block.name} needs maps of one size, and those of {network.name} are padded; "
            "start the new layer in another way."
        )
    sums = NormalEquations(layer, rows, len(samples), block, seed, axis)
    watched = (block.input, *(node.name for node in before))
    label = f"least squares {block.name}"
    equations = observe(network, samples, {"sums": (watched, sums)}, batch_size=batch_size, label=label)["sums"]
    return {**equations.solve(layer), "images": len(samples)}


def _axis(cat: Node) -> int:
    return int(cat.args[1]) if len(cat.args) > 1 else 0


class NormalEquations(Tally):
    """The normal equations of one linear map: sums over rows (x, 1) and y.

    update: the values of the block's input and of what is fitted, in one tensor or in several to be joined along
    `axis`. result: the tally itself, to `solve`. The places are drawn batch after batch, so the pass is not split.
    Where samples are padded they come as rows of real places, of each sample `each` at most.
    """

    sequential = True

    def __init__(self, layer: OneLayer, rows: int | None, images: int, block: Block, seed: int, axis: int = 1) -> None:
        weight = layer.map.weight
        self.layer, self.seed, self.axis = layer, seed, axis
        self.unknowns, self.outputs = weight[0].numel(), weight.shape[0]
        if self.unknowns > _LARGEST:
            raise SettingsError(
                f"the least-squares fit to {block.name} has {self.unknowns:,} unknowns an output, more than "
                f"{_LARGEST:,}; start it in another way, or take a block with fewer channels or a smaller kernel."
            )
        self.places = max(1, int(torch.Size(self._places(block)).numel()))
        needed = max(20 * (self.unknowns + 1), 20_000) if rows is None else rows
        self.each = max(1, min(self.places, -(-needed // images)))
        self.rank = 1 + len(block.input_shape)
        self.n = self.seen = 0
        self.xx: Tensor | None = None
        self.xy: Tensor | None = None
        self.yy: Tensor | None = None
        self.drawn: Tensor | None = None  # state of the generator of places

    def _places(self, block: Block) -> tuple[int, ...]:
        return block.output_shape[1:] if self.layer.conv is not None else block.output_shape[:-1]

    def update(self, values: tuple[Tensor, ...], indices: Tensor) -> None:
        x, *parts = values
        y = parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)
        real = x.ndim < self.rank  # rows of real places, not samples
        self.seen += len(x) * (1 if real else self.places)
        if real:
            drawn = self._draw_of(indices.cpu()).to(x.device)
            x, y = x[drawn], y[drawn]
        step = max(1, _CHUNK // (self.unknowns * (1 if real else self.places)))
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            inputs, outputs = (x[part], y[part]) if real else self._rows(x[part], y[part])
            inputs = torch.cat([inputs.double(), inputs.new_ones(len(inputs), 1).double()], 1)
            outputs = outputs.double()
            self._add(inputs.T @ inputs, inputs.T @ outputs, outputs.square().sum(0), len(inputs))

    def _add(self, xx: Tensor, xy: Tensor, yy: Tensor, n: int) -> None:
        for name, more in (("xx", xx), ("xy", xy), ("yy", yy)):
            total = getattr(self, name)
            setattr(self, name, more if total is None else total.add_(more))
        self.n += n

    def merge(self, other: NormalEquations) -> None:
        if other.xx is not None and other.xy is not None and other.yy is not None:
            self._add(other.xx, other.xy, other.yy, other.n)
            self.seen += other.seen

    def result(self) -> NormalEquations:
        return self

    def _rows(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, unknowns) and (rows, outputs) at the places that are drawn."""
        if self.layer.conv is not None:
            conv = self.layer.conv
            x = x if self.layer.edges is None else F.pad(x, self.layer.edges)
            inputs = F.unfold(x, conv.kernel_size, padding=conv.padding, stride=conv.stride).mT  # type: ignore[arg-type]
            outputs = y.flatten(2).mT
        else:
            inputs, outputs = x.reshape(len(x), -1, x.shape[-1]), y.reshape(len(y), -1, y.shape[-1])
        if self.each < self.places:
            places = self._draw(len(x)).to(x.device)
            inputs = inputs.gather(1, places[..., None].expand(-1, -1, inputs.shape[-1]))
            outputs = outputs.gather(1, places[..., None].expand(-1, -1, outputs.shape[-1]))
        return inputs.reshape(-1, inputs.shape[-1]), outputs.reshape(-1, outputs.shape[-1])

    def _draw(self, images: int) -> Tensor:
        """`each` places of every image."""
        return self._random(images, self.places).argsort(1)[:, : self.each]

    def _draw_of(self, owners: Tensor) -> Tensor:
        """`each` rows of every sample, or all of one that has fewer; owners: whose each row is, in ascending order."""
        if self.each >= self.places:
            return torch.arange(len(owners))
        order = self._random(len(owners)).argsort()
        order = order[owners[order].argsort(stable=True)]  # by owner, within each in random order
        counts = owners.unique_consecutive(return_counts=True)[1]
        place = torch.arange(len(owners)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        return order[place < self.each]

    def _random(self, *shape: int) -> Tensor:
        """Uniform numbers, going on where the last draw ended."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.drawn is not None:
            generator.set_state(self.drawn.cpu())
        values = torch.rand(*shape, generator=generator)
        self.drawn = generator.get_state()
        return values

    def solve(self, layer: OneLayer) -> dict[str, Any]:
        """Set the layer; r2, rows, share, ridge."""
        assert self.xx is not None and self.xy is not None and self.yy is not None
        n = max(self.n, 1)
        mean_x, mean_y = self.xx[-1, :-1] / n, self.xy[-1] / n
        xx = self.xx[:-1, :-1] / n - torch.outer(mean_x, mean_x)
        xy = self.xy[:-1] / n - torch.outer(mean_x, mean_y)
        total = (self.yy / n - mean_y.square()).clamp(min=0)
        weight, ridge = _solve_ridge(xx, xy)
        fitted = (weight * (xx @ weight)).sum(0).clamp(min=0)  # variance of what the layer gives
        missed = (total - 2 * (weight * xy).sum(0) + fitted).clamp(min=0)
        _install(layer, weight.T, mean_y - mean_x @ weight, mean_y, fitted)
        share = float(missed.sum() / total.sum()) if float(total.sum()) > 0 else 0.0
        return {"r2": 1 - share, "rows": self.n, "share": self.n / max(self.seen, 1), "ridge": ridge}


def _solve_ridge(xx: Tensor, xy: Tensor) -> tuple[Tensor, float]:
    """The solution of xx w = xy and the ridge that it took, as a share of the mean of xx's diagonal."""
    scale = float(xx.diagonal().mean())
    if not scale > 0:
        return torch.zeros_like(xy), 0.0
    limit, least = 1e-7 * float(xy.norm()) + 1e-300, 0.0
    for ridge in (0.0, *(10.0**power for power in range(-12, -2))):
        if ridge < least:
            continue
        bent = xx + ridge * scale * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
        factor, failed = torch.linalg.cholesky_ex(bent)
        if int(failed):
            continue
        if ridge == 0 and float(factor.diagonal().square().min()) < _ROUNDING * scale:
            least = _MENDING
            continue
        weight = torch.cholesky_solve(xy, factor)
        if bool(weight.isfinite().all()) and float((bent @ weight - xy).norm()) <= limit:
            return weight, ridge
    return torch.linalg.lstsq(xx, xy, driver=None if xx.is_cuda else "gelsd").solution, 0.0


def _install(layer: OneLayer, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Write the map; a norm takes the fit's mean and variance away and puts them back."""
    target = layer.map
    target.weight.copy_(weight.reshape(target.weight.shape))
    norm = layer.norm
    if target.bias is not None:
        target.bias.copy_(bias)
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        return
    running_mean = mean if target.bias is not None else mean - bias
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(running_mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean)

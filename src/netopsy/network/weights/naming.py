"""Find a network's tensors in a file by their names: below tables and wrappers, among what is no weight, or in parts.

pruning (torch.nn.utils.prune)        weight_orig, weight_mask                           original * mask
weight norm (Salimans & Kingma 2016)  weight_g, weight_v; original0, original1           g v / ||v||
spectral norm (Miyato et al. 2018)    weight_orig, weight_u, weight_v; original, _u, _v  original / (u' W v)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

WRAPPERS = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_fpw_module",
)
"""Parts of names that wrappers put in front of a module, wherever it stands."""

_COUNTERS = (
    *("num_batches_tracked", "n_averaged", "num_updates", "total_ops", "total_params", "queue", "queue_ptr"),
    *("_extra_state", "min_val", "max_val", "fake_quant_enabled", "observer_enabled"),
)
_TRAINING = re.compile(
    r"(criterion|loss|losses|metric|metrics|optim|optimizer|optimizers|scheduler|scaler|ema)s?(_.*|\d*)"
    r"|.*_(loss|losses|loss_fn|criterion|metric|metrics|ema)|(train|val|valid|test)_(acc|accuracy|loss|metrics?|f1|auc).*"
    r"|(class|loss|pos)_weights?|activation_post_process|weight_fake_quant"
)
_AVERAGED = re.compile(r"(^|[._])(ema|swa|avg|averaged?|teacher|momentum|target|encoder_k|shadow)([._]|$)")


@dataclass(frozen=True)
class Match:
    """A network's tensors in a file.

    prefix: what stands before their names in the file, with its point. tensors: under the network's names, with what
    else stands below the prefix and may be a weight. left_out: names of what is no weight of the network. hits: how
    many of the network's tensors are there in their shapes.
    """

    prefix: str
    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]
    hits: int

    @property
    def averaged(self) -> bool:
        """Whether the prefix names an average of a network, or the one that another was to imitate."""
        return _AVERAGED.search(self.prefix) is not None


def match_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> list[Match]:
    """Where in a file the network with tensors of these names and shapes may be, the best place first; never empty.

    Any common prefix is tried, and one that the network's names have and the file's have not; `WRAPPERS` inside a name
    are passed over unless the network has them. Weights in parts are put together. Of equal places the first counts,
    and an average of a network or a teacher after the one that was trained.
    """
    tensors = effective_weights(tensors, wanted)
    wrappers = {part for part in WRAPPERS if not any(part in name.split(".") for name in wanted)}
    places: dict[str, dict[str, str]] = {"": {}}  # of each prefix: the file's name of each of the network's
    for name in tensors:
        parts = name.split(".")
        for start, part in enumerate(parts):
            if part in wrappers:
                continue
            plain = ".".join(one for one in parts[start:] if one not in wrappers)
            if plain in wanted:
                prefix = "".join(f"{one}." for one in parts[:start])
                places.setdefault(prefix, {}).setdefault(plain, name)
    matches = [_match(prefix, names, places, tensors, wanted, wrappers) for prefix, names in places.items()]
    matches.sort(key=lambda match: (-match.hits, match.averaged))
    if matches[0].hits < len(wanted) / 2 and (added := _add_prefix(tensors, wanted)):
        return match_names(added, wanted)
    return matches


def find_prefix(names: Iterable[str], wanted: Collection[str]) -> str:
    """The beginning, up to a point, without which most of `names` are among `wanted`; empty where none helps."""
    names = list(names)
    counts = Counter({"": sum(name in wanted for name in names)})
    counts.update(name.removesuffix(end) for name in names for end in endings(name) if end in wanted and end != name)
    best = max(counts, key=lambda prefix: counts[prefix])
    return best if len({name.removeprefix(best) for name in names}) == len(names) else ""


def _match(
    prefix: str,
    names: dict[str, str],
    places: Mapping[str, dict[str, str]],
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    wrappers: set[str],
) -> Match:
    matched = {plain: tensors[name] for plain, name in names.items()}
    used = set(names.values())
    if prefix:  # what a head of its own holds may stand beside the prefix
        for plain, shape in wanted.items():
            if plain not in matched and plain in tensors and tuple(tensors[plain].shape) == shape:
                matched[plain] = tensors[plain]
                used.add(plain)
    hits = sum(tuple(tensor.shape) == wanted[plain] for plain, tensor in matched.items())
    others = tuple(other for other, found in places.items() if other != prefix and len(found) * 2 > len(wanted))
    left_out = []
    for name, tensor in tensors.items():
        if name in used:
            continue
        within = name.startswith(prefix) and not any(o.startswith(prefix) and name.startswith(o) for o in others)
        plain = ".".join(part for part in name.removeprefix(prefix).split(".") if part not in wrappers)
        if within and plain not in matched and not is_counter(plain, tensor):
            matched[plain] = tensor
        else:
            left_out.append(name)
    return Match(prefix, matched, tuple(left_out), hits)


def is_counter(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is no weight: a counter, an index, or a part of the loss, the metrics or the optimiser."""
    parts = name.split(".")
    if parts[-1] in _COUNTERS or any(_TRAINING.fullmatch(part) for part in parts):
        return True
    whole_numbers = not (tensor.is_floating_point() or tensor.is_complex()) and parts[-1] != "weight"
    single = tensor.numel() <= 1 and parts[-1] not in ("weight", "bias") and not parts[-1].isdigit()
    return whole_numbers or single


def _add_prefix(tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """`tensors` below the prefix that the network's names have and theirs have not; empty where there is none."""
    counts: dict[str, int] = {}
    for name, shape in wanted.items():
        parts = name.split(".")
        for start in range(1, len(parts)):
            plain = ".".join(parts[start:])
            if plain in tensors and tuple(tensors[plain].shape) == shape:
                prefix = ".".join(parts[:start])
                counts[prefix] = counts.get(prefix, 0) + 1
    best = max(counts, key=lambda prefix: counts[prefix], default="")
    learned = [name for name in wanted if not name.endswith("num_batches_tracked")]
    if not best or counts[best] < len(learned):
        return {}
    return {f"{best}.{name}": tensor for name, tensor in tensors.items()}


_PARAMETRISED = re.compile(r"(?:(.*)\.)?parametrizations\.([^.]+)\.(.+)")


def effective_weights(tensors: Mapping[str, Tensor], wanted: Collection[str] = ()) -> dict[str, Tensor]:
    """`tensors` with each weight that is held in parts in one, under its plain name, at the place of its first part.

    wanted: names of parts that a network itself has; these stay. So do parts that do not say what the weight is
    (`unknown_parts`).
    """
    merged: dict[str, tuple[str, Tensor]] = {}  # of each part: the plain name, and the weight
    for plain, parts in _groups(tensors).items():
        if any(end in wanted for name in parts.values() for end in endings(name)):
            continue
        weight = _merge({kind: tensors[name] for kind, name in parts.items()})
        if weight is not None and plain not in tensors:
            merged |= dict.fromkeys(parts.values(), (plain, weight))
    if not merged:
        return dict(tensors)
    return dict(merged.get(name, (name, tensor)) for name, tensor in tensors.items())


def endings(name: str) -> Iterator[str]:
    """`a.b.c`, `b.c` and `c` of `a.b.c`."""
    while name:
        yield name
        name = name.partition(".")[2]


def unknown_parts(names: Iterable[str]) -> dict[str, str]:
    """Weights whose parts do not tell what they are together, by plain name, and why."""
    unknown = {}
    for name in names:
        if match := _PARAMETRISED.fullmatch(name):
            path, kind, rest = match.groups()
            orthogonal = rest.endswith(".base")
            plain = f"{path}.{kind}" if path else kind
            why = "an orthogonal parametrisation" if orthogonal else "a parametrisation of its own"
            if orthogonal or plain not in unknown:
                unknown[plain] = why
    return unknown


def _groups(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """The parts of each weight: by plain name, then from the part's kind to its whole name."""
    groups: dict[str, dict[str, str]] = {}
    for name in tensors:
        if match := _PARAMETRISED.fullmatch(name):
            path, kind, part = match.groups()
            groups.setdefault(f"{path}.{kind}" if path else kind, {})[part] = name
            continue
        plain, _, part = name.rpartition("_")
        alone = {"orig": ("mask", "u"), "g": ("v",), "mask": ("orig",), "u": ("orig",), "v": ("g", "orig")}
        if plain and any(f"{plain}_{other}" in tensors for other in alone.get(part, ())):
            groups.setdefault(plain, {})[part] = name
    return groups


def _merge(parts: dict[str, Tensor]) -> Tensor | None:
    """The weight that `parts` make; None where they do not say."""
    kinds = set(parts)
    if kinds == {"orig", "mask"} or kinds == {"original", "0.mask"}:
        original, mask = parts.get("orig", parts.get("original")), parts.get("mask", parts.get("0.mask"))
        assert original is not None and mask is not None
        return original * mask.to(original.dtype) if original.shape == mask.shape else None
    if kinds in ({"g", "v"}, {"original0", "original1"}):
        return _weight_norm(parts.get("g", parts.get("original0")), parts.get("v", parts.get("original1")))
    if kinds in ({"orig", "u"}, {"orig", "u", "v"}, {"original", "0._u", "0._v"}):
        original, u = parts.get("orig", parts.get("original")), parts.get("u", parts.get("0._u"))
        return _spectral_norm(original, u, parts.get("v", parts.get("0._v")))
    return None


def _weight_norm(g: Tensor | None, v: Tensor | None) -> Tensor | None:
    """g v / ||v||, the norm over the axes along which `g` has one value; over all where it is a scalar."""
    assert g is not None and v is not None
    if g.ndim not in (0, v.ndim) or any(side not in (1, whole) for side, whole in zip(g.shape, v.shape, strict=False)):
        return None
    axes = [axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1]
    return v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True)) if axes else v * g / v.abs()


def _spectral_norm(weight: Tensor | None, u: Tensor | None, v: Tensor | None) -> Tensor | None:
    """weight / (u' W v), as layers in eval mode do with the vectors that training left."""
    assert weight is not None and u is not None
    best: tuple[float, Tensor] | None = None
    for axis in (0, 1):  # a transposed convolution has its outputs on axis 1
        if weight.ndim <= axis or weight.shape[axis] != u.numel():
            continue
        matrix = weight.movedim(axis, 0).flatten(1)
        right = torch.nn.functional.normalize(matrix.T @ u, dim=0) if v is None else v
        if right.numel() != matrix.shape[1]:
            continue
        image = matrix @ right
        sigma = torch.dot(u, image)
        fit = float(sigma / image.norm().clamp_min(1e-12))  # 1 where u is the left singular vector of v's right one
        if best is None or fit > best[0] + 1e-3:
            best = fit, weight / sigma
    return None if best is None else best[1]

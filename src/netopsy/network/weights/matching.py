"""Put the tensors of a weights file into a module, or say why they do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netopsy.errors import NetworkError, WeightsError
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.weights.onnx import Use
from netopsy.network.zoo import ZOO, architecture

PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What wrappers put before the names of a module's tensors."""


def strip_prefixes(tensors: dict[str, Tensor], names: set[str], depth: int = 3) -> dict[str, Tensor]:
    """`tensors` without the prefixes that wrappers add (`module.`, `_orig_mod.`), where more of `names` match so."""
    best = tensors
    for prefix in PREFIXES if depth else ():
        if any(name.startswith(prefix) for name in tensors):
            shorter = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            if len(shorter) == len(tensors):
                shorter = strip_prefixes(shorter, names, depth - 1)
                best = max(best, shorter, key=lambda found: len(names & found.keys()))
    return best


@dataclass(frozen=True)
class Mismatch:
    """Where a set of tensors and a module differ; `misshaped` holds (name, shape in the file, shape wanted)."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    @property
    def classes(self) -> int | None:
        """The number of classes of the file, where a classifier of another size is all that differs."""
        if self.missing or self.unexpected or not self.misshaped:
            return None
        given = {shape[:1] for _, shape, _ in self.misshaped}
        wanted = {shape[:1] for _, _, shape in self.misshaped}
        rest = all(shape[1:] == want[1:] for _, shape, want in self.misshaped)
        return given.pop()[0] if len(given) == len(wanted) == 1 and rest and () not in given | wanted else None

    def __str__(self) -> str:
        shapes = [f"{name} is {_by(shape)} and should be {_by(want)}" for name, shape, want in self.misshaped]
        parts = (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", shapes))
        return ", ".join(
            f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for word, names in parts
            if names
        )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def compare(module: nn.Module, tensors: Mapping[str, Tensor]) -> Mismatch:
    """How `tensors` differ from the module's state; counts of batches and tensors shared with others may be missing."""
    wanted = module.state_dict()
    given = set(tensors)
    shared = {t.data_ptr() for name, t in wanted.items() if name in given and t.numel()}
    missing = [
        name
        for name, t in wanted.items()
        if name not in given and not name.endswith("num_batches_tracked") and not (t.numel() and t.data_ptr() in shared)
    ]
    unexpected = [name for name in tensors if name not in wanted and not name.endswith("num_batches_tracked")]
    misshaped = [
        (name, tuple(tensors[name].shape), tuple(t.shape))
        for name, t in wanted.items()
        if name in given and tensors[name].shape != t.shape
    ]
    return Mismatch(missing, unexpected, misshaped)


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], label: str, name: str) -> None:
    """Copy `tensors` into `module`; WeightsError says what does not fit, what would, or what is not finite."""
    mismatch = compare(module, tensors)
    if mismatch:
        fitting = next(zoo_fits(tensors), None)
        advice = f"they fit netopsy:{fitting}" if fitting else "choose the architecture that they were trained for"
        if label.endswith(".onnx") and any(missing.endswith("running_var") for missing in mismatch.missing):
            advice = (
                "the export has folded batch normalisation into the convolutions, so export again in training mode "
                "with do_constant_folding=False"
            )
        raise WeightsError(f"weights '{label}' do not fit {name}: {mismatch}; {advice}.")
    for key, tensor in module.state_dict().items():
        if key in tensors and tensor.is_floating_point() and not tensors[key].is_floating_point():
            kind = str(tensors[key].dtype).removeprefix("torch.")
            raise WeightsError(f"weights '{label}' hold '{key}' as {kind}; save it as floating-point numbers.")
    check_values(module, tensors, f"weights '{label}'")
    module.load_state_dict(dict(tensors), strict=False)


def check_values(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError at the first parameter or running statistic with NaN, infinity or a negative variance."""
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in tensors.items():
        if not (name in learned or name.endswith(("running_mean", "running_var"))) or tensor.is_meta:
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise WeightsError(
                f"{what} hold NaN or infinity in '{name}' ({bad:,} of {tensor.numel():,} values); "
                f"the file is damaged or the training diverged, so take an earlier checkpoint."
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise WeightsError(f"{what} hold a negative variance in '{name}'; take an undamaged checkpoint.")


def zoo_fits(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Names of the zoo's networks that `tensors` fit."""
    for name in ZOO:
        with torch.device("meta"):
            module = architecture(name).build()
        wanted = {
            key: tuple(t.shape) for key, t in module.state_dict().items() if not key.endswith("num_batches_tracked")
        }
        stripped = strip_prefixes(dict(tensors), set(wanted))
        if wanted == {k: tuple(t.shape) for k, t in stripped.items() if not k.endswith("num_batches_tracked")}:
            yield name


def name_onnx(
    uses: tuple[Use, ...], module: nn.Module, preprocessing: Preprocessing, label: str
) -> tuple[dict[str, Tensor], str]:
    """The tensors of `uses` under the module's names, and how they were matched.

    First by name; what is left by shape, where a shape occurs once on either side; the rest by order of execution,
    where both sides use the same shapes in the same order. Raises WeightsError where that leaves a choice.
    """
    wanted = {k: t for k, t in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    by_name = strip_prefixes({use.name: use.tensor for use in uses}, set(wanted))
    given = {
        k: _for_owner(use, k, wanted, module)
        for k, use in zip(by_name, uses, strict=True)
        if use.ordered or k in wanted
    }
    named = {k: t for k, t in given.items() if k in wanted and t.shape == wanted[k].shape}
    left = {k: t for k, t in given.items() if k not in named}
    open_names = [k for k in wanted if k not in named]
    if not left or not open_names:
        return given, "by name"
    ordered = [k for k in _execution_order(module, preprocessing) if k in open_names]
    shapes = [tuple(wanted[k].shape) for k in ordered]
    if set(ordered) == set(open_names) and shapes == [tuple(t.shape) for t in left.values()]:
        matched = dict(zip(ordered, left.values(), strict=True))
        return {**named, **matched}, f"{len(named)} by name, {len(matched)} by shape and order of execution"
    have, want = Counter(tuple(t.shape) for t in left.values()), Counter(tuple(wanted[k].shape) for k in open_names)
    if have == want and max(have.values()) == 1:
        by_shape = {tuple(t.shape): t for t in left.values()}
        return {**named, **{k: by_shape[tuple(wanted[k].shape)] for k in open_names}}, (
            f"{len(named)} by name, {len(left)} by shape"
        )
    if have == want:
        shape = next(shape for shape, count in have.items() if count > 1)
        names = ", ".join(k for k in open_names if tuple(wanted[k].shape) == shape)
        raise WeightsError(
            f"weights '{label}' hold {have[shape]} tensors of shape {'x'.join(map(str, shape))} in another order than "
            f"the network uses them, so which belongs to {names} is open; export the file with the parameters' names."
        )
    return given, "by name"


def _for_owner(use: Use, name: str, wanted: dict[str, Tensor], module: nn.Module) -> Tensor:
    """The tensor of `use` as the parameter `name` wants it; a parameter of no known layer stays as the file has it."""
    if name not in wanted or isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Linear):
        return use.tensor
    return use.raw if use.raw.shape == wanted[name].shape else use.tensor


def _execution_order(module: nn.Module, preprocessing: Preprocessing) -> list[str]:
    """Names of the module's tensors in the order in which its forward pass uses them."""
    try:
        program = Network("", module, preprocessing).program
    except NetworkError:
        return []
    calls = (node for node in program.nodes if node.op == "call_function")
    return list(dict.fromkeys(name for node in calls for name in node.parameters))

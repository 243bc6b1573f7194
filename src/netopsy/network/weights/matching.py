"""Put the tensors of a weights file into a module, or say why they do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from netopsy.errors import WeightsError
from netopsy.network.network import tensor_state
from netopsy.network.weights.naming import Match, match_names, unknown_parts
from netopsy.network.zoo import ZOO, architecture


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
        file_sizes = {shape[:1] for _, shape, _ in self.misshaped}
        module_sizes = {shape[:1] for _, _, shape in self.misshaped}
        rest = all(shape[1:] == want[1:] for _, shape, want in self.misshaped)
        return (
            file_sizes.pop()[0]
            if len(file_sizes) == len(module_sizes) == 1 and rest and () not in file_sizes | module_sizes
            else None
        )

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
    expected = tensor_state(module, keep_vars=True)
    names = set(tensors)
    shared = {id(t) for name, t in expected.items() if name in names}
    missing = [
        name
        for name, t in expected.items()
        if name not in names and not name.endswith("num_batches_tracked") and id(t) not in shared
    ]
    unexpected = [name for name in tensors if name not in expected and not name.endswith("num_batches_tracked")]
    misshaped = [
        (name, tuple(tensors[name].shape), tuple(t.shape))
        for name, t in expected.items()
        if name in names and tensors[name].shape != t.shape
    ]
    return Mismatch(missing, unexpected, misshaped)


def choose_match(
    tensors: Mapping[str, Tensor], module: nn.Module, label: str, state: str | None = None
) -> tuple[Match, list[str]]:
    """Where in a file the weights of `module` are, and what to say of what was chosen and left out.

    state: the key of the table to look in; by default the whole file. Errors: WeightsError where there is no such key.
    """
    if state is not None:
        key = f".{state.strip('.')}."
        below = {name: tensor for name, tensor in tensors.items() if key in f".{name}"}
        if not below:
            keys = ", ".join(dict.fromkeys(name.partition(".")[0] for name in tensors))
            raise WeightsError(f"no state '{state}' in '{label}'; it has: {keys[:300]}.")
        tensors = {f".{name}".partition(key)[2]: tensor for name, tensor in below.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in tensor_state(module).items()}
    matches = match_names(tensors, wanted)
    chosen, notes = matches[0], []
    fitting = [match for match in matches if _fits(module, match) and match.hits == chosen.hits]
    others = [match.prefix.rstrip(".") for match in fitting if _differ(match, chosen)]
    if others:
        place = f"under '{chosen.prefix.rstrip('.')}'" if chosen.prefix else "at the top"
        keys = ", ".join(f"'{other}'" for other in others)
        notes.append(
            f"'{label}' holds the network {len(others) + 1} times; the one {place} was taken, state takes {keys}"
        )
    copies = [match.prefix for match in fitting if match is not chosen]
    if left := [name for name in chosen.left_out if not _is_expected(name, copies)]:
        names = f"{', '.join(left[:4])}{', ...' if len(left) > 4 else ''}"
        notes.append(f"{len(left)} tensors of '{label}' that are no weights of the network were left out ({names})")
    return chosen, notes


def _fits(module: nn.Module, match: Match) -> bool:
    mismatch = compare(module, match.tensors)
    return not mismatch or mismatch.classes is not None


def _differ(one: Match, other: Match) -> bool:
    return one is not other and any(
        name not in one.tensors or one.tensors[name].dtype != tensor.dtype or not torch.equal(one.tensors[name], tensor)
        for name, tensor in other.tensors.items()
    )


def _is_expected(name: str, copies: list[str]) -> bool:
    """Whether no one asks after a tensor that is left out: of another copy, of an optimiser, a count of batches."""
    copied = any(prefix and name.startswith(prefix) for prefix in copies)
    return copied or name.endswith("num_batches_tracked") or any(part.startswith("optim") for part in name.split("."))


def match_in_order(tensors: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor] | None:
    """The tensors under the module's names, one after the other; None where their shapes differ somewhere.

    Counters of batches do not take part.
    """
    given = [tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")]
    wanted = {n: t for n, t in tensor_state(module).items() if not n.endswith("num_batches_tracked")}
    if [tuple(tensor.shape) for tensor in given] != [tuple(tensor.shape) for tensor in wanted.values()]:
        return None
    return dict(zip(wanted, given, strict=True))


def fit_weights(module: nn.Module, tensors: Mapping[str, Tensor], label: str, name: str, why: str = "") -> None:
    """Copy `tensors` into `module`; WeightsError says what does not fit, what would, or what is not finite.

    why: the reason of a misfit, where more is known than the names.
    """
    mismatch = compare(module, tensors)
    if mismatch:
        fitting = next(zoo_fits(tensors), None)
        advice = f"they fit netopsy:{fitting}" if fitting else "choose the architecture that they were trained for"
        unknown = unknown_parts(mismatch.unexpected)
        if parts := [plain for plain in mismatch.missing if plain in unknown]:
            advice = (
                f"'{parts[0]}' is stored under {unknown[parts[0]]}, which the file alone does not define; give the "
                "module that has it, or save after torch.nn.utils.parametrize.remove_parametrizations"
            )
        elif match_in_order(tensors, module) is not None:
            advice = (
                "no name agrees, but all shapes do in their order: if both name their layers in the order in which "
                "they run, match='order' (--match order) takes them so; look at the score then"
            )
        elif any("_packed_params" in given or given.endswith(".zero_point") for given in mismatch.unexpected):
            advice = "the file is that of a quantized network; give the weights of the float network"
        raise WeightsError(f"weights '{label}' do not fit {name}: {mismatch}; {why or advice}.")
    wanted = tensor_state(module, keep_vars=True)
    for key, tensor in wanted.items():
        if key in tensors and (kind := _unusable(tensor, tensors[key])):
            raise WeightsError(f"weights '{label}' hold '{key}' as {kind}; save it as floating-point numbers.")
    _check_ties(wanted, tensors, label, name)
    check_values(module, tensors, f"weights '{label}'")
    values = {key: tensor.to_dense() if tensor.is_sparse else tensor for key, tensor in tensors.items()}
    module.load_state_dict(values, strict=False)


def _unusable(wanted: Tensor, given: Tensor) -> str | None:
    """What is wrong with the kind of `given`, in the place of `wanted`."""
    if given.is_meta:
        return "a shape without values (meta device)"
    if given.is_quantized:
        return "quantized integers"
    if wanted.is_floating_point() and not given.is_floating_point():
        return str(given.dtype).removeprefix("torch.")
    return None


def _check_ties(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], label: str, name: str) -> None:
    """Raise WeightsError where two names are one tensor of the module and the file has two values for it."""
    first: dict[int, str] = {}
    for key, tensor in wanted.items():
        if key not in tensors:
            continue
        other = first.setdefault(id(tensor), key)
        if other != key and not torch.equal(tensors[other], tensors[key]):
            raise WeightsError(
                f"weights '{label}' hold different values for '{other}' and '{key}', which are one tensor in {name}; "
                "give the file of the network as it is tied, or untie the two."
            )


def check_values(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError at the first parameter or running statistic with NaN, infinity or a negative variance."""
    learned = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in tensors.items():
        if not (name in learned or name.endswith(("running_mean", "running_var"))) or tensor.is_meta:
            continue
        tensor = tensor.to_dense() if tensor.is_sparse else tensor
        tensor = tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
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
        shapes = {key: tuple(t.shape) for key, t in module.state_dict().items()}
        if not compare(module, match_names(tensors, shapes)[0].tensors):
            yield name

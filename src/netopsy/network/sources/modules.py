"""A torch module as its user holds it: taken out of its wrappers, refused where it cannot be examined, copied."""

from __future__ import annotations

import copy
import inspect
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import UninitializedBuffer
from torch.nn.parameter import is_lazy as is_uninitialized
from torch.overrides import TorchFunctionMode

from netopsy.errors import MissingExtra, NetworkError
from netopsy.network.signature import Signature

# Where wrappers keep the module, by the name of their class (some of these libraries are rarely there to import).
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEmaV2": "module",  # timm
    "ModelEmaV3": "module",
    "EMA": "ema_model",  # ema_pytorch
    "_FabricModule": "_original_module",  # lightning
    "DeepSpeedEngine": "module",
}
_AVERAGES = ("AveragedModel", "ModelEmaV2", "ModelEmaV3", "EMA")
_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def unwrap(given: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside wrappers: of `torch.compile`, of parallel training, of averages; and what to say of it."""
    notes: list[str] = []
    while (attribute := _attribute(given)) is not None:
        wrapper, given = type(given).__name__, getattr(given, attribute)
        if wrapper in _AVERAGES:
            notes.append(f"the averaged weights that {wrapper} keeps are examined")
    return given, tuple(notes)


def _attribute(module: nn.Module) -> str | None:
    names = [_WRAPPERS[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in _WRAPPERS]
    return next((name for name in names if isinstance(getattr(module, name, None), nn.Module)), None)


def check_module(module: nn.Module, name: str) -> None:
    """Raise NetworkError where no copy of `module` could be examined: what it is, and what to give instead."""
    for reason in _reasons(module):
        raise NetworkError(f"{name} {reason}.")


def _reasons(module: nn.Module) -> Iterator[str]:
    for path, part in module.named_modules():
        kind, where = type(part), f"'{path}'" if path else "it"
        home = kind.__module__
        if isinstance(part, torch.jit.ScriptModule):
            yield (
                f"in part is TorchScript ({where} is a {kind.__name__}), compiled code whose operations are hidden; "
                "give the Python module that it was made from in its place, with this one's state_dict() as weights"
            )
        if home.startswith(_QUANTIZED):
            yield (
                f"is quantized ({where} is a {home.removeprefix('torch.ao.nn.')}.{kind.__name__}): its weights are "
                "packed integers; give the float module that it was made from, and let Netopsy round the weights"
            )
        if home.startswith(("torch.ao.quantization.observer", "torch.ao.quantization.fake_quantize")):
            yield (
                f"is prepared for quantization ({where} is a {kind.__name__}), so it does not compute with its "
                "weights as they are; give the float module that it was made from, with this one's weights"
            )
        if any(base.__name__ in ("FullyShardedDataParallel", "FSDPModule") for base in kind.__mro__):
            yield (
                "is spread over processes (FSDP); gather its weights with torch.distributed.checkpoint.state_dict."
                "get_model_state_dict(full_state_dict=True) and give them as weights of the plain module"
            )
    if type(module).forward is nn.Module.forward and "forward" not in vars(module):
        yield "has no forward, so nothing says what it computes; give a module that calls its parts"
    for label, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for path, tensor in tensors:
            yield from _tensor_reasons(label, path, tensor)


def _tensor_reasons(label: str, path: str, tensor: Tensor) -> Iterator[str]:
    if is_uninitialized(tensor):
        return
    if type(tensor) not in (Tensor, nn.Parameter, nn.Buffer) and type(tensor.data) is not Tensor:
        yield (
            f"holds '{path}' as a {type(tensor.data).__module__.partition('.')[0]}.{type(tensor.data).__name__}, "
            "which is no plain tensor (as quantized or sharded weights are); give the module with float weights"
        )
    elif tensor.is_meta:
        yield (
            f"has no values: '{path}' is on the meta device; build the module on the CPU, and give its weights as "
            "a file or a state dict"
        )
    elif tensor.is_quantized:
        yield f"is quantized: '{path}' holds packed integers; give the float module that it was made from"
    elif label == "parameter" and not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        yield f"has weights of type {kind} ('{path}'), and Netopsy examines real floating-point ones; convert them"
    elif tensor.layout != torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        yield f"holds '{path}' in the layout {kind}; give the module with dense weights (tensor.to_dense())"


PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|endoftext|>", "</s>")
MASKED = ("[MASK]", "<mask>")


def open_tokenizer(given: Any) -> Any:
    """A tokenizer for a network of the user's: a folder, a `tokenizer.json`, one of tokenizers or transformers, or any
    object with `encode`, `pad` and `digest` as `huggingface_inputs.Tokenizer` has them.

    Raises NetworkError for anything else, and MissingExtra without the libraries.
    """
    if callable(getattr(given, "encode", None)) and hasattr(given, "pad") and hasattr(given, "digest"):
        return given
    try:
        import tokenizers

        from netopsy.network.sources.huggingface_inputs import Tokenizer, quiet, read_tokenizer
    except ImportError as error:
        raise MissingExtra("a tokenizer", "text") from error
    name = type(given).__name__
    if isinstance(given, str | os.PathLike):
        name = str(given)
        if Path(given).is_dir():
            with quiet():
                return read_tokenizer(Path(given))
        if not Path(given).is_file():
            raise NetworkError(f"no tokenizer '{given}': it is no folder and no file; give one with a tokenizer.json.")
        try:
            given = tokenizers.Tokenizer.from_file(str(given))
        except Exception as error:  # the library raises its own kind, which is a plain Exception
            raise NetworkError(
                f"'{given}' is no tokenizer of the library tokenizers ({_line(error)}); give a tokenizer.json, or the "
                "folder that it lies in."
            ) from error
    given = getattr(given, "backend_tokenizer", given)
    if not isinstance(given, tokenizers.Tokenizer):
        raise NetworkError(f"tokenizer {name} is none; give a folder, a tokenizer.json, or one of transformers.")
    backend = tokenizers.Tokenizer.from_str(given.to_str())
    pad = (backend.padding or {}).get("pad_id", _first_token(backend, PADDING))
    backend.no_padding()
    return Tokenizer(backend, int(pad or 0), name, mask=_first_token(backend, MASKED), has_pad=pad is not None)


def padding_notes(signature: Signature) -> list[str]:
    """A note where shorter texts are filled up with a token that was made for something else."""
    tokens = signature.tokenizer
    if signature.length is None or getattr(tokens, "has_pad", True):
        return []
    word = f"'{tokens.token(tokens.pad)}'" if hasattr(tokens, "token") else f"token {tokens.pad}"
    masked = any(entry.kind == "mask" for entry in signature.inputs)
    read = "the mask leaves it out" if masked else "the network takes no mask and reads it as text"
    return [f"its tokenizer has no token for padding, so shorter texts end in {word}; {read}"]


def _first_token(backend: Any, words: tuple[str, ...]) -> int | None:
    """The number of the first of `words` that the vocabulary has."""
    return next((number for word in words if (number := backend.token_to_id(word)) is not None), None)


def is_lazy(module: nn.Module) -> bool:
    """Whether a parameter or buffer waits for a first batch to have a shape."""
    return any(map(is_uninitialized, (*module.parameters(), *module.buffers())))


def run_lazy(module: nn.Module, signature: Signature | None, name: str) -> None:
    """Run a lazy module once, in place, so that its parameters have shapes. Raises NetworkError without an example."""
    if signature is None:
        path = next(path for path, tensor in module.state_dict(keep_vars=True).items() if is_uninitialized(tensor))
        raise NetworkError(
            f"{name} is lazy: '{path}' has no shape until the module has run; give a batch to run it on, "
            "load_network(module, example=batch), or call it yourself, or load its weights, and give it then."
        )
    inputs = signature.example(2, module)
    try:
        with torch.no_grad():
            module.eval()(*inputs.values()) if len(inputs) == 1 else module(**inputs)
    except Exception as error:  # whatever a forward pass raises
        raise NetworkError(
            f"{name} is lazy and cannot take the example ({', '.join(map(str, signature.inputs))}): {_line(error)}."
        ) from error


def runs(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the module takes inputs of this shape."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            like = next(module.parameters(), torch.zeros(0))
            module.eval()(torch.zeros(2, *shape, dtype=like.dtype))
    except Exception:  # whatever a forward pass raises
        return False
    return True


def is_script(path: str) -> bool:
    """Whether a file is a TorchScript archive."""
    if not path or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def load_script(path: str) -> nn.Module:
    """A TorchScript archive, on the CPU. Raises NetworkError where it is damaged, or has code that loading it runs."""
    with zipfile.ZipFile(path) as archive:
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    if any(b"def __setstate__" in source for source in sources):
        raise NetworkError(
            f"'{path}' is a TorchScript archive with code that runs as soon as it is loaded, as quantized ones have; "
            "give the float module that it was made from."
        )
    try:
        module: nn.Module = torch.jit.load(path, map_location="cpu")
    except Exception as error:  # torch raises several kinds
        raise NetworkError(
            f"'{path}' is a damaged TorchScript archive ({_line(error)}); fetch or save it again."
        ) from error
    return module


def graph_of_script(module: torch.jit.ScriptModule, name: str) -> nn.Module:
    """The operators of a TorchScript module as a graph in Python, in eval mode, with its parameters under their names.

    It is run on nothing. Raises NetworkError where torch has no counterpart of one of its operators.
    """
    script: Any = copy.deepcopy(module).eval()
    places = [place for place in script.forward.schema.arguments[1:] if not place.has_default_value()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch._export.converter import TS2EPConverter

            class Converter(TS2EPConverter):  # torch exports the graph for the example's batch size; it is kept before
                def retrace_as_exported_program(self, gm: fx.GraphModule, name_to_constant: Any) -> Any:
                    self.graph = gm
                    return SimpleNamespace(state_dict=script.state_dict())

            converter = Converter(script, tuple(torch.zeros(2, 1) for _ in places))
            converter.convert()
            graph: fx.GraphModule = converter.graph
    except Exception as error:  # of many kinds: torch's converter is a prototype
        raise NetworkError(
            f"{name} is TorchScript, and torch finds no graph in it ({_line(error)}); build the Python module that it "
            "was made from and give this one's state_dict() as weights, or give its torch.export program (a .pt2 file)."
        ) from error
    for node, place in zip([n for n in graph.graph.nodes if n.op == "placeholder"], places, strict=False):
        node.target = place.name
    _name_operands(graph, dict(script.named_parameters()))
    graph.recompile()
    for path, parameter in script.named_parameters():
        owner, _, last = path.rpartition(".")
        with suppress(AttributeError):  # of one that no operator takes
            holder = graph.get_submodule(owner)
            if last in holder._buffers:
                del holder._buffers[last]
                holder.register_parameter(last, nn.Parameter(parameter.detach()))
    return graph.eval()


def _name_operands(graph: fx.GraphModule, parameters: Mapping[str, Tensor]) -> None:
    """Read parameters that stand in the graph as values, as those of a recurrent layer do, by their names."""
    names = {parameter.data_ptr(): name for name, parameter in parameters.items()}

    def read(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.data_ptr() not in names:
            return value
        name = names[value.data_ptr()]
        owner, _, last = name.rpartition(".")
        holder: nn.Module = graph
        for part in filter(None, owner.split(".")):
            if not hasattr(holder, part):
                holder.add_module(part, nn.Module())
            holder = getattr(holder, part)
        if not hasattr(holder, last):
            holder.register_buffer(last, value.detach())
        return graph.graph.get_attr(name)

    for node in reversed(graph.graph.nodes):
        if node.target is torch.cond and not node.users:  # a check, which may raise and gives nothing
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        with graph.graph.inserting_before(node):
            node.args = fx.node.map_aggregate(node.args, read)


class _Detaching(TorchFunctionMode):
    """Lets `deepcopy` copy tensors with a history too, such as cached activations, by their values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and isinstance(args[0], UninitializedBuffer):  # torch copies parameters alone
            buffer, memo = args
            return memo.setdefault(id(buffer), UninitializedBuffer(device=buffer.device, dtype=buffer.dtype))  # type: ignore[call-arg]
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def copy_module(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy that shares no tensor with `module` and has none of its user's hooks; and what to say of it.

    Attributes that cannot be copied (locks, open files, generators) are shared. Hooks of torch itself stay: pruning
    and the older weight norm are made of them.
    """
    memo: dict[int, Any] = {}
    hooked, methods = [], []
    for path, part in module.named_modules():
        for hooks in (getattr(part, name, None) for name in _HOOKS):
            if hooks:
                kept = {key: hook for key, hook in hooks.items() if _of_torch(hook)}
                bound = {key: hook for key, hook in kept.items() if getattr(hook, "__self__", None) is part}
                again = ((key, hook if key in bound else copy.deepcopy(hook)) for key, hook in kept.items())
                memo[id(hooks)] = type(hooks)(again)
                methods += [(path, memo[id(hooks)], key, hook.__func__) for key, hook in bound.items()]
                hooked += [path or type(part).__name__] if len(kept) < len(hooks) else []
    with torch.no_grad(), _Detaching():
        try:
            copied = copy.deepcopy(module, dict(memo))
        except Exception:
            for part in module.modules():
                for name, value in vars(part).items():
                    if name not in ("_parameters", "_buffers", "_modules", *_HOOKS) and not _copies(value, memo):
                        memo[id(value)] = value
            try:
                copied = copy.deepcopy(module, memo)
            except Exception as error:
                raise NetworkError(
                    f"{type(module).__name__} cannot be copied ({type(error).__name__}: {_line(error)}), and Netopsy "
                    "changes no module of yours; give one that copy.deepcopy can copy."
                ) from error
    for path, hooks, key, function in methods:
        hooks[key] = MethodType(function, copied.get_submodule(path))
    for part in copied.modules():
        if isinstance(part, nn.DataParallel):
            part.device_ids = []  # it then calls what is inside, wherever that lies
    names = ", ".join(dict.fromkeys(hooked))
    said = f"hooks of yours were left out of the copy ({names}); what they change in the values is not examined"
    return copied, (said,) if hooked else ()


def _of_torch(hook: Any) -> bool:
    home = type(hook).__module__ if type(hook).__module__ != "builtins" else getattr(hook, "__module__", None)
    return str(home).startswith(("torch.", "netopsy."))


def _copies(value: Any, memo: dict[int, Any]) -> bool:
    with suppress(Exception):
        copy.deepcopy(value, dict(memo))
        return True
    return False


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:160].rstrip(".")


def what_instead(given: object) -> str | None:
    """For something that is no module: what it is and what to give instead; None where nothing better is known."""
    if inspect.isclass(given) and issubclass(given, nn.Module):
        return f"this is the class {given.__name__}; give a module made of it: {given.__name__}(...)"
    if isinstance(given, dict) and any(isinstance(value, Tensor) for value in given.values()):
        return "this is a state dict, which says nothing of the architecture; give that first and this as weights"
    if inspect.isroutine(given) or (callable(given) and not isinstance(given, type)):
        name = getattr(given, "__name__", type(given).__name__)
        return (
            f"this is the function {name}; give the module that it makes, or wrap what it computes in a torch.nn.Module"
        )
    return None

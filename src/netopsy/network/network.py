"""A network on the table: module, graph, layers and preprocessing; and the same one with freshly drawn weights."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from netopsy.errors import NetopsyWarning, NetworkError, NotApplicable, SettingsError, UnknownLayer, nearest
from netopsy.network.capture import arguments
from netopsy.network.graph import export_graph, find_output, name_outputs
from netopsy.network.layers import Layer, find_layers
from netopsy.network.node import Node
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.program import Program, read_program, restore_names
from netopsy.network.signature import Signature
from netopsy.settings import stream
from netopsy.wording import plural


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes of `tensors`, in the order of their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def tensor_state(module: nn.Module, *, keep_vars: bool = False) -> dict[str, Tensor]:
    """The module's state dict without what is no tensor of its network (`get_extra_state`)."""
    state = module.state_dict(keep_vars=keep_vars)
    return {
        name: value for name, value in state.items() if isinstance(value, Tensor) and not name.endswith("_extra_state")
    }


_OF_THE_CODE = ("structure", "program", "nodes", "layers", "output")  # what is the same whatever the weights


class Network:
    """A trained network, its preprocessing and where it came from.

    name: as the user gave it, e.g. `netopsy:resnet20`.
    module: the plain torch module, put into eval mode.
    preprocessing: how an image becomes its one input; for inputs of any other kind, the Signature.
    provenance: source, weights file and its digest, seed of a random initialisation; plain data.
    returned: of several outputs the one to examine, by its key (`aux.logits`) or its number; None: the one called
        `logits`, else the first.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing | Signature,
        provenance: dict[str, Any] | None = None,
        returned: str | int | None = None,
    ) -> None:
        self.name = name
        module.eval()
        self.module = module
        self.preprocessing = preprocessing
        self.provenance = provenance or {}
        self.returned = returned

    @property
    def signature(self) -> Signature:
        """The inputs, by name: their shapes, types and kinds."""
        return self.preprocessing.signature

    @property
    def image_preprocessing(self) -> Preprocessing:
        """How an image becomes the input; NotApplicable where the network takes none."""
        if isinstance(self.preprocessing, Preprocessing):
            return self.preprocessing
        raise NotApplicable(
            f"{self.name} takes {', '.join(map(str, self.signature.inputs))} and no images, which this needs."
        )

    @cached_property
    def graph(self) -> fx.GraphModule:
        """The forward pass as a graph of functional ATen operators with a dynamic batch.

        All that Netopsy asks is answered from `program`, which is read before anybody can change this one.
        """
        graph = export_graph(self.module, self.signature)
        restore_names(graph, self.module)
        self.__dict__.setdefault("program", read_program(graph, self.tensors))
        code = graph.code if self.returned is None else f"{graph.code}{self.returned}"
        self.__dict__.setdefault("structure", hashlib.sha256(code.encode()).hexdigest())
        return graph

    @cached_property
    def structure(self) -> str:
        """SHA-256 over the graph's code: what is computed, whatever the weights."""
        _ = self.graph  # leaves it here
        return str(self.__dict__["structure"])

    @cached_property
    def program(self) -> Program:
        """The graph read once: a record of each node, parameters, sizes and lists included."""
        _ = self.graph  # leaves it here
        program: Program = self.__dict__["program"]
        return program

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """Every operation whose value is one tensor that depends on the input, by name, in order of execution."""
        return MappingProxyType({n.name: n for n in self.program.nodes if n.from_input and n.is_tensor})

    @property
    def output_sequence(self) -> str:
        """Of an encoder and a decoder, the sequence that the output goes along; empty where there is one or none."""
        return self.nodes[self.output].sequence if len(self.signature.lengths) > 1 else ""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The weight-bearing layers in order of execution."""
        return find_layers(self.program.nodes, self.tensors)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers by name; the module's own, not copies."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    @property
    def parameters(self) -> int:
        """Number of learned values."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next((t.device for t in self.tensors.values()), torch.device("cpu"))

    def to(self, place: torch.device | str | torch.dtype) -> Network:
        """Move the module to a device or type; the graph, which names both, is exported again when next asked for."""
        self.module.to(place)
        self.forget()
        return self

    def forget(self) -> None:
        """Drop what was read of the module, which has changed: it is read again when next asked for."""
        for name in ("graph", "digest", *_OF_THE_CODE):
            self.__dict__.pop(name, None)

    @cached_property
    def output_name(self) -> str:
        """The key of the output in what the network returns, as `logits`; empty where it returns one tensor."""
        output = self.output
        return next((key for key, node in self.program.returns.items() if node and node.name == output), "")

    @cached_property
    def output(self) -> str:
        """Name of the node whose value is the network's output; of several the one that `returned` names.

        Where it names none, the one called `logits` is taken, else the first, and a warning says so.
        Raises NetworkError where none is a tensor that depends on the input, SettingsError for one that there is not.
        """
        given = self.program.returns
        known = {key: node.name for key, node in given.items() if node is not None and node.name in self.nodes}
        if not known:
            raise NetworkError(f"{self.name} does not return a tensor that depends on its input.")
        key = find_output(given, known, self.returned)
        if key is None:
            raise SettingsError(f"{self.name} has no output '{self.returned}'; it returns {self._listed(known)}.")
        if self.returned is None and len(set(known.values())) > 1:
            warnings.warn(
                f"{self.name} returns {self._listed(known)}; '{key}' is examined. Another one: output=NAME or its "
                "number in load_network, --output on the command line.",
                NetopsyWarning,
                stacklevel=3,  # past the cached property
            )
        return known[key]

    def _listed(self, known: Mapping[str, str]) -> str:
        """The outputs with their shapes, in words."""
        shapes = {key: "x".join(map(str, self.nodes[name].shape)) or "one number" for key, name in known.items()}
        return ", ".join(f"'{key}' ({shape})" for key, shape in list(shapes.items())[:8]) + (
            f" and {len(shapes) - 8} more" if len(shapes) > 8 else ""
        )

    @property
    def classes(self) -> int:
        """Number of outputs (the size of the output's last axis)."""
        return self.nodes[self.output].full_shape[-1]

    @cached_property
    def digest(self) -> str:
        """`digest_of` all parameters and buffers."""
        return digest_of(self.tensors)

    def node(self, name: str) -> Node:
        """The node called `name`; a layer's name gives its first call, a module's path the last operation inside."""
        if name in self.nodes:
            return self.nodes[name]
        for layer in self.layers:
            if layer.name == name:
                return self.nodes[layer.nodes[0]]
        inside = [other for other in self.nodes if other.startswith(f"{name}.")]
        if inside:
            return self.nodes[inside[-1]]
        raise UnknownLayer(f"no node '{name}' in {self.name}; nearest: {nearest(name, self.nodes)}.")

    def layer(self, name: str) -> Layer:
        """The weight-bearing layer called `name`."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        raise UnknownLayer(
            f"no layer '{name}' in {self.name}; nearest: {nearest(name, names)}. "
            f"`netopsy layers {self.name}` lists all {len(names)}."
        )

    def select(self, names: Iterable[str] | None = None, kind: str | None = None) -> tuple[Layer, ...]:
        """The layers called `names` (None: all), of one `kind` if given, in order of execution."""
        chosen = None if names is None else {self.layer(name).name for name in names}
        return tuple(
            layer
            for layer in self.layers
            if (chosen is None or layer.name in chosen) and (kind is None or layer.kind == kind)
        )

    def with_tensors(self, tensors: Mapping[str, Tensor], name: str | None = None) -> Network:
        """A copy, called `name`, in which the parameters and buffers `tensors` have other values; this one stays."""
        module = copy.deepcopy(self.module)
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        with torch.no_grad():
            for key, value in tensors.items():
                state[key].copy_(value)
        copied = Network(name or self.name, module, self.preprocessing, dict(self.provenance), self.returned)
        # read of this one, true of the copy: an export takes seconds
        if "program" in self.__dict__ and not self.program.settled & tensors.keys():
            copied.__dict__ |= {key: self.__dict__[key] for key in _OF_THE_CODE if key in self.__dict__}
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: the program, which is made for it; an exported graph does not survive it."""
        return {key: value for key, value in self.__dict__.items() if key not in ("graph", "nodes")}

    def __repr__(self) -> str:
        shapes = [entry.shape for entry in self.signature.inputs]
        inputs = f"input {shapes[0]}" if len(shapes) == 1 else f"inputs {', '.join(map(str, self.signature.inputs))}"
        return f"Network({self.name}, {plural(self.parameters, 'parameter')}, {inputs})"


def check_network(value: object, name: str = "network") -> None:
    """Raise SettingsError where `value` is no Network, with the call that makes one of it."""
    if isinstance(value, Network):
        return
    call = ""
    if isinstance(value, nn.Module):
        call = ": load_network(module, size=..., mean=..., std=...) also says what its images look like"
    elif isinstance(value, str):
        call = f": load_network({value[:100]!r})"
    raise SettingsError(f"{name} is a {type(value).__name__}; give a network as load_network returns it{call}.")


def fresh(network: Network, seed: int, draw: int = 0) -> Network:
    """A copy of `network` whose modules have drawn their weights anew, each by its own `reset_parameters`.

    seed, draw: of a stream that `torch.manual_seed` of no training meets, see `netopsy.settings`.

    Errors: SettingsError where a parameter belongs to a module that has none.
    """
    copied = network.with_tensors({})
    module = copied.module
    initialised: set[str] = set()
    with torch.random.fork_rng([network.device] if network.device.type == "cuda" else []):
        torch.manual_seed(stream("weights", seed, draw))
        for path, part in module.named_modules():
            reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
            if callable(reset):
                reset()
                initialised |= {f"{path}.{name}".lstrip(".") for name, _ in part.named_parameters()}
    left = [name for name, _ in module.named_parameters() if name not in initialised]
    if left:
        raise SettingsError(
            f"{network.name} cannot be drawn anew: nothing says how {left[0]} begins; load it with weights='random' "
            "and take its weights as they are."
        )
    copied.provenance |= {"weights": "random", "seed": seed, "draw": draw}
    return copied


class Head(nn.Module):
    """A linear map of one vector a sample: of the values that another module gives, pooled over their places.

    pool: mean, max, first or last, over the places that are no padding. axis: where the channels are. wanted: which of
    several outputs.
    """

    def __init__(self, inputs: int, outputs: int, pool: str, axis: int, wanted: str | int | None) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.pool, self.axis, self.wanted = pool, axis, wanted

    def forward(self, given: Any, mask: Tensor | None = None) -> Tensor:
        """(batch, outputs) of what the module returns; mask: (batch, length), 0 where a sample is padded."""
        named = name_outputs(given)
        key = find_output(named, [name for name, value in named.items() if isinstance(value, Tensor)], self.wanted)
        values = given if isinstance(given, Tensor) else named[str(key)]
        if values.ndim > 2:
            values = values.movedim(self.axis, -1).flatten(1, -2)
            values = self._pooled(values, torch.ones_like(values[..., 0]) if mask is None else mask.to(values))
        logits: Tensor = self.linear(values)
        return logits

    def _pooled(self, values: Tensor, mask: Tensor) -> Tensor:
        if self.pool == "mean":
            return (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        if self.pool == "max":
            return values.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
        if self.pool == "first":
            return values[:, 0]
        last = (mask.sum(1).long() - 1).clamp_min(0)
        return values.gather(1, last[:, None, None].expand(-1, 1, values.shape[-1]))[:, 0]


HEAD_POOLS = ("mean", "max", "first", "last")


def with_head(network: Network, outputs: int, *, pool: str = "mean", seed: int = 0) -> Network:
    """`network` with a linear map, drawn anew, of its output: a classifier to be trained by `fit`.

    outputs: classes, or numbers to give. pool: how an output with places (tokens, pixels) becomes a vector: the mean or
    max over the places that are no padding, the first, or the last. seed: of the map's weights. The network itself is
    `body` and the map `head.linear`: `frozen=["body"]` trains the map alone. The weights of the body are copied.
    Errors: SettingsError for another pool or fewer than one output.

    >>> from netopsy import load_network, with_head
    >>> with_head(load_network("netopsy:digits-a"), 3).classes
    3
    """
    check_network(network)
    if pool not in HEAD_POOLS:
        raise SettingsError(f"pool '{pool}' is none; give {', '.join(HEAD_POOLS)}.")
    if not isinstance(outputs, int) or isinstance(outputs, bool) or outputs < 1:
        raise SettingsError(f"{outputs!r} outputs are none; give a whole number from 1.")
    node = network.nodes[network.output]
    if len(node.full_shape) < 2 or not node.per_sample or not node.is_floating_point:
        raise NetworkError(
            f"{network.name} gives no values for each sample (shape {node.full_shape}) to put a head on."
        )
    parameter = next((p for p in network.module.parameters() if p.is_floating_point()), torch.zeros(()))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream("weights", seed))
        head = Head(node.full_shape[node.channel_axis], outputs, pool, node.channel_axis, network.returned)
    graph, root = fx.Graph(), nn.Module()
    root.add_module("body", copy.deepcopy(network.module))
    root.add_module("head", head.to(parameter.device, parameter.dtype))
    inputs = {entry.name: graph.placeholder(entry.name) for entry in network.signature.inputs}
    args, kwargs = arguments(inputs)
    given = graph.call_module("body", args, kwargs)
    masks = [entry.name for entry in network.signature.inputs if entry.kind == "mask"]
    masked = bool(masks) and bool(node.length_axes) and len(node.full_shape) == 3
    graph.output(graph.call_module("head", (given, inputs[masks[0]]) if masked else (given,)))
    provenance = {**network.provenance, "head": {"outputs": outputs, "pool": pool, "seed": seed}}
    name = f"{network.name} with a head of {plural(outputs, 'output')}"
    return Network(name, fx.GraphModule(root, graph, "WithHead"), network.preprocessing, provenance)

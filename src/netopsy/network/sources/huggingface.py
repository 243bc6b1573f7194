"""Networks of Hugging Face's transformers: a folder with config.json, weights, tokenizer and processor."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from netopsy.errors import MissingExtra, NetworkError, WeightsError, first_line, nearest
from netopsy.files import read_object
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Signature
from netopsy.network.sources.huggingface_inputs import (
    Tokenizer,
    find_signature,
    parameters,
    quiet,
    read_processor,
    read_tokenizer,
    setting,
)
from netopsy.network.weights.weights import Weights

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # what a folder on the hub is asked for
_CHANNELS: dict[int, Any] = {1: "L", 3: "RGB"}
_OTHER_KINDS = {
    "adapter_config.json": "holds an adapter alone (peft); merge it into its base (merge_and_unload) and save that",
    "model_index.json": "is a pipeline of diffusers; give the folder of one of its parts, such as its text_encoder",
    "params.json": "holds weights in their authors' first form; convert them to a folder with config.json",
}


class HuggingFaceSource:
    """`hf:FOLDER`, or `hf:ORG/NAME` for a folder in the local cache of the hub, fetched where `download` is asked for.

    The architecture and its head are those that config.json names in `architectures`; attention is computed step by
    step, so that its maps are nodes of the graph. No code that comes with a folder is run.
    """

    options: tuple[str, ...] = ("head", "length", "num_classes")
    unused: tuple[str, ...] = ()
    fresh = "random"
    places_weights = True  # transformers renames the tensors of older files itself

    def __init__(self, name: str, download: bool = False) -> None:
        transformers = _transformers(f"hf:{name}")
        self.name = f"hf:{name}"
        self.notes: tuple[str, ...] = ()
        self.folder = _folder(name, download)
        self.description = _description(self.folder, self.name)
        kinds = transformers.CONFIG_MAPPING
        kind = self.description.get("model_type")
        self._refuse_code(kind in kinds)
        if kind not in kinds:
            said = f"the model type '{kind}'" if kind else "no model_type"
            raise NetworkError(
                f"{self.name}: its config.json names {said}; transformers {transformers.__version__} knows "
                f"{len(kinds)} types, nearest: {nearest(str(kind), kinds)}."
            )
        self.signature: Signature | None = None
        self.prepared: Preprocessing | None = None

    @property
    def shipped(self) -> Path:
        """The file of the weights, or of the names of the files over which they are spread."""
        for file in _WEIGHTS:
            if (self.folder / file).is_file():
                return self.folder / file
        held = sorted(entry.name for entry in self.folder.iterdir() if entry.suffix not in (".json", ".txt", ".md"))
        raise WeightsError(
            f"{self.name} holds no weights ({_WEIGHTS[0]}, {_WEIGHTS[2]} or their index.json)"
            f"{f' but {_listed(held)}' if held else ''}; fetch them, or give weights='random' (--weights random)."
        )

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        if hub is not None:
            raise WeightsError(f"{self.name} has no weights called '{hub}' on a hub; give the path of a file.")
        notes: list[str] = []
        with quiet():
            config = self._configuration(options)
            kind = self._architecture(config, self._head(config, options))
            module = self._random(kind, config) if file is None else self._filled(kind, config, file, options, notes)
        module.eval()
        tokenizer = self._tokenizer(module, notes)
        found = read_processor(self.folder) if "pixel_values" in parameters(module) else None
        self.prepared, remarks = found or (None, ())
        own = None if self.prepared is None else self.prepared.size
        self.signature = find_signature(module, tokenizer, options.get("length"), size or own)
        self.notes = (*notes, *remarks)
        return module

    def preprocessing(
        self, module: nn.Module, hub: str | None, file: Weights | None
    ) -> tuple[Preprocessing | Signature, str]:
        assert self.signature is not None
        if len(self.signature.inputs) > 1 or self.signature.inputs[0].kind != "image":
            return self.signature, "the signature of its forward pass and its config.json"
        if self.prepared is not None:
            return self.prepared, "its image processor"
        depth, *sides = self.signature.inputs[0].shape
        plain = Preprocessing((sides[0], sides[1]), None, (0.0,) * depth, (1.0,) * depth, _CHANNELS.get(depth, depth))
        return plain, "assumed (0..1, no mean): its folder holds no image processor"

    def _refuse_code(self, known: bool) -> None:
        """Refuse a folder whose architecture is Python code beside the weights."""
        code = self.description.get("auto_map")
        if code and not known:
            files = sorted({str(entry).rpartition("--")[2].partition(".")[0] for entry in dict(code).values()})
            raise NetworkError(
                f"{self.name} needs code of its own to run ({', '.join(f'{file}.py' for file in files)}), and Netopsy "
                "runs no code from a folder; where you trust it, build the module yourself and give it as the source."
            )

    def _configuration(self, options: Mapping[str, Any]) -> Any:
        """The settings of the architecture, for one forward pass that keeps nothing for a later one."""
        if kind := dict(self.description.get("quantization_config") or {}).get("quant_method"):
            raise NetworkError(
                f"{self.name} holds quantized weights ({kind}), which only its own library can compute with; give the "
                "folder of the float network, and let Netopsy round the weights."
            )
        from transformers import AutoConfig

        more = {} if options.get("num_classes") is None else {"num_labels": int(options["num_classes"])}
        try:
            config = AutoConfig.from_pretrained(
                str(self.folder), local_files_only=True, trust_remote_code=False, attn_implementation="eager", **more
            )
        except Exception as error:  # each architecture checks its settings in its own way
            raise NetworkError(f"{self.name}: its config.json cannot be used: {first_line(error)}.") from error
        _settle(config)
        return config

    def _head(self, config: Any, options: Mapping[str, Any]) -> str | None:
        """The head asked for; for a number of classes that of a classifier, where the folder's own has no classes."""
        if options.get("head") is not None or options.get("num_classes") is None:
            return options.get("head")
        named = next(iter(self.description.get("architectures") or ()), "")
        heads = [head for head in _heads(config) if head.endswith("Classification")]
        if "Classification" in named or not heads:
            return None
        usual = [f"AutoModelFor{kind}Classification" for kind in ("Sequence", "Image", "Audio", "Video")]
        return next((head for head in usual if head in heads), heads[0])

    def _architecture(self, config: Any, head: str | None) -> Any:
        """The class to build: the one that config.json names, or the one with another `head`."""
        import transformers

        heads = _heads(config)
        named = next(iter(self.description.get("architectures") or ()), None)
        if head is None:
            if named is None:
                return self._known(heads.get("AutoModel"), config, "AutoModel", heads)
            return self._known(getattr(transformers, named, None), config, named, heads)
        chosen = {_plain(name): kind for name, kind in heads.items()} | {"base": heads.get("AutoModel")}
        return self._known(chosen.get(_plain(head)) or getattr(transformers, head, None), config, head, heads)

    def _known(self, kind: Any, config: Any, name: str, heads: Mapping[str, Any]) -> Any:
        """`kind` where it is a network with this configuration."""
        fits = (
            inspect.isclass(kind)
            and issubclass(kind, nn.Module)
            and isinstance(config, getattr(kind, "config_class", None) or ())
        )
        if fits:
            return kind
        allowed = [entry.removeprefix("AutoModelFor") for entry in heads]
        raise NetworkError(
            f"{self.name}: no network '{name}' for the model type '{config.model_type}'; as head give one of "
            f"{', '.join(allowed) or 'none'}, or the name of a class of transformers."
        )

    def _random(self, kind: Any, config: Any) -> nn.Module:
        try:
            return kind(config)
        except Exception as error:
            raise NetworkError(f"{self.name} cannot be built as {kind.__name__}: {first_line(error)}.") from error

    def _filled(self, kind: Any, config: Any, file: Weights, options: Mapping[str, Any], notes: list[str]) -> nn.Module:
        """The network with the tensors of `file`; those of a new head are drawn, and a note says so."""
        more: dict[str, Any] = {}
        while True:
            try:
                module, report = kind.from_pretrained(
                    None,
                    config=config,
                    state_dict=dict(file.tensors),
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    attn_implementation="eager",
                    **more,
                )
            except Exception as error:
                raise NetworkError(f"{self.name} cannot be built as {kind.__name__}: {first_line(error)}.") from error
            missing = set(report["missing_keys"])
            if not missing or more or not all(".pooler." in f".{name}" for name in missing):
                break
            if "add_pooling_layer" not in inspect.signature(kind).parameters:
                break
            more = {"add_pooling_layer": False}  # many a sentence encoder was saved without
        odd = {name: (tuple(there), tuple(here)) for name, there, here in report["mismatched_keys"]}
        base = f"{getattr(module, 'base_model_prefix', '')}."
        new = {name for name in missing | set(odd) if ".pooler." in f".{name}" or not name.startswith(base)}
        asked = options.get("head") is not None or options.get("num_classes") is not None
        if wrong := sorted((missing | set(odd)) - (new if asked else set())):
            name = wrong[0]
            what = f"'{name}' is missing"
            if name in odd:
                shapes = ["x".join(map(str, shape)) for shape in odd[name]]
                what = f"'{name}' is {shapes[0]} in the file and {shapes[1]} in the network"
            raise WeightsError(
                f"the weights of '{file.label}' do not fit {self.name} as {kind.__name__}: {what}"
                f"{f', and {len(wrong) - 1} more do not fit' if len(wrong) > 1 else ''}; give the file that belongs to "
                "its config.json, or another head."
            )
        if new:
            notes.append(f"{_listed(new)} of the new head {'are' if len(new) > 1 else 'is'} drawn at random; train it")
        if unused := sorted(report["unexpected_keys"]):
            notes.append(f"{_listed(unused)} in '{file.label}' {'are' if len(unused) > 1 else 'is'} not part of it")
        return module

    def _tokenizer(self, module: Any, notes: list[str]) -> Tokenizer | None:
        """The tokenizer in the folder, for a network that takes tokens; None where there is none."""
        if not {"input_ids", "decoder_input_ids"} & set(parameters(module)):
            return None
        files = (
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "vocab.json",
            "spiece.model",
            "tokenizer.model",
        )
        if not any((self.folder / file).is_file() for file in files):
            return None
        padding = setting(module.config, "pad_token_id")
        try:
            with quiet():
                tokenizer = read_tokenizer(self.folder, padding)
        except NetworkError as error:
            notes.append(str(error).rstrip("."))
            return None
        if padding is None and type(module).__name__.endswith("ForSequenceClassification"):
            module.config.pad_token_id = tokenizer.pad  # it looks at the last token that is none
        start = setting(module.config, "decoder_start_token_id") if module.config.is_encoder_decoder else None
        return replace(tokenizer, start=start)


def _settle(config: Any) -> None:
    """Let a forward pass return its results alone: no cache, no attention maps and hidden states beside them."""
    plain = {"use_cache": False, "output_attentions": False, "output_hidden_states": False, "return_dict": True}
    for name, value in (plain | {"use_mems_eval": False}).items():
        if getattr(config, name, None) is not None and getattr(config, name) != value:
            setattr(config, name, value)
    for part in getattr(config, "sub_configs", {}):
        if getattr(config, part, None) is not None:
            _settle(getattr(config, part))


def _heads(config: Any) -> dict[str, Any]:
    """The classes of transformers for this configuration, by the Auto class that makes each."""
    import transformers

    found = {}
    for name in dir(transformers):
        if name.startswith("AutoModel"):
            mapping = getattr(getattr(transformers, name), "_model_mapping", None)
            if mapping is not None and type(config) in mapping:
                kind = mapping[type(config)]
                found[name] = kind[0] if isinstance(kind, tuple) else kind
    return found


def _plain(head: str) -> str:
    """A head's name as one may write it: `AutoModelForCausalLM`, `CausalLM`, `causal-lm`."""
    plain = re.sub(r"[^a-z0-9]", "", head.lower())
    return {"automodel": "base"}.get(plain, plain.removeprefix("automodel").removeprefix("for"))


def _transformers(name: str) -> Any:
    try:
        import tokenizers  # noqa: F401
        import transformers
    except ImportError as error:
        raise MissingExtra(f"opening {name}", "text") from error
    return transformers


def _folder(name: str, download: bool) -> Path:
    """The folder that `name` is, or that the hub's cache has for it; fetched first where asked for."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise NetworkError(f"hf:{name} is a file; give the folder that it lies in.")
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None
    if not on_hub:
        raise NetworkError(f"hf:{name}: there is no such folder; give one with config.json, or ORG/NAME of the hub.")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=_FILES, ignore_patterns=["*/*"], local_files_only=not download)
        )
    except Exception as error:  # of the network, of the hub, of the disk
        if download:
            raise NetworkError(f"hf:{name} cannot be fetched from the hub: {first_line(error)}.") from error
        raise NetworkError(
            f"hf:{name}: there is no such folder; to fetch it from the hub give download=True (--download)."
        ) from error


def _description(folder: Path, name: str) -> dict[str, Any]:
    """What config.json says."""
    path = folder / "config.json"
    if not path.is_file():
        for file, what in _OTHER_KINDS.items():
            if (folder / file).is_file():
                raise NetworkError(f"{name} has no config.json: it {what}.")
        inside = sorted(str(below.parent.relative_to(folder)) for below in folder.glob("*/config.json"))
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        advice = f"its folder {', '.join(inside[:3])} has one" if inside else f"it holds {held}"
        raise NetworkError(f"{name} has no config.json, so nothing says its architecture; {advice}.")
    try:
        return read_object(path)
    except ValueError as error:
        raise NetworkError(f"{name}: its config.json cannot be read ({error}); fetch it again.") from error


def _listed(names: Any) -> str:
    names = sorted(names)
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")

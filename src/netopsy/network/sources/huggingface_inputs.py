"""What a network of transformers takes: named inputs by its settings, text and pictures as its folder prepares them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from netopsy.errors import MissingExtra, NetworkError, SettingsError, first_line
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Input, Signature, in_sequences

_LENGTH = 128  # tokens of a sample, where the user says nothing and the network takes as many


def find_signature(
    module: Any, tokenizer: Tokenizer | None, length: int | None = None, size: tuple[int, int] | None = None
) -> Signature:
    """The inputs that a network of transformers needs: its main one, with a mask, and those without which it fails.

    length: of samples of tokens or sound, padded to it. size: (height, width) of images.
    Raises NetworkError where it needs an input that nothing says the shape of.
    """
    names = parameters(module)
    if length is not None and length < 1:
        raise SettingsError(f"length {length} must be at least 1.")
    main = module.main_input_name
    if main not in names and isinstance(main, str):
        main = next((name for name in names if name in _SHAPES), main)
    wanted = [main] if isinstance(main, str) else list(main)
    if module.config.is_encoder_decoder and "decoder_input_ids" in names:
        wanted.append("decoder_input_ids")
    shapes = _Shapes(module, length, size, _longest(module, tokenizer))
    further = [name for name in ("pixel_values", "input_ids", "input_features", "bbox") if name in names]
    while True:
        signature = _with_masks(wanted, names, shapes, tokenizer)
        try:
            with torch.no_grad(), quiet():
                module(**signature.example(2, module))
            return signature
        except Exception as error:  # whatever a forward pass raises
            further = [name for name in further if name not in wanted]
            if not further:
                listed = ", ".join(map(str, signature.inputs))
                raise NetworkError(
                    f"{type(module).__name__} does not run with {listed}: {first_line(error)}; build the module "
                    "yourself and give it with an example of its inputs."
                ) from error
        wanted.append(further.pop(0))


def _with_masks(wanted: list[str], names: tuple[str, ...], shapes: _Shapes, tokenizer: Tokenizer | None) -> Signature:
    inputs = []
    for name in wanted:
        entry = shapes.of(name)
        inputs.append(entry)
        mask = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}.get(name)
        if mask in names:
            inputs.append(Input(mask, entry.shape, torch.int64, "mask", 0))
    if len({entry.length for entry in inputs} - {None}) > 1:  # sound beside tokens: these alone differ in length
        inputs = [replace(x, length_axis=None) if x.kind == "series" else x for x in inputs]
    return Signature(in_sequences(inputs), tokenizer)


_SHAPES = ("input_ids", "pixel_values", "input_values", "input_features", "past_values", "inputs_embeds")


@dataclass(frozen=True)
class _Shapes:
    """What each input of a network looks like, by its settings.

    length: of samples of tokens or sound as the user says it. size: (height, width) of images. longest: tokens that
    the network takes.
    """

    module: Any
    length: int | None
    size: tuple[int, int] | None
    longest: int | None

    def of(self, name: str) -> Input:
        """The input called `name`; NetworkError where nothing says its shape."""
        if name.endswith("input_ids"):
            return Input(name, (self._tokens(),), torch.int64, "tokens", 0)
        if name == "bbox":
            return Input(name, (self._tokens(), 4), torch.int64)
        if name in ("pixel_values", "pixel_values_videos"):
            return self._images(name)
        if name == "input_values":
            return self._sound(name)
        if name == "input_features":
            return self._spectrogram(name)
        if name == "past_values" and (steps := setting(self.module.config, "context_length")):
            channels = setting(self.module.config, "num_input_channels")
            return Input(name, (steps, channels) if channels else (steps,), kind="series" if not channels else "array")
        raise self._unknown(name)

    def _unknown(self, name: str) -> NetworkError:
        return NetworkError(
            f"{type(self.module).__name__} takes '{name}', and its config.json does not say of which shape; build the "
            "module yourself and give it with an example of its inputs."
        )

    def _tokens(self) -> int:
        if self.length is not None and self.longest is not None and self.length > self.longest:
            raise SettingsError(
                f"length {self.length} is more than {type(self.module).__name__} takes: at most {self.longest} tokens."
            )
        return self.length or min(self.longest or _LENGTH, _LENGTH)

    def _images(self, name: str) -> Input:
        if "spatial_shapes" in parameters(self.module):
            raise NetworkError(
                f"{type(self.module).__name__} takes pictures cut into patches, and how many stand in a row and column "
                "('spatial_shapes'); give it inside a module that cuts pictures up, with an example of its inputs."
            )
        side = setting(self.module.config, "image_size") or setting(self.module.config, "crop_size")
        own = (side, side) if isinstance(side, int) else tuple(side or (224, 224))
        channels = setting(self.module.config, "num_channels") or setting(self.module.config, "in_chans") or 3
        shape = (channels, *(self.size or own[-2:]))
        frames = setting(self.module.config, "num_frames") or setting(self.module.config, "frames_per_clip")
        return Input(name, (frames, *shape), kind="array") if frames else Input(name, shape, kind="image")

    def _sound(self, name: str) -> Input:
        bands, frames = setting(self.module.config, "num_mel_bins"), setting(self.module.config, "max_length")
        if bands and frames and "patch_size" in self.module.config.to_dict():  # a transformer over a spectrogram
            return Input(name, (frames, bands), kind="array")
        rate = setting(self.module.config, "sampling_rate") or 16000
        samples = rate if self.module.config.is_encoder_decoder else self.length or rate
        if channels := setting(self.module.config, "audio_channels"):
            return Input(name, (channels, samples), kind="series", length_axis=1)
        return Input(name, (samples,), kind="series", length_axis=0)

    def _spectrogram(self, name: str) -> Input:
        bands, half = setting(self.module.config, "num_mel_bins"), setting(self.module.config, "max_source_positions")
        if bands and half and not setting(self.module.config, "input_feat_per_channel"):
            return Input(name, (bands, 2 * half), kind="array")  # the first convolution halves their number
        width = setting(self.module.config, "input_feat_per_channel") or setting(
            self.module.config, "feature_projection_input_dim"
        )
        if width:
            return Input(name, (self.length or _LENGTH, width), kind="array")
        raise self._unknown(name)


def _longest(module: Any, tokenizer: Tokenizer | None) -> int | None:
    """Greatest number of tokens: that of the table of positions, or the tokenizer's; None where there is no limit."""
    names = ("max_position_embeddings", "n_positions", "max_target_positions")
    limits = [setting(module.config, name) for name in names]
    for path, part in module.named_modules():
        if isinstance(part, nn.Embedding) and path.endswith(("position_embeddings", "embed_positions")):
            start = 0 if part.padding_idx is None else part.padding_idx + 1
            limits.append(part.num_embeddings - max(start, getattr(part, "offset", 0)))
    limits.append(tokenizer.longest if tokenizer is not None else None)
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)


def setting(config: Any, name: str) -> Any:
    """A setting by its name: of the whole, else of its parts, the first that says it."""
    value = getattr(config, name, None)
    if value is not None:
        return value
    parts = [getattr(config, part, None) for part in getattr(config, "sub_configs", {})]
    return next((found for part in parts if part is not None and (found := setting(part, name)) is not None), None)


def parameters(module: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(module.forward).parameters)


@dataclass(frozen=True)
class Encoded:
    """One text in tokens.

    ids: numbers in the vocabulary, special tokens such as [CLS] included. spans: the characters (start, end) of the
    text that each token stands for; (0, 0) for special tokens. cut: how many tokens did not fit and were left out.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    cut: int = 0


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """The tokenizer of a network, without padding or truncation of its own.

    backend: a `tokenizers.Tokenizer`. pad: number of the token that fills up shorter texts. name: as messages call
    it. longest: tokens that the network was made for; None where nothing says so. mask: number of the token that stands
    for a masked one; None for none. start: of the token that a decoder begins with; None for one that begins with
    the text. unknown: of the token for what the vocabulary lacks. has_pad: whether `pad` was made for padding; else
    another token stands in for it.
    """

    backend: Any
    pad: int
    name: str
    longest: int | None = None
    mask: int | None = None
    start: int | None = None
    unknown: int | None = None
    has_pad: bool = True

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: numbers run from 0 to one less."""
        return int(self.backend.get_vocab_size())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that turns text into numbers."""
        start = "" if self.start is None else f" {self.start}"
        return hashlib.sha256(f"{self.backend.to_str()}{self.pad}{start}".encode()).hexdigest()

    @cached_property
    def special(self) -> frozenset[int]:
        """Numbers of the special tokens, which stand for no text."""
        return frozenset(number for number, token in self.backend.get_added_tokens_decoder().items() if token.special)

    def encode(self, texts: Sequence[str], length: int | None = None) -> list[tuple[int, ...]]:
        """The tokens of each text, as `align` finds them."""
        return [one.ids for one in self.align(texts, length)]

    def align(self, texts: Sequence[str], length: int | None = None) -> list[Encoded]:
        """The tokens of each text, special ones included, and where they stand; of a longer text the first `length`.

        Raises SettingsError where `length` leaves no room beside the special tokens.
        """
        added = self.backend.num_special_tokens_to_add(False)
        if length is not None and length <= added:
            raise SettingsError(f"length {length} leaves no room for text: {self.name} adds {added} special tokens.")
        if length is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(length)
        return [_encoded(one) for one in self.backend.encode_batch(list(texts), add_special_tokens=True)]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of `ids`; special: with the special tokens."""
        return str(self.backend.decode([int(number) for number in ids], skip_special_tokens=not special))

    def token(self, number: int) -> str:
        """The token of a number as the vocabulary writes it; empty for a number outside."""
        return self.backend.id_to_token(int(number)) or ""


def _encoded(one: Any) -> Encoded:
    """What the backend found, with nothing for the characters of special tokens."""
    pairs = zip(one.offsets, one.special_tokens_mask, strict=True)
    cut = sum(len(rest.ids) - sum(rest.special_tokens_mask) for rest in one.overflowing)
    return Encoded(tuple(one.ids), tuple((0, 0) if special else span for span, special in pairs), cut)


def read_tokenizer(folder: str | Path, padding: int | None = None) -> Tokenizer:
    """The tokenizer that lies in `folder`.

    padding: number of the token to fill up with where the tokenizer names none.
    Raises NetworkError where there is none, or none that says which characters a token stands for, and MissingExtra
    without transformers.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise MissingExtra(f"reading the tokenizer in '{folder}'", "text") from error
    try:
        made = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a cut or foreign file raises any of a dozen
        raise NetworkError(
            f"the tokenizer in '{folder}' cannot be read ({first_line(error)}); fetch its files again."
        ) from error
    backend = getattr(made, "backend_tokenizer", None)
    if backend is None:
        raise NetworkError(
            f"the tokenizer in '{folder}', a {type(made).__name__}, is none of the library tokenizers and does not say "
            "which characters a token stands for; give token numbers instead of text."
        )
    backend.no_padding()
    longest = made.model_max_length
    known = made.pad_token_id if made.pad_token_id is not None else padding
    number = next((n for n in (known, made.eos_token_id, made.unk_token_id) if isinstance(n, int)), 0)
    most, more = int(longest) if longest < 10**9 else None, {"unknown": made.unk_token_id, "has_pad": known is not None}
    return Tokenizer(backend, int(number), type(made).__name__, most, made.mask_token_id, **more)


_RESAMPLING: dict[int, Literal["nearest", "bilinear", "bicubic"]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def read_processor(folder: str | Path) -> tuple[Preprocessing, tuple[str, ...]] | None:
    """How the image processor in `folder` prepares a picture, and what of it is done otherwise; None for none.

    Pictures come in one size here: where the processor keeps their proportions, whatever these are, they are squashed.
    Raises NetworkError where its file cannot be read.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    from transformers import AutoImageProcessor

    try:
        made = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        settings = made.to_dict()
    except Exception as error:  # a foreign file raises any of a dozen; one of sound or text is none of pictures
        if "feature_extractor" in str(error).lower() or "image processor" in str(error).lower():
            return None
        raise NetworkError(
            f"the image processor in '{folder}' cannot be read ({first_line(error)}); fetch it again."
        ) from error
    return _preparation(settings, type(made).__name__)


def _preparation(settings: Mapping[str, Any], name: str) -> tuple[Preprocessing, tuple[str, ...]]:
    size, crop, notes = dict(_sides(settings.get("size"))), _sides(settings.get("crop_size")), []
    short = size.get("shortest_edge")
    whole = (size.get("height") or short or 224, size.get("width") or short or 224)
    resize: int | None = None
    if not settings.get("do_resize", True):
        notes.append(f"{name} takes pictures at their size; here all become {whole[0]}x{whole[1]}")
    elif settings.get("do_center_crop") and crop:
        resize, whole = min(whole), (crop.get("height", whole[0]), crop.get("width", whole[1]))
        if resize < min(whole):
            notes.append(f"{name} pads pictures of {resize} to {min(whole)}; here they become {min(whole)}")
            resize = min(whole)
    elif short and settings.get("crop_pct") and short < 384:  # ConvNeXT's evaluation
        resize = int(short / settings["crop_pct"])
    elif short and not settings.get("crop_pct"):
        notes.append(f"{name} keeps the proportions of a picture; here all become {whole[0]}x{whole[1]}")
    scale = float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 1.0
    mean, std = _per_channel(settings.get("image_mean"), 0.0), _per_channel(settings.get("image_std"), 1.0)
    if not settings.get("do_normalize"):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    if settings.get("include_top"):  # EfficientNet's divides twice
        std = tuple(value**2 for value in std)
    if settings.get("rescale_offset"):  # pixels * scale - 1 comes first
        mean = tuple(1.0 + value for value in mean)
    kind = int(settings["resample"]) if settings.get("resample") is not None else 2
    if kind not in _RESAMPLING:
        notes.append(f"{name} resizes with the filter {kind} of Pillow; here it is bicubic")
    prepared = Preprocessing(
        size=whole,
        resize=resize,
        mean=mean,
        std=std,
        channels="BGR" if settings.get("do_flip_channel_order") else "L" if len(mean) == 1 else "RGB",
        scale=scale,
        interpolation=_RESAMPLING.get(kind, "bicubic"),
    )
    return prepared, tuple(notes)


def _sides(value: Any) -> dict[str, int]:
    """A size as its processors write it: a number, two, or a table."""
    if isinstance(value, int):
        return {"height": value, "width": value}
    if isinstance(value, list | tuple):
        return {"height": value[0], "width": value[-1]}
    return {name: side for name, side in dict(value or {}).items() if side}


def _per_channel(value: Any, usual: float) -> tuple[float, ...]:
    values = (usual,) * 3 if value is None else tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    return tuple(map(float, values))


@contextmanager
def quiet() -> Iterator[None]:
    """transformers reports what it loads; what matters of it is a note or an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

"""Networks of timm."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path
from typing import Any

import timm
from torch import nn

from netopsy.errors import NetworkError, WeightsError, nearest
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.weights.weights import Weights


class TimmSource:
    """`timm:NAME` or `timm:NAME.TAG`; preprocessing comes from the pretrained configuration of timm."""

    options: tuple[str, ...] = ("num_classes", "in_chans", "features_only")
    shipped: Path | None = None
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fresh = "random"
    places_weights = False

    def __init__(self, name: str) -> None:
        short, _, tag = name.partition(".")
        if not timm.is_model(short):
            raise NetworkError(f"no network 'timm:{name}'; nearest: {nearest(short, timm.list_models())}.")
        self.short = short
        self.tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{short}.*")]
        self.tag = self._check_tag(tag) if tag else ""
        self.name = f"timm:{short}.{tag}" if tag else f"timm:{short}"

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        tag = self.tag
        if hub is not None:
            tag = tag if hub.lower() in ("hub", "default") else self._check_tag(hub.removeprefix(f"{self.short}."))
            self.tag = tag
        full = f"{self.short}.{tag}" if tag else self.short
        if hub is not None:
            self._reachable(full)
        try:
            return _create(full, size, pretrained=hub is not None, **options)
        except Exception as error:
            if hub is not None:
                raise WeightsError(_unreachable(full, str(error).splitlines()[0])) from error
            arguments = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
            raise NetworkError(
                f"{self.name} cannot be built with {arguments}: {type(error).__name__}: {error}"
            ) from error

    def preprocessing(self, module: nn.Module, hub: str | None, file: Weights | None) -> tuple[Preprocessing, str]:
        data = timm.data.resolve_data_config(model=module)
        depth, height, width = data["input_size"]
        mean, std = (_fit_depth(data[key], depth) for key in ("mean", "std"))
        short_side = min(height, width)
        squash = data.get("crop_mode") == "squash"
        mode = data["interpolation"]
        configuration = getattr(module, "pretrained_cfg", {})
        tag = configuration.get("tag") or "default"
        return Preprocessing(
            size=(height, width),
            resize=None if squash and height == width else math.floor(short_side / min(data["crop_pct"], 1.0)),
            mean=mean,
            std=std,
            channels="L" if depth == 1 else "RGB",
            interpolation=mode if mode in ("nearest", "bilinear", "bicubic") else "bicubic",
        ), f"timm's configuration of {self.short} ({tag})"

    def _check_tag(self, tag: str) -> str:
        if tag not in self.tags:
            tags = ", ".join(self.tags) or "none"
            raise WeightsError(f"timm:{self.short} has no weights '{tag}'; it has {tags}; or give the path of a file.")
        return tag

    def _reachable(self, full: str) -> None:
        """Fail at once where neither the cache nor the hub can give the weights; timm tries for most of a minute."""
        from huggingface_hub import try_to_load_from_cache

        configuration = timm.get_pretrained_cfg(full)
        repository = configuration.hf_hub_id if configuration else None
        proxy = any(
            os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT")
        )
        if not repository or proxy:
            return
        if any(
            isinstance(try_to_load_from_cache(repository, file), str)
            for file in ("model.safetensors", "pytorch_model.bin")
        ):
            return
        try:
            socket.getaddrinfo("huggingface.co", 443)
        except OSError as error:
            raise WeightsError(_unreachable(full, str(error))) from error


def _unreachable(full: str, reason: str) -> str:
    return (
        f"cannot fetch the weights of timm:{full}: {reason.rstrip('.')}; download them where there is a network and "
        f"give their path as weights."
    )


def _create(name: str, size: tuple[int, int] | None, **options: Any) -> nn.Module:
    """The timm module, built for `size` where the architecture is tied to one."""
    if size is not None:
        try:
            return timm.create_model(name, img_size=size, **options)
        except TypeError:
            pass
    return timm.create_model(name, **options)


def _fit_depth(values: tuple[float, ...], depth: int) -> tuple[float, ...]:
    """One value a channel; for another number of channels the mean of the given ones."""
    if len(values) == depth:
        return tuple(values)
    return (sum(values) / len(values),) * depth

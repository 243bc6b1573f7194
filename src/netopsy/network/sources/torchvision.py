"""Networks of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torchvision
from torch import nn
from torchvision.transforms import InterpolationMode

from netopsy.errors import NetworkError, WeightsError, nearest
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.weights.weights import Weights


class TorchvisionSource:
    """`torchvision:NAME`, one of torchvision's classification networks.

    Preprocessing comes from the enum of the weights; for a file it is that of the weights whose file name it bears,
    else, as for random weights, that of the first ImageNet weights at the architecture's own size.
    """

    shipped: Path | None = None
    unused: tuple[str, ...] = ("aux1.", "aux2.", "AuxLogits.")
    notes: tuple[str, ...] = ()
    fresh = "random"
    places_weights = False

    def __init__(self, name: str) -> None:
        names = torchvision.models.list_models(module=torchvision.models)
        self.short = name.lower()
        if self.short not in names:
            raise NetworkError(
                f"no classification network 'torchvision:{name}'; nearest: {nearest(self.short, names)}."
            )
        self.name = f"torchvision:{self.short}"
        self.enum = torchvision.models.get_model_weights(self.short)
        self.transforms_input = self.short in ("googlenet", "inception_v3")
        self.options = ("num_classes", *(("transform_input",) if self.transforms_input else ()))

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        options = dict(options)
        entry = self._entry(hub) if hub is not None else None
        if self.short.startswith("vit_") and size is not None:
            options["image_size"] = size[0]
        if self.transforms_input and entry is None:
            # torchvision drops the auxiliary heads from its own weights too, and these expect the input rescaled inside
            options |= {"aux_logits": False, "init_weights": file is None}
            options.setdefault("transform_input", file is not None)
        try:
            return torchvision.models.get_model(self.short, weights=entry, **options)
        except Exception as error:
            if entry is not None and isinstance(error, OSError | RuntimeError):
                raise WeightsError(
                    f"cannot fetch {entry.name} for {self.name}: {error}; download {entry.url} where there is a "
                    f"network and give its path as weights."
                ) from error
            arguments = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
            raise NetworkError(
                f"{self.name} cannot be built with {arguments}: {type(error).__name__}: {error}"
            ) from error

    def preprocessing(self, module: nn.Module, hub: str | None, file: Weights | None) -> tuple[Preprocessing, str]:
        entries = list(self.enum)
        named = [entry for entry in entries if file is not None and Path(entry.url).name == file.label]
        if hub is not None:
            entry = self._entry(hub)
        elif named:
            entry = named[0]
        else:
            entry = min(entries, key=lambda e: (e.name != "IMAGENET1K_V1", e.transforms().crop_size[0]))
        return _from_preset(entry.transforms()), f"torchvision's {entry}"

    def _entry(self, hub: str) -> Any:
        names = [entry.name for entry in self.enum]
        short = hub.rpartition(".")[2]
        if short.lower() in ("hub", "default"):
            return self.enum.DEFAULT
        if short not in names:
            raise WeightsError(
                f"{self.name} has no weights '{hub}'; it has {', '.join(names)}, or give the path of a file."
            )
        return self.enum[short]


def _from_preset(preset: Any) -> Preprocessing:
    """A torchvision ImageClassification preset as a Preprocessing."""
    crop = preset.crop_size[0]
    modes = {InterpolationMode.BICUBIC: "bicubic", InterpolationMode.NEAREST: "nearest"}
    return Preprocessing(
        size=(crop, crop),
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=cast(Literal["nearest", "bilinear", "bicubic"], modes.get(preset.interpolation, "bilinear")),
    )

"""Networks of torchvision: for classification, segmentation, detection, video."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal, cast

import torchvision
from torch import Tensor, nn
from torchvision.models.optical_flow._utils import make_coords_grid, upsample_flow
from torchvision.transforms import InterpolationMode

from netopsy.errors import NetworkError, SettingsError, WeightsError, nearest
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Input, Signature
from netopsy.network.weights.weights import Weights

_UPDATES = 12  # of the flow, as torchvision's RAFT makes them


class TorchvisionSource:
    """`torchvision:NAME`, one of torchvision's networks but the quantized ones.

    A detector is examined up to its dense outputs, see `Detector`. Preprocessing comes from the enum of the weights;
    for a file it is that of the weights whose file name it bears, else, as for random weights, that of the first
    ImageNet weights at the architecture's own size.
    """

    shipped: Path | None = None
    unused: tuple[str, ...] = ("aux1.", "aux2.", "AuxLogits.")
    notes: tuple[str, ...] = ()
    fresh = "random"
    places_weights = False

    def __init__(self, name: str) -> None:
        names = [name for name in torchvision.models.list_models() if not name.startswith("quantized_")]
        self.short = name.lower()
        if self.short not in names:
            raise NetworkError(f"no network 'torchvision:{name}'; nearest: {nearest(self.short, names)}.")
        self.name = f"torchvision:{self.short}"
        self.size: tuple[int, int] | None = None
        self.enum = torchvision.models.get_model_weights(self.short)
        self.transforms_input = self.short in ("googlenet", "inception_v3")
        self.classifies = self.short in torchvision.models.list_models(module=torchvision.models)
        self.options = ("num_classes", *(("transform_input",) if self.transforms_input else ()))

    def build(
        self, options: dict[str, Any], size: tuple[int, int] | None, hub: str | None, file: Weights | None
    ) -> nn.Module:
        options, self.size = dict(options), size
        entry = self._entry(hub) if hub is not None else None
        if "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(self.short)).parameters:
            options["weights_backbone"] = None  # or it fetches them
        if self.short.startswith("vit_") and size is not None:
            options["image_size"] = size[0]
        if self.transforms_input and entry is None:
            # torchvision drops the auxiliary heads from its own weights too, and these expect the input rescaled inside
            options |= {"aux_logits": False, "init_weights": file is None}
            options.setdefault("transform_input", file is not None)
        try:
            module = torchvision.models.get_model(self.short, weights=entry, **options)
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
        if self.short.startswith("raft"):
            return FlowEstimator(module)
        if not hasattr(module, "transform") or not hasattr(module, "backbone"):
            return module
        detector = Detector(module)
        self.notes = (f"examined are {detector.part}; what chooses and merges boxes by their values is left out",)
        self.unused = (*self.unused, "roi_heads.")
        return detector

    def preprocessing(
        self, module: nn.Module, hub: str | None, file: Weights | None
    ) -> tuple[Preprocessing | Signature, str]:
        if isinstance(module, Detector):
            return module.preprocessing, "the transform inside the detector"
        if self.short.startswith("raft"):
            size = self.size or (128, 128)
            if min(size) < 128 or any(side % 8 for side in size):
                raise SettingsError(f"size {size[0]}x{size[1]} must be multiples of 8, at least 128, for {self.name}.")
            pair = [Input(name, (3, *size), kind="image", pixels=(-1.0, 1.0)) for name in ("image1", "image2")]
            return Signature(tuple(pair)), "two pictures of -1..1, one after the other"
        entries = list(self.enum)
        named = [entry for entry in entries if file is not None and Path(entry.url).name == file.label]
        if hub is not None:
            entry = self._entry(hub)
        elif named:
            entry = named[0]
        else:
            entry = min(entries, key=lambda e: (e.name != "IMAGENET1K_V1", _side(e.transforms())))
        if not self.classifies and hasattr(entry.transforms(), "crop_size"):  # a clip
            height, width = entry.transforms().crop_size[-2:]
            clip = Input("x", (3, entry.meta.get("min_temporal_size", 16), height, width))
            return Signature((clip,)), f"torchvision's {entry}: clips with its mean and spread"
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
    """A torchvision preset for classification or segmentation as a Preprocessing."""
    crop = _side(preset)
    modes = {InterpolationMode.BICUBIC: "bicubic", InterpolationMode.NEAREST: "nearest"}
    return Preprocessing(
        size=(crop, crop),
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=cast(Literal["nearest", "bilinear", "bicubic"], modes.get(preset.interpolation, "bilinear")),
    )


def _side(preset: Any) -> int:
    """Of the square that pictures become: a segmenter's are resized and not cropped."""
    return int(getattr(preset, "crop_size", preset.resize_size)[0])


class FlowEstimator(nn.Module):
    """RAFT (Teed & Deng, ECCV 2020) for any batch, up to its last estimate of the flow; parameters keep their names.

    The estimates before it, which serve training alone, are left out; each picture goes through the encoder alone.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.feature_encoder, self.context_encoder = module.feature_encoder, module.context_encoder
        self.corr_block, self.update_block = module.corr_block, module.update_block
        self.mask_predictor = module.mask_predictor

    def forward(self, image1: Tensor, image2: Tensor) -> dict[str, Tensor]:
        """The flow from the first picture to the second, in pixels: (batch, 2, height, width), x first."""
        first, second = self.feature_encoder(image1), self.feature_encoder(image2)
        self.corr_block.build_pyramid(first, second)
        hidden, context = self.context_encoder(image1).tensor_split([self.update_block.hidden_state_size], 1)
        hidden, context = hidden.tanh(), context.relu()
        start = make_coords_grid(1, *first.shape[2:]).to(first).expand(first.shape[0], -1, -1, -1)
        end = start
        for _ in range(_UPDATES):
            hidden, step = self.update_block(hidden, context, self.corr_block.index_pyramid(end), end - start)
            end = end + step
        self.corr_block.corr_pyramid = []  # no tensor of an export stays behind
        mask = None if self.mask_predictor is None else self.mask_predictor(hidden)
        return {"flow": upsample_flow(end - start, mask)}


class Detector(nn.Module):
    """A detector of torchvision up to its dense outputs, for pictures (batch, 3, height, width) of one size.

    It leaves out what hangs on the values: which boxes are kept and merged, and of an R-CNN the heads that look at each
    of these. Parameters keep their names. part: in words, what is left.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.backbone = module.backbone
        self.rpn = getattr(module, "rpn", None)
        self.head = None if self.rpn is not None else module.head
        dense = "its proposals of boxes" if self.rpn is not None else "its head's classes and boxes at every place"
        self.part = f"the backbone and {dense}"
        side = module.transform.fixed_size or (module.transform.min_size[0],) * 2
        self.preprocessing = Preprocessing(
            (side[1], side[0]), None, tuple(module.transform.image_mean), tuple(module.transform.image_std)
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        """The maps of the head by their names."""
        features = self.backbone(x)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        if self.rpn is not None:
            objectness, deltas = self.rpn.head(maps)
            return {"objectness": objectness, "bbox_regression": deltas}
        assert self.head is not None
        returned: dict[str, Any] = self.head(maps)
        return returned

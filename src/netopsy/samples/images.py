"""Stores of pictures: arrays in memory, files on disk, any indexable dataset."""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from PIL import Image

from netopsy.errors import SamplesError
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Arrays, Input, Kind, Signature, empty_arrays
from netopsy.samples.pixels import (
    MOST_CHANNELS,
    Pixels,
    array_of,
    centre_crop,
    draw_picture,
    fit,
    match_depth,
    normalise,
    plain_image,
)


class Span(NamedTuple):
    """A part of a file, as a member of a tar is."""

    path: Path
    offset: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"


class Contents(NamedTuple):
    """The contents of a file that stand in a table."""

    bytes: bytes
    name: str

    def __str__(self) -> str:
        return self.name


Entry = Path | Span | Contents


def read_entry(entry: Entry, what: str) -> bytes:
    """The contents of a file, of a part of one, or as they stand in a table; SamplesError where they cannot be had."""
    if isinstance(entry, Contents):
        return entry.bytes
    try:
        if isinstance(entry, Path):
            return entry.read_bytes()
        with entry.path.open("rb") as file:
            file.seek(entry.offset)
            return file.read(entry.size)
    except OSError as error:
        raise SamplesError(f"cannot read the {what} {entry}: {error.strerror or error}.") from error


def check_inside(paths: Sequence[Path], folder: Path, name: str, outside: bool) -> None:
    """Raise SamplesError where one of `paths`, which `name` gives, leads out of `folder` and `outside` is not given."""
    home = os.path.realpath(folder)
    for path in () if outside else paths:
        if not Path(os.path.realpath(path)).is_relative_to(home):
            raise SamplesError(
                f"{name} names '{path}', which lies outside {folder}; move it there, or, where you trust the table, "
                "give outside=True (--outside)."
            )


class Images(ABC):
    """Pictures by row: `Records` of the kind `image`."""

    kind: Kind = "image"
    workers: int | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, row: int) -> Pixels:
        """The pixels (height, width, channel) of one picture, 0..255."""

    @abstractmethod
    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        """Bytes whose hash tells these pictures, in this order, from any others."""

    @abstractmethod
    def load(self, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing) -> Pixels:
        """Pixels (batch, height, width, channel) at the network's size and depth, 0..255, RGB, gray or other."""

    def title(self, row: int) -> str:
        """Nothing beyond its number."""
        return ""

    def thumbnail(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """The picture itself, made small."""
        return draw_picture(self.read(row))

    def cheap(self, preprocessing: Preprocessing | Signature) -> bool:
        """Whether pictures are copied and no more."""
        array = getattr(self, "array", None)
        return array is not None and array.shape[1:3] == _for_pictures(preprocessing).size

    def fit_each(self, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing) -> Pixels:
        """What `load` gives, picture by picture."""
        return np.stack([fit(self.read(row), preprocessing) for row in rows.tolist()])

    def buffers(self, count: int, preprocessing: Preprocessing | Signature) -> Arrays:
        """The array of `count` inputs."""
        return {"input": np.empty((count, *_for_pictures(preprocessing).input_shape), np.float32)}

    def fill(self, out: Arrays, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing | Signature) -> None:
        """Write the pictures `rows` into `out`, normalised."""
        images = _for_pictures(preprocessing)
        normalise(self.load(rows, images), images, out["input"])


def _for_pictures(preprocessing: Preprocessing | Signature) -> Preprocessing:
    if isinstance(preprocessing, Preprocessing):
        return preprocessing
    raise SamplesError(
        f"these samples are pictures, and the network takes {', '.join(map(str, preprocessing.inputs))}; give samples "
        "with those fields."
    )


class ArrayImages(Images):
    """Pictures in one array (n, height, width, channel), uint8, or float32 in 0..255."""

    def __init__(self, array: Pixels) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def read(self, row: int) -> Pixels:
        return self.array[row]

    def load(self, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing) -> Pixels:
        if self.cheap(preprocessing):
            return match_depth(self.array[rows], preprocessing.depth)
        return self.fit_each(rows, preprocessing)

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        yield f"{self.array.dtype} {self.array.shape[1:]};".encode()
        for start in range(0, len(rows), 1024):
            yield self.array[rows[start : start + 1024]].tobytes()


class FileImages(Images):
    """Pictures in files, decoded when asked for. The digest is over the files' contents, not their names or dates."""

    def __init__(self, paths: Sequence[Entry]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, row: int) -> Pixels:
        contents = io.BytesIO(self._contents(row))
        try:
            with Image.open(contents) as image:
                return array_of(plain_image(image))
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            reason = "not in a format that Pillow reads" if isinstance(error, Image.UnidentifiedImageError) else error
            raise SamplesError(f"cannot read the image {self.paths[row]}: {reason}; mend or remove it.") from error

    def load(self, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing) -> Pixels:
        return self.fit_each(rows, preprocessing)

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="netopsy-digest") as pool:
            for start in range(0, len(rows), 256):  # a part at a time: an interrupt ends after one
                yield from pool.map(self._hash, rows[start : start + 256].tolist())

    def _hash(self, row: int) -> bytes:
        return hashlib.blake2b(self._contents(row)).digest()

    def _contents(self, row: int) -> bytes:
        return read_entry(self.paths[row], "image")


class DatasetImages(Images):
    """Pictures of anything that gives (picture, label) by index. One thread reads, unless it is known to allow more.

    picture: of an item, that which is the picture.
    """

    def __init__(
        self, dataset: Any, name: str, workers: int | None = 1, picture: Callable[[Any], Any] = itemgetter(0)
    ) -> None:
        self.dataset, self.name, self.workers, self.picture = dataset, name, workers, picture

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, row: int) -> Pixels:
        try:
            picture = self.picture(self.dataset[row])
        except Exception as error:
            raise SamplesError(
                f"{self.name} gives no picture at index {row}: {error or type(error).__name__}."
            ) from error
        return pixels_of(picture, f"{self.name}[{row}]")

    def load(self, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing) -> Pixels:
        return self.fit_each(rows, preprocessing)

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        for row in rows.tolist():
            pixels = self.read(row)
            yield f"{pixels.shape};".encode() + pixels.tobytes()


class PlainImages(Images):
    """Pictures of anything that has a length, and gives the pixels of rows by `load(rows, preprocessing)`."""

    def __init__(self, store: Any) -> None:
        self.store, self.workers = store, getattr(store, "workers", 1)

    def __len__(self) -> int:
        return len(self.store)

    def read(self, row: int) -> Pixels:
        return self.store.read(row)

    def load(self, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing) -> Pixels:
        return self.store.load(rows, preprocessing)

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        return self.store.digest(rows)


class NamedImages:
    """Several pictures a sample, by the names of a network's inputs, as the two frames between which things move.

    fields: the pictures of each name; a network whose inputs have other names takes them in this order.
    size: (height, width) of the middle of each picture, which alone is kept, where labels go with its pixels; None:
        pictures are resized to what the network takes.
    """

    kind: Kind = "array"

    def __init__(self, fields: Mapping[str, Images], name: str, size: tuple[int, int] | None = None) -> None:
        self.fields, self.name, self.size = dict(fields), name, size
        self.workers = next(iter(fields.values())).workers

    @classmethod
    def labelled(
        cls, fields: Mapping[str, Images], name: str, labels: NDArray[Any] | None
    ) -> tuple[NamedImages, NDArray[Any] | None]:
        """The pictures and their labels; of maps for each pixel (n, channel, height, width) the middle, in multiples
        of 8, which networks of such maps take."""
        records = cls(fields, name)
        if labels is None or labels.ndim != 4 or not len(records):
            return records, labels
        height, width = next(iter(records.read(0).values())).shape[:2]
        if labels.shape[2:] != (height, width):
            return records, labels
        records.size = (height - height % 8 or height, width - width % 8 or width)
        kept = np.moveaxis(labels, (1, 2, 3), (3, 1, 2))
        kept = np.stack([centre_crop(one, records.size) for one in kept])
        return records, np.ascontiguousarray(np.moveaxis(kept, 3, 1))

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def read(self, row: int) -> dict[str, Pixels]:
        """The pixels (height, width, channel) of each picture, 0..255."""
        pixels = {field: images.read(row) for field, images in self.fields.items()}
        return pixels if self.size is None else {field: centre_crop(one, self.size) for field, one in pixels.items()}

    def title(self, row: int) -> str:
        """The names of the files."""
        paths = [images.paths[row] for images in self.fields.values() if isinstance(images, FileImages)]
        return ", ".join(path.name for path in paths)

    def thumbnail(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """The first picture, made small."""
        return next(iter(self.fields.values())).thumbnail(row)

    def signature(self) -> Signature:
        """The inputs of a network that takes pictures of the first ones' size."""
        shapes = {field: pixels.shape for field, pixels in self.read(0).items()}
        return Signature(tuple(Input(field, (s[2], *s[:2]), kind="image") for field, s in shapes.items()))

    def cheap(self, preprocessing: Preprocessing | Signature) -> bool:
        return False

    def buffers(self, count: int, preprocessing: Preprocessing | Signature) -> Arrays:
        self._check(preprocessing.signature)
        return empty_arrays(preprocessing.signature, count)

    def fill(self, out: Arrays, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing | Signature) -> None:
        """Write the pictures `rows` into `out`, in the range of each input."""
        signature, items = preprocessing.signature, [self.read(row) for row in rows.tolist()]
        named = all(entry.name in self.fields for entry in signature.inputs)
        for place, (name, entry) in enumerate(zip(signature.names, signature.inputs, strict=True)):
            field = entry.name if named else list(self.fields)[place]
            prepared = _preparation(entry)
            normalise(np.stack([fit(item[field], prepared) for item in items]), prepared, out[name])

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        for field, images in self.fields.items():
            yield f"{field} {self.size};".encode()
            yield from images.digest(rows)

    def _check(self, signature: Signature) -> None:
        """SamplesError where the network takes something else than so many pictures, of the size of the labels."""
        given = f"each sample of {self.name} holds {len(self.fields)} pictures ({', '.join(self.fields)})"
        if len(signature.inputs) != len(self.fields) or any(entry.kind != "image" for entry in signature.inputs):
            taken = ", ".join(map(str, signature.inputs))
            raise SamplesError(f"the network takes {taken}, and {given}; give samples of what it takes.")
        shape = signature.inputs[0].shape
        if self.size is not None and self.size != shape[1:]:
            height, width = self.size
            raise SamplesError(
                f"the labels of {self.name} are maps of {height}x{width} and the network takes {shape[1]}x{shape[2]}; "
                f"load it with size=({height}, {width}) (--size {height}x{width}), or the samples without labels."
            )


def _preparation(entry: Input) -> Preprocessing:
    """How a picture becomes an input of a network that takes several."""
    low, high = entry.pixels
    depth, (height, width) = entry.shape[0], entry.shape[1:]
    channels: Any = {1: "L", 3: "RGB"}.get(depth, depth)
    spread = 1 / (high - low)
    return Preprocessing((height, width), None, (-low * spread,) * depth, (spread,) * depth, channels)


def pixels_of(picture: Any, name: str) -> NDArray[np.uint8]:
    """The pixels (height, width, channel) of a Pillow image, a tensor (channel, height, width) or an array."""
    if isinstance(picture, Image.Image):
        return array_of(plain_image(picture))
    pixels = None
    if isinstance(picture, torch.Tensor) and picture.ndim in (2, 3):
        pixels = picture.movedim(0, -1).cpu().numpy() if picture.ndim == 3 else picture.cpu().numpy()
    elif isinstance(picture, np.ndarray):
        pixels = picture
    if pixels is not None and pixels.dtype == np.uint8:
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.ndim == 3 and pixels.shape[-1] <= MOST_CHANNELS and pixels.size:
            return pixels
    what = f"{getattr(picture, 'dtype', '')} {type(picture).__name__} {tuple(getattr(picture, 'shape', ()))}".strip()
    raise SamplesError(
        f"the picture {name} is a {what}; give Pillow images, uint8 tensors (channel, height, width) or uint8 arrays "
        f"(height, width, channel) of at most {MOST_CHANNELS} channels: leave out transforms that make floats, Netopsy "
        "normalises."
    )

"""Labels and class names, checked; samples drawn in the proportions of the classes; tokens masked, to be restored."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int64
from numpy.typing import NDArray

from netopsy.errors import SamplesError, SettingsError, nearest
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import MASK, Arrays, Signature
from netopsy.samples.records import Records
from netopsy.settings import stream

Labels = Int64[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]


def strata(labels: Labels) -> Int64[np.ndarray, " n"]:
    """The stratum of each row: its class, or its rarest label where it may have several, -1 where it has none."""
    if labels.ndim == 1:
        return labels
    has_label = labels > 0
    frequency = has_label.sum(axis=0)
    rarest = np.where(has_label, frequency, len(labels) + 1).argmin(axis=1)
    return np.where(has_label.any(axis=1), rarest, -1)


def stratify(labels: Labels, count: int, seed: int) -> Int64[np.ndarray, " count"]:
    """`count` rows in rising order, each stratum's share its own share of all rows, rounded down or up.

    Largest remainders get the rows that rounding down leaves over; ties, such as between equal classes when `count` is
    smaller than their number, are drawn by lot. Within a stratum rows are drawn without replacement.
    """
    generator = np.random.default_rng(seed)
    names, member, sizes = np.unique(strata(labels), return_inverse=True, return_counts=True)
    quota = sizes * count  # in units of 1/n, so that remainders are exact
    take, remainder = quota // len(labels), quota % len(labels)
    by_remainder = np.lexsort((generator.random(len(names)), -remainder))
    take[by_remainder[: count - take.sum()]] += 1
    chosen = [generator.permutation(np.flatnonzero(member == s))[: take[s]] for s in range(len(names))]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


MOST = 100_000  # classes; a larger index without names is an identifier, not a class
INTEGER = re.compile(r"[+-]?[0-9]+")


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in a UTF-8 file: one a line, verbatim (empty lines at the end do not count), or JSON.

    JSON (`.json`): names in order, or an object of names by number, or of numbers by name; of several names a class,
    as in `{"0": ["n01440764", "tench"]}`, the last. Errors: SamplesError.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
        names = _names_of(json.loads(content)) if path.suffix.lower() == ".json" else content.split("\n")
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise SamplesError(
            f"cannot read the class names in {path}: {error}; give UTF-8 text, one name a line, or JSON with a name "
            "for each number from 0."
        ) from error
    names = [name.removesuffix("\r") for name in names]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise SamplesError(f"{path} holds no class names; give one name a line.")
    return tuple(names)


def _names_of(content: Any) -> list[str]:
    """Class names from what a JSON file holds."""
    if isinstance(content, dict) and content and all(type(value) is int for value in content.values()):
        content = {number: name for name, number in content.items()}
    if isinstance(content, dict):
        by_number = {int(number): name for number, name in content.items()}
        content = [by_number[number] for number in range(len(content))]
    names = [name[-1] if isinstance(name, list) else name for name in content]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("it holds no list of names and no object of them")
    return names


def find_classes(classes: str | Path | Sequence[str] | None, beside: Path | None = None) -> tuple[str, ...] | None:
    """Class names from a sequence, from a file, or from `classes.txt` in the folder `beside`, if there is one."""
    if isinstance(classes, str | Path):
        return read_classes(Path(classes))
    if classes is not None:
        return tuple(str(name) for name in classes)
    if beside is not None and (beside / "classes.txt").is_file():
        return read_classes(beside / "classes.txt")
    return None


def check_labels(values: NDArray[np.generic], name: str) -> Labels:
    """Labels as Samples hold them: int64 (n,) from whole numbers (n,) or (n, 1), float32 (n, classes) from 0 and 1."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2 and values.dtype.kind in "biuf":
        if not np.isin(values, (0, 1)).all():
            raise SamplesError(f"the labels of {name} are a table {values.shape} with other values than 0 and 1.")
        return values.astype(np.float32)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise SamplesError(
            f"the labels of {name} are {values.dtype} of shape {values.shape}; give whole numbers (n,), "
            "or 0 and 1 (n, classes) where an image may have several."
        )
    if values.size and values.min() < 0:
        raise SamplesError(f"the labels of {name} go down to {values.min()}; number the classes from 0.")
    if values.size and values.max() > np.iinfo(np.int64).max:
        raise SamplesError(f"the labels of {name} go up to {values.max()}; number the classes from 0.")
    return values.astype(np.int64)


def read_targets(
    y: Any, classes: tuple[str, ...] | None, name: str, task: Any = None, places: tuple[int, ...] = ()
) -> tuple[NDArray[Any] | None, tuple[str, ...]]:
    """What a network is to give for each sample, as `Samples` holds it, and the names of the classes if there are any.

    y: None; whole numbers (n,) or 0 and 1 (n, classes), which are classes; other floats (n,) or (n, *values), which are
    numbers to give; whole numbers (n, *places), a class for each place of a sample. task: 'regression' takes
    whole numbers as numbers to give, 'classification' floats as classes. places: of one sample, its tokens or pixels.
    """
    if y is None:
        return None, ()
    task = getattr(task, "name", task)
    values = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise SamplesError(f"the label of row {row} of {name} is NaN or infinite; mend it or leave the row out.")
        if task == "classification" and (values == np.rint(values)).all():
            values = values.astype(np.int64)
    numbers = task == "regression" or (
        values.dtype.kind == "f" and (values.ndim != 2 or not np.isin(values, (0, 1)).all())
    )
    if numbers and values.ndim > 0 and values.dtype.kind in "biuf":
        return values.astype(np.float32), ()
    by_place = values.ndim > 2 or (values.ndim == 2 and places != () and values.shape[1:] == places[-1:])
    if by_place and values.dtype.kind in "iu":
        if values.min(initial=0) < 0 and set(np.unique(values[values < 0]).tolist()) != {-100}:
            raise SamplesError(
                f"the labels of {name} go down to {values.min()}; mark places that do not count by -100."
            )
        needed = int(values.max(initial=0)) + 1
        return values.astype(np.int64), tuple(map(str, range(needed))) if classes is None else classes
    labels = check_labels(values, name)
    return labels, name_classes(labels, classes, name)


def name_classes(labels: Labels, classes: tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    """The class names for `labels`: those given, if there are enough, or else the indices as text."""
    needed = labels.shape[1] if labels.ndim == 2 else int(labels.max(initial=-1)) + 1
    if classes is None:
        if needed > MOST:
            raise SamplesError(
                f"the labels of {name} go up to {needed - 1}; number the classes from 0, below {MOST:,}, or "
                "give task='regression' for numbers that a network is to give."
            )
        return tuple(str(index) for index in range(needed))
    if len(classes) < needed or (labels.ndim == 2 and len(classes) != needed):
        raise SamplesError(f"{name} has labels for {needed} classes, but {len(classes)} class names are given.")
    return classes


def indices_of(
    words: Sequence[str], classes: tuple[str, ...] | None, name: str
) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    """Class indices and class names from labels as text: indices where all are whole numbers, else names.

    Without `classes`, names are numbered in alphabetical order.
    """
    if words and all(INTEGER.fullmatch(word) for word in words):
        if max(map(len, words)) > 18:
            raise SamplesError(f"the labels of {name} have numbers of over 18 digits; number the classes from 0.")
        labels = check_labels(np.array([int(word) for word in words], np.int64), name)
        return labels, name_classes(labels, classes, name)
    if classes is None:
        classes = tuple(sorted(set(words)))
    index = {word: i for i, word in enumerate(classes)}
    twice = {word for word, count in Counter(classes).items() if count > 1}
    for word in words:
        if word not in index:
            raise SamplesError(
                f"{name} has the label '{word}', not among its classes; nearest: {nearest(word, index)}."
            )
        if word in twice:
            raise SamplesError(f"{name} has the label '{word}', the name of several classes; give class indices.")
    return np.array([index[word] for word in words], np.int64), classes


def multi_hot(rows: Sequence[Int64[np.ndarray, " held"]], width: int) -> Float32[np.ndarray, "n classes"]:
    """One row of 0 and 1 for each row of class indices."""
    table = np.zeros((len(rows), width), np.float32)
    for hot, row in zip(table, rows, strict=True):
        hot[row] = 1
    return table


def column_labels(
    frame: pl.DataFrame,
    columns: Sequence[str],
    classes: tuple[str, ...] | None,
    features: Mapping[str, Any],
    name: str,
    by_place: bool,
) -> tuple[NDArray[Any] | None, tuple[str, ...] | None]:
    """The labels in columns of a table as numbers, and the names of their classes where the table has them.

    features: what Hugging Face says of the columns. by_place: whether a list of labels has one for each token.
    """
    if not columns:
        return None, classes
    values = [frame[column] for column in columns]
    for one in values:
        if one.null_count():
            row = int(one.is_null().arg_max() or 0)
            raise SamplesError(
                f"column '{one.name}' of {name} has no label in row {row} (from 0); give label=None for none."
            )
    if len(values) > 1:
        if not all(one.dtype.is_numeric() or one.dtype == pl.Boolean for one in values):
            raise SamplesError(
                f"the label columns {', '.join(columns[:5])} of {name} are not all numbers; name one of words."
            )
        table = np.stack([one.cast(pl.Float64).to_numpy() for one in values], axis=1)
        return table, tuple(columns) if np.isin(table, (0, 1)).all() else None
    (one,) = values
    kind = features.get(columns[0])
    if isinstance(kind, Mapping):
        kind = kind if kind.get("_type") == "ClassLabel" else kind.get("feature")
        if isinstance(kind, Mapping) and isinstance(kind.get("names"), list) and classes is None:
            classes = tuple(map(str, kind["names"]))
    if isinstance(one.dtype, pl.List | pl.Array):
        rows = one.to_list()
        if by_place:
            return _pad(rows), classes
        if one.dtype.inner.is_float():
            return np.asarray(rows), None
        flat, names = indices_of([str(word) for row in rows for word in row], classes, name)
        ends = np.cumsum([len(row) for row in rows])
        return multi_hot(np.split(flat, ends[:-1]), len(names)), names
    if one.dtype == pl.Boolean or one.dtype.is_numeric():
        numbers = one.cast(pl.Int64).to_numpy() if one.dtype == pl.Boolean else one.to_numpy()
        if one.dtype.is_integer() and (numbers == -1).all():  # how the Hub marks a part whose labels are kept secret
            return None, classes
        return (numbers.astype(np.float64) if one.dtype.is_decimal() else numbers), classes
    if isinstance(one.dtype, pl.Enum) and classes is None:
        classes = tuple(one.dtype.categories.to_list())
    if one.dtype != pl.String and not isinstance(one.dtype, pl.Enum | pl.Categorical):
        raise SamplesError(f"column '{columns[0]}' of {name} holds {one.dtype}; give words or numbers as labels.")
    return indices_of(one.cast(pl.String).to_list(), classes, name)


def _pad(rows: Sequence[Sequence[int]]) -> Int64[np.ndarray, "n places"]:
    """Labels of tokens, -100 behind shorter rows."""
    table = np.full((len(rows), max(map(len, rows))), -100, np.int64)
    for target, row in zip(table, rows, strict=True):
        target[: len(row)] = row
    return table


@dataclass(frozen=True)
class Masking:
    """Which tokens a masked language model has to restore (Devlin et al., BERT, NAACL 2019, Section 3.1).

    share: of a text's tokens, special ones aside, rounded; at least one. mixture: of the chosen tokens the shares that
    become the mask token, become a token drawn at random, and stay; BERT was trained with (0.8, 0.1, 0.1).
    seed: of the draw. A text's draw depends on the seed and on the text's place in its source, and on nothing else.
    """

    share: float = 0.15
    mixture: tuple[float, float, float] = (1.0, 0.0, 0.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingsError(
                f"share {self.share} of masked tokens must be more than 0 and at most 1; 0.15 is usual."
            )
        if len(self.mixture) != 3 or min(self.mixture) < 0 or not math.isclose(sum(self.mixture), 1):
            raise SettingsError(f"mixture {self.mixture} must be three shares that sum to 1, as (0.8, 0.1, 0.1).")

    def draw(
        self, ids: Int64[np.ndarray, " length"], real: Bool[np.ndarray, " length"], row: int, tokenizer: Any
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The places of a text that are masked, and the tokens that stand there instead."""
        candidates = np.flatnonzero(real & ~np.isin(ids, list(getattr(tokenizer, "special", ()))))
        generator = np.random.default_rng(stream("masked tokens", self.seed, row))
        count = min(len(candidates), max(1, round(self.share * len(candidates))))
        places = np.sort(generator.choice(candidates, count, replace=False))
        random = generator.integers(0, getattr(tokenizer, "vocabulary", tokenizer.mask + 1), count)
        what = generator.choice(3, count, p=self.mixture)
        return places, np.choose(what, (np.full(count, tokenizer.mask), random, ids[places]))


class MaskedRecords:
    """Texts with some of their tokens masked; all else is that of the `records`.

    name: of the network's input that takes the tokens.
    """

    def __init__(self, records: Records, name: str, masking: Masking) -> None:
        self.records, self.token_name, self.masking = records, name, masking

    def __getattr__(self, name: str) -> Any:
        if name == "records":  # asked for before it is there, by pickle
            raise AttributeError(name)
        return getattr(self.records, name)

    def __len__(self) -> int:
        return len(self.records)

    def fill(self, out: Arrays, rows: Int64[np.ndarray, " batch"], preprocessing: Preprocessing | Signature) -> None:
        self.records.fill(out, rows, preprocessing)
        for ids, real, row in zip(out[self.token_name], out[MASK], rows.tolist(), strict=True):
            places, tokens = self.masking.draw(ids, real, row, preprocessing.signature.tokenizer)
            ids[places] = tokens

    def digest(self, rows: Int64[np.ndarray, " n"]) -> Iterator[bytes]:
        yield f"{self.masking};".encode()
        yield from self.records.digest(rows)

"""Stanford Dogs, from a made-up folder of its layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from netopsy import load_samples
from netopsy.errors import SamplesError

BREEDS = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02113624-toy_poodle")


def write_list(path: Path, files: list[str], labels: Any) -> None:
    """As MATLAB writes it: a column of cells of text, and a column of doubles."""
    cells = np.empty((len(files), 1), object)
    cells[:, 0] = files
    savemat(path, {"file_list": cells, "annotation_list": cells, "labels": np.asarray(labels)}, do_compression=True)


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    folder = tmp_path / "StanfordDogs"
    (folder / "lists").mkdir(parents=True)
    parts: dict[str, list[tuple[str, float]]] = {"train": [], "test": []}
    for number, breed in enumerate(BREEDS, start=1):
        (folder / "Images" / breed).mkdir(parents=True)
        (folder / "Annotation" / breed).mkdir(parents=True)
        for i in range(3):
            name = f"{breed}/{breed.partition('-')[0]}_{i}.jpg"
            Image.new("RGB", (20 + i, 16), (60 * number, 10 * i, 0)).save(folder / "Images" / name, quality=95)
            parts["test" if i == 2 else "train"].append((name, float(number)))
    for part, rows in parts.items():
        write_list(folder / "lists" / f"{part}_list.mat", [name for name, _ in rows], [[label] for _, label in rows])
    return folder


def test_the_parts_are_those_of_the_lists(dogs: Path) -> None:
    train, test, both = (load_samples(dogs, split=split) for split in ("train", "test", None))
    assert (len(train), len(test), len(both)) == (6, 3, 9)
    assert train.classes == test.classes == ("Chihuahua", "Japanese_spaniel", "toy_poodle")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and test.labels.tolist() == [0, 1, 2]
    assert test.read(1).shape == (16, 22, 3) and abs(int(test.read(1)[0, 0, 0]) - 120) < 5
    assert test.name == "StanfordDogs[test]"


def test_lists_may_lie_beside_the_images_and_name_a_part_of_the_breeds(dogs: Path) -> None:
    (dogs / "lists" / "test_list.mat").unlink()
    write_list(dogs / "test_list.mat", ["n02113624-toy_poodle/n02113624_0.jpg"], [3])
    samples = load_samples(str(dogs), split="test")
    assert samples.labels.tolist() == [2] and samples.classes == ("1", "2", "toy_poodle")


FIRST = "n02085620-Chihuahua/n02085620_0.jpg"
WRONG: dict[str, tuple[list[str], Any, str]] = {
    "a file that is not there": (["n02085620-Chihuahua/none.jpg"], [1], "which is not in"),
    "a path out of the folder": (["../lists/train_list.mat"], [1], "no file in a breed"),
    "a deeper path out of it": (["n02085620-Chihuahua/../../lists/train_list.mat"], [1], "no file in a breed"),
    "an absolute path": (["/etc/passwd"], [1], "no file in a breed"),
    "a link out of it": (["n02085620-Chihuahua/link.jpg"], [1], "no file in a breed"),
    "too few labels": ([FIRST, FIRST], [1], "2 files and 1 labels"),
    "labels from 0": ([FIRST], [0], "whole numbers from 1"),
    "labels that are no numbers": ([FIRST], ["one"], "whole numbers from 1"),
    "labels that are fractions": ([FIRST], [1.5], "whole numbers from 1"),
    "a label for two breeds": (
        [FIRST, "n02113624-toy_poodle/n02113624_0.jpg"],
        [1, 1],
        "to n02085620-Chihuahua and to",
    ),
    "a huge label": ([FIRST], [1e9], "a label 1000000000 for 1 images"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_list_that_is_wrong_is_refused_in_a_sentence(case: str, dogs: Path) -> None:
    files, labels, words = WRONG[case]
    (dogs / "Images" / BREEDS[0] / "link.jpg").symlink_to(dogs / "lists" / "train_list.mat")
    write_list(dogs / "lists" / "test_list.mat", files, labels)
    with pytest.raises(SamplesError, match=words):
        load_samples(dogs, split="test")


def test_a_damaged_list_another_split_and_a_missing_list_are_refused(dogs: Path) -> None:
    with pytest.raises(SamplesError, match="no split 'val'"):
        load_samples(dogs, split="val")
    path = dogs / "lists" / "test_list.mat"
    whole = path.read_bytes()
    for damaged in (b"", b"MATLAB 5.0", whole[:100], whole[:-20], whole[:150] + bytes(50) + whole[200:]):
        path.write_bytes(damaged)
        with pytest.raises(SamplesError, match="no list of Stanford Dogs"):
            load_samples(dogs, split="test")
    savemat(path, {"file_list": np.zeros(3), "labels": np.ones(3)})
    with pytest.raises(SamplesError, match="no text"):
        load_samples(dogs, split="test")
    path.unlink()
    with pytest.raises(SamplesError, match=r"no test_list\.mat"):
        load_samples(dogs, split="test")

"""Every kind of source gives its images, labels and class names."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference_samples import torchvision_input
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset, TensorDataset
from torchvision import datasets, transforms

from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.load import load_samples

STRANGE = "<script>alert('x')</script> & \"quoted\", ünïcode "


THREE = (("a.png", "101"), ("b.png", "000"), ("c.png", "011"))


def shade(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, 255 - value, 7))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes (one name strange), 3 + 2 + 1 images, one of them deeper, besides files that are no images."""
    names = ["cat", "dog", "zebra & <b>"]
    for label, name in enumerate(names):
        (tmp_path / "tree" / name / "deep").mkdir(parents=True)
        for number in range(3 - label):
            place = "deep/" if number == 1 else ""
            shade(label * 10 + number).save(tmp_path / "tree" / name / f"{place}{number}.png")
    (tmp_path / "tree" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "tree" / ".cache").mkdir()
    return tmp_path / "tree"


def flat(folder: Path, rows: list[list[str]]) -> Path:
    """A flat folder with one picture for each row after the header, and labels.csv of the rows."""
    folder.mkdir(exist_ok=True)
    for number, row in enumerate(rows[1:]):
        shade(number).save(folder / row[0])
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows(rows)
    return folder


def test_a_folder_a_class_is_numbered_as_torchvisions_image_folder(tree):
    samples = load_samples(tree)
    (tree / ".cache").rmdir()  # which torchvision would take for a class
    oracle = datasets.ImageFolder(tree)
    assert list(samples.classes) == oracle.classes
    assert samples.labels.tolist() == oracle.targets
    for index, (image, _) in enumerate(oracle):
        np.testing.assert_array_equal(samples.image(index), np.asarray(image))
    assert samples.name == "tree" and not samples.multilabel and samples.labels.dtype == np.int64


def test_class_names_in_a_file_give_the_numbers(tree):
    (tree / "classes.txt").write_text("zebra & <b>\nape\ndog\ncat\n\n")
    samples = load_samples(tree)
    assert samples.classes == ("zebra & <b>", "ape", "dog", "cat")
    assert samples.labels.tolist() == [3, 3, 3, 2, 2, 0]
    assert load_samples(tree, classes=["zebra & <b>", "cat", "dog"]).labels.tolist() == [1, 1, 1, 2, 2, 0]


def test_a_split_is_a_subfolder(tree):
    assert load_samples(tree.parent, split="tree").digest == load_samples(tree).digest


def test_the_digest_of_files_is_of_their_contents(tree):
    before = load_samples(tree).digest
    (tree / "cat" / "0.png").rename(tree / "cat" / "00.png")
    assert load_samples(tree).digest == before
    shade(99).save(tree / "cat" / "00.png")
    assert load_samples(tree).digest != before


def test_a_table_of_indices(tmp_path):
    folder = flat(tmp_path / "set", [["file", "label"], ["b.png", "2"], ["a.png", "0"]])
    samples = load_samples(folder)
    assert samples.labels.tolist() == [2, 0] and samples.classes == ("0", "1", "2")
    assert samples.image(0)[0, 0, 0] == 0 and samples.image(1)[0, 0, 0] == 1
    assert load_samples(folder / "labels.csv").digest == samples.digest
    (folder / "classes.txt").write_text(f"{STRANGE}\r\nplain\r\n\r\nlast\u2028one", newline="")
    assert load_samples(folder).classes == (STRANGE, "plain", "", "last\u2028one")


def test_a_table_of_names_under_other_headings_and_elsewhere(tmp_path):
    rows = [["file", "who", "label"], ["a.png", STRANGE, "0"], ["b.png", "ape", "0"], ["c.png", STRANGE, "0"]]
    folder = flat(tmp_path / "set", rows)
    (folder / "labels.csv").rename(tmp_path / "other.csv")
    samples = load_samples(folder, labels=tmp_path / "other.csv", label="who")
    assert samples.classes == tuple(sorted([STRANGE, "ape"]))
    assert [samples.classes[label] for label in samples.labels] == [STRANGE, "ape", STRANGE]
    known = load_samples(folder, labels=tmp_path / "other.csv", label="who", classes=["ape", "bee", STRANGE])
    assert known.labels.tolist() == [2, 0, 2]


def test_a_byte_order_mark_is_no_part_of_the_heading(tmp_path):
    folder = flat(tmp_path / "set", [["file", "label"], ["a.png", "1"]])
    text = (folder / "labels.csv").read_bytes()
    (folder / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text)
    assert load_samples(folder).labels.tolist() == [1]


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ([["file", "label"], ["a.png", "sky;sea"], ["b.png", ""], ["c.png", "sea ; cliff;"]], {}),
        ([["file", "label"], ["a.png", "2;1"], ["b.png", ""], ["c.png", "1;0"]], {"classes": ["cliff", "sea", "sky"]}),
        ([["file", "label"], ["a.png", "sky|sea"], ["b.png", ""], ["c.png", "sea|cliff"]], {"separator": "|"}),
        ([["file", "cliff", "sea", "sky"], ["a.png", *"011"], ["b.png", *"000"], ["c.png", *"110"]], {}),
        (
            [["id", "file", "sky", "cliff", "sea"], *([name, name, *hot] for name, hot in THREE)],
            {"label": ["cliff", "sea", "sky"]},
        ),
    ],
)
def test_several_labels_an_image(tmp_path, rows, options):
    folder = flat(tmp_path / "set", rows)
    for number, name in enumerate("abc"):
        shade(number).save(folder / f"{name}.png")
    samples = load_samples(folder, **options)
    assert samples.multilabel and samples.labels.dtype == np.float32
    assert samples.classes == ("cliff", "sea", "sky")
    assert samples.labels.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]
    (batch,) = samples.batches(Preprocessing((8, 8), mean=(0.0,) * 3, std=(1.0,) * 3), 3, order=[2, 0, 1])
    assert batch.labels.dtype == torch.float32 and batch.labels.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert len(samples.subset(2)) == 2


@pytest.mark.parametrize("split", ["train", "test", "all", None])
def test_digits_are_scikit_learns_enlarged(split):
    samples = load_samples("digits", split=split)
    digits = load_digits()
    train, test = train_test_split(range(1797), test_size=540, stratify=digits.target, random_state=0)
    rows = sorted({"train": train, "all": range(1797)}.get(split, test))
    assert samples.labels.tolist() == digits.target[rows].tolist()
    assert samples.classes == tuple("0123456789")
    pixels = np.stack([samples.image(i) for i in range(len(samples))])
    assert pixels.shape == (len(rows), 32, 32, 1) and pixels.dtype == np.uint8
    small = torch.from_numpy(digits.images[rows]).float()[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear", align_corners=False)
    assert np.abs(pixels[..., 0] - large[:, 0].numpy()).max() <= 1.5  # three roundings


def test_npz_and_its_parts(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    y = np.array([[0], [2], [1], [1], [0], [2]], np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=y, classes=np.array(["ape", STRANGE, "cat"]))
    samples = load_samples(tmp_path / "a.npz")
    assert samples.labels.tolist() == [0, 2, 1, 1, 0, 2] and samples.classes == ("ape", STRANGE, "cat")
    np.testing.assert_array_equal(samples.image(3), x[3][..., None])
    np.savez_compressed(tmp_path / "b.npz", x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])
    assert load_samples(str(tmp_path / "b.npz"), split="train").labels.tolist() == [0, 2, 1, 1]
    assert load_samples(tmp_path / "b.npz").labels.tolist() == [0, 2]
    np.savez(tmp_path / "c.npz", images=x, labels=y)
    assert load_samples(tmp_path / "c.npz", x="images", y="labels").digest == load_samples((x, y)).digest


def test_pairs_of_arrays_and_tensors():
    x = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    samples = load_samples((torch.from_numpy(x), torch.tensor([2, 0, 1])), classes=["a", "b", "c"])
    np.testing.assert_array_equal(samples.image(-1), x[2])
    assert samples.digest == load_samples([x, np.array([2, 0, 1], np.uint16)], classes=["a", "b", "c"]).digest
    several = load_samples((x, np.array([[True, False], [True, True], [False, False]])))
    assert several.multilabel and several.labels.tolist() == [[1, 0], [1, 1], [0, 0]]


class Pictures(Dataset):
    """Five Pillow images whose shade is their index."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index >= 5:
            raise IndexError(index)
        return shade(index), index % 2


def test_torch_datasets_of_pictures_and_of_tensors():
    x = np.stack([np.asarray(image) for image, _ in Pictures()])
    tensors = TensorDataset(torch.from_numpy(x).permute(0, 3, 1, 2), torch.tensor([0, 1, 0, 1, 0]))
    preprocessing = Preprocessing((6, 6), mean=(0.0,) * 3, std=(1.0,) * 3)
    (expected,) = load_samples((x, [0, 1, 0, 1, 0])).batches(preprocessing, 5)
    for dataset in (Pictures(), tensors, torch.utils.data.Subset(Pictures(), range(5))):
        samples = load_samples(dataset)
        (batch,) = samples.batches(preprocessing, 5)
        assert all(torch.equal(getattr(batch, x), getattr(expected, x)) for x in ("images", "labels", "indices"))
        np.testing.assert_array_equal(samples.image(4), x[4])
    assert load_samples(Pictures()).digest == load_samples(tensors).digest
    assert load_samples(Pictures()).digest != load_samples(torch.utils.data.Subset(Pictures(), [0, 1, 2, 4, 3])).digest


def test_torchvisions_datasets_with_named_splits(tmp_path):
    for folder in ("meta", "images/bread", "images/ale"):
        (tmp_path / "food-101" / folder).mkdir(parents=True)
    for part, numbers in (("train", range(3)), ("test", range(3, 5))):
        listed = {name: [f"{name}/{number}" for number in numbers] for name in ("bread", "ale")}
        (tmp_path / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(listed))
    for number in range(5):
        for name in ("bread", "ale"):
            shade(number * 40).save(tmp_path / "food-101" / "images" / name / f"{number}.jpg")
    for split, numbers in ((None, (3, 4)), ("train", (0, 1, 2))):
        samples = load_samples("torchvision:Food101", root=tmp_path, split=split)
        assert samples.classes == ("ale", "bread")
        assert samples.labels.tolist() == [1] * len(numbers) + [0] * len(numbers)
        assert [round(samples.image(i)[0, 0, 0] / 40) for i in range(len(samples))] == [*numbers, *numbers]
    assert load_samples("torchvision:Food101", root=tmp_path).name == "torchvision:Food101"


class Attributes(Pictures):
    """Pictures with a row of 0 and 1 each, and attributes that are not their labels."""

    targets = (7, 7, 7, 7, 7)
    labels = [7, 7, 7, 7, 7]  # noqa: RUF012

    def __getitem__(self, index):
        return super().__getitem__(index)[0], torch.tensor([index > 2, index == 1])


def test_labels_are_those_of_the_items():
    samples = load_samples(Attributes())
    assert samples.labels.tolist() == [[0, 0], [0, 1], [0, 0], [1, 0], [1, 0]]


def mnist(root: Path, x: np.ndarray, y: np.ndarray) -> None:
    """The four files of torchvision's MNIST with `x` and `y` as both parts."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = np.array([0x803, *x.shape], ">i4").tobytes() + x.tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, len(y)], ">i4").tobytes() + y.tobytes())


def test_torchvisions_mnist_from_its_files(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (11, 28, 28), dtype=np.uint8)
    y = np.arange(11, dtype=np.uint8) % 10
    mnist(tmp_path, x, y)
    samples = load_samples("torchvision:MNIST", root=tmp_path)
    assert samples.labels.tolist() == y.tolist() and samples.classes[3] == "3 - three"
    np.testing.assert_array_equal(np.stack([samples.image(i) for i in range(11)])[..., 0], x)
    inverted = datasets.MNIST(
        tmp_path, train=False, transform=transforms.RandomInvert(1.0), target_transform=lambda t: 9 - t
    )
    transformed = load_samples(inverted)
    np.testing.assert_array_equal(transformed.image(5)[..., 0], 255 - x[5])
    assert transformed.labels.tolist() == (9 - y).tolist()


def test_count_and_seed_reach_the_subset():
    part = load_samples("digits", count=50, seed=5)
    assert part.digest == load_samples("digits").subset(50, 5).digest
    assert set(Counter(part.labels.tolist()).values()) <= {4, 5, 6}
    assert load_samples(part, count=10).labels.tolist() == part.subset(10).labels.tolist()


@pytest.mark.real
def test_real_cifar_sheets(shared, tmp_path):
    out = tmp_path / "c10.npz"
    unpack = [sys.executable, shared / "data" / "unpack.py", "cifar10", "test", out, "--sheets", "1"]
    subprocess.run(unpack, check=True, capture_output=True)
    samples = load_samples(out)
    index = json.loads((shared / "data/images/cifar10/index.json").read_text())
    assert samples.labels.tolist() == index["test"]["labels"][: len(samples)]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocessing = Preprocessing((32, 32), mean=mean, std=std)
    pixels = torch.from_numpy(np.load(out)["x"]).permute(0, 3, 1, 2).float() / 255
    expected = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(torch.cat([batch.images for batch in samples.batches(preprocessing, 500)]), expected)


@pytest.mark.real
@pytest.mark.parametrize("resize", [256, 232])
def test_real_imagenet_folder(shared, resize):
    folder = shared / "data" / "images" / "imagenet-sample"
    samples = load_samples(folder)
    assert len(samples) == 700 and len(samples.classes) == 1000 and samples.classes[1] == "goldfish"
    part = load_samples(folder, count=40, seed=2)
    assert len(set(part.labels.tolist())) == 40
    preprocessing = Preprocessing((224, 224), resize, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    images = torch.cat([batch.images for batch in part.batches(preprocessing, 16)])
    with (folder / "labels.csv").open() as lines:
        file_of = {int(row["label"]): row["file"] for row in csv.DictReader(lines)}
    for image, label in zip(images, part.labels.tolist(), strict=True):
        original = Image.open(folder / file_of[label])
        torch.testing.assert_close(image, torchvision_input(original, preprocessing), rtol=0, atol=0)

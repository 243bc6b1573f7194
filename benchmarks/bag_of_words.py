"""How well bags of visual words tell classes apart, and how long they take.

python benchmarks/bag_of_words.py FILE.npz [--train 5000] [--test 2000] [--words 1000]

FILE.npz holds x_train, y_train, x_test and y_test. Rows are brought to length 1; the classifier is scikit-learn's
LinearSVC with C = 1. Prints one line for each pooling and pyramid.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.svm import LinearSVC

from common import add_tiny, shrink, tell
from netopsy import load_samples
from netopsy.features.bow.bag import bag_of_words

PYRAMIDS = (("1x1",), ("1x1", "2x2"), ("1x1", "2x2", "3x1"))


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; zero rows stay."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(x.dtype).tiny)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", default="digits", help="or `digits`, those of scikit-learn")
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--words", type=int, default=1000)
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, file="digits", train=30, test=20, words=10)
    rows = []
    train, test = (
        load_samples(options.file, split=split, count=count)
        for split, count in (("train", options.train), ("test", options.test))
    )
    print(f"{train}\n{test}\n{options.words:,} words")
    for pooling in ("average", "max"):
        for pyramid in PYRAMIDS:
            start = time.perf_counter()
            vectors = bag_of_words(train, test, words=options.words, pooling=pooling, pyramid=pyramid)
            elapsed = time.perf_counter() - start
            score = LinearSVC().fit(unit(vectors[0]), train.labels).score(unit(vectors[1]), test.labels)
            grids, values = "+".join(pyramid), vectors[0].shape[1]
            print(
                f"{pooling:8} {grids:12} {values:6,} values {elapsed:6.1f} s  accuracy {100 * score:.2f} %", flush=True
            )
            rows.append({"pooling": pooling, "pyramid": grids, "values": values, "seconds": elapsed, "accuracy": score})
    tell("bag_of_words", None, rows=rows)


if __name__ == "__main__":
    main()

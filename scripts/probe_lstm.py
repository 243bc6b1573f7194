"""Probe the LSTM of scripts/beyond_images.py back to its words, and hold what comes back to what a word really does.

    python scripts/beyond_images.py questions --data FOLDER
    python scripts/probe_lstm.py questions.safetensors --data FOLDER [--questions 200]

For the class that each held-out question is given, every word is exchanged for the unknown one, and the change of the
logit is set against what the rules `gradient` and `gated` say beforehand: the map of the unit times the difference of
the two embeddings. Prints for each rule the correlation over the words of a question (mean over the questions with its
95 % interval), the share of the change's variance that is left, and where in time the attribution of a state lies.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from netopsy.engine.backproject.backproject import trace
from netopsy.stats.hypothesis_tests import mean_interval

sys.path.insert(0, str(Path(__file__).parent))
from beyond_images import questions

UNKNOWN = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("."))
    parser.add_argument("--questions", type=int, default=200)
    options = parser.parse_args()
    network, _, test, _ = questions(options.data)
    network.module.load_state_dict(load_file(options.weights))
    table = network.module.embed.weight.detach()
    ranks: dict[str, list[float]] = {"gradient": [], "gated": []}
    linear: dict[str, list[float]] = {"gradient": [], "gated": []}
    behind: dict[str, list[float]] = {"gradient": [], "gated": []}
    errors: dict[str, list[np.ndarray]] = {"gradient": [], "gated": []}
    changes: list[np.ndarray] = []
    for batch in test.batches(network.preprocessing, 1, order=list(range(options.questions))):
        words, mask = (batch.inputs[name] for name in network.signature.names)
        length = int(mask.sum())
        if length < 4:
            continue
        swapped = words.repeat(length, 1)
        swapped[range(length), range(length)] = UNKNOWN
        with torch.no_grad():
            before = network.module(words, mask)[0]
            chosen = int(before.argmax())
            change = (before[chosen] - network.module(swapped, mask.expand(length, -1))[:, chosen]).numpy()
        known = (words[0, :length] != UNKNOWN).numpy()
        changes.append(change[known])
        for rule in ranks:
            maps = trace(network, batch.inputs, [("head", chosen)], rule).maps[0, :length]
            expected = (maps * (table[words[0, :length]] - table[UNKNOWN])).sum(1).numpy()
            ranks[rule].append(float(spearmanr(expected[known], change[known])[0]))
            linear[rule].append(float(np.corrcoef(expected[known], change[known])[0, 1]))
            errors[rule].append(change[known] - expected[known])
            state = trace(network, batch.inputs, [("lstm.getitem", 0, length - 1)], rule).maps[0, :length]
            size = (state * table[words[0, :length]]).sum(1).abs().numpy()
            behind[rule].append(float(size[:-1].sum() / size.sum()))
    total = np.concatenate(changes)
    print(f"{len(changes)} questions, {len(total)} words")
    for rule in ranks:
        rows = [
            ("rank correlation", ranks[rule]),
            ("correlation", linear[rule]),
            ("before the last word", behind[rule]),
        ]
        for what, values in rows:
            low, high = mean_interval(values)
            print(f"{rule}: {what} {np.mean(values):.3f} ({low:.3f} to {high:.3f})")
        left = float((np.concatenate(errors[rule]) ** 2).sum() / (total**2).sum())
        print(f"{rule}: {left:.3f} of the squared change is left")


if __name__ == "__main__":
    main()

"""How the number of circuits that equal a truth table grows with its inputs: random tables, 40 % of the cells firing.

    python scripts/count_circuits.py [--tables 20]

35 % of the cells rest, and 25 % are free. Prints a row a number of inputs: medians over the tables of the products of
the shortest circuit, of how many are as short, and of how many are locally minimal (`exact`: share of tables of which
all were listed; the others count with a lower bound).
"""

from __future__ import annotations

import argparse

import numpy as np

from netopsy.studies.facets.circuits import count_circuits
from netopsy.studies.facets.minimise import TruthTable, minimise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=20)
    tables = parser.parse_args().tables
    print("| inputs | products | shortest | locally minimal | most | exact |")
    print("|---|---|---|---|---|---|")
    for inputs in range(3, 9):
        rows = []
        for seed in range(tables):
            table = np.random.default_rng([inputs, seed]).choice([1, 0, -1], 2**inputs, p=[0.4, 0.35, 0.25])
            counted = count_circuits(table, TruthTable(inputs, table == 1, table == 0))
            minimal = counted.minimal
            rows.append((len(minimise(table).products), counted.shortest.number, minimal.number, minimal.exact))
        products, shortest, minimal_numbers, exact = (np.array(column, float) for column in zip(*rows, strict=True))
        print(
            f"| {inputs} | {np.median(products):g} | {np.median(shortest):g} | {np.median(minimal_numbers):.3g} | "
            f"{minimal_numbers.max():.3g} | {exact.mean():.0%} |"
        )


if __name__ == "__main__":
    main()

"""Sums of products: `A AND NOT B OR C`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True, order=True)
class Product:
    """An AND of inputs and negated inputs. Bit i from the left (of `inputs` bits) stands for input i.

    mask: the inputs that take part. value: their states; 0 where they do not take part.
    """

    mask: int
    value: int

    @property
    def literals(self) -> int:
        """How many inputs take part."""
        return self.mask.bit_count()

    def holds(self, cell: int) -> bool:
        """Whether the product is true in the cell."""
        return cell & self.mask == self.value


@dataclass(frozen=True)
class Expression:
    """An OR of products over `inputs` inputs. No products: never true. A product of no literals: always true."""

    inputs: int
    products: tuple[Product, ...]

    @property
    def literals(self) -> int:
        """The length of the expression: inputs named, as often as they are."""
        return sum(p.literals for p in self.products)

    @property
    def cells(self) -> Bool[np.ndarray, " cells"]:
        """Its value in every cell of a truth table."""
        cells = np.arange(2**self.inputs)
        true = np.zeros(len(cells), bool)
        for p in self.products:
            true |= cells & p.mask == p.value
        return true

    @property
    def named(self) -> tuple[int, ...]:
        """The inputs that appear in it."""
        mask = 0
        for p in self.products:
            mask |= p.mask
        return tuple(i for i in range(self.inputs) if mask >> (self.inputs - 1 - i) & 1)

    def text(self, names: Sequence[str]) -> str:
        """`(A AND NOT B) OR C`; `ALWAYS` and `NEVER` where it depends on nothing."""
        if not self.products:
            return "NEVER"
        if any(not p.mask for p in self.products):
            return "ALWAYS"
        parts = [" AND ".join(self._literals(p, names)) for p in self.products]
        several = len(parts) > 1
        return " OR ".join(
            f"({part})" if several and p.literals > 1 else part for part, p in zip(parts, self.products, strict=True)
        )

    def _literals(self, product: Product, names: Sequence[str]) -> list[str]:
        found = []
        for i in range(self.inputs):
            bit = 1 << (self.inputs - 1 - i)
            if product.mask & bit:
                found.append(names[i] if product.value & bit else f"NOT {names[i]}")
        return found

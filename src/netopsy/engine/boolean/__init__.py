"""Units as Boolean functions: truth tables, minimised sums of products, Karnaugh maps."""

from netopsy.engine.boolean.expression import Expression, Product
from netopsy.engine.boolean.karnaugh import gray_code, karnaugh_map
from netopsy.engine.boolean.minimise import minimise
from netopsy.engine.boolean.table import TruthTable, truth_table

__all__ = ["Expression", "Product", "TruthTable", "gray_code", "karnaugh_map", "minimise", "truth_table"]

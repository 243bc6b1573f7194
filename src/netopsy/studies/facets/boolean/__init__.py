"""Units as Boolean functions: truth tables, minimised sums of products, Karnaugh maps."""

from netopsy.studies.facets.boolean.expression import Expression, Product
from netopsy.studies.facets.boolean.karnaugh import gray_code, karnaugh_map
from netopsy.studies.facets.boolean.minimise import minimise
from netopsy.studies.facets.boolean.table import TruthTable, truth_table

__all__ = ["Expression", "Product", "TruthTable", "gray_code", "karnaugh_map", "minimise", "truth_table"]

"""Units as Boolean functions: truth tables, minimised sums of products, Karnaugh maps."""

from netopsy.studies.facets.boolean.inputs import gray_code, karnaugh_map
from netopsy.studies.facets.boolean.minimise import Expression, Product, TruthTable, minimise, truth_table

__all__ = ["Expression", "Product", "TruthTable", "gray_code", "karnaugh_map", "minimise", "truth_table"]

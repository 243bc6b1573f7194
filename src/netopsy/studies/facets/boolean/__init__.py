"""Units as Boolean functions: truth tables, minimised sums of products, Karnaugh maps."""

from netopsy.studies.facets.boolean.inputs import gray_code, karnaugh_map
from netopsy.studies.facets.boolean.minimise import Expression, ProductTerm, TruthTable, minimise, truth_table

__all__ = ["Expression", "ProductTerm", "TruthTable", "gray_code", "karnaugh_map", "minimise", "truth_table"]

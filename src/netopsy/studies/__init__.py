"""The studies: one file or folder each, none imports another. `STUDIES` is the table of them."""

from netopsy.studies.table import STUDIES, study_class

__all__ = ["STUDIES", "study_class"]

"""A unit as a logical OR of patterns."""

from netopsy.studies.facets.facets import Facets

__all__ = ["Facets"]

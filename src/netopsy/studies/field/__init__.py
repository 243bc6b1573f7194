"""What a unit sees of the image, in theory and in effect, and its activation tree."""

from netopsy.studies.field.field import Field

__all__ = ["Field"]

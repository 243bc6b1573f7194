"""Which image excites a unit most."""

from netopsy.studies.maximize.maximize import Maximize

__all__ = ["Maximize"]

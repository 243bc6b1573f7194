"""How far transferred features can be squeezed."""

from netopsy.studies.transfer.transfer import Transfer

__all__ = ["Transfer"]

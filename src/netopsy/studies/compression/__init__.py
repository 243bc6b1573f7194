"""Deep Compression: prune, share, code, with retraining."""

from netopsy.studies.compression.compression import Compression

__all__ = ["Compression"]

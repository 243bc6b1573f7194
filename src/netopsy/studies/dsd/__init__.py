"""Dense-sparse-dense training (Han et al., ICLR 2017)."""

from netopsy.studies.dsd.dsd import Dsd

__all__ = ["Dsd"]

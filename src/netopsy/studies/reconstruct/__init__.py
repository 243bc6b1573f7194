"""From a unit back to the image, by four ways side by side."""

from netopsy.studies.reconstruct.reconstruct import Reconstruct

__all__ = ["Reconstruct"]

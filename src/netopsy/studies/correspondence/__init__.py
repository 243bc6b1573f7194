"""The study `correspondence`: did two networks learn the same units?"""

from netopsy.studies.correspondence.correspondence import Correspondence

__all__ = ["Correspondence"]

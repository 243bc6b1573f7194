"""Bags of visual words: the classical features that those of networks are compared with."""

from netopsy.features.bow.bag import bag_of_words

__all__ = ["bag_of_words"]

"""Bags of visual words: the classical features that those of networks are compared with."""

from netopsy.engine.bow.bag import BagOfWords, bag_of_words

__all__ = ["BagOfWords", "bag_of_words"]

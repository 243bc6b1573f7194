"""How many activations are zero."""

from netopsy.studies.sparsity.sparsity import Sparsity, activations, channel_axis, rectifies, weight_layer

__all__ = ["Sparsity", "activations", "channel_axis", "rectifies", "weight_layer"]

"""Deep Compression (Han et al., ICLR 2016): prune, share, save as one small file, and give it back."""

from netopsy.deep_compression.compress import keep_share, share

__all__ = ["keep_share", "share"]

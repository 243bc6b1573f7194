"""Networks as small files: shared weights, entropy coders, and the container that holds them. Needs no torch."""

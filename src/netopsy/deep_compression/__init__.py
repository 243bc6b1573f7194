"""The stages of Deep Compression (Han et al., ICLR 2016) on tensors: prune, share, and what each layer is given."""

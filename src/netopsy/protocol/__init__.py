"""Protocols: a paper's whole experiment as a TOML file.

[network]
source = "netopsy:alexnet"
weights = "bvlcalexnet-12.onnx"      # paths are relative to the protocol

[samples]
source = "imagenet/val"

[train]                              # images to train on, for the studies that train; not needed
split = "train"                      # its source is that of [samples] unless it has its own

[other]                              # a second network, for the studies that compare the first with one; not needed
source = "netopsy:alexnet"           # the keys of [network] hold here too
weights = "second.safetensors"

[studies.noise]                      # one table a study, in the order they run
strengths = [0.1, 0.2]

The same on several image sets: what a set says goes before what is said above for all.

[[sets]]
name = "cifar10"                     # of its folder in the case
samples = {source = "cifar10.npz", split = "test"}
network = {num_classes = 10}
studies.noise.strengths = [0.1]
"""

from netopsy.protocol.run import further_options, make_study, read_protocol, run_protocol

__all__ = ["further_options", "make_study", "read_protocol", "run_protocol"]

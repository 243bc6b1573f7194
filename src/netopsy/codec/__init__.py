"""Networks as small files: shared weights, entropy coders, and the container that holds them. Needs no torch."""

from netopsy.codec.file import Compressed, is_compressed, read_compressed, sizes, write_compressed
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import CodedTensor, decode_tensor, encode_tensor

__all__ = [
    "CodedTensor",
    "Compressed",
    "SharedTensor",
    "decode_tensor",
    "encode_tensor",
    "is_compressed",
    "read_compressed",
    "sizes",
    "write_compressed",
]

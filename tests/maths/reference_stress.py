"""Slow, independent stresses: distances to every number of a dictionary, bits as text, the full covariance."""

from __future__ import annotations

import struct

import numpy as np


def dictionary(low: float, high: float, h: int) -> np.ndarray:
    """H = {(min + st / 2) + st i | 0 <= i < h}, st = (max - min) / h, in float64 (Carvalho et al., Section 2.2)."""
    st = (float(high) - float(low)) / h
    return np.array([(float(low) + st / 2) + st * i for i in range(h)])


def quantize(x: np.ndarray, train: np.ndarray, h: int, per_dimension: bool) -> np.ndarray:
    """T_Q-1 or T_Q-2 of x, (n, p): the number of the dictionary at the least distance, the first of several."""
    out = np.empty(x.shape)
    for j in range(x.shape[1]):
        seen = train[:, j] if per_dimension else train
        numbers = dictionary(seen.min(), seen.max(), h)
        for i in range(x.shape[0]):
            out[i, j] = numbers[np.abs(float(x[i, j]) - numbers).argmin()]
    return out


def margin(x: np.ndarray, train: np.ndarray, h: int, per_dimension: bool) -> np.ndarray:
    """How much farther the second nearest number lies than the nearest, in steps; 1 where there is none."""
    out = np.ones(x.shape)
    for j in range(x.shape[1]):
        seen = train[:, j] if per_dimension else train
        numbers = dictionary(seen.min(), seen.max(), h)
        if h > 1 and seen.max() > seen.min():
            distances = np.sort(np.abs(x[:, j, None].astype(np.float64) - numbers), axis=1)
            out[:, j] = (distances[:, 1] - distances[:, 0]) / (numbers[1] - numbers[0])
    return out


def erase_bits(value: float, removed: int, word: int = 32) -> float:
    """The number with the last `removed` characters of its pattern, written as zeros and ones, set to 0."""
    number, whole = {32: (">f", ">I"), 64: (">d", ">Q")}[word]
    pattern = format(struct.unpack(whole, struct.pack(number, value))[0], f"0{word}b")
    erased = pattern[: word - removed] + "0" * removed
    return struct.unpack(number, struct.pack(whole, int(erased, 2)))[0]


def principal_directions(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances, descending, (p,), and directions, (p, p), of the covariance matrix written out."""
    values, vectors = np.linalg.eigh(np.cov(np.asarray(x, np.float64), rowvar=False))
    return values[::-1], vectors[:, ::-1]


def pack(codes: np.ndarray, bits: int) -> list[bytes]:
    """Each row of codes as bytes, through a text of zeros and ones filled up with zeros."""
    rows = []
    for row in codes:
        text = "".join(format(int(code), f"0{bits}b") for code in row)
        text += "0" * (-len(text) % 8)
        rows.append(bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)))
    return rows


def iterative_quantization(v: np.ndarray, rotation: np.ndarray, iterations: int) -> tuple[np.ndarray, list[float]]:
    """ITQ as Gong & Lazebnik write it: B = sgn(V R); B^T V = S Omega S'^T; R = S' S^T. The rotation and |B - V R|^2."""
    errors = []
    for _ in range(iterations):
        b = np.where(v @ rotation > 0, 1.0, -1.0)
        s, _, s_hat = np.linalg.svd(b.T @ v)
        rotation = s_hat.T @ s.T
        errors.append(float(((b - v @ rotation) ** 2).sum()))
    return rotation, errors

"""What the weights before a place in the kernel say of the weight there: a prediction in whole numbers."""

from __future__ import annotations

import numpy as np

from netopsy.codec.shared import ARRAY

UNIT = 256
STEP, LEVELS = 84, 11
ACTIVE = np.array([3, 120, 240, 400])
ACTIVITIES = len(ACTIVE) + 1
COEFFICIENT = 32


def whole_values(table: ARRAY, scale: int) -> ARRAY:
    """The entries as whole numbers, int16 (k,): 256 is a mean magnitude. scale: from `mean_scale`, 1 to 65535."""
    top = float(np.abs(table).max()) or 1.0
    return np.clip(np.rint(table.astype(np.float64) / top * (65535 * UNIT / scale)), -2048, 2047).astype(np.int16)


def mean_scale(table: ARRAY, counts: ARRAY) -> int:
    """The mean magnitude of the values that are not zero, as a share of the largest, in 65535ths. counts: int (k,)."""
    size = np.abs(table.astype(np.float64))
    many = np.where(table == 0, 0, counts)
    mean = float((size * many).sum()) / max(1, int(many.sum())) / (float(size.max()) or 1.0)
    return int(np.clip(round(mean * 65535), 1, 65535))


def places_before(sides: tuple[int, int], place: int) -> list[tuple[int, int]]:
    """The places of a kernel that tell of `place` and come before it, each with the number of its coefficient.

    A kernel of at most nine places: all before it, each pair with a coefficient of its own. A larger one: those at most
    two away, with a coefficient for each of the twelve displacements.
    """
    height, width = sides
    if height * width <= 9:
        return [(other, place * (place - 1) // 2 + other) for other in range(place)]
    y, x = divmod(place, width)
    return [
        ((y - dy) * width + x - dx, (dy * 5 + dx + 2) - 3)
        for dy in range(3)
        for dx in range(-2, 3)
        if (dy, dx) > (0, 0) and y >= dy and 0 <= x - dx < width
    ]


def coefficient_count(sides: tuple[int, int]) -> int:
    """How many coefficients `places_before` numbers."""
    places = sides[0] * sides[1]
    return places * (places - 1) // 2 if places <= 9 else 12


def places_around(sides: tuple[int, int], place: int) -> tuple[int | None, int | None, int | None]:
    """The places to the left, above, and above to the left; None beyond the edge."""
    y, x = divmod(place, sides[1])
    left = place - 1 if x else None
    above = place - sides[1] if y else None
    return left, above, place - sides[1] - 1 if x and y else None


def predict_plane(planes: list[ARRAY], sides: tuple[int, int], coefficients: ARRAY | None) -> ARRAY | None:
    """The next plane as predicted, int32 (out, in), UNIT a mean magnitude; None where nothing tells of it.

    planes: whole values int16 (out, in) of the places so far. coefficients: in 32nds; None for left + above - half of
    what lies between them, where a plane through the three would go.
    """
    place = len(planes)
    if coefficients is None:
        left, above, corner = places_around(sides, place)
        terms = [(at, share) for at, share in ((left, 32), (above, 32), (corner, -16)) if at is not None]
    else:
        terms = [(at, int(coefficients[which])) for at, which in places_before(sides, place)]
    total = None
    for at, share in terms:
        if share:
            term = planes[at].astype(np.int32) * share
            total = term if total is None else total + term
    return None if total is None else total >> 5


def signed_levels(prediction: ARRAY) -> ARRAY:
    """A prediction as one of eleven levels, uint8."""
    return np.clip((prediction + STEP * LEVELS // 2) // STEP, 0, LEVELS - 1).astype(np.uint8)


def neighbour_size(planes: list[ARRAY], sides: tuple[int, int]) -> ARRAY | None:
    """How large the weights to the left and above are: uint8 (out, in), five levels for one of them, five for two."""
    near = [planes[at] for at in places_around(sides, len(planes))[:2] if at is not None] if planes else []
    if not near:
        return None
    size = sum(np.abs(plane) for plane in near) >> (len(near) - 1)
    return np.searchsorted(ACTIVE, size, side="right").astype(np.uint8) + np.uint8(ACTIVITIES * len(near))


def nonzero_neighbours(mask: ARRAY, columns: slice, distance: int) -> ARRAY:
    """How many of the two neighbours, `distance` columns to either side, are not zero, and one more: uint8 (r, c).

    mask: uint8 (r, inputs), of which the neighbours are known. Beyond the edge is zero.
    """
    near = mask[:, columns.start - distance : columns.stop - distance : columns.step] + np.uint8(1)
    after = mask[:, columns.start + distance :: columns.step][:, : near.shape[1]]
    near[:, : after.shape[1]] += after
    return near


def fit_coefficients(planes: list[ARRAY], keep: list[ARRAY], sides: tuple[int, int]) -> ARRAY:
    """Least squares of each plane on those before it, over the kept weights, in 32nds, int (c,) from -127 to 127."""
    count = coefficient_count(sides)
    gram, cross = np.zeros((count, count)), np.zeros(count)
    for place in range(1, len(planes)):
        terms = places_before(sides, place)
        rows = np.flatnonzero(keep[place])
        x = np.stack([planes[at].reshape(-1)[rows] for at, _ in terms], axis=1).astype(np.float64)
        at = [which for _, which in terms]
        gram[np.ix_(at, at)] += x.T @ x
        cross[at] += x.T @ planes[place].reshape(-1)[rows].astype(np.float64)
    ridge = 8.0 * UNIT * UNIT * np.eye(count)
    return np.clip(np.rint(np.linalg.solve(gram + ridge, cross) * COEFFICIENT), -127, 127).astype(np.int64)

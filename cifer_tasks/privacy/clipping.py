"""Bounding what one site can contribute to a round.

Clipping is what makes the integer sums of `cifer_tasks.encryption.encoding` unable to overflow, and it is the sensitivity bound that
differential privacy builds on. It is no privacy mechanism by itself: no noise is added here.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cifer_tasks.encryption.vectors import PIECE, Vector, pieces

FloatVector = npt.NDArray[np.float32]
DoubleVector = npt.NDArray[np.float64]


def l2_norm(update: Vector) -> float:
    """The Euclidean norm of a vector (d,), accumulated in float64: NumPy's pairwise summation within pieces, exactly between them.

    Raises `ValueError` naming the first entry that is NaN or infinite.
    """
    norm = math.sqrt(math.fsum(float(np.add.reduce(np.square(np.asarray(piece, dtype=np.float64)))) for piece in pieces(update)))
    if math.isfinite(norm):
        return norm
    for number, piece in enumerate(pieces(update)):
        if not np.isfinite(piece).all():
            bad = int(np.flatnonzero(~np.isfinite(piece))[0])
            place = f"{float(piece[bad])} at entry {number * PIECE + bad} of {update.size}"
            msg = f"the update has {place}: training diverged or the data has NaN; lower the learning rate"
            raise ValueError(msg)
    msg = "the update's entries are too large for its norm to be computed: training diverged; lower the learning rate"
    raise ValueError(msg)


def clip(update: npt.NDArray[np.floating], norm: float) -> tuple[DoubleVector, float]:
    """Scale `update` (d,) down to L2 norm at most `norm`: ``x * min(1, C / ||x||)`` (Abadi et al. 2016, algorithm 1).

    Returns the clipped vector as a new float64 (d,), and the original norm; whether it was clipped is `original > norm`. Float64, because
    rounding the result to float32 could push its norm above the bound. Raises `ValueError` for NaN or infinite entries and for a bound
    that is not a positive number.
    """
    if not (math.isfinite(norm) and norm > 0.0):
        msg = f"the clipping norm has to be a positive number, not {norm}; set privacy.clip_norm"
        raise ValueError(msg)
    original = l2_norm(update)
    clipped = np.array(update, dtype=np.float64)
    if original > norm:
        clipped *= norm / original
    return clipped, original

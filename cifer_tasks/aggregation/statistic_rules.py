"""Rules on statistics, published and slightly armed: from a few integers per update to a weight for each. Integers and fractions only.

Every rule has the clip in front, enforced by whoever aggregates: an update longer than the clipping norm C counts for
``c_i = C / ||x_i||`` of what it is. Without it a rule that divides by distances or sums products is won by whoever scales most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Final

from pydantic import Field

from cifer_tasks.aggregation.rules import STATISTIC_ONE, WEIGHT_ONE, Statistics, Weights
from cifer_tasks.errors import RuleError

SCORE_ONE: Final = 1000
"""A score of one, in thousandths."""


def norm_clip(statistics: Statistics) -> Weights:
    """``sum n_i c_i x_i / sum n_i``: no update moves the model by more than its share of rows times C (Sun et al. 2019)."""
    clips = clip_factors(statistics)
    return Weights(clips, WEIGHT_ONE * sum(statistics.rows), _reasons(statistics, [WEIGHT_ONE] * len(clips), clips, ""))


def non_poisoning_rate(statistics: Statistics, *, clip: bool = True) -> Weights:
    """FheFL (Rahulamathavan et al., arXiv 2306.05112): ``p_i = (1 - d_i / sum d) / (n - 1)``, ``d_i = ||c_i x_i - g||^2``; rows kept.

    clip: as published it is without, and two colluders who scale alike keep a weight of nearly a half of ``1 / (n - 1)`` each.
    """
    clips = clip_factors(statistics) if clip else (WEIGHT_ONE,) * len(statistics.sites)
    distances = [
        max(0, factor * factor * square - 2 * WEIGHT_ONE * factor * inner + WEIGHT_ONE**2 * statistics.reference_squared_norm)
        for factor, square, inner in zip(clips, statistics.squared_norms, statistics.inner_products, strict=True)
    ]
    total = sum(distances)
    if total == 0 or len(distances) == 1:
        return norm_clip(statistics)
    rates = _scaled([Fraction(total - distance) for distance in distances])
    return _weighted(statistics, rates, clips, "non-poisoning rate")


def fltrust(statistics: Statistics) -> Weights:
    """FLTrust (Cao et al. 2021, Eq. 2 and 4): ``sum n_i TS_i (||g|| / ||x_i||) x_i / sum n_i TS_i``, ``TS_i = max(0, cos(x_i, g))``.

    Lengths are taken from g, so nothing is left to clip. Rows weight each site's trust. Where there is no reference yet, the clip alone.
    Raises `RuleError` when no update points to the reference's side.
    """
    reference = statistics.reference_squared_norm
    if reference == 0:
        return norm_clip(statistics)
    positive = [max(0, inner) if square else 0 for inner, square in _products(statistics)]
    pulls = [Fraction(inner, square or 1) for inner, square in zip(positive, statistics.squared_norms, strict=True)]
    greatest = _greatest(pulls, "fltrust")
    weights = tuple(int(WEIGHT_ONE * pull / greatest) for pull in pulls)
    trust = (
        rows * Fraction(inner * WEIGHT_ONE, math.isqrt(square * reference) or 1)
        for rows, inner, square in zip(statistics.rows, positive, statistics.squared_norms, strict=True)
    )
    divisor = max(1, int(sum(trust, start=Fraction(0)) / greatest))
    reasons = tuple("" if inner else "points away from the reference" for inner in positive)
    return Weights(weights, divisor, reasons)


def bygars(statistics: Statistics, *, alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3) -> Weights:
    """ByGARS++ (Regatti, Chen and Gupta 2020): ``q_i <- (1 - alpha) q_i + alpha cos(x_i, g)``, then ``sum n_i q_i c_i x_i``, q_i >= 0.

    The paper takes the inner product itself; its cosine keeps scores in -1..1, so that length buys no score. A site with a negative score
    counts nothing, where the paper turns its update around. Scores persist in thousandths. Where there is no reference yet, the clip alone.
    Raises `RuleError` when no site has a positive score.
    """
    reference = statistics.reference_squared_norm
    if reference == 0:
        plain = norm_clip(statistics)
        return Weights(plain.weights, plain.divisor, plain.reasons, statistics.scores)
    step = Fraction(str(alpha))
    scores = tuple(
        round((1 - step) * earlier + step * Fraction(SCORE_ONE * inner, max(1, math.isqrt(square * reference))))
        for earlier, (inner, square) in zip(statistics.scores or (0,) * len(statistics.sites), _products(statistics), strict=True)
    )
    scores = tuple(max(-SCORE_ONE, min(SCORE_ONE, score)) for score in scores)
    positive = [Fraction(max(0, score)) for score in scores]
    _greatest(positive, "bygars")
    weights = _weighted(statistics, _scaled(positive), clip_factors(statistics), "score")
    return Weights(weights.weights, weights.divisor, weights.reasons, scores)


def clip_factors(statistics: Statistics) -> tuple[int, ...]:
    """c_i = min(1, C / ||x_i||) in 0..`WEIGHT_ONE`, rounded down."""
    return tuple(
        WEIGHT_ONE if square <= STATISTIC_ONE else math.isqrt(WEIGHT_ONE**2 * STATISTIC_ONE // square)
        for square in statistics.squared_norms
    )


def _products(statistics: Statistics) -> list[tuple[int, int]]:
    return list(zip(statistics.inner_products, statistics.squared_norms, strict=True))


def _greatest(values: Sequence[Fraction], rule: str) -> Fraction:
    greatest = max(values)
    if greatest <= 0:
        msg = (
            f"aggregation.rule={rule}: none of {len(values)} updates points to the side of the reference; look at the root set, "
            "or choose a rule that needs none"
        )
        raise RuleError(msg)
    return greatest


def _scaled(values: Sequence[Fraction]) -> list[int]:
    """Proportional integers of which the greatest is `WEIGHT_ONE`."""
    greatest = max(values)
    return [int(WEIGHT_ONE * value / greatest) for value in values]


def _weighted(statistics: Statistics, shares: Sequence[int], clips: Sequence[int], what: str) -> Weights:
    """``sum share_i n_i c_i x_i / sum share_i n_i``."""
    weights = tuple(share * factor // WEIGHT_ONE for share, factor in zip(shares, clips, strict=True))
    divisor = sum(share * rows for share, rows in zip(shares, statistics.rows, strict=True))
    return Weights(weights, max(1, divisor), _reasons(statistics, shares, clips, what))


def _reasons(statistics: Statistics, shares: Sequence[int], clips: Sequence[int], what: str) -> tuple[str, ...]:
    found = []
    for share, factor, square in zip(shares, clips, statistics.squared_norms, strict=True):
        parts = [f"{what} {share * SCORE_ONE // WEIGHT_ONE} thousandths of the best"] if share < WEIGHT_ONE else []
        if factor < WEIGHT_ONE:
            length = math.isqrt(square * 10_000 // STATISTIC_ONE)
            parts.append(f"clipped from {length // 100}.{length % 100:02} times the clipping norm")
        found.append(", ".join(parts))
    return tuple(found)

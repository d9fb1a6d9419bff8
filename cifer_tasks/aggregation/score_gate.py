"""A rule on statistics that takes an update whole or leaves it out, by what its site has shown so far."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from cifer_tasks.aggregation.rules import WEIGHT_ONE, Statistics, Weights
from cifer_tasks.aggregation.statistic_rules import SCORE_ONE, clip_factors, norm_clip
from cifer_tasks.errors import RuleError


def score_gate(statistics: Statistics, *, alpha: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3) -> Weights:
    """``sum n_i c_i x_i / sum n_i`` over the sites with a positive score: ``q_i <- (1 - alpha) q_i + alpha cos(x_i, g)``, c_i the clip.

    The scores are those of `bygars`, here as a gate rather than a weight. Weighting by trust costs accuracy where nobody attacks, because
    honest sites whose rows differ from the root set count less; a gate leaves them the weight of their rows, and shuts out who keeps
    pointing away. Scores persist in thousandths. Where there is no reference yet, the clip alone.
    Raises `RuleError` when no score is positive.
    """
    if statistics.reference_squared_norm == 0:
        clipped = norm_clip(statistics)
        return Weights(clipped.weights, clipped.divisor, clipped.reasons, statistics.scores)
    step = Fraction(str(alpha))
    scores = tuple(
        round((1 - step) * earlier + step * SCORE_ONE * _cosine(inner, square, statistics.reference_squared_norm))
        for earlier, inner, square in zip(
            statistics.scores or (0,) * len(statistics.sites), statistics.inner_products, statistics.squared_norms, strict=True
        )
    )
    inside = [score > 0 for score in scores]
    if not any(inside):
        msg = f"aggregation.rule=score_gate: none of {len(scores)} sites has a positive score; look at the root set, or choose another rule"
        raise RuleError(msg)
    weights = tuple(factor if kept else 0 for factor, kept in zip(clip_factors(statistics), inside, strict=True))
    divisor = WEIGHT_ONE * sum(rows for rows, kept in zip(statistics.rows, inside, strict=True) if kept)
    reasons = tuple("" if kept else f"score {score} thousandths" for score, kept in zip(scores, inside, strict=True))
    return Weights(weights, divisor, reasons, scores)


def _cosine(inner: int, square: int, reference_square: int) -> Fraction:
    """In -1..1; 0 for an update of length 0."""
    return max(Fraction(-1), min(Fraction(1), Fraction(inner, math.isqrt(square * reference_square) or 1))) if square else Fraction(0)

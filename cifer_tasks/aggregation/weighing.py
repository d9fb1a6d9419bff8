"""From measured submissions to what a statistic rule sees, and from its weights to a weighted sum's step. Integers until the last line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from cifer_tasks.aggregation.rules import STATISTIC_ONE, WEIGHT_ONE, Rule, Statistics
from cifer_tasks.encryption.encoding import MICRO, Encoding, check_magnitude
from cifer_tasks.encryption.statistics import Measurement, Wide
from cifer_tasks.encryption.vectors import Vector
from cifer_tasks.errors import RuleError
from cifer_tasks.privacy.clipping import FloatVector

FULL_INFLUENCE: Final = 600
"""The reputation, in thousandths, from which on a site counts in full: a new site's."""
FEWEST_WEIGHTED: Final = 2
"""The fewest updates in a weighted sum: the sum of one is that one."""
ROUNDING_DEVIATIONS: Final = 12


@dataclass(frozen=True, slots=True)
class Weighed:
    """One site's place in a weighted sum. weight: 0..`WEIGHT_ONE`.  score: in thousandths.  reason: empty when taken as it is."""

    site: str
    weight: int
    score: int
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule made of a round's statistics: a weight for every sealed site, and what the weighted sum is divided by.

    The step is ``sum weight_i n_i x_i / divisor``.
    """

    sites: tuple[Weighed, ...]
    divisor: int


def decide(
    rule: Rule,
    measured: Mapping[str, Measurement],
    rows: Mapping[str, int],
    scores: Mapping[str, int],
    standings: Mapping[str, int],
    reference: Wide,
    reference_length: int,
    encoding: Encoding,
) -> Decision:
    """Apply a statistic rule. Sites whose submission is at fault get no weight and lose their score.

    measured, rows: by sealed site, ascending.  scores: thousandths that earlier rounds left.  standings: reputations before the
    seal, in thousandths.  reference: as it was measured against.
    reference_length: ||g|| in millionths of C.  Raises `RuleError` when fewer than `FEWEST_WEIGHTED` updates keep a weight.
    """
    usable = [site for site in measured if not measured[site].fault]
    statistics = statistics_of({site: measured[site] for site in usable}, rows, scores, reference, reference_length, encoding)
    found = rule.weigh(statistics)
    at = {site: place for place, site in enumerate(usable)}
    sites = tuple(
        Weighed(site, found.weights[at[site]], found.scores[at[site]] if found.scores else 0, found.reasons[at[site]])
        if site in at
        else Weighed(site, 0, 0, measured[site].fault)
        for site in measured
    )
    sites = influenced(sites, standings)
    if sum(item.weight > 0 for item in sites) < min(FEWEST_WEIGHTED, len(sites)):
        msg = f"aggregation.rule={rule.name} keeps fewer than {FEWEST_WEIGHTED} of {len(sites)} updates: their sum would show one of them"
        raise RuleError(msg)
    return Decision(sites, found.divisor)


def influenced(sites: tuple[Weighed, ...], standings: Mapping[str, int]) -> tuple[Weighed, ...]:
    """Weights times ``min(1, s / 600)``, s being the site's reputation in thousandths, rounded down: rule Y13 of the ledger.

    The divisor stays, so reputation only ever takes influence away: no bound of a rule is loosened by it.
    """
    return tuple(_influenced(item, standings[item.site]) for item in sites)


def _influenced(item: Weighed, standing: int) -> Weighed:
    if standing >= FULL_INFLUENCE or not item.weight:
        return item
    reason = ", ".join(filter(None, (item.reason, f"reputation {standing} of {FULL_INFLUENCE} thousandths")))
    return replace(item, weight=item.weight * standing // FULL_INFLUENCE, reason=reason)


def statistics_of(
    measured: Mapping[str, Measurement],
    rows: Mapping[str, int],
    scores: Mapping[str, int],
    reference: Wide,
    reference_length: int,
    encoding: Encoding,
) -> Statistics:
    """Integers of submissions as integers of updates, in units of C^2 / `STATISTIC_ONE`, rounded down.

    m_i = x_i (n_i / N) (L / C), so ||x_i||^2 = ||m_i||^2 (N C / (n_i L))^2. Rounding to integers may lengthen an honest update that was
    clipped to C; a length within what it can add counts as C itself.
    Raises `RuleError` when there is none.
    """
    if not measured:
        msg = "none of the sealed submissions can be used: each is too long to be measured, or not what an update is"
        raise RuleError(msg)
    unit = max(1, math.isqrt(int(reference @ reference)))
    length = reference_length if reference.any() else 0
    squares, inners = [], []
    for site, item in measured.items():
        scale = encoding.levels * rows[site]
        square = item.square * encoding.total_rows**2 * STATISTIC_ONE // scale**2
        within = item.square <= largest_square(encoding.levels * rows[site] // encoding.total_rows + 1, reference.size)
        squares.append(min(square, STATISTIC_ONE) if within else square)
        inners.append(item.inner * encoding.total_rows * length * STATISTIC_ONE // (scale * MICRO * unit))
    reference_square = length**2 * STATISTIC_ONE // MICRO**2
    return Statistics(
        sites=tuple(measured),
        rows=tuple(rows[site] for site in measured),
        squared_norms=tuple(squares),
        inner_products=tuple(inners),
        squared_distances=tuple(max(0, square - 2 * inner + reference_square) for square, inner in zip(squares, inners, strict=True)),
        reference_squared_norm=reference_square,
        scores=tuple(scores.get(site, 0) for site in measured),
    )


def largest_square(length: int, parameters: int) -> int:
    """The largest ||m||^2 of an honest vector whose length before rounding is at most `length`: ``l^2 + 12 l + d / 4 + 6 sqrt(d)``.

    m = v + e with independent e_j of mean 0 within an interval of length 1: by Hoeffding 2 <v, e> exceeds 12 l, and ||e||^2, of mean at
    most d / 4, exceeds that by 6 sqrt(d), with probability below e^-72 each.
    """
    return length**2 + ROUNDING_DEVIATIONS * length + parameters // 4 + ROUNDING_DEVIATIONS * math.isqrt(parameters) // 2 + 1


def weighted_update(total: Vector, encoding: Encoding, divisor: int) -> FloatVector:
    """The step that a weighted sum is, float32 (d,): ``S (C / L) N WEIGHT_ONE / divisor``, one float64 product per entry.

    total: the opened sum in units of one, int32 (d,).  With all weights `WEIGHT_ONE` it is `mean_update`, bit for bit.
    Raises `SpoiltSumError` for entries beyond the encoding's bound.
    """
    check_magnitude(total[:], encoding.bound, "the opened sum")
    factor = (encoding.clip_norm_micro * encoding.total_rows * WEIGHT_ONE) / (MICRO * encoding.levels * divisor)
    found: FloatVector = (total[:].astype(np.float64) * factor).astype(np.float32)
    return found

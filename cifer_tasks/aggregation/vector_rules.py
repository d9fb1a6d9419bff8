"""Byzantine-robust rules on updates in the clear, as published, and weighted by rows.

Each takes updates, float64 (n, d), and rows, int64 (n,), and returns float64 (d,). With ``weighted=True``, the default, a site counts by
its rows, as in FedAvg; with ``weighted=False`` every site counts once, which is how most of these were published. What a rule
withstands is then a share of rows, or of sites. Choosing which sites to keep always counts sites: rows are the sites' own word.

Every rule raises `RuleError` when there are fewer updates than its theorem asks for. Ties go to the lower index, so a set in site order
has one answer. Sums follow the order of the sites.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cifer_tasks.aggregation.rules import Byzantine, DoubleMatrix, DoubleVector, IntVector
from cifer_tasks.errors import RuleError

Indices = npt.NDArray[np.intp]

WEISZFELD_STEPS: Final = 500
WEISZFELD_TOLERANCE: Final = 1e-8
"""Relative to the weighted median distance from the start."""


def median(updates: DoubleMatrix, rows: IntVector, *, weighted: bool = True) -> DoubleVector:
    """Coordinate-wise median (Yin et al. 2018, Definition 1); weighted: the lower weighted median, ``min {v : W(x <= v) >= W / 2}``.

    An even count without weights takes the middle of the two middle values. Withstands less than half of the rows, or of the sites.
    """
    if not weighted:
        middle: DoubleVector = np.median(updates, axis=0)
        return middle
    order = np.argsort(updates, axis=0, kind="stable")
    below = np.cumsum(rows[order], axis=0)
    position = np.argmax(2 * below >= rows.sum(), axis=0)
    return _pick(updates, order, position)


def trimmed_mean(updates: DoubleMatrix, rows: IntVector, *, byzantine: Byzantine = 1, weighted: bool = True) -> DoubleVector:
    """Coordinate-wise mean without the f lowest and f highest values (Yin et al. 2018, Definition 2). Needs n >= 2 f + 1."""
    _require(updates, 2 * byzantine + 1, f"trimmed_mean with byzantine={byzantine}")
    order = np.argsort(updates, axis=0, kind="stable")[byzantine : len(updates) - byzantine]
    kept = np.take_along_axis(updates, order, axis=0)
    weights = _weights(rows, weighted)[order]
    trimmed: DoubleVector = (weights * kept).sum(axis=0) / weights.sum(axis=0)
    return trimmed


def multi_krum(
    updates: DoubleMatrix,
    rows: IntVector,
    *,
    byzantine: Byzantine = 1,
    keep: Annotated[int, Field(ge=0)] = 0,
    weighted: bool = True,
) -> DoubleVector:
    """The mean of the `keep` updates with the lowest Krum score (Blanchard et al. 2017, section 4); 0: n - f.  keep=1 is Krum.

    score(i): the sum of squared distances to the n - f - 2 nearest other updates. Needs n >= 2 f + 3.
    """
    _require(updates, 2 * byzantine + 3, f"multi_krum with byzantine={byzantine}")
    count = keep or len(updates) - byzantine
    _require(updates, count, f"multi_krum with keep={keep}")
    chosen = np.sort(np.argsort(_krum_scores(squared_distances(updates), byzantine), kind="stable")[:count])
    return _mean(updates[chosen], _weights(rows, weighted)[chosen])


def bulyan(updates: DoubleMatrix, rows: IntVector, *, byzantine: Byzantine = 1, weighted: bool = True) -> DoubleVector:
    """Bulyan over Krum (El Mhamdi et al. 2018). Needs n >= 4 f + 3.

    Krum picks n - 2 f updates one by one, each from those left over; then, per coordinate, the n - 4 f values nearest to the
    median of those are averaged. Where so few are left over that n - f - 2 is below 1, the one nearest neighbour counts.
    """
    _require(updates, 4 * byzantine + 3, f"bulyan with byzantine={byzantine}")
    distances = squared_distances(updates)
    left, chosen = list(range(len(updates))), []
    for _ in range(len(updates) - 2 * byzantine):
        inside = np.array(left)
        best = left[int(np.argmin(_krum_scores(distances[np.ix_(inside, inside)], byzantine)))]
        left.remove(best)
        chosen.append(best)
    kept = np.sort(np.array(chosen))
    selected, weights = updates[kept], _weights(rows, weighted)[kept]
    nearest = np.argsort(np.abs(selected - np.median(selected, axis=0)), axis=0, kind="stable")[: len(updates) - 4 * byzantine]
    values, weighing = np.take_along_axis(selected, nearest, axis=0), weights[nearest]
    combined: DoubleVector = (weighing * values).sum(axis=0) / weighing.sum(axis=0)
    return combined


def geometric_median(updates: DoubleMatrix, rows: IntVector, *, weighted: bool = True) -> DoubleVector:
    """The point with the least weighted sum of distances to the updates: RFA (Pillutla et al. 2022) by Weiszfeld's iteration.

    Starts at the update with the least such sum; an update that is reached is left by the rule of Vardi & Zhang (2000), so the iteration
    cannot stick to one that is not the minimum. Ends when a step is below 1e-8 of the weighted median distance, which outliers cannot
    stretch. The point is a mean of the updates, so the work is done in the at most n dimensions that they span. Withstands less than
    half of the rows, or sites.
    """
    weights = _weights(rows, weighted)
    sums = (weights * np.sqrt(squared_distances(updates))).sum(axis=1)
    start = int(np.argmin(sums))
    away = updates - updates[start]
    spanned = np.asarray(np.linalg.qr(away.T, mode="r")).T if away.shape[1] > len(away) else away
    scale = float(median(np.sqrt(np.square(spanned).sum(axis=1))[:, None], weights.astype(np.int64))[0])
    point, shares = np.zeros(spanned.shape[1]), np.zeros(len(updates))
    shares[start] = 1.0
    for _ in range(WEISZFELD_STEPS if scale > 0 else 0):
        distances = np.sqrt(np.square(spanned - point).sum(axis=1))
        here = distances <= WEISZFELD_TOLERANCE * scale
        pull = np.divide(weights, distances, out=np.zeros(len(updates)), where=~here)
        resultant = float(np.sqrt(np.square(pull @ (spanned - point)).sum()))
        stay = min(1.0, float(weights[here].sum()) / resultant) if resultant > 0 else 1.0
        shares = (1 - stay) * pull / pull.sum() + stay * shares if stay < 1 else shares
        moved = shares @ spanned
        step = float(np.sqrt(np.square(moved - point).sum()))
        point = moved
        if step <= WEISZFELD_TOLERANCE * scale:
            break
    return _mean(updates, shares)


def flame(updates: DoubleMatrix, rows: IntVector, *, noise: Annotated[float, Field(ge=0.0)] = 0.0, weighted: bool = True) -> DoubleVector:
    """FLAME (Nguyen et al. 2022, algorithm 1): keep the majority cluster by cosine distance, clip to the median norm, add noise.

    HDBSCAN with clusters of at least n // 2 + 1 members finds at most one cluster; where it finds none, everything is kept.
    noise: lambda, the deviation of Gaussian noise over the median norm; drawn from a stream seeded with SHA-256 of the updates, so that
    it can be computed again: it blurs backdoors and is no privacy mechanism. Needs n >= 3.
    """
    from sklearn.cluster import HDBSCAN

    _require(updates, 3, "flame")
    norms = np.sqrt(np.square(updates).sum(axis=1))
    directions = np.divide(updates, norms[:, None], out=np.zeros_like(updates), where=norms[:, None] > 0)
    cosine = np.clip(1.0 - directions @ directions.T, 0.0, 2.0)
    np.fill_diagonal(cosine, 0.0)
    clusters = HDBSCAN(min_cluster_size=len(updates) // 2 + 1, min_samples=1, metric="precomputed", allow_single_cluster=True, copy=True)
    labels = clusters.fit_predict(cosine)
    kept = np.flatnonzero(labels == 0) if (labels == 0).any() else np.arange(len(updates))
    bound = float(np.median(norms))
    scale = np.minimum(1.0, np.divide(bound, norms, out=np.ones_like(norms), where=norms > 0))
    combined = _mean((scale[:, None] * updates)[kept], _weights(rows, weighted)[kept])
    if noise == 0.0:
        return combined
    seed = hashlib.sha256(b"cifer/flame-noise/1" + np.ascontiguousarray(updates, dtype="<f8").tobytes()).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))
    blurred: DoubleVector = combined + stream.normal(0.0, noise * bound, combined.size)
    return blurred


def centered_clipping(
    updates: DoubleMatrix,
    rows: IntVector,
    *,
    radius: Annotated[float, Field(gt=0.0)],
    steps: Annotated[int, Field(ge=1, le=100)] = 3,
    weighted: bool = True,
) -> DoubleVector:
    """``v <- v + sum w_i (x_i - v) min(1, tau / ||x_i - v||)`` (Karimireddy et al. 2021), from v = 0, `steps` times.

    radius: tau. From zero, the round's base model, because a rule has no memory of the step before; one step moves v by at most tau.
    """
    weights = _weights(rows, weighted) / _weights(rows, weighted).sum()
    center = np.zeros(updates.shape[1])
    for _ in range(steps):
        away = updates - center
        norms = np.sqrt(np.square(away).sum(axis=1))
        scale = np.minimum(1.0, np.divide(radius, norms, out=np.ones_like(norms), where=norms > 0))
        center = center + ((weights * scale)[:, None] * away).sum(axis=0)
    return center


def squared_distances(updates: DoubleMatrix) -> DoubleMatrix:
    """||x_i - x_j||^2, float64 (n, n), from differences: exact zeros for equal updates, where the Gram form cancels."""
    found = np.zeros((len(updates), len(updates)))
    for row, update in enumerate(updates):
        found[row] = np.square(updates - update).sum(axis=1)
    return found


def _krum_scores(distances: DoubleMatrix, byzantine: int) -> DoubleVector:
    """The sum of the n - f - 2 least squared distances to others, at least one of them; float64 (n,)."""
    neighbours = max(1, len(distances) - byzantine - 2)
    others = np.sort(distances + np.diag(np.full(len(distances), -1.0)), axis=1)[:, 1:]  # the update itself sorts first, at -1
    scores: DoubleVector = others[:, :neighbours].sum(axis=1)
    return scores


def _weights(rows: IntVector, weighted: bool) -> DoubleVector:
    return rows.astype(np.float64) if weighted else np.ones(len(rows))


def _mean(updates: DoubleMatrix, weights: DoubleVector) -> DoubleVector:
    combined: DoubleVector = (weights[:, None] * updates).sum(axis=0) / weights.sum()
    return combined


def _pick(updates: DoubleMatrix, order: Indices, position: Indices) -> DoubleVector:
    """The value of rank `position` in each coordinate."""
    picked: DoubleVector = np.take_along_axis(updates, np.take_along_axis(order, position[None, :], axis=0), axis=0)[0]
    return picked


def _require(updates: DoubleMatrix, needed: int, rule: str) -> None:
    if len(updates) < needed:
        msg = (
            f"aggregation.rule={rule} needs at least {needed} updates, there are {len(updates)}; lower its argument or raise sites.minimum"
        )
        raise RuleError(msg)

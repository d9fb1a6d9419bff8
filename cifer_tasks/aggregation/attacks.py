"""Attacks on aggregation, as published. Only for tests and `cifer bench robustness`: an import contract keeps everything else away.

An attack is what the malicious sites of a round do together. They may train on poisoned rows (`poison`), and may replace what they
trained by something computed from it and from the honest updates (`craft`): an attacker that knows everybody's updates is the strongest,
and is what the papers assume. They may also lie about how many rows they have (`claimed_rows`), and bide their time (`share`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import numpy as np

from cifer_tasks.aggregation.rules import DoubleMatrix, DoubleVector


@dataclass(frozen=True, slots=True)
class Scene:
    """What the malicious sites of one round know.

    honest: the other sites' updates, float64 (h, d), h >= 1.  own: what they trained themselves, on poisoned rows where the attack poisons,
    float64 (m, d), m >= 1.  last_step: what the model moved by in the round before, float64 (d,), zero in the first.
    """

    honest: DoubleMatrix
    own: DoubleMatrix
    last_step: DoubleVector
    random: np.random.Generator


Craft = Callable[[Scene], DoubleMatrix]
Share = Callable[[float], float]
"""From how much of the training has passed, 0 to below 1, to the share of its rows that a malicious site poisons in a round."""


def always(_passed: float) -> float:
    """All rows, from the first round on."""
    return 1.0


def sleeping(passed: float) -> float:
    """None for the first half of the training, then all: trust is earned first and spent afterwards."""
    return 0.0 if passed < 0.5 else 1.0


def drifting(passed: float) -> float:
    """A few more in every round, evenly from none to all: no round differs much from the one before."""
    return passed


@dataclass(frozen=True, slots=True)
class Attack:
    """poison: what is done to the malicious sites' rows: `flip` makes label y classes - 1 - y, `trigger` marks half and labels those last.

    craft: what they submit, float64 (m, d); None: what they trained.  claimed_rows: what they multiply their rows by.
    share: of their rows that are poisoned; in a round of which it says 0 they do what honest sites do.
    """

    poison: Literal["", "flip", "trigger"] = ""
    craft: Craft | None = None
    claimed_rows: int = 1
    share: Share = always


def sign_flip(scene: Scene) -> DoubleMatrix:
    """-4 times what they trained (RSA, Li et al. 2019)."""
    return -4.0 * scene.own


def noise(scene: Scene) -> DoubleMatrix:
    """Gaussian noise, ten times as long as what they trained."""
    drawn = scene.random.normal(size=scene.own.shape)
    lengths = np.linalg.norm(scene.own, axis=1) / np.linalg.norm(drawn, axis=1)
    return np.asarray(10.0 * lengths[:, None] * drawn)


def scaling(scene: Scene) -> DoubleMatrix:
    """What they trained, times 1000."""
    return 1000.0 * scene.own


def replacement(scene: Scene) -> DoubleMatrix:
    """What they trained, times n / m, so that the mean moves to their model (Bagdasaryan et al. 2020, Eq. 3, for m attackers)."""
    return (len(scene.honest) + len(scene.own)) / len(scene.own) * scene.own


def alie(scene: Scene) -> DoubleMatrix:
    """A Little Is Enough: mean - z deviation per coordinate, with the largest z that hides (Baruch et al. 2019).

    z is the normal quantile of (n - m - s) / (n - m), where s = n // 2 + 1 - m honest sites have to be further out.
    """
    n, m = len(scene.honest) + len(scene.own), len(scene.own)
    share = (n - m - max(n // 2 + 1 - m, 1)) / (n - m)
    z = NormalDist().inv_cdf(share) if 0 < share < 1 else 0.0
    return _all(scene, scene.honest.mean(axis=0) - max(z, 0.0) * scene.honest.std(axis=0))


def inner_product(epsilon: float) -> Craft:
    """Inner-product manipulation: ``-epsilon`` times the honest mean (Xie et al. 2020)."""

    def craft(scene: Scene) -> DoubleMatrix:
        return _all(scene, -epsilon * scene.honest.mean(axis=0))

    return craft


def min_max(scene: Scene) -> DoubleMatrix:
    """mean - gamma deviation with the largest gamma that is no further from any honest update than two of those are from each other.

    Shejwalkar & Houmansadr 2021, with the deviation as the perturbation.
    """
    constant, linear, square = _parabolas(scene)
    return _furthest(scene, constant, linear, square, float(_squared_distances(scene.honest).max()))


def min_sum(scene: Scene) -> DoubleMatrix:
    """As `min_max`, with the sum of squared distances to the honest updates no larger than any honest update's (ibid.)."""
    constant, linear, square = _parabolas(scene)
    limit = float(_squared_distances(scene.honest).sum(axis=1).max())
    return _furthest(scene, constant.sum(keepdims=True), linear.sum(keepdims=True), len(constant) * square, limit)


def colluding(scene: Scene) -> DoubleMatrix:
    """All send the same: -100 times the mean of what they trained. Weights over the sum of distances take two such for normal."""
    return _all(scene, -100.0 * scene.own.mean(axis=0))


def free_rider(scene: Scene) -> DoubleMatrix:
    """The last step of the model with noise of a hundredth of its entries' deviation, and no training (Fraboni et al. 2021)."""
    blur = 0.01 * float(scene.last_step.std())
    return scene.last_step + scene.random.normal(scale=blur, size=scene.own.shape) if blur > 0 else np.zeros_like(scene.own)


def _all(scene: Scene, vector: DoubleVector) -> DoubleMatrix:
    return np.tile(vector, (len(scene.own), 1))


def _squared_distances(updates: DoubleMatrix) -> DoubleMatrix:
    return np.stack([np.square(updates - update).sum(axis=1) for update in updates])


def _parabolas(scene: Scene) -> tuple[DoubleVector, DoubleVector, float]:
    """a, b (h,) and c with ``||x_i - (mean - gamma deviation)||^2 = a_i + 2 b_i gamma + c gamma^2``."""
    deviation = scene.honest.std(axis=0)
    away = scene.honest - scene.honest.mean(axis=0)
    return np.square(away).sum(axis=1), away @ deviation, float(deviation @ deviation)


def _furthest(scene: Scene, constant: DoubleVector, linear: DoubleVector, square: float, limit: float) -> DoubleMatrix:
    """mean - gamma deviation for the largest gamma at which every parabola is within `limit`; gamma 0 where the honest do not differ."""
    if square == 0.0:
        return _all(scene, scene.honest.mean(axis=0))
    roots = (-linear + np.sqrt(np.maximum(linear**2 - square * (constant - limit), 0.0))) / square
    return _all(scene, scene.honest.mean(axis=0) - max(float(roots.min()), 0.0) * scene.honest.std(axis=0))


ATTACKS: Final[dict[str, Attack]] = {
    "label_flip": Attack("flip"),
    "sign_flip": Attack(craft=sign_flip),
    "noise": Attack(craft=noise),
    "scaling": Attack("flip", scaling),
    "backdoor": Attack("trigger", replacement),
    "alie": Attack(craft=alie),
    "ipm_0.1": Attack(craft=inner_product(0.1)),
    "ipm_100": Attack(craft=inner_product(100.0)),
    "min_max": Attack(craft=min_max),
    "min_sum": Attack(craft=min_sum),
    "colluding": Attack(craft=colluding),
    "free_rider": Attack(craft=free_rider),
    "row_liar": Attack("flip", claimed_rows=20),
    "sleeper": Attack("flip", share=sleeping),
    "drift": Attack("flip", share=drifting),
}

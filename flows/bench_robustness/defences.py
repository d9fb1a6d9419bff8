"""Every rule as the simulation sees it: what reaches the aggregator in a round, and the step of the model that comes of it.

Rules that a round computes on ciphertexts are simulated by their formulas in the clear, on the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cifer_tasks.aggregation.rules import RULES, DoubleMatrix, DoubleVector, IntVector, resolve
from flows.bench_robustness.worlds import World


@dataclass(frozen=True, slots=True)
class Received:
    """What the aggregator has in one round. rows: as claimed, int64 (S,).  updates: float64 (S, d).  random: of this cell and round."""

    sites: IntVector
    rows: IntVector
    updates: DoubleMatrix
    reference: DoubleVector
    random: np.random.Generator


Step = Callable[[Received], DoubleVector]


@dataclass(frozen=True, slots=True)
class Defence:
    """scheme: the encryption under which a round can compute it.  begin: a fresh one for one training, with no memory of others."""

    name: str
    scheme: str
    begin: Callable[[], Step]


def defences(world: World) -> dict[str, Defence]:
    """Every rule with the arguments of this comparison: none is told how many attackers there are.

    Rules that take f are given 30% of the sites in a round, or as much as their theorem allows.
    """
    asked = world.asked
    byzantine = {"trimmed_mean": 3 * asked // 10, "multi_krum": min(3 * asked // 10, (asked - 3) // 2), "bulyan": (asked - 3) // 4}
    args: Mapping[str, dict[str, Any]] = {name: {"byzantine": value} for name, value in byzantine.items()} | {
        "centered_clipping": {"radius": world.clip_norm / 2}
    }
    return {name: Defence(name, "any" if name == "mean" else "plain", partial(_vectors, name, args.get(name, {}))) for name in RULES}


def _vectors(name: str, args: Mapping[str, Any]) -> Step:
    rule = resolve(name, args, "plain")
    return lambda received: rule.combine(received.updates, received.rows)

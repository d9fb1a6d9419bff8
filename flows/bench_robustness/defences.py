"""Every rule as the simulation sees it: what reaches the aggregator in a round, and the step of the model that comes of it.

Submissions are the integers that sites encrypt. Every encryption opens sums of them exactly, so a rule on ciphertexts is simulated by what
a round computes once they are opened: the same functions on the same integers, without the ciphertexts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from cifer_tasks.aggregation.clear import bucket_update
from cifer_tasks.aggregation.plan import bucketed
from cifer_tasks.aggregation.rules import RULES, WEIGHT_ONE, DoubleMatrix, DoubleVector, IntVector, resolve
from cifer_tasks.aggregation.weighing import Weighed, decide, weighted_update
from cifer_tasks.config import SMALLEST_BUCKET
from cifer_tasks.encryption.encoding import MICRO, Encoding
from cifer_tasks.encryption.statistics import Measurement, Query, Weighting, as_reference, longest_of, measurement
from cifer_tasks.errors import RuleError
from flows.bench_robustness.worlds import World
from ledger import SiteStatistics
from ledger.state.entries import Reputation
from ledger.state.reputation import ONE, UNRELIABLE, Evidence, judged, qualities, uninfluenced
from ledger.state.view import unjudged


@dataclass(frozen=True, slots=True)
class Received:
    """What the aggregator has in one round. sites: ascending, int64 (S,).  rows: as claimed, int64 (S,).  submitted: int64 (S, d).

    reference: what the aggregator's own root set would change; last_step: what the model last moved by; float64 (d,).
    random: of this cell and round, after the seal.
    """

    sites: IntVector
    rows: IntVector
    submitted: IntVector
    encoding: Encoding
    reference: DoubleVector
    last_step: DoubleVector
    random: np.random.Generator

    @property
    def updates(self) -> DoubleMatrix:
        """The updates that the integers stand for, float64 (S, d)."""
        encoding = self.encoding
        grid = encoding.clip_norm * encoding.total_rows / (encoding.levels * self.rows.astype(np.float64))
        return self.submitted * grid[:, None]


class Step(Protocol):
    """A rule during one training, with what it remembers.  suspended: sites whose submissions it does not take at present."""

    @property
    def suspended(self) -> frozenset[int]:
        """Their numbers."""

    def __call__(self, received: Received) -> DoubleVector:
        """The step of the model, float64 (d,). Raises `RuleError` or `IntegrityError` for a round without one."""


@dataclass(frozen=True, slots=True)
class Forgetful:
    """A rule that looks at one round alone."""

    function: Callable[[Received], DoubleVector]
    suspended: frozenset[int] = frozenset()

    def __call__(self, received: Received) -> DoubleVector:
        """See `Step`."""
        return self.function(received)


@dataclass(frozen=True, slots=True)
class Defence:
    """scheme: the encryption under which a round can compute it.  begin: a fresh one for one training, with no memory of others."""

    name: str
    scheme: str
    begin: Callable[[], Step]


FLAME_NOISES: Final = (0.001, 0.003, 0.01, 0.03)
STATISTICS: Final = ("norm_clip", "non_poisoning_rate", "fltrust", "bygars", "score_gate")
BUCKETS: Final = {"buckets_median": "median", "buckets_geometric_median": "geometric_median", "buckets_trimmed_mean": "trimmed_mean"}


def defences(world: World) -> dict[str, Defence]:
    """Every rule with the arguments of this comparison: none is told how many attackers there are.

    Rules that take f are given 30% of the sites in a round, or as much as their theorem allows.
    """
    asked = world.asked
    byzantine = {"trimmed_mean": 3 * asked // 10, "multi_krum": min(3 * asked // 10, (asked - 3) // 2), "bulyan": (asked - 3) // 4}
    args: Mapping[str, dict[str, Any]] = {name: {"byzantine": value} for name, value in byzantine.items()} | {
        "centered_clipping": {"radius": world.clip_norm / 2}
    }
    vectors = [name for name in RULES if name not in STATISTICS]
    found = [Defence(name, "any" if name == "mean" else "plain", partial(_vectors, name, args.get(name, {}))) for name in vectors]
    found += [Defence(name, "ckks", partial(_Statistics, name, {})) for name in STATISTICS]
    found += [Defence(f"{name}_reputation", "ckks", partial(_Statistics, name, {}, reputed=True)) for name in ("norm_clip", "score_gate")]
    found.append(Defence("score_gate_no_root", "ckks", partial(_Statistics, "score_gate", {}, rooted=False)))
    found.append(Defence("non_poisoning_rate_unclipped", "ckks", partial(_Statistics, "non_poisoning_rate", {"clip": False})))
    found += [Defence(name, "threshold", partial(_buckets, rule)) for name, rule in BUCKETS.items()]
    return {item.name: item for item in found}


def noisy() -> dict[str, Defence]:
    """FLAME with noise, by its name and lambda: `noise` times the median length, as deviation."""
    return {
        f"flame {noise:g}": Defence(f"flame {noise:g}", "plain", partial(_vectors, "flame", {"noise": noise})) for noise in FLAME_NOISES
    }


def _vectors(name: str, args: Mapping[str, Any]) -> Step:
    rule = resolve(name, args, "plain")
    return Forgetful(lambda received: rule.combine(received.updates, received.rows))


@dataclass(slots=True)
class _Statistics:
    """A rule on statistics, with the scores it has left so far. rooted: the reference is the root set's, else the last step.

    reputed: the ledger's reputation scales influence and suspends, judged by the functions that the ledger judges by.
    """

    name: str
    args: Mapping[str, Any]
    rooted: bool = True
    reputed: bool = False
    scores: dict[str, int] = field(default_factory=dict)
    reputations: dict[str, Reputation] = field(default_factory=dict)

    @property
    def suspended(self) -> frozenset[int]:
        """The numbers of unreliable sites."""
        return frozenset(int(name.removeprefix(_PREFIX)) for name, item in self.reputations.items() if item.level == UNRELIABLE)

    def __call__(self, received: Received) -> DoubleVector:
        """See `Step`."""
        taking_part = ~np.isin(received.sites, sorted(self.suspended))
        if not taking_part.any():
            msg = "every site that was asked is suspended"
            raise RuleError(msg)
        received = replace(
            received, sites=received.sites[taking_part], rows=received.rows[taking_part], submitted=received.submitted[taking_part]
        )
        names = _names(received.sites)
        rows = dict(zip(names, map(int, received.rows), strict=True))
        encoding, direction = received.encoding, received.reference if self.rooted else received.last_step
        reference = as_reference(direction)
        query = Query(reference, b"", longest_of(encoding.levels))
        # Vectors of integers pass the probe: it is against ciphertexts that hold none.
        numbers = zip((received.submitted.astype(np.float64) ** 2).sum(axis=1), received.submitted @ reference, strict=True)
        measured = {name: measurement(float(square), float(inner), 0j, query) for name, (square, inner) in zip(names, numbers, strict=True)}
        length = round(float(np.linalg.norm(direction)) / encoding.clip_norm * MICRO)
        rule = resolve(self.name, self.args, "ckks")
        standings = {name: self.reputations.get(name, unjudged(name)).score if self.reputed else ONE for name in names}
        decision = decide(rule, measured, rows, self.scores, standings, reference, length, encoding)
        self.scores |= {item.site: item.score for item in decision.sites}
        if self.reputed:
            self._judge(decision.sites, measured, standings)
        weights = np.array([item.weight for item in decision.sites], dtype=np.int64)
        total = Weighting(tuple(map(int, weights)), WEIGHT_ONE).rounded(weights @ received.submitted)
        return weighted_update(total, encoding, decision.divisor).astype(np.float64)

    def _judge(self, weighed: Sequence[Weighed], measured: Mapping[str, Measurement], standings: Mapping[str, int]) -> None:
        """One round's judgement of those that took part and of those that are kept out, as rules Y5 to Y13 have it."""
        statistics = [SiteStatistics(name, item.square, item.inner, item.fault) for name, item in measured.items()]
        weights = [uninfluenced(item.weight, standings[item.site]) for item in weighed]
        found = {
            item.site: Evidence(submitted=True, sealed=True, released=True, excused=False, quality=quality)
            for item, quality in zip(weighed, qualities(weights, [item.score for item in weighed], statistics), strict=True)
        }
        kept_out = Evidence(submitted=False, sealed=False, released=False, excused=False)
        found |= {name: kept_out for name, item in self.reputations.items() if item.level == UNRELIABLE}
        for name, evidence in found.items():
            self.reputations[name], _ = judged(self.reputations.get(name, unjudged(name)), evidence, accepted=True)


_PREFIX: Final = "site-"


def _names(sites: IntVector) -> list[str]:
    return [f"{_PREFIX}{site:04d}" for site in sites]


def _buckets(name: str) -> Step:
    """Random buckets, whose sums are all that opens, and a rule across their means."""
    rule = resolve(name, {}, "threshold", bucketed=True)

    def step(received: Received) -> DoubleVector:
        names = _names(received.sites)
        at = {name: place for place, name in enumerate(names)}
        parts = [[at[name] for name in part.sites] for part in bucketed(names, SMALLEST_BUCKET, received.random.bytes(32)).parts]
        sums = [received.submitted[part].sum(axis=0) for part in parts]
        rows = [{names[place]: int(received.rows[place]) for place in part} for part in parts]
        return bucket_update(rule, sums, rows, received.encoding).astype(np.float64)

    return Forgetful(step)

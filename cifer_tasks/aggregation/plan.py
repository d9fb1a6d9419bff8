"""What of a sealed set is opened: one sum, one weighted sum, or the sums of random buckets."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

from cifer_tasks.aggregation.rules import WEIGHT_ONE
from cifer_tasks.aggregation.weighing import Decision
from cifer_tasks.encryption.statistics import Weighting
from cifer_tasks.records import Part, Plan, SiteWeighed

_BUCKET_DOMAIN: Final = b"cifer/bucket/1:"


def whole(sites: Sequence[str]) -> Plan:
    """The plain sum over all sealed sites."""
    return Plan((_part(sites, Weighting.plain(len(sites))),))


def weighted(decision: Decision) -> Plan:
    """The one sum that a rule's weights make; sites without a weight are not in it."""
    kept = [item for item in decision.sites if item.weight]
    weighting = Weighting.of([item.weight for item in kept], WEIGHT_ONE)
    weights = tuple(SiteWeighed(item.site, item.weight, item.score, item.reason) for item in decision.sites)
    return Plan((_part([item.site for item in kept], weighting),), weights, decision.divisor)


def bucketed(sites: Sequence[str], size: int, seed: bytes) -> Plan:
    """Buckets of `size` sites or more, dealt by SHA-256 of a seed that nobody knew before the set was sealed (Karimireddy et al. 2022).

    sites: ascending.  With n sites there are ``max(1, n // size)`` buckets, whose sizes differ by at most one.
    """
    dealt = sorted(sites, key=lambda site: hashlib.sha256(_BUCKET_DOMAIN + seed + site.encode()).digest())
    count = max(1, len(dealt) // size)
    parts = sorted(sorted(dealt[number::count]) for number in range(count))
    return Plan(tuple(_part(part, Weighting.plain(len(part))) for part in parts))


def _part(sites: Sequence[str], weighting: Weighting) -> Part:
    return Part(tuple(sites), weighting.factors, weighting.unit)

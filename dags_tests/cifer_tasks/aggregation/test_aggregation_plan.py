"""What of a sealed set is opened: buckets are a partition, as random as their seed, and hide a site among the honest."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifer_tasks.aggregation import bucket_update, mean_update, resolve
from cifer_tasks.aggregation.plan import bucketed, weighted, whole
from cifer_tasks.aggregation.weighing import Decision, Weighed
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.errors import ConfigError


def names(count: int) -> list[str]:
    return [f"site-{number:03}" for number in range(count)]


@given(st.integers(2, 120), st.integers(3, 12), st.binary(min_size=32, max_size=32))
def test_buckets_are_a_partition_with_no_small_part(count: int, size: int, seed: bytes) -> None:
    """Each sealed site is in exactly one bucket, none is smaller than asked for, so no two opened sums differ by one site."""
    parts = [part.sites for part in bucketed(names(count), size, seed).parts]
    assert sorted(site for part in parts for site in part) == names(count)
    assert len(parts) == max(1, count // size)
    assert min(map(len, parts)) >= min(size, count)
    assert parts == sorted(tuple(sorted(part)) for part in parts)


def test_buckets_follow_from_the_seed_and_from_nothing_else() -> None:
    """The same seed gives the same buckets, another one others; who names the sites, and in which order they came, has no say."""
    first = bucketed(names(30), 5, bytes(32))
    assert first == bucketed(names(30), 5, bytes(32))
    assert first != bucketed(names(30), 5, b"\x01" + bytes(31))


def test_every_two_sites_meet_as_often_as_chance_has_it() -> None:
    """Over 2,000 seeds any pair of 12 sites shares a bucket of four with frequency 3/11, within five deviations."""
    rounds, together = 2000, Counter[tuple[str, str]]()
    for number in range(rounds):
        for part in bucketed(names(12), 4, sha256(bytes([number % 256, number // 256])).digest()).parts:
            together.update((a, b) for a in part.sites for b in part.sites if a < b)
    expected = 3 / 11
    allowed = 5 * (expected * (1 - expected) / rounds) ** 0.5
    assert len(together) == 66
    assert max(abs(found / rounds - expected) for found in together.values()) < allowed


def test_one_dishonest_site_of_nine_spoils_one_bucket_and_the_median_stays_with_the_others() -> None:
    """Nine sites in three buckets: a site that submits ten times its update the wrong way moves the mean, not the median of bucket means.

    Two dishonest sites can spoil two buckets of three, and then the median is theirs: what buckets defend against is few attackers.
    """
    rng = np.random.default_rng(4)
    rows = dict.fromkeys(names(9), 100)
    encoding = Encoding.of(16, 1.0, rows)
    common = rng.normal(size=50) / 60
    updates = {site: common + rng.normal(size=50) / 400 for site in rows}
    encoded = {site: encoding.encode(update.astype(np.float32), 100, rounding_seed(1, 1, site))[0] for site, update in updates.items()}
    rule = resolve("median", {}, "threshold", bucketed=True)

    def step(dishonest: list[str], seed: bytes) -> tuple[np.ndarray, np.ndarray]:
        submitted = {site: -10 * values if site in dishonest else values for site, values in encoded.items()}
        parts = [part.sites for part in bucketed(names(9), 3, seed).parts]
        sums = [np.sum([submitted[site] for site in part], axis=0) for part in parts]
        return mean_update(np.sum(sums, axis=0), encoding, rows), bucket_update(
            rule, sums, [{site: 100 for site in part} for part in parts], encoding
        )

    for number in range(10):
        mean, median = step(["site-004"], bytes([number]) * 32)
        assert np.linalg.norm(mean - common) > 5 * np.linalg.norm(median - common)
    apart = next(
        seed
        for seed in (bytes([n]) * 32 for n in range(99))
        if not any({"site-000", "site-008"} <= set(p.sites) for p in bucketed(names(9), 3, seed).parts)
    )
    assert np.linalg.norm(step(["site-000", "site-008"], apart)[1] - common) > np.linalg.norm(common)


def test_plans_of_sums_and_weights() -> None:
    """A plain sum is one part in which each counts one; a weighted one leaves out the sites without a weight, in lowest terms."""
    assert whole(names(2)).parts[0].factors == (1, 1)
    decision = Decision((Weighed("a", 1024, 0, ""), Weighed("b", 0, 0, "too long"), Weighed("c", 512, 0, "clipped")), 99)
    plan = weighted(decision)
    assert [(part.sites, part.factors, part.unit) for part in plan.parts] == [(("a", "c"), (2, 1), 2)]
    assert (plan.divisor, [item.weight for item in plan.weights]) == (99, [1024, 0, 512])
    with pytest.raises(ConfigError, match=r"aggregation\.bucket_size"):
        resolve("mean", {}, "threshold", bucketed=True)

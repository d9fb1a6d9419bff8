"""FedBuff's discount in integers."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifer_tasks.aggregation.mean import mean_update
from cifer_tasks.aggregation.staleness import DISCOUNT_ONE, discount, in_parts
from cifer_tasks.encryption.encoding import MAXIMUM_ROWS, Encoding, rounding_seed
from cifer_tasks.errors import ConfigError


@given(st.integers(0, 10**6))
def test_the_discount_is_the_root_rounded_down(staleness: int) -> None:
    """1024 / sqrt(1 + s) to the integer below, at every s; never more than for a fresher update."""
    exact = DISCOUNT_ONE / Decimal(1 + staleness).sqrt()
    assert discount(staleness) == math.floor(exact)
    assert discount(staleness + 1) <= discount(staleness) <= DISCOUNT_ONE


def test_a_fresh_update_counts_in_full_and_no_update_is_from_the_future() -> None:
    """The values that SPEC.md's formula gives for the first few; a negative staleness raises."""
    assert [discount(staleness) for staleness in range(5)] == [1024, 724, 591, 512, 457]
    with pytest.raises(ValueError, match="no update is -1 models old"):
        discount(-1)


def test_without_late_updates_the_finer_rows_change_no_bit() -> None:
    """A run that takes late updates and gets none encodes and decodes as one that takes none: the same integers, the same mean."""
    rows = {"east": 24, "north": 7, "west": 101}
    coarse = Encoding.of(16, 2.5, rows)
    fine = in_parts(coarse)
    parts = {site: count * DISCOUNT_ONE for site, count in rows.items()}
    totals = []
    for encoding, counted in ((coarse, rows), (fine, parts)):
        draws = np.random.default_rng(3)
        encoded = [
            encoding.encode(draws.normal(size=50).astype(np.float32), counted[site], rounding_seed(1, 2, site))[0] for site in sorted(rows)
        ]
        totals.append((np.sum(encoded, axis=0), mean_update(np.sum(encoded, axis=0).astype(np.int32), encoding, counted)))
    assert np.array_equal(totals[0][0], totals[1][0]) and np.array_equal(totals[0][1], totals[1][1])


def test_more_rows_than_can_be_counted_in_parts_are_refused() -> None:
    """2^30 rows and one more: refused with what to do about it."""
    in_parts(Encoding(16, 10**6, MAXIMUM_ROWS // DISCOUNT_ONE, 2))
    with pytest.raises(ConfigError, match=r"set rounds.late: refuse"):
        in_parts(Encoding(16, 10**6, MAXIMUM_ROWS // DISCOUNT_ONE + 1, 2))

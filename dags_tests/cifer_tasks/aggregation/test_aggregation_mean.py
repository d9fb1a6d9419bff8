"""The mean update of a sealed set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.aggregation import mean_update
from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.errors import IntegrityError


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 400), min_size=1), st.integers(0, 2**32 - 1))
def test_mean_update_is_the_float_fedavg_mean(rows: dict[str, int], seed: int) -> None:
    """The slow float64 FedAvg mean, written out site by site, is matched within the documented K C N / (L n) per entry."""
    rng = np.random.default_rng(seed)
    updates = {site: rng.normal(scale=0.1, size=12).astype(np.float32) for site in rows}
    encoding = Encoding.of(24, 10.0, {**rows, "absent": 50})
    total = np.zeros(12, dtype=np.int64)
    for site, update in updates.items():
        total += encoding.encode(update, rows[site], rounding_seed(seed, 1, site))[0]
    expected = np.zeros(12)
    for site, update in updates.items():
        expected += update.astype(np.float64) * rows[site] / sum(rows.values())
    tolerance = len(rows) * 10.0 / encoding.levels * encoding.total_rows / sum(rows.values())
    assert np.abs(mean_update(total, encoding, rows) - expected).max() <= tolerance + 1e-7


def test_sets_that_cannot_be_sealed_are_refused() -> None:
    """No sites, more sites than the run has, a site without rows, more rows than the run has, a total out of bounds: each by name."""
    encoding = Encoding.of(24, 10.0, {"a": 10, "b": 20})
    zero = np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="1 to 2 sites"):
        mean_update(zero, encoding, {})
    with pytest.raises(ValueError, match="1 to 2 sites"):
        mean_update(zero, encoding, {"a": 1, "b": 1, "c": 1})
    with pytest.raises(ValueError, match="b has 0 rows"):
        mean_update(zero, encoding, {"a": 10, "b": 0})
    with pytest.raises(ValueError, match="rows has to be"):
        mean_update(zero, encoding, {"a": 10, "b": 21})
    with pytest.raises(IntegrityError, match="beyond the bound"):
        mean_update(zero + encoding.bound + 1, encoding, {"a": 10})

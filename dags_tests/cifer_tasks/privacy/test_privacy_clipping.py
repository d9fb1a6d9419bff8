"""Clipping: the norm never exceeds the bound, shorter updates are untouched, the direction stays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cifer_tasks.privacy import clip, l2_norm

VECTORS = arrays(np.float32, array_shapes(max_dims=1, max_side=50), elements=st.floats(-(2.0**120), 2.0**120, width=32))
NORMS = st.floats(1e-6, 1e6)


@settings(deadline=None)
@given(VECTORS, NORMS)
def test_clipped_norm_is_within_the_bound(update: np.ndarray, norm: float) -> None:
    """After clipping the exact norm is at most C, up to float64's last digits, for entries of any size float32 holds."""
    clipped, _ = clip(update, norm)
    assert math.sqrt(math.fsum(float(x) ** 2 for x in clipped)) <= norm * (1 + 1e-12)


@settings(deadline=None)
@given(VECTORS, NORMS)
def test_short_updates_are_untouched_and_long_ones_only_scaled(update: np.ndarray, norm: float) -> None:
    """An update within the bound comes back exactly; a longer one keeps its direction: every entry times the same factor."""
    clipped, original = clip(update, norm)
    assert original == pytest.approx(math.sqrt(math.fsum(float(x) ** 2 for x in update)), rel=1e-12)
    if original <= norm:
        assert np.array_equal(clipped, update.astype(np.float64))
    else:
        assert np.allclose(clipped * (original / norm), update, rtol=1e-12)


def test_clipping_to_float32_would_break_the_bound() -> None:
    """The mutant that returns float32 exceeds the bound for some update: the reason the result is float64."""
    rng = np.random.default_rng(0)
    updates = [rng.normal(size=64).astype(np.float32) for _ in range(50)]
    mutant = [np.asarray(clip(update, 1.0)[0], dtype=np.float32) for update in updates]
    assert any(math.sqrt(math.fsum(float(x) ** 2 for x in clipped)) > 1 + 1e-12 for clipped in mutant)


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf])
def test_bounds_that_are_no_bounds_are_refused(norm: float) -> None:
    """A clipping norm that is not a positive number is refused instead of zeroing or passing the update."""
    with pytest.raises(ValueError, match="positive number"):
        clip(np.ones(2, dtype=np.float32), norm)


@pytest.mark.parametrize(("values", "named"), [([0.0, np.nan], "nan at entry 1 of 2"), ([-np.inf, 1.0, np.nan], "-inf at entry 0 of 3")])
def test_non_finite_entries_are_named(values: list[float], named: str) -> None:
    """NaN and infinities are refused with their place."""
    with pytest.raises(ValueError, match=named):
        clip(np.array(values, dtype=np.float32), 1.0)


def test_norm_overflow_is_named() -> None:
    """Finite float64 entries whose squares overflow are refused, not clipped to zero."""
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="too large"):
        l2_norm(np.array([1e200]))

"""What tells a leak from noise in `long_run.py`: the trend of memory over rounds."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

LONG = runpy.run_path(str(Path(__file__).with_name("long_run.py")))
NOISE = st.lists(st.floats(min_value=-200, max_value=200), min_size=40, max_size=70)


@given(NOISE, st.floats(min_value=100, max_value=5000))
def test_a_leak_is_found_under_noise(noise: list[float], leak: float) -> None:
    """A leak above twice the limit is told, whatever the noise; the same noise without it is flat."""
    base = [700_000 + item for item in noise]
    assert LONG["trend"]([item + leak * number for number, item in enumerate(base)]) > LONG["LIMIT_KIB"]
    assert abs(LONG["trend"](base)) <= LONG["LIMIT_KIB"]


def test_one_spike_is_no_leak_and_the_warm_up_does_not_count() -> None:
    """A gigabyte in one round moves nothing; caches that fill in the first rounds do not either."""
    assert LONG["trend"]([100.0] * 20 + [1_000_000.0] + [100.0] * 20) == 0
    filling = [float(min(number, 30) * 1000) for number in range(100)]
    assert LONG["trend"](LONG["behind_warm_up"](filling)) == 0 and LONG["trend"](filling) >= 0
    with pytest.raises(ValueError, match="two readings"):
        LONG["trend"]([1.0])

"""`cifer bench statistics` measures what it says, on small vectors."""

from __future__ import annotations

import pytest

from flows.bench_statistics import statistics_costs


def test_the_report_measures_every_step_and_checks_what_opened() -> None:
    """Two sites of 5,000 parameters: what opens equals integer arithmetic, sums of steps are their sums, and ratios are of this run."""
    found = statistics_costs(5000, 2, repeats=1).document
    assert found["exact"] is True
    steps = ("encrypt", "measure", "open_statistics", "weighted_add", "weighted_open")
    assert all(found[f"{step}_seconds"] > 0 for step in steps)
    assert found["robust_seconds"] == sum(found[f"{step}_seconds"] for step in steps)
    assert found["robust_to_mean"] == found["robust_seconds"] / found["mean_seconds"]
    assert found["robust_to_lean_mean"] == found["robust_seconds"] / found["lean_mean_seconds"]
    assert found["after_encrypting_seconds"] == pytest.approx(found["robust_seconds"] - found["encrypt_seconds"])
    mean = found["mean_seconds"] - found["encrypt_seconds"]
    assert found["after_encrypting_to_mean"] == pytest.approx(found["after_encrypting_seconds"] / mean)
    assert found["public_context_bytes"] > 0 and found["statistics_bytes"] < 2 * 2 * found["submission_bytes"]

"""The gate, against the rule written out in fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cifer_tasks.config import Gate
from cifer_tasks.learning.gate import judge
from cifer_tasks.records import ArtifactRef, Evaluation, Measured

MODEL = ArtifactRef("model", "00" * 32, 1)
MILLIONTHS = st.integers(0, 2_000_000)


def measured(value: float, name: str = "accuracy") -> Evaluation:
    return Evaluation(MODEL, (Measured(name, value),))


@given(current=MILLIONTHS, candidate=MILLIONTHS, margin=MILLIONTHS, higher=st.booleans())
@example(current=900_000, candidate=850_000, margin=50_000, higher=True)
@example(current=300_000, candidate=350_000, margin=50_000, higher=False)
@example(current=900_000, candidate=849_999, margin=50_000, higher=True)
def test_it_rejects_exactly_what_is_worse_by_more_than_the_margin(current: int, candidate: int, margin: int, higher: bool) -> None:
    """In whole millionths, as recorded: a loss equal to the margin passes, one millionth more does not, in either direction."""
    gate = Gate(metric="accuracy", higher_is_better=higher, margin=margin / 1e6)
    reason = judge(gate, measured(current / 1e6), measured(candidate / 1e6))
    worse_by = Fraction(current - candidate if higher else candidate - current)
    assert bool(reason) == (worse_by > margin)
    if reason:
        assert f"{candidate / 1e6:.6f} is worse than the current model's {current / 1e6:.6f}" in reason
        assert len(reason) <= 500


@given(value=MILLIONTHS, margin=MILLIONTHS, higher=st.booleans())
def test_an_equal_candidate_passes(value: int, margin: int, higher: bool) -> None:
    """No margin is so small that a candidate as good as the current model is rejected."""
    gate = Gate(metric="loss", higher_is_better=higher, margin=margin / 1e6)
    assert judge(gate, measured(value / 1e6, "loss"), measured(value / 1e6, "loss")) == ""


def test_an_absent_metric_is_an_error() -> None:
    """A gate that cannot see its metric decides nothing."""
    with pytest.raises(KeyError):
        judge(Gate(metric="auc"), measured(0.5), measured(0.5))

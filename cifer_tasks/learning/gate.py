"""The gate: whether a candidate may become the current model."""

from __future__ import annotations

from cifer_tasks.config import Gate
from cifer_tasks.records import Evaluation


def judge(gate: Gate, current: Evaluation, candidate: Evaluation) -> str:
    """Why the candidate is rejected, "" when it is accepted.

    It is rejected when `gate.metric` on the held-out table is worse than the current model's by more than `gate.margin`, compared in
    whole millionths as the ledger records them. Raises `KeyError` when either was not measured.
    """
    before, after = (round(evaluation[gate.metric] * 1_000_000) for evaluation in (current, candidate))
    loss = before - after if gate.higher_is_better else after - before
    if loss <= round(gate.margin * 1_000_000):
        return ""
    return f"{gate.metric} {after / 1e6:.6f} is worse than the current model's {before / 1e6:.6f} by more than the margin {gate.margin:g}"

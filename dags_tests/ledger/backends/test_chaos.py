"""The short version of `dags_tests/ledger/chaos.py`, which people run with a thousand kills."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

CHAOS = runpy.run_path(str(Path(__file__).parents[1] / "chaos.py"), run_name="chaos")["Chaos"]


@pytest.mark.parametrize("kind", ["kill", "stop", "cut", "slow"])
def test_what_was_acknowledged_survives(tmp_path: Path, kind: str) -> None:
    """C6, C11: one of four killed, stopped, cut off or slow at a time: nothing acknowledged is lost or reordered, nobody signs twice."""
    chaos = CHAOS(tmp_path / "network", 4, seed=7)
    chaos.run(3, (kind,))
    assert chaos.done == {kind: 3}
    assert len(chaos.history.writes) > 6

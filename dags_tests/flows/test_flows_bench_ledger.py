"""`cifer bench ledger`: one JSON document whose figures belong together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, run."""
    command = [sys.executable, "-m", "flows.cli", "bench", "ledger", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=ROOT)


def test_the_benchmark_measures_each_mode() -> None:
    """Few transactions: every rate counts what was submitted, beside the limit that this run's signature checks set."""
    done = asked("--transactions", "300", "--chain", "300", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    modes = found["modes"]
    assert set(modes) == {"embedded", "one-core", "one-core-rounds", "processes", "single", "recovery", "proofs", "start"}
    for name in ("embedded", "one-core", "one-core-rounds", "processes"):
        row = modes[name]
        assert row["transactions"] >= 300 and row["blocks"] >= 1
        assert row["limit_per_second"] * found["validators"] == pytest.approx(row["verifications_per_second"])
        assert row["part_of_limit"] == pytest.approx(row["per_cpu_second"] / row["limit_per_second"])
        assert row["cpu_us_per_transaction"] * row["per_cpu_second"] == pytest.approx(1e6)
    for name in ("one-core", "one-core-rounds"):
        assert modes[name]["part_of_limit"] < 1  # nobody verifies less than it has to
    spreads = [spread for row in modes.values() for spread in row.values() if isinstance(spread, dict)]
    assert len(spreads) == 8 and all(0 < spread["least"] <= spread["p50"] <= spread["p99"] for spread in spreads)
    assert modes["start"]["transactions"] == 300 + 64


def test_an_unknown_mode_is_named() -> None:
    """A mistyped mode is a mistake of usage that lists what there is."""
    done = asked("--mode", "embeded")
    assert done.returncode == 2 and "embedded" in done.stderr and "Traceback" not in done.stderr

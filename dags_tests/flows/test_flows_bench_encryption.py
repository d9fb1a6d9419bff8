"""`cifer bench encryption`: one JSON document, every family in it, exact where exactness is promised, and smaller than NVFlare's preset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import bench_encryption

ROOT = Path(__file__).parents[2]


def test_the_benchmark_measures_every_family_in_one_run() -> None:
    """Small vectors: all families open exactly, errors are within the encoding's resolution, and threshold sends the fewest bytes."""
    asked = [sys.executable, "-m", "flows.cli", "bench", "encryption", "--params", "2e5", "--clients", "3", "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=240, check=True, cwd=ROOT)
    found = json.loads(done.stdout)
    families = found["families"]
    assert set(families) == {"threshold-16", "threshold-10", "ckks-lean", "ckks-nvflare", "plain", "nvflare"}
    assert (found["parameters"], found["clients"]) == (200_000, 3)
    for name, row in families.items():
        assert row["exact"] == (name != "nvflare")
        assert row["max_error"] < 2 ** -(9 if name == "threshold-10" else 15) * 3
        assert min(row[f"{verb}_params_per_second"] for verb in ("encrypt", "add", "open")) > 0
    assert families["threshold-16"]["bytes_per_parameter"] < 2.4 and families["threshold-10"]["bytes_per_parameter"] < 1.6
    assert families["threshold-16"]["bytes_ratio"] > 18


def test_a_family_whose_process_is_killed_costs_its_own_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when memory runs out: the others are reported, and the page says which one is missing and why."""
    alone = bench_encryption._alone
    monkeypatch.setattr(
        bench_encryption, "_alone", lambda work, *given: alone(*(os.abort,) if work is bench_encryption._nvflare else (work, *given))
    )
    report = bench_encryption.encryption_costs(200, 2, ("plain", "nvflare"))
    assert report.document["killed"] == ["nvflare"] and set(report.document["families"]) == {"plain"}
    assert report.text[-1].startswith("nvflare: its process was killed, most likely for want of memory")

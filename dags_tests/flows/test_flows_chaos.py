"""The chaos run of chaos_runs.py, briefly and with a seed; and that what it would find, it finds."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHAOS = Path(__file__).with_name("chaos_runs.py")
ENDINGS = Path(__file__).with_name("chaos_endings.py")
POWER = runpy.run_path(str(Path(__file__).with_name("power_disk.py")))


@pytest.mark.skipif(POWER["able"](), reason="test_flows_power.py cuts the power here, which kills as well")
def test_a_killed_run_ends_as_the_undisturbed_one(tmp_path: Path) -> None:
    """A run is killed with SIGKILL once or twice and taken up again: same model, same record, nothing acknowledged is lost."""
    words = [sys.executable, str(CHAOS), "--runs", "1", "--seed", "2", "--scheme", "threshold"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^1 runs, 1 of them killed, [12] kills at [12] places; 1 ended as the undisturbed run, 0 did not", done.stdout, re.M)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model": "bb" * 32, "registered": "bb" * 32}, "model bbbbbbbbbbbbbbbb, undisturbed aaaaaaaaaaaaaaaa"),
        ({"status": "open"}, "the run is open"),
        ({"transactions": {"SubmitUpdate": 7}}, "7 x SubmitUpdate on record, undisturbed 6"),
        ({"transactions": {"SubmitUpdate": 6, "RegisterModel": 1}}, "1 x RegisterModel on record, undisturbed 0"),
        ({"registered": "bb" * 32}, "the registry serves model bbbbbbbbbbbbbbbb, on record is aaaaaaaaaaaaaaaa"),
        ({"broken": [f"acknowledged and not on record: {'cc' * 32}"]}, f"acknowledged and not on record: {'cc' * 32}"),
    ],
)
def test_another_ending_is_a_fault(change: dict[str, Any], fault: str) -> None:
    """Mutants of an ending: another model, a run left open, something done twice or lost; each is told, and an equal ending is not."""
    chaos = runpy.run_path(str(ENDINGS))
    given = {"status": "completed", "model": "aa" * 32, "registered": "aa" * 32, "transactions": {"SubmitUpdate": 6}, "broken": []}
    expected = chaos["Ending"](**given)
    assert chaos["judge"](expected, expected) == []
    assert chaos["judge"](chaos["Ending"](**{**given, **change}), expected) == [fault]


def test_a_second_signature_in_one_place_is_a_broken_promise(tmp_path: Path) -> None:
    """A mutant of what validators signed: one voted for two blocks in one place; other places, validators and repetitions are no fault."""
    chaos = runpy.run_path(str(ENDINGS))
    honest = ["aa 7/0/2 01", "aa 7/0/3 02", "aa 7/1/2 03", "bb 7/0/2 04", "aa 7/0/2 01"]
    (tmp_path / "signed").write_text("\n".join(honest))
    assert chaos["broken_promises"](tmp_path) == []
    (tmp_path / "signed").write_text("\n".join([*honest, "bb 7/0/2 nothing"]))
    assert chaos["broken_promises"](tmp_path) == ["validator bb signed twice at 7/0/2: 04 and nothing"]

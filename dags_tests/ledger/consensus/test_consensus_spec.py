"""The consensus chapter of ledger/SPEC.md and the tests name the same rules."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
SPEC = HERE.parents[2] / "ledger" / "SPEC.md"
PARTS = ("consensus", "node", "transport", "storage", "backends", "provenance", "sim")


def test_every_consensus_rule_is_cited_by_a_test() -> None:
    """A rule nobody tests, and a test of a rule nobody wrote, both show up here."""
    ruled = set(re.findall(r"^\| ([CW]\d+) \|", SPEC.read_text(), flags=re.MULTILINE))
    text = "".join(path.read_text() for part in PARTS for path in (HERE.parent / part).glob("test_*.py") if path != Path(__file__))
    cited = {rule for line in re.findall(r'^ +""".*', text, flags=re.MULTILINE) for rule in re.findall(r"\b[CW]\d+\b", line)}
    assert ruled == cited
    assert len(ruled) == 25

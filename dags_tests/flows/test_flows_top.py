"""`cifer top` says of every run where it stands, from the ledger's state alone."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from flows import top
from ledger.codec import decode
from ledger.state import State, apply_transaction, decode_transaction
from ledger.state.entries import Run
from ledger.types import Genesis

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "ledger_rules.json").read_text())


@cache
def states() -> dict[str, State]:
    """The state after each step of the ledger's golden scenario."""
    state, found = State.genesis(decode(bytes.fromhex(VECTORS["genesis"]), Genesis)), {}
    for height, step in enumerate(VECTORS["steps"], 1):
        state = apply_transaction(state, decode_transaction(bytes.fromhex(step["transaction"])), height)
        found[step["label"]] = state
    return found


def row(label: str) -> dict[str, Any]:
    """What is shown of the scenario's run after a step."""
    run = states()[label].read(Run, "run-1")
    assert run is not None
    return top._row(states()[label], run)


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("run", {"status": "open", "round": 0, "step": "declared", "waiting_for": [], "accuracy": None}),
        ("round-1", {"round": 1, "step": "0 of 3 submitted", "waiting_for": ["site-a", "site-b", "site-c"]}),
        ("submitted-a", {"step": "1 of 3 submitted", "waiting_for": ["site-b", "site-c"], "left_out": []}),
        ("excluded-c", {"step": "2 of 3 submitted", "waiting_for": [], "left_out": ["site-c"]}),
        ("sealed-1", {"step": "0 of 2 released", "accuracy": None}),
        ("released-a", {"step": "1 of 2 released"}),
        ("committed-1", {"step": "committed", "accuracy": 0.95, "round": 1, "rounds": 2}),
        ("round-2", {"round": 2, "step": "0 of 3 submitted", "accuracy": 0.95, "left_out": []}),
        ("committed-2", {"status": "open", "step": "committed"}),
        ("closed", {"status": "completed", "step": "-", "waiting_for": []}),
    ],
)
def test_a_run_is_shown_where_it_stands(label: str, shown: dict[str, Any]) -> None:
    """After each step of a run: its round, its step, who is waited for, who is left out, the last accuracy."""
    found = row(label)
    assert {key: found[key] for key in shown} == shown


def frame(transactions: int, seconds: float, *rows: dict[str, Any]) -> top.Frame:
    return top.Frame(7, transactions, 4, rows, seconds, 0.1)


def test_throughput_is_what_was_committed_between_two_looks() -> None:
    """The first look has none; afterwards it is the difference over the time between, and never a division by zero."""
    assert top.rate(None, frame(10, 1.0)) is None
    assert top.rate(frame(10, 1.0), frame(40, 3.0)) == 15.0
    assert top.rate(frame(10, 1.0), frame(10, 1.0)) is None
    assert "15.0 transactions/s" in top.report(frame(40, 3.0, row("closed")), frame(10, 1.0)).text[0]


def test_the_command_prints_one_frame(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--once` and `--json` look at a real ledger once and end."""
    from click.testing import CliRunner

    from flows.cli import cli

    monkeypatch.setenv("CIFER_HOME", str(recorded.home))
    shown = CliRunner().invoke(cli, ["top", "--once"])
    assert shown.exit_code == 0 and "run-1" in shown.output and "height" in shown.output
    document = json.loads(CliRunner().invoke(cli, ["top", "--json"]).output)
    assert [item["run"] for item in document["runs"]] == ["run-1"] and document["height"] > 0

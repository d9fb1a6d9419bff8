"""Drafts against the slow way: every transaction applied to a state of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ledger.codec import decode
from ledger.errors import RejectedError
from ledger.state import State, apply_transaction, decode_transaction
from ledger.state.draft import Draft
from ledger.state.entries import Identity, Run
from ledger.state.transition import take_transaction
from ledger.types import Genesis, SignedTransaction

VECTORS = json.loads((Path(__file__).parents[3] / "dags_tests" / "vectors" / "ledger_rules.json").read_text())
GENESIS = State.genesis(decode(bytes.fromhex(VECTORS["genesis"]), Genesis))
LABELS = [step["label"] for step in VECTORS["steps"]]
STEPS = [decode_transaction(bytes.fromhex(step["transaction"])) for step in VECTORS["steps"]]


def drafted(case: dict[str, Any]) -> tuple[Draft, SignedTransaction]:
    """A draft that has taken all that an invalid vector comes after, and that vector's transaction."""
    draft = Draft.of(GENESIS, 1)
    for signed in STEPS[: LABELS.index(case["after"]) + 1]:
        take_transaction(draft, signed)
    for step in case["setup"]:
        take_transaction(draft, decode_transaction(bytes.fromhex(step)))
    return draft, decode_transaction(bytes.fromhex(case["transaction"]))


def traces() -> list[str]:
    """The invalid vectors whose refusal changes the draft they are refused by."""
    found = []
    for case in VECTORS["invalid"]:
        if case["after"] == "genesis":
            continue
        try:
            draft, signed = drafted(case)
        except RejectedError:
            continue  # a vector of its own height
        before = draft.finish().root()
        try:
            take_transaction(draft, signed)
        except RejectedError:
            if draft.finish().root() != before:
                found.append(case["name"])
    return found


def test_one_draft_comes_to_what_the_transactions_come_to_one_by_one() -> None:
    """The whole scenario in one block: after every transaction the draft's root is that of the states in single steps."""
    draft, state = Draft.of(GENESIS, 1), GENESIS
    for signed in STEPS:
        take_transaction(draft, signed)
        state = apply_transaction(state, signed, 1)
        assert draft.finish().root() == state.root() == draft.root()
    assert list(draft.all(Run)) == list(state.all(Run)) and draft.prove(Run, "run-1") == state.prove(Run, "run-1")
    assert (draft.finish().height, draft.at(7).height) == (1, 7)
    assert GENESIS.read(Identity, "site-a") is None


def test_a_refused_transaction_leaves_no_trace() -> None:
    """Whatever rule refuses, and whatever it wrote before it refused, the draft comes to what it came to before."""
    assert traces() == []


def test_a_draft_that_takes_nothing_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that keeps what a refused transaction wrote is caught by a vector whose rule writes before it refuses."""
    monkeypatch.setattr(Draft, "take_back", Draft.keep)
    assert "invalid_validator_too_much_power" in traces()


def test_a_draft_reads_what_it_wrote() -> None:
    """Reading is of the state as it is by now, also of what was read as absent before, and nothing reaches the state it began on."""
    draft = Draft.of(GENESIS, 1)
    assert draft.read(Identity, "coordinator-a") is None
    take_transaction(draft, STEPS[0])
    found = draft.read(Identity, "coordinator-a")
    assert found is not None and draft.identity_of(found.public_key) == found
    assert draft.finish().identity("coordinator-a") == found and GENESIS.identity("coordinator-a") is None

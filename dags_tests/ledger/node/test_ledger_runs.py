"""Validators of one process run the rules once for the same state, height and transactions, and for nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ledger import crypto
from ledger.author import sign_transaction
from ledger.codec import encode
from ledger.consensus.blocks import build_block, genesis_tip
from ledger.crypto import SigningKey
from ledger.errors import InvalidBlockError, SequenceError
from ledger.node import runs
from ledger.node.runs import MOST_RUNS, SharedRuns
from ledger.state import State, apply_block
from ledger.state.transition import run_transactions
from ledger.types import Genesis, RegisterIdentity, Validator

KEY, ADMINISTRATOR = (SigningKey.from_seed(bytes([number]) * 32) for number in (1, 9))
GENESIS = Genesis("runs", "libsodium", bytes(16), (Validator("v", KEY.public, 1),), (ADMINISTRATOR.public,))
START = genesis_tip(GENESIS)


def registered(sequence: int, label: str = "site") -> bytes:
    """An administrator's encoded transaction."""
    key = SigningKey.from_seed(f"{label}{sequence}".encode().ljust(32, b"."))
    return encode(sign_transaction(ADMINISTRATOR, START.network, sequence, RegisterIdentity(f"{label}-{sequence}", "site", key.public)))


ONE = (registered(0),)
AFTER = run_transactions(START.state, 1, ONE, crypto.verify)
OTHER = run_transactions(START.state, 1, (registered(0, "clinic"),), crypto.verify)
TWO = (registered(1),)


def differences(shared: SharedRuns) -> list[tuple[State, int, tuple[bytes, ...]]]:
    """Of questions that differ in one thing from what is known, those that get another answer than running the rules gives."""
    shared.note(AFTER, TWO, run_transactions(AFTER, 2, TWO, crypto.verify))
    asked = [
        (AFTER, 2, TWO),
        (AFTER, 2, (registered(1, "clinic"),)),
        (OTHER, 2, TWO),
        (AFTER.at(0), 2, TWO),
        (AFTER, 3, TWO),
        (AFTER, 2, (*TWO, registered(2))),
    ]
    found = []
    for state, height, transactions in asked:
        expected = run_transactions(state, height, transactions, crypto.verify)
        answer = shared(state, height, transactions, crypto.verify)
        if (answer.root(), answer.height) != (expected.root(), expected.height):
            found.append((state, height, transactions))
    return found


def test_what_is_shared_is_what_running_the_rules_gives() -> None:
    """Other transactions, another state of the same height, or another height is run for itself."""
    assert not differences(SharedRuns())


def test_mutants_that_compare_less_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants that take any state, or any transactions, for the same are."""
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_equal", lambda *_: True)
        assert differences(SharedRuns())

    class Anything(tuple[bytes, ...]):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = tuple.__hash__

    note = SharedRuns.note
    monkeypatch.setattr(SharedRuns, "note", lambda self, state, transactions, after: note(self, state, Anything(transactions), after))
    assert differences(SharedRuns())


def test_the_same_is_run_once_while_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another copy of the same state is the same; a refusal is found by everybody; what is long ago is run again."""
    run: list[int] = []

    def counted(*asked: Any) -> State:
        run.append(1)
        return run_transactions(*asked)

    monkeypatch.setattr(runs, "run_transactions", counted)
    shared = SharedRuns()
    first = shared(START.state, 1, ONE, crypto.verify)
    assert shared(State.genesis(GENESIS), 1, ONE, crypto.verify) is first
    assert len(run) == 1
    for _ in range(2):
        with pytest.raises(SequenceError):
            shared(first, 2, ONE, crypto.verify)
    assert len(run) == 3
    for number in range(MOST_RUNS):
        shared(START.state, 1, (registered(0, f"clinic-{number}"),), crypto.verify)
    assert shared(START.state, 1, ONE, crypto.verify).root() == first.root()
    assert len(run) == 3 + MOST_RUNS + 1


def test_a_header_is_held_against_what_is_shared() -> None:
    """B4 to B6: a header that says something else of known transactions is refused all the same."""
    shared = SharedRuns()
    after = shared(START.state, 1, ONE, crypto.verify)
    block = build_block(START, ONE, after, KEY.public).block
    assert apply_block(START.state, block, run=shared) is after
    for change in ({"state_root": bytes(32)}, {"transactions_root": bytes(32)}, {"transactions_count": 2}):
        with pytest.raises(InvalidBlockError):
            apply_block(START.state, msgspec.structs.replace(block, header=msgspec.structs.replace(block.header, **change)), run=shared)

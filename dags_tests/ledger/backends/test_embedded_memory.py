"""What an embedded ledger keeps in memory: one state for all its validators, and nothing for transactions that are decided."""

from __future__ import annotations

from typing import Any

import pytest

from ledger import codec
from ledger.backends.embedded import EmbeddedLedger
from ledger.crypto import VerificationCache
from ledger.node import runs, validator
from ledger.state import State
from ledger.state.transition import run_transactions

TRANSACTIONS = 30
"""Each with ten signatures: more than are kept."""
KEPT = 256


def left_behind(bench: Any) -> set[str]:
    """What is in memory for longer than its transaction, after some of them, each decided alone."""
    with bench.create() as ledger:
        for number in range(TRANSACTIONS):
            ledger.submit(bench.signed(ledger, number, f"site-{number}"))
        ledger._command(lambda: None)  # returns when the worker is done with them
        nodes = ledger._cluster.nodes.values()
        found = {
            "states": len({id(node.tip.state.tree) for node in nodes}) > 1,
            "bases": len({id(node.pool._base.tree) for node in nodes}) > 1,
            "results": any(clear.__self__.cache_info().currsize for clear in codec._forgets),  # type: ignore[attr-defined]
            "acceptances": any(len(cache) > KEPT for cache in ledger._caches.values()),
        }
        return {name for name, true in found.items() if true}


def test_a_decided_transaction_leaves_its_entries_in_one_state_and_nothing_else(bench: Any) -> None:
    """Four validators stand on the very same tree; nothing decoded is remembered, and no signatures but the newest."""
    assert not left_behind(bench)


@pytest.mark.parametrize(
    ("broken", "left"),
    [
        ("ledger.node.runs.SharedRuns.note", {"states", "bases"}),
        ("ledger.backends.embedded.forget", {"results"}),
        ("ledger.crypto.VerificationCache.forget", {"acceptances"}),
    ],
)
def test_mutants_that_remember_are_caught(bench: Any, broken: str, left: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants that do not share, or do not forget what was decoded or whose signature was verified, leave just that behind."""
    monkeypatch.setattr(broken, lambda *_: None)
    assert left_behind(bench) == left


@pytest.mark.parametrize(("share", "expected"), [(True, 0), (False, 3)])
def test_a_block_is_run_once(bench: Any, share: bool, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block's leader found is enough for all four; where nothing is shared, the three others run the rules as well."""
    run: list[int] = []

    def counted(*asked: Any) -> State:
        run.append(1)
        return run_transactions(*asked)

    monkeypatch.setattr(runs, "run_transactions", counted)
    monkeypatch.setattr(validator, "run_transactions", counted)
    with EmbeddedLedger.create(bench.folder, bench.setup.genesis, bench.setup.keys, share_verification=share) as ledger:
        for number in range(3):
            ledger.submit(bench.signed(ledger, number, f"site-{number}"))
        ledger._command(lambda: None)
        assert len(run) == 3 * expected
        assert len(roots(ledger)) == 1


def test_a_ledger_goes_on_from_a_shared_state(bench: Any) -> None:
    """A validator that was away, and one that stays away, catch up with and go on beside those that share; all end in one root."""
    with bench.create() as ledger:
        ledger.submit(bench.signed(ledger, 0, "east"))
        ledger.stop_validator("validator-4")
        ledger.submit(bench.signed(ledger, 1, "north"))
        ledger.start_validator("validator-4")
        ledger.stop_validator("validator-1")
        ledger.submit(bench.signed(ledger, 2, "west"))
        assert roots(ledger) == {ledger.state().root()}
    with bench.open() as again:
        assert again.state().height == 3
        assert roots(again) == {again.state().root()}


def roots(ledger: EmbeddedLedger) -> set[bytes]:
    """Of the states of those that are up."""
    return {node.tip.state.root() for node in ledger._cluster.nodes.values()}


def test_a_cache_keeps_the_newest() -> None:
    """Forgetting keeps as many of the last acceptances as are asked for; an earlier one is computed anew."""
    cache = VerificationCache()
    for number in range(8):
        cache.remember(b"key", b"domain", bytes([number]), b"signature")
    cache.forget(3)
    assert len(cache) == 3
    assert cache.verify(b"key", b"domain", bytes([7]), b"signature")
    assert not cache.verify(b"key", b"domain", bytes([4]), b"signature")

"""Consensus under faults, and the mutants that show the simulation would notice: rules C1, C6, C7, C10, C11, C13 of ledger/SPEC.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from ledger.consensus import core, rules
from ledger.consensus.events import Event, Received
from ledger.consensus.messages import Lock, SignedVote
from ledger.consensus.replica import Replica
from ledger.consensus.validators import ValidatorSet
from ledger.sim import draw, network, simulate
from ledger.sim.__main__ import main
from ledger.sim.network import _Network

SCENARIOS = 20_000
BATCH = 500
SHIFT = 100_000
"""People run further seeds with ``python -m ledger.sim``; those here are fixed so that a failure is the code's, not the day's."""


@pytest.mark.parametrize("first", range(0, SCENARIOS, BATCH))
def test_promises_hold_with_one_faulty_validator(first: int) -> None:
    """With one equivocating twin, cuts, loss and crashes: no fork, no contradiction, no false accusation, and progress once calm."""
    for seed in range(first, first + BATCH):
        violation = simulate(draw(seed)).violation
        assert violation is None, f"replay with: python -m ledger.sim {seed}: {violation}"


def test_promises_hold_among_seven() -> None:
    """The same with seven validators, two of them twins, where the quorum is five."""
    for seed in range(SHIFT, SHIFT + 40):
        violation = simulate(draw(seed, validators=7, twins=2)).violation
        assert violation is None, f"replay with draw({seed}, validators=7, twins=2): {violation}"


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same scenario and the same outcome, event for event."""
    for seed in (3, 226, 991):
        assert draw(seed) == draw(seed)
        assert simulate(draw(seed)) == simulate(draw(seed))


def always_settling(replica: Replica, event: Event) -> core.Result:
    """The slow, obvious step: every rule is tried after every event, also after a message that was heard before."""
    replica, first = core._on_event(replica, event)
    replica, rest = core._settle(replica)
    return replica, first + rest


def never_settling(replica: Replica, event: Event) -> core.Result:
    """The mutant that tries no rule after any message."""
    return core._on_event(replica, event) if isinstance(event, Received) else core.step(replica, event)


def test_rules_that_are_not_tried_again_would_not_have_held() -> None:
    """A step that passes the rules over when a message changed nothing has the outcome of one that tries them all; the mutant has not."""
    seeds = range(SHIFT, SHIFT + 100)
    outcomes = [simulate(draw(seed)) for seed in seeds]
    with patch.object(network, "step", always_settling):
        assert [simulate(draw(seed)) for seed in seeds] == outcomes
    with patch.object(network, "step", never_settling):
        assert any(simulate(draw(seed)) != outcome for seed, outcome in zip(seeds[:5], outcomes, strict=False))


def test_twins_are_noticed() -> None:
    """C13: equivocation does come out as evidence, so that "nobody accused in vain" says something."""
    assert sum(simulate(draw(seed)).evidence > 0 for seed in range(60)) > 10


def always(*_: object) -> bool:
    """A rule that was dropped."""
    return True


def half(validators: ValidatorSet) -> int:
    """A quorum of N/2."""
    return validators.total // 2


MUTANTS: dict[str, tuple[Callable[[], AbstractContextManager[object]], bool, str, int]] = {
    "no lock": (lambda: patch.object(rules, "lock_permits", always), True, "agreement", 400),
    "quorum of N/2": (lambda: patch.object(ValidatorSet, "quorum", property(half)), True, "agreement", 60),
    "votes do not survive a crash": (nullcontext, False, "forward signing", 60),
    "signing backwards allowed": (lambda: patch.object(rules, "may_sign", always), False, "forward signing", 60),
}


def silent(replica: Replica) -> tuple[Replica, tuple[()]]:
    """A step that says nothing."""
    return replica, ()


def without(*dropped: object) -> AbstractContextManager[object]:
    """A core without some of Algorithm 1's rules."""
    return patch.object(core, "_RULES", tuple(rule for rule in core._RULES if rule not in dropped))


def forget_prevotes(network_: Any, instance: Any, vote: SignedVote, locked: Lock | None) -> None:
    """A disk that keeps the lock and not why it was taken."""
    PERSIST(network_, instance, vote, msgspec.structs.replace(locked, prevotes=()) if locked else None)


PERSIST = _Network.persist
STALLING: dict[str, tuple[Callable[[], AbstractContextManager[object]], tuple[int, ...]]] = {
    "nothing is said again": (lambda: patch.object(core, "_retransmit", silent), tuple(range(8))),
    "nobody fetches blocks": (lambda: patch.object(_Network, "catch_up", lambda *_: None), tuple(range(5))),
    "no wait for precommits": (lambda: without(core._arm_precommit), (0, 1)),
    "the prevotes of a lock do not survive a crash": (lambda: patch.object(_Network, "persist", forget_prevotes), (16_457, 16_573)),
}


@pytest.mark.parametrize("name", STALLING)
def test_mutants_that_stand_still_are_caught(name: str) -> None:
    """C6, C11: without what brings a network on again, the simulation reports that it stands still."""
    mutate, seeds = STALLING[name]
    with mutate():
        broken = [outcome.violation.promise for seed in seeds if (outcome := simulate(draw(seed))).violation is not None]
    assert "progress" in broken


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str) -> None:
    """A core without this rule breaks the promise that the rule is for."""
    mutate, durable, promise, scenarios = MUTANTS[name]
    with mutate():
        broken = Counter(
            outcome.violation.promise
            for seed in range(scenarios)
            if (outcome := simulate(draw(seed), durable=durable)).violation is not None
        )
    assert broken[promise] > 0, f"{name}: {dict(broken)}"


def test_more_faults_than_tolerated_do_fork() -> None:
    """With two twins of four, agreement breaks, as theory says: the bound f is real, and the simulation sees what lies beyond it."""
    assert any((v := simulate(draw(seed, twins=2)).violation) is not None and v.promise == "agreement" for seed in range(60))


def test_the_command_replays_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m ledger.sim` tells how many promises broke, and refuses arguments that are no seeds."""
    assert main(["7"]) == 0
    assert "1 scenarios" in capsys.readouterr().out
    with patch.object(ValidatorSet, "quorum", property(half)):
        assert main(["0", "5"]) == 1
    assert "seed 1: agreement" in capsys.readouterr().out
    assert main(["x"]) == main([]) == 2

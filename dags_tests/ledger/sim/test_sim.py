"""Consensus under faults, and the mutants that show the simulation would notice: rules C1, C6, C7, C10, C11, C13 of ledger/SPEC.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from unittest.mock import patch

import pytest

from ledger.consensus import rules
from ledger.consensus.validators import ValidatorSet
from ledger.sim import draw, simulate
from ledger.sim.__main__ import main

SCENARIOS = 1_500
BATCH = 250
SHIFT = 10_000
"""Nightly runs may shift further; the seeds here are fixed so that a failure is the code's, not the day's."""


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

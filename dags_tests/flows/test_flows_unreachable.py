"""Validators that do not answer for a while cost time, not sites, rounds or runs."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cifer_tasks.errors import UnreachableError
from cifer_tasks.workspace import LedgerAway, StepStarted
from ledger.backends.processes import ProcessesLedger

ATTEMPT_SECONDS = 2.0
PATIENCE_SECONDS = 4.0


def free_port(count: int) -> int:
    """The first of consecutive ports that nobody listens on now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            start = int(first.getsockname()[1])
        try:
            for one in [socket.create_server(("127.0.0.1", start + number)) for number in range(count)]:
                one.close()
        except OSError:
            continue
        return start


@pytest.fixture
def validators(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`validators("stop")` and `validators("start")`: four of them as processes, at which the laboratory is a client."""
    monkeypatch.setattr(ProcessesLedger.open.__func__, "__defaults__", (ATTEMPT_SECONDS,))  # type: ignore[attr-defined]
    network = trainer.folder / "network"

    def tell(*words: object) -> None:
        process = trainer.process("ledger", *words)
        assert process.wait(120) == 0, process.communicate()

    tell("init", network, "--validators", 4, "--port", free_port(8))
    tell("start", network)
    yield lambda word: tell(word, network)
    tell("stop", network)


def test_an_unreachable_ledger_is_waited_for_and_no_site_is_blamed(trainer: Any, validators: Callable[[str], None]) -> None:
    """Back in time, the round goes on with every site; away too long, one line says so, and `--resume` ends in the undisturbed model."""
    settings = trainer.settings(training__rounds=1, ledger={"backend": "processes", "patience_seconds": PATIENCE_SECONDS})
    ref = trainer.open(settings)
    seen: list[Any] = []

    def lose(progress: Any) -> None:
        """The validators stop when the second site submits."""
        seen.append(progress)
        if isinstance(progress, StepStarted) and (progress.step, progress.site) == ("submit", "north"):
            validators("stop")

    with pytest.raises(UnreachableError, match=r"^submit: the ledger did not answer for 4 s \(ledger.patience_seconds\); nothing") as lost:
        trainer.train(ref, [lose])
    assert "\n" not in str(lost.value)
    assert [item.step for item in seen if isinstance(item, StepStarted)].count("submit") == 2, (
        "who has waited long enough is not asked again"
    )
    assert any(isinstance(item, LedgerAway) for item in seen)
    spoken = trainer.cifer("run", "--resume", ref.run)
    assert spoken.code == 1
    first, last = spoken.lines
    assert re.search("the ledger did not answer", first)
    assert last == f"cifer: take it up again with: cifer run --resume {ref.run}"

    validators("start")
    back: list[Any] = []

    def lose_and_find(progress: Any) -> None:
        """The validators stop once more before the seal, and are back when the seal waits for them."""
        if isinstance(progress, StepStarted) and progress.step == "seal":
            validators("stop")
        if isinstance(progress, LedgerAway) and not back:
            back.append(progress)
            validators("start")

    trainer.train(ref, [lose_and_find])
    assert back
    found = trainer.history(ref.run)
    assert found.status == "completed"
    assert found.rounds[0].sealed_sites == ("east", "north", "west")
    assert found.rounds[0].exclusions == ()
    assert found.current_model == alone(trainer, settings)


def alone(lab: Any, settings: Any) -> bytes:
    """The model of the same settings on a ledger in this process, in another folder."""
    from dataclasses import replace

    other = replace(lab, home=lab.folder.parent / "other")
    embedded = settings.model_copy(update={"ledger": settings.ledger.model_copy(update={"backend": "embedded"})})
    return bytes(other.history(other.train_all(embedded).run).current_model)


def test_a_run_waits_for_more_than_one_attempt_by_default() -> None:
    """The default patience is longer than one attempt takes to fail: else the first silence would end every run."""
    from cifer_tasks.config import LedgerSettings
    from ledger.backends import processes

    assert LedgerSettings().patience_seconds > processes.PATIENCE_SECONDS

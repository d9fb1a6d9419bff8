"""`sites.fraction` in a real run: who was not drawn is on record, does not train, and cannot submit."""

from __future__ import annotations

from typing import Any

import pytest

from cifer_tasks import tasks
from cifer_tasks.data import load_scenario
from cifer_tasks.errors import SiteStepError, TooFewSitesError
from cifer_tasks.learning.baselines import plain_fedavg
from cifer_tasks.records import EncryptedUpdate
from cifer_tasks.sampling import drawn
from cifer_tasks.workspace import StepStarted, Workspace

NAMES = ("east", "north", "west")


def test_rounds_train_those_that_are_drawn_and_the_ledger_says_who_was_not(trainer: Any) -> None:
    """Two of three sites a round: those train and are sealed, the third is excluded on record; the scores are plain FedAvg's over them."""
    settings = trainer.settings(sites={"fraction": 0.6}, training__rounds=3, gate__margin=1.0)
    ref = trainer.open(settings)
    refused: list[str] = []

    def intrude(progress: Any) -> None:
        """Before the seal of the first round, who was not drawn tries to submit all the same."""
        if isinstance(progress, StepStarted) and progress.step == "seal" and not refused:
            (absent,) = set(NAMES) - set(drawn(NAMES, 0.6, settings.seed, 1))
            stored = Workspace.of(ref).store.put("ciphertext", b"an intruder's")
            with pytest.raises(SiteStepError, match="is left out of this round") as error:
                tasks.submit.fn(ref, 1, absent, EncryptedUpdate(absent, stored, 24))  # type: ignore[attr-defined]
            refused.append(str(error.value))

    trainer.train(ref, [intrude])
    assert refused
    found = trainer.history(ref.run)
    asked = [drawn(NAMES, 0.6, settings.seed, number) for number in (1, 2, 3)]
    assert len(set(asked)) > 1, "the seed of this test draws different sites in different rounds"
    assert [round_.sealed_sites for round_ in found.rounds] == asked
    for round_, sites in zip(found.rounds, asked, strict=True):
        assert [(item.site, item.step) for item in round_.exclusions] == [(site, "sampling") for site in NAMES if site not in sites]
    trained = [(item.round, item.site) for item in trainer.progress if isinstance(item, StepStarted) and item.step == "train"]
    assert trained == [(number, site) for number, sites in enumerate(asked, start=1) for site in sites]
    with trainer.here():
        expected = plain_fedavg(settings, load_scenario("lab", trainer.home), 3)
    scores = {item.name: item.millionths / 1e6 for item in found.rounds[-1].outcome.metrics}
    assert scores == pytest.approx(expected[-1], abs=2e-3)


def test_a_fraction_that_no_round_could_be_sealed_with_ends_before_it_begins(trainer: Any) -> None:
    """The message says how many are drawn and how many a round needs; no run is declared."""
    ref = trainer.open(trainer.settings(sites={"fraction": 0.3}))
    with pytest.raises(TooFewSitesError, match=r"sites.fraction=0.3 draws 1 of 3 sites, and a round needs 2; raise it"):
        trainer.train(ref)
    assert trainer.state().run(ref.run) is None

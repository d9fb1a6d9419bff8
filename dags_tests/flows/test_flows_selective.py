"""`encryption.selective` in real runs: a planning round, then the model that plain rounds give; and masks that nobody may choose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks import tasks
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.errors import ConfigError, IntegrityError, TooFewSitesError
from cifer_tasks.records import Candidate
from cifer_tasks.replay import replay
from cifer_tasks.run_record import RunRecord
from cifer_tasks.selecting import REASON, mask_for
from cifer_tasks.workspace import Workspace
from dags_tests.flows.test_flows_threshold import dealing_another_key, verified
from dags_tests.flows.test_flows_threshold import settings_of as four_sites
from ledger.provenance import genesis_from_json, read_bundle, verify_bundle

SETTINGS: dict[str, Any] = {"encryption__selective": 0.3, "training__rounds": 2, "gate__margin": 1.0, "privacy__clip_norm": 0.5}


@pytest.fixture(scope="module")
def runs(shared_trainer: Any) -> Iterator[dict[str, Any]]:
    """The same training in the clear, and with three tenths encrypted under each family."""
    found = {"plain": shared_trainer.run(**(SETTINGS | {"encryption__selective": 1.0}))}
    for scheme in ("threshold", "ckks"):
        found[scheme] = shared_trainer.run(encryption__scheme=scheme, **SETTINGS)
    yield found


@pytest.mark.parametrize("scheme", ["threshold", "ckks"])
def test_a_partly_encrypted_run_gives_the_plain_model(shared_trainer: Any, runs: dict[str, Any], scheme: str) -> None:
    """The first round changes nothing and is on record as planning; the others make the very models of plain rounds."""
    plain, partly = shared_trainer.history(runs["plain"].run), shared_trainer.history(runs[scheme].run)
    planning, *others = partly.rounds
    assert (planning.outcome.accepted, planning.outcome.reason, planning.outcome.candidate) == (False, REASON, planning.base_model)
    assert [found.outcome.candidate for found in others] == [found.outcome.candidate for found in plain.rounds]
    assert planning.public_context != others[0].public_context == others[0].public_context


@pytest.mark.parametrize(("scheme", "model"), [("threshold", "lab@2"), ("ckks", "lab@3")])
def test_its_bundle_replays(shared_trainer: Any, runs: dict[str, Any], tmp_path: Path, scheme: str, model: str) -> None:
    """From the bundle alone the mask is derived again, both parts are added, and every model is made again, digest for digest."""
    said = shared_trainer.cifer("export", model, "-o", tmp_path / "model.cifer", "--with-artifacts")
    assert said.code == 0, said.err
    genesis = genesis_from_json(shared_trainer.cifer("ledger", "genesis").out, "genesis")
    file = read_bundle(tmp_path / "model.cifer")
    made = replay(verify_bundle(file.bundle, genesis), file.artifact)
    assert [(found.round, found.accepted, found.faults) for found in made.rounds] == [(1, False, ()), (2, True, ()), (3, True, ())]


def test_who_chooses_it_is_told_that_it_is_weaker(shared_trainer: Any, runs: dict[str, Any]) -> None:
    """The scheme's warning, which every run and model card shows, says weaker; settings that make no sense of it are refused."""
    with shared_trainer.here():
        warning = Workspace.of(runs["threshold"]).scheme.warning
        Workspace.close_all()
    assert "selective=0.3: weaker: all but the 30% most sensitive entries" in warning
    with pytest.raises(ConfigError, match="plain encrypts nothing"):
        shared_trainer.settings(encryption__selective=0.3)
    with pytest.raises(ConfigError, match=r"for aggregation.rule=mean only, not"):
        shared_trainer.settings(
            encryption={"scheme": "ckks", "selective": 0.3, "preset": "measuring", "bits": 14}, aggregation__rule="norm_bound"
        )


def test_a_round_opened_with_a_mask_of_the_coordinators_own_gets_nothing(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every site compares the round's mask with the one it derives, and sends nothing under another."""
    asked: list[int] = []
    honest = tasks.mask_for

    def chosen(workspace: Any, number: int) -> Any:
        mask = honest(workspace, number)
        asked.append(number)
        return ~mask if mask is not None and number == 2 and asked.count(2) == 1 else mask  # the coordinator is the first who asks

    monkeypatch.setattr(tasks, "mask_for", chosen)
    with pytest.raises(TooFewSitesError, match="opened with another mask than the one that the planning round gives"):
        trainer.run(encryption__scheme="threshold", **SETTINGS)


def test_a_planning_round_recorded_with_another_sum_plans_nothing(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask is made of what the releases open, not of what the coordinator says they opened."""
    opened = tasks.open_aggregate

    def lying(run: Any, number: int, *rest: Any) -> Candidate:
        found = opened(run, number, *rest)
        store = Workspace.of(run).store
        return Candidate(store.put("opened", bytes(store.get(found.opened))[::-1]), found.model) if number == 1 else found

    monkeypatch.setattr(tasks, "open_aggregate", lying)
    with pytest.raises(IntegrityError, match="was recorded with another sum than what its releases open"):
        trainer.run(encryption__scheme="threshold", **SETTINGS)


def test_a_planning_round_that_stays_closed_is_made_up_for(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next round plans, without one of the suspects, and the third trains; from the bundle all of it is made again. No site sends its
    sensitivities twice where a coordinator says closed of a sum that opens."""
    monkeypatch.setattr(ThresholdScheme, "_dealt", dealing_another_key("north", range(1, 2)))
    ref = trainer.train_all(four_sites(trainer, "threshold", compute={"fused": True}, **SETTINGS))
    rounds = trainer.history(ref.run).rounds
    assert [len(item.sealed_sites) for item in rounds] == [4, 3, 3]
    assert [item.outcome.accepted for item in rounds] == [False, False, True] and rounds[1].outcome.reason == REASON
    assert [(item["accepted"], bool(item["closed"])) for item in verified(trainer, "planned")] == [
        (False, True),
        (False, False),
        (True, False),
    ]
    with trainer.here():
        workspace = Workspace.of(ref)
        assert mask_for(workspace, 2).all() and not mask_for(workspace, 3).all()
        monkeypatch.setattr(RunRecord, "stayed_closed", lambda record, number: number < 3)
        with pytest.raises(IntegrityError, match="round 2 is on record as closed, and what was released opens it"):
            mask_for(workspace, 3)
        Workspace.close_all()

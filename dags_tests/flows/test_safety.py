"""Who is handed what: rules of the round that must hold against a coordinator or aggregator that departs from it. Each has a mutant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from cifer_tasks import tasks
from cifer_tasks.aggregation.plan import whole
from cifer_tasks.encryption.ckks import CkksScheme
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.scheme import Ciphertext, PublicContext, SecretContext
from cifer_tasks.encryption.vectors import integers_from_bytes
from cifer_tasks.errors import FailureError, IntegrityError
from cifer_tasks.records import ArtifactRef, Committed, Opening, Plan, RunRef, SealedSet
from cifer_tasks.run_record import RunRecord, committed
from cifer_tasks.workspace import StepStarted, Workspace


class Stop(BaseException):
    """Ends a run at a step, as a power cut would."""


def at(step: str) -> Callable[[Any], None]:
    def listen(progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == step:
            raise Stop

    return listen


@pytest.fixture
def sealed_round(trainer: Any) -> Any:
    """An encrypted run that stands where the key holder is about to be asked: sealed and aggregated, nothing opened."""
    ref = trainer.open(trainer.settings(encryption__scheme="ckks", training__rounds=1))
    with pytest.raises(Stop):
        trainer.train(ref, [at("release")])
    yield ref
    Workspace.close_all()


def standing(ref: RunRef) -> tuple[Workspace, SealedSet, Opening, ArtifactRef]:
    """What the ledger holds of round 1: the sealed set, the opening, the true aggregate."""
    workspace = Workspace.of(ref)
    found = workspace.record.round(1)
    submissions = tuple(workspace.record.submission(1, site) for site in found.sealed_sites)
    assert found.sealed is not None
    sealed = SealedSet(1, tuple(item for item in submissions if item is not None), committed(found.sealed))
    opening = Opening(
        1,
        workspace.store.find("model", found.base_model.hex()),
        workspace.store.find("public-context", found.public_context.hex()),
        workspace.record.sites,
        committed(found.opened),
    )
    return workspace, sealed, opening, tasks.aggregate.fn(ref, 1, sealed, opening, plan_of(sealed))  # type: ignore[attr-defined]


def plan_of(sealed: SealedSet) -> Plan:
    """The plain sum over a set."""
    return whole([item.site for item in sealed.submissions])


def release(ref: RunRef, site: str, sealed: SealedSet, total: ArtifactRef) -> ArtifactRef:
    """What a key holder releases: the artifact that its signed transaction names."""
    return tasks.hand_over(ref, 1, site, sealed, total, tasks.answer(ref, 1, site, sealed, total)).opening


def one_ciphertext_as_the_sum(workspace: Workspace, sealed: SealedSet) -> ArtifactRef:
    """Hospital north's own submission, dressed up as the sum of three: the attack of an aggregator that wants to read it."""
    binding = workspace.binding(1)
    single = Ciphertext.from_bytes(workspace.store.get(sealed.submissions[1].ciphertext), "ckks", binding)
    return workspace.store.put("aggregate", replace(single, count=len(sealed.submissions)).to_bytes())


def test_the_honest_aggregate_is_opened(sealed_round: RunRef) -> None:
    """Control: the true sum of the true set is released."""
    _, sealed, _, total = standing(sealed_round)
    assert release(sealed_round, "east", sealed, total).kind == "opening"


def test_one_sites_ciphertext_is_not_opened_as_the_sum(sealed_round: RunRef) -> None:
    """An aggregate that is really one site's submission is refused, although its set, count, key and binding are right."""
    workspace, sealed, _, _ = standing(sealed_round)
    with pytest.raises(FailureError, match="it is not the sum over the sealed set"):
        release(sealed_round, "east", sealed, one_ciphertext_as_the_sum(workspace, sealed))


def test_mutant_without_adding_again_reads_a_sites_update(sealed_round: RunRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: a key holder that believes the aggregator hands out exactly what north submitted; so the check above is what stops it."""
    workspace, sealed, _, _ = standing(sealed_round)
    total = one_ciphertext_as_the_sum(workspace, sealed)
    believed = Ciphertext.from_bytes(workspace.store.get(total), "ckks", workspace.binding(1))
    single = Ciphertext.from_bytes(workspace.store.get(sealed.submissions[1].ciphertext), "ckks", workspace.binding(1))
    secret, public = workspace.secret_context("north", 1), workspace.round_context(1)
    update = integers_from_bytes(workspace.scheme.release({"north": single}, "north", public, secret).data, workspace.binding(1).parameters)
    monkeypatch.setattr(CkksScheme, "add", lambda *_: believed)
    released = workspace.store.get(release(sealed_round, "east", sealed, total))
    assert update.tobytes() in released
    assert np.any(update)


@pytest.mark.parametrize("drop", [("east",), ("north", "west")], ids=["one fewer", "one alone"])
def test_another_set_than_the_sealed_one_is_not_opened(sealed_round: RunRef, drop: tuple[str, ...]) -> None:
    """A subset of the sealed set, with its own true sum, is refused: what is opened is the one set that the ledger agreed on."""
    _, sealed, opening, _ = standing(sealed_round)
    fewer = structs.replace(sealed, submissions=tuple(item for item in sealed.submissions if item.site not in drop))
    total = tasks.aggregate.fn(sealed_round, 1, fewer, opening, plan_of(fewer))  # type: ignore[attr-defined]
    with pytest.raises(FailureError, match="not the one sealed on the ledger"):
        release(sealed_round, fewer.submissions[0].site, fewer, total)


def test_mutant_without_check_sealed_opens_a_subset(sealed_round: RunRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: without the look at the ledger, the sum of a set of one, a site's own update, is opened."""
    _, sealed, opening, _ = standing(sealed_round)
    alone = structs.replace(sealed, submissions=sealed.submissions[:1])
    total = tasks.aggregate.fn(sealed_round, 1, alone, opening, plan_of(alone))  # type: ignore[attr-defined]
    monkeypatch.setattr(RunRecord, "check_sealed", lambda *_: None)
    assert release(sealed_round, "east", alone, total).kind == "opening"


def test_a_set_whose_ciphertexts_were_exchanged_is_not_opened(sealed_round: RunRef) -> None:
    """The sealed sites with another ciphertext for one of them: refused by the digests on the ledger."""
    _, sealed, _, total = standing(sealed_round)
    first, second, *rest = sealed.submissions
    exchanged = structs.replace(sealed, submissions=(structs.replace(first, ciphertext=second.ciphertext), second, *rest))
    with pytest.raises(FailureError, match="not the one sealed on the ledger"):
        release(sealed_round, "east", exchanged, total)


def test_nothing_is_opened_before_the_set_is_sealed(trainer: Any) -> None:
    """All sites have submitted and the aggregate is at hand, but nothing is sealed: refused."""
    ref = trainer.open(trainer.settings(encryption__scheme="ckks", training__rounds=1))
    with pytest.raises(Stop):
        trainer.train(ref, [at("seal")])
    workspace = Workspace.of(ref)
    found = workspace.record.round(1)
    submissions = tuple(item for item in (workspace.record.submission(1, site) for site in ("east", "north", "west")) if item)
    sealed = SealedSet(1, submissions, Committed("00" * 32, 1))
    public = workspace.store.find("public-context", found.public_context.hex())
    opening = Opening(1, workspace.store.find("model", found.base_model.hex()), public, workspace.record.sites, committed(found.opened))
    total = tasks.aggregate.fn(ref, 1, sealed, opening, plan_of(sealed))  # type: ignore[attr-defined]
    with pytest.raises(FailureError, match="not the one sealed on the ledger"):
        release(ref, "east", sealed, total)
    Workspace.close_all()


# ------------------------------------------------------------------------------------------- who opens which secret


def opened_secrets(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """Which step opened which kind of secret in a whole encrypted run."""
    seen: dict[str, set[str]] = {}
    step = ["before"]
    get = Keystore.get

    def watching(self: Keystore, name: str, kind: str, network: str) -> bytes:
        seen.setdefault(step[0], set()).add(kind)
        return get(self, name, kind, network)

    def listen(progress: Any) -> None:
        if isinstance(progress, StepStarted):
            step[0] = progress.step

    monkeypatch.setattr(Keystore, "get", watching)
    trainer.train(trainer.open(trainer.settings(encryption__scheme="ckks", training__rounds=1)), [listen])
    return seen


def holders(seen: dict[str, set[str]]) -> set[str]:
    return {step for step, kinds in seen.items() if "encryption" in kinds}


def test_only_the_key_holders_steps_open_the_encryption_secret(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The secret is opened where keys are made and where a site releases; never to encrypt, aggregate, open or evaluate."""
    assert holders(opened_secrets(trainer, monkeypatch)) == {"open_run", "open_round", "release"}


def test_mutant_an_aggregating_step_with_the_secret_is_seen(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: an aggregate step that takes the secret context shows up in the same watch."""
    read = Workspace.submissions

    def greedy(workspace: Workspace, sealed: SealedSet) -> dict[str, Ciphertext]:
        workspace.secret_context("east", 1)
        return read(workspace, sealed)

    monkeypatch.setattr(Workspace, "submissions", greedy)
    assert "aggregate" in holders(opened_secrets(trainer, monkeypatch))


def test_adding_refuses_a_secret_context() -> None:
    """The adding verb takes public contexts only: handed the secret, it raises before it computes."""
    scheme = CkksScheme()
    public, secret = scheme.generate()
    assert isinstance(secret, SecretContext)
    with pytest.raises(TypeError, match="PublicContext only"):
        scheme.add([], secret)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        scheme.add([], PublicContext("ckks", public.data))

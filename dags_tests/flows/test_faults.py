"""What happens to a run when a site, a table, a key or a file fails in the middle of it. Every fault is planted in a real run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cifer_tasks import saying
from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.config import parse
from cifer_tasks.encryption import scheme_for
from cifer_tasks.encryption.scheme import Ciphertext
from cifer_tasks.errors import IntegrityError, StorageError, TooFewSitesError
from cifer_tasks.records import Enrolment, RoundResult
from cifer_tasks.workspace import SiteFailed, StepStarted, Workspace
from flows import site as site_steps
from ledger import WithdrawConsent

CHOSEN = {"name": "lab", "data": {"table": "digits", "target": "digit"}}
UNSCALED = {"data__standardize": False, "gate__margin": 1.0}


def only_run(lab: Any) -> str:
    (folder,) = (lab.home / "runs").iterdir()
    return str(folder.name)


def mentions(spoken: Any, *parts: str) -> list[str]:
    """The lines, of both streams, that hold all of these parts."""
    return [line for line in (spoken.out + spoken.err).splitlines() if all(part in line for part in parts)]


# ------------------------------------------------------------------------------------- a step that raises at a site


def test_a_failing_site_is_left_out_by_one_line_and_the_rounds_go_on(trainer: Any, user_model: str) -> None:
    """leave-out: one line a round names site, round, file, line and cause; the ledger has the reason without the foreign message."""
    path = trainer.write(model={"path": user_model, "args": {"failures": 99}}, **UNSCALED)
    spoken = trainer.cifer("run", path)
    assert spoken.code == 0, spoken.err
    module = user_model.rpartition(".")[0]
    line = 1 + [text.endswith("# HERE") for text in Path(f"{module}.py").read_text().splitlines()].index(True)
    for number in (1, 2):
        assert len(mentions(spoken, f"north, round {number}", f"{module}.py:{line}", "ValueError: cannot learn from 901.25")) == 1
    assert len(mentions(spoken, "left out", "north")) == 2, "one line per failure"
    assert "Traceback" not in spoken.out + spoken.err
    history = trainer.history(only_run(trainer))
    for found in history.rounds:
        (exclusion,) = found.exclusions
        assert (exclusion.site, exclusion.step) == ("north", "train")
        assert f"north, round {found.round}, train, {module}.py:{line}: ValueError" in exclusion.reason
        assert "901" not in exclusion.reason
        assert found.sealed_sites == ("east", "west")


def test_a_retry_that_succeeds_keeps_the_site(trainer: Any, user_model: str) -> None:
    """retry: a step that raises once and then works loses nothing; the lineage shows the failed try beside the good one."""
    run = trainer.run(
        model={"path": user_model, "args": {"failures": 1}}, sites={"on_error": "retry", "retries": 2}, training__rounds=1, **UNSCALED
    ).run
    (found,) = trainer.history(run).rounds
    assert found.exclusions == ()
    assert found.sealed_sites == ("east", "north", "west")
    kinds = [event["eventType"] for event in trainer.events(run) if event["job"]["name"] == "lab.train"]
    assert sorted(kinds) == ["COMPLETE"] * 3 + ["FAIL"] + ["START"] * 4


def test_exhausted_retries_leave_the_site_out(trainer: Any, user_model: str) -> None:
    """retry: after the configured number of tries, and not one more, the site is left out."""
    run = trainer.run(
        model={"path": user_model, "args": {"failures": 99}}, sites={"on_error": "retry", "retries": 2}, training__rounds=1, **UNSCALED
    ).run
    (found,) = trainer.history(run).rounds
    assert [item.site for item in found.exclusions] == ["north"]
    assert Path("tries").read_text() == "xxx"


def test_sites_in_one_task_each_fare_as_those_shown_step_by_step(trainer: Any, user_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of many sites shows each as a single task: the same model, and the same site left out for the same reason."""
    settings = trainer.settings(model={"path": user_model, "args": {"failures": 99}}, training__rounds=1, **UNSCALED)
    shown = trainer.history(trainer.train_all(settings).run)
    monkeypatch.setattr("flows.site.MOST_SITES_IN_FULL", 0)
    ref = trainer.train_all(settings)
    fused = trainer.history(ref.run)
    assert {event["job"]["name"] for event in trainer.events(ref.run)} & {"lab.train", "lab.submit"} == set()
    assert fused.current_model == shown.current_model
    ((one,), (other,)) = (found.rounds[0].exclusions for found in (shown, fused))
    assert (one.site, one.step, one.reason) == (other.site, other.step, other.reason)


def test_abort_ends_the_run_on_the_ledger(trainer: Any, user_model: str) -> None:
    """abort: exit 1, the run is closed as aborted with the cause, no round is sealed, and nothing invites to resume it."""
    path = trainer.write(model={"path": user_model, "args": {"failures": 99}}, sites__on_error="abort", **UNSCALED)
    spoken = trainer.cifer("run", path)
    assert spoken.code == 1
    assert len(spoken.lines) == 1
    assert spoken.lines[0].startswith("cifer: north, round 1, train, ")
    history = trainer.history(only_run(trainer))
    assert history.status == "aborted"
    assert "north, round 1, train" in history.reason
    assert history.rounds[0].sealed is None
    assert trainer.state().latest_version("lab") == 0


def test_too_few_sites_abort_the_run(trainer: Any, user_model: str) -> None:
    """A round that keeps fewer sites than the minimum ends the run, naming who was left out and why; the refusal is on the ledger."""
    path = trainer.write(model={"path": user_model, "args": {"failures": 99}}, sites__minimum=3, **UNSCALED)
    spoken = trainer.cifer("run", path)
    assert spoken.code == 1
    assert len(spoken.lines) == 1
    assert spoken.lines[0].startswith("cifer: round 1 has 2 submissions and sites.minimum is 3; left out: north (train: ")
    assert "--resume" not in spoken.err
    history = trainer.history(only_run(trainer))
    assert (history.status, history.rounds[0].status) == ("aborted", "open")
    assert history.reason.startswith("round 1 has 2 submissions")


# ------------------------------------------------------------------------------------------- tables that do not pass


def test_tables_that_fail_validation_are_left_out_with_their_reason(trainer: Any) -> None:
    """NaN, one class only, too few rows: each site is left out by its own sentence on the ledger, and two sites train on."""
    good = Path("east.csv").read_text().splitlines()[1:]
    split = [line.split(",") for line in good]
    trainer.table("blank", [["", *row[1:]] if index == 3 else row for index, row in enumerate(split)])
    trainer.table("uniform", [[*row[:3], 1] for row in split])
    trainer.table("tiny", split[:4])
    files = {site: f"{site}.csv" for site in ("blank", "east", "tiny", "uniform", "west")}
    run = trainer.run(data__files=files, checks={"minimum_rows": 10}, training__rounds=1).run
    (found,) = trainer.history(run).rounds
    reasons = {item.site: item.reason for item in found.exclusions}
    assert set(reasons) == {"blank", "tiny", "uniform"}
    assert {item.step for item in found.exclusions} == {"validate_data"}
    assert re.search(r"age.*1 of \d+.*missing", reasons["blank"])
    assert "rows; at least 10 needed" in reasons["tiny"]
    assert "1 different label value(s)" in reasons["uniform"]
    assert found.sealed_sites == ("east", "west")
    assert trainer.history(run).status == "completed"


def test_a_table_that_changes_after_it_was_prepared_is_not_trained_on(trainer: Any) -> None:
    """A row appended between two rounds: the site is left out, since the ledger knows the table by its digest."""

    def tamper() -> None:
        table = trainer.home / "data" / "lab" / "north.csv"
        table.write_text(table.read_text() + "1.0,1.0,1.0,1\n")

    run = after_round(trainer, 1, tamper).run
    first, second = trainer.history(run).rounds
    assert first.exclusions == ()
    (exclusion,) = second.exclusions
    assert (exclusion.site, exclusion.step) == ("north", "validate_data")
    assert "north.csv" in exclusion.reason


# -------------------------------------------------------------------------------------------------- consent, the gate


def test_a_consent_withdrawn_between_rounds_binds_the_next_round(trainer: Any) -> None:
    """North withdraws after round 1: round 2 leaves it out before it trains, and a later run never asks it again."""

    def withdraw() -> None:
        (workspace,) = Workspace._open.values()
        dataset = bytes.fromhex(workspace.dataset("north").sha256)
        workspace.author("north").send(WithdrawConsent(dataset, "lab", "patients objected"))

    run = after_round(trainer, 1, withdraw).run
    first, second = trainer.history(run).rounds
    assert first.sealed_sites == ("east", "north", "west")
    (exclusion,) = second.exclusions
    assert exclusion.site == "north"
    assert exclusion.step == "consent"
    assert re.fullmatch(r"consent for lab was withdrawn at block \d+: patients objected", exclusion.reason)
    trained = [item for item in trainer.progress if isinstance(item, StepStarted) and (item.step, item.site) == ("train", "north")]
    assert [item.round for item in trained] == [1], "nothing is computed on a table whose owner has objected"

    trainer.progress.clear()
    later = trainer.run(training__rounds=1).run
    (enrolment,) = [item for item in trainer.progress if isinstance(item, Enrolment)]
    ((site, reason),) = enrolment.left_out
    assert site == "north"
    assert "patients objected" in reason
    history = trainer.history(later)
    assert [item.site for item in history.sites] == ["east", "west"]


def test_a_consent_withdrawn_while_the_site_trains_is_refused_by_the_ledger(trainer: Any) -> None:
    """North withdraws between its training and its submission: the ledger refuses the submission, and its own words are the reason."""

    def withdraw() -> None:
        (workspace,) = Workspace._open.values()
        dataset = bytes.fromhex(workspace.dataset("north").sha256)
        workspace.author("north").send(WithdrawConsent(dataset, "lab", "patients objected"))

    ref = trainer.open(trainer.settings(training__rounds=1))
    trainer.train(ref, [at_step("submit", withdraw, "north")])
    (found,) = trainer.history(ref.run).rounds
    (exclusion,) = found.exclusions
    assert (exclusion.site, exclusion.step) == ("north", "submit")
    assert re.search(r"consent of dataset [0-9a-f]{16} for 'lab' was withdrawn at height \d+", exclusion.reason)
    assert found.sealed_sites == ("east", "west")


def test_a_consent_withdrawn_after_the_submission_leaves_it_out_of_the_seal(trainer: Any) -> None:
    """North withdraws once it has submitted: the set is sealed without it, by name, and the run goes on without it."""

    def withdraw() -> None:
        (workspace,) = Workspace._open.values()
        workspace.author("north").send(WithdrawConsent(bytes.fromhex(workspace.dataset("north").sha256), "lab", "patients objected"))

    told: list[str] = []
    ref = trainer.open(trainer.settings(training__rounds=2, sites={"minimum": 2}))
    trainer.train(ref, [at_step("seal", withdraw), failures(told)])
    first, second = trainer.history(ref.run).rounds
    assert [item.site for item in first.submissions] == ["east", "north", "west"]
    assert first.sealed_sites == second.sealed_sites == ("east", "west") and first.outcome.accepted
    assert [(item.site, item.step) for item in second.exclusions] == [("north", "consent")]
    assert len(told) == 1 and "north, round 1, seal: consent for lab was withdrawn at block" in told[0]


def test_what_is_no_ciphertext_is_left_out_of_the_seal(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under each scheme, north submits noise in round 1 and a body of the wrong length in round 2: each is named, and two sites are sealed.

    A coordinator that seals what it did not read (the mutant) can add nothing afterwards, and the run ends.
    """
    for scheme in ("plain", "ckks", "threshold"):
        kind = type(scheme_for(parse(CHOSEN | {"encryption": {"scheme": scheme}}, "test").encryption))
        encrypt = kind.encrypt_pieces

        def odd(self: Any, values: Any, binding: Any, public: Any, sender: str, encrypt: Any = encrypt) -> Any:
            if sender != "north":
                return encrypt(self, values, binding, public, sender)
            short = Ciphertext(self.name, binding, public.digest(), 1, b"\x01" + bytes(99))
            return iter([b"nonsense" * 9]) if binding.round == 1 else short.pieces()

        monkeypatch.setattr(kind, "encrypt_pieces", odd)
        told: list[str] = []
        ref = trainer.open(trainer.settings(encryption={"scheme": scheme}, training__rounds=2, sites={"minimum": 2}, gate__margin=1.0))
        trainer.train(ref, [failures(told)])
        rounds = trainer.history(ref.run).rounds
        assert [item.sealed_sites for item in rounds] == [("east", "west")] * 2, scheme
        assert [line.partition(":")[0] for line in told] == ["north, round 1, seal", "north, round 2, seal"]
        assert all("what north submitted: " in line for line in told)
    monkeypatch.setattr(Workspace, "unsealable", lambda *given: {})
    with pytest.raises(IntegrityError, match="what north submitted"):
        trainer.train(trainer.open(trainer.settings(encryption={"scheme": "threshold"}, training__rounds=1, sites={"minimum": 2})))


def test_what_was_never_handed_over_is_left_out_of_the_seal(trainer: Any) -> None:
    """North signs the digest of a ciphertext that the store does not have: the other two are sealed, and north is named."""

    def lose() -> None:
        (workspace,) = Workspace._open.values()
        workspace.store.path(workspace.record.submission(1, "north").ciphertext).unlink()

    told: list[str] = []
    ref = trainer.open(trainer.settings(training__rounds=1, sites={"minimum": 2}))
    trainer.train(ref, [at_step("seal", lose), failures(told)])
    assert trainer.history(ref.run).rounds[0].sealed_sites == ("east", "west")
    assert told == ["north, round 1, seal: what north submitted is not in the store"]


def test_a_worse_candidate_is_rejected_on_the_ledger_and_the_model_stays(trainer: Any, user_model: str) -> None:
    """Rounds 2 and 3 unlearn: both are committed as rejected with the reason, round 3 starts from round 1's model, which is published."""
    settings = trainer.settings(model={"path": user_model}, training__rounds=3)
    ref = trainer.open(settings)
    model = trainer.train(ref, [lambda progress: Path("worse").touch() if isinstance(progress, RoundResult) else None])
    first, second, third = trainer.history(ref.run).rounds
    assert [item.outcome.accepted for item in (first, second, third)] == [True, False, False]
    assert "accuracy" in second.outcome.reason
    assert "worse than the current model's" in second.outcome.reason
    assert second.base_model == third.base_model == first.outcome.candidate
    assert model.model.digest == first.outcome.candidate.hex()
    assert [item.accepted for item in trainer.progress if isinstance(item, RoundResult)] == [True, False, False]


def test_without_an_accepted_candidate_no_model_is_published(trainer: Any, user_model: str) -> None:
    """Every candidate is worse than the initial model: exit 1, a completed run, no model on the ledger or in MLflow."""
    Path("worse").touch()
    spoken = trainer.cifer("run", trainer.write(model={"path": user_model}))
    assert spoken.code == 1, spoken.out
    assert "the gate accepted no candidate" in spoken.out
    history = trainer.history(only_run(trainer))
    assert history.status == "completed"
    assert history.current_model == history.initial_model
    assert trainer.state().latest_version("lab") == 0

    from cifer_tasks.errors import UsageError
    from cifer_tasks.tracking import load_registered

    with pytest.raises(UsageError, match="no such registered model"):
        load_registered(trainer.folder, "lab", "champion")


def test_a_submission_refused_in_a_batch_costs_no_other_site_its_place(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a rule in the first round, by the site's own disk in the second: it alone is left out, and the ledger has its own reason."""
    make, lock = saying._submission, ArtifactStore.flush

    def too_many_rows(workspace: Any, number: int, update: Any) -> Any:
        body = make(workspace, number, update)
        return msgspec.structs.replace(body, rows=body.rows + 1) if (number, update.site) == (1, "west") else body

    def full(self: ArtifactStore, *refs: Any) -> None:
        (workspace,) = Workspace._open.values()
        if workspace.record.declared.rounds_opened == 2 and any(spoilt(ref) for ref in refs):
            raise StorageError("no space left")
        lock(self, *refs)

    def spoilt(ref: Any) -> bool:
        return ref.kind == "ciphertext" and ref.digest == made["west"]

    made: dict[str, str] = {}
    encrypt = site_steps.FUSED.encrypt

    def encrypted(run: Any, number: int, site: str, *rest: Any) -> Any:
        found = encrypt(run, number, site, *rest)
        made[site] = found.ciphertext.digest
        return found

    monkeypatch.setattr(saying, "_submission", too_many_rows)
    monkeypatch.setattr(ArtifactStore, "flush", full)
    monkeypatch.setattr(site_steps, "FUSED", replace(site_steps.FUSED, encrypt=encrypted))
    settings = trainer.settings(encryption__scheme="ckks", training__rounds=2, compute__fused=True, sites__minimum=2, gate__margin=1.0)
    rounds = trainer.history(trainer.train_all(settings).run).rounds
    assert [item.sealed_sites for item in rounds] == [("east", "north")] * 2
    left_out = [[(found.site, found.step) for found in item.exclusions] for item in rounds]
    assert left_out == [[("west", "submit")]] * 2
    assert "rows" in rounds[0].exclusions[0].reason and "no space left" in rounds[1].exclusions[0].reason


# ------------------------------------------------------------------------------- files and keys that are not what they were


def test_a_damaged_ciphertext_stops_the_run_until_it_is_restored(trainer: Any) -> None:
    """One flipped byte of a submission: nothing is sealed; with the byte back, the run resumes to the undisturbed model."""
    undisturbed = trainer.history(trainer.run(encryption__scheme="ckks", training__rounds=1).run).current_model
    damaged: list[Path] = []

    def damage() -> None:
        (workspace,) = Workspace._open.values()
        ref = workspace.record.submission(1, "north").ciphertext
        damaged.append(workspace.store.path(ref))
        flip(damaged[0])

    ref = trainer.open(trainer.settings(encryption__scheme="ckks", training__rounds=1))
    with pytest.raises(IntegrityError, match=r"damaged: .* where ciphertext .* delete the file"):
        trainer.train(ref, [at_step("seal", damage)])
    history = trainer.history(ref.run)
    assert (history.status, history.rounds[0].sealed) == ("open", None)
    flip(damaged[0])
    trainer.train(ref)
    assert trainer.history(ref.run).current_model == undisturbed


def test_the_secret_of_another_network_opens_nothing(trainer: Any) -> None:
    """A run's secret replaced by one sealed for another network: refused by file and remedy; with the right one, the run resumes."""
    ref = trainer.open(trainer.settings(encryption__scheme="ckks", training__rounds=1))
    secret = trainer.home / "keys" / f"{ref.run}.encryption.secret"
    kept = trainer.folder / "kept"

    def replace() -> None:
        (workspace,) = Workspace._open.values()
        shutil.move(secret, kept)
        workspace.keys.put_contexts(ref.run, "ff" * 32, *workspace.scheme.generate())

    told: list[str] = []
    with pytest.raises(IntegrityError, match="exactly one opening"):
        trainer.train(ref, [at_step("release", replace), failures(told)])
    assert re.search(r"encryption.secret: belongs to network ffffffffffffffff, this is network .*CIFER_HOME", told[0])
    assert trainer.history(ref.run).rounds[0].status == "sealed"
    shutil.move(kept, secret)
    assert trainer.train(ref) is not None


def test_the_secret_of_another_run_opens_nothing(trainer: Any) -> None:
    """A well-sealed secret that is simply another key pair: the sum does not open, and nothing is committed."""
    ref = trainer.open(trainer.settings(encryption__scheme="ckks", training__rounds=1))

    def replace() -> None:
        (workspace,) = Workspace._open.values()
        (trainer.home / "keys" / f"{ref.run}.encryption.secret").unlink()
        workspace.keys.put_contexts(ref.run, workspace.ledger.network.hex(), *workspace.scheme.generate())

    told: list[str] = []
    with pytest.raises(IntegrityError, match="exactly one opening"):
        trainer.train(ref, [at_step("release", replace), failures(told)])
    assert "use the keystore of this run" in told[0]
    assert trainer.history(ref.run).rounds[0].outcome is None


def test_a_run_that_loses_its_sites_at_enrolment_says_who_withdrew(trainer: Any) -> None:
    """Two of three consents withdrawn before the run: `TooFewSitesError` names both with their reasons, before any round."""
    ref = trainer.open(trainer.settings())
    with trainer.here():
        workspace = Workspace.of(ref)
        from cifer_tasks.network import enrol_sites

        enrol_sites(workspace, workspace.scenario)
        for site in ("east", "west"):
            dataset = bytes.fromhex(workspace.dataset(site).sha256)
            workspace.author(site).send(WithdrawConsent(dataset, "lab", f"{site} left"))
    with pytest.raises(TooFewSitesError, match=r"1 sites can take part .*east: .*east left; west: .*west left"):
        trainer.train(ref)
    assert trainer.state().run(ref.run) is None


def after_round(lab: Any, number: int, act: Callable[[], None]) -> Any:
    """Train two rounds, acting after one of them; the run's reference."""
    ref = lab.open(lab.settings())
    lab.train(ref, [lambda progress: act() if isinstance(progress, RoundResult) and progress.round == number else None])
    return ref


def at_step(step: str, act: Callable[[], None], site: str = "") -> Callable[[Any], None]:
    """A listener that acts once, as `step` first begins, at `site` when one is named."""
    done: list[bool] = []

    def listen(progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == step and site in {"", progress.site} and not done:
            done.append(True)
            act()

    return listen


def failures(told: list[str]) -> Callable[[Any], None]:
    """A listener that notes what a site's failure is said to be."""

    def listen(progress: Any) -> None:
        if isinstance(progress, SiteFailed):
            told.append(progress.detail)

    return listen


def flip(path: Path) -> None:
    """Change one byte; again changes it back."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

"""A run that is killed or interrupted goes on where the ledger is, to the same model, and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from threading import Lock
from typing import Any

import psutil
import pytest

from cifer_tasks import saying
from cifer_tasks.errors import CiferError
from cifer_tasks.workspace import StepStarted
from ledger import Author, LedgerError

STRIKER = '''\
"""A user's model that sends its own process group a signal in a certain training, once, and notes who is running then."""

import json
import os
import signal
from pathlib import Path

import lightning
import psutil
import torch


class Net(lightning.LightningModule):
    def __init__(self, features, classes):
        super().__init__()
        self.layer = torch.nn.Linear(features, classes)

    def forward(self, rows):
        return self.layer(rows)

    def on_train_start(self):
        strike, trainings = Path("strike"), Path("trainings")
        if not strike.exists():
            return
        count = 1 + (len(trainings.read_text()) if trainings.exists() else 0)
        trainings.write_text("x" * count)
        at, number = json.loads(strike.read_text())
        if count == at:
            strike.unlink()
            family = psutil.Process().children(recursive=True)
            Path("family").write_text(json.dumps([os.getpid(), *(child.pid for child in family)]))
            os.kill(os.getpid(), number) if number == signal.SIGKILL else os.killpg(0, number)

    def training_step(self, batch, index):
        rows, labels = batch
        return torch.nn.functional.cross_entropy(self(rows), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)
'''

SECOND_SITE_OF_ROUND_2 = 3 + 2


def strike(lab: Any, number: int) -> tuple[str, Any]:
    """Run the real command until it signals itself in the middle of round 2; the run's name, and what the process said."""
    (lab.folder / "striker.py").write_text(STRIKER)
    (lab.folder / "strike").write_text(json.dumps([SECOND_SITE_OF_ROUND_2, int(number)]))
    process = lab.process("run", lab.write(model={"path": "striker.Net"}, encryption__scheme="ckks", training__rounds=3))
    out, err = process.communicate(timeout=300)
    (run,) = [folder.name for folder in (lab.home / "runs").iterdir()]
    return run, (process.returncode, out, err)


def wait_until_gone(lab: Any) -> list[int]:
    """Those of the noted processes that are still there when half a minute has passed; a pid that now is another program's is not."""
    noted = json.loads((lab.folder / "family").read_text())
    assert len(noted) >= 2, "the command and its Prefect server"
    running = []
    for pid in noted:
        try:
            process = psutil.Process(pid)
            if str(lab.home) in json.dumps(process.environ()):
                running.append(process)
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(running, timeout=30)
    return [process.pid for process in alive]


@pytest.fixture(scope="module")
def undisturbed(shared_trainer: Any) -> bytes:
    """The model of the same scenario trained without interruption, on a ledger of its own."""
    (shared_trainer.folder / "striker.py").write_text(STRIKER)
    settings = shared_trainer.settings(model={"path": "striker.Net"}, encryption__scheme="ckks", training__rounds=3)
    return bytes(shared_trainer.history(shared_trainer.train_all(settings).run).current_model)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_a_stopped_process_is_taken_up_again(trainer: Any, undisturbed: bytes, number: signal.Signals) -> None:
    """Stopped while the second site trains in round 2: nothing of it keeps running, and `--resume` ends in the undisturbed model."""
    run, (code, out, err) = strike(trainer, number)
    if number == signal.SIGINT:
        assert code == 130
        assert "Traceback" not in out + err
        lines = [line for line in err.splitlines() if line]
        assert len(lines) == 1, err
        assert re.fullmatch(rf"cifer: interrupted; .*cifer run --resume {run}", lines[0])
    else:
        assert code == -signal.SIGKILL
    assert wait_until_gone(trainer) == []

    before = trainer.history(run)
    assert (before.status, [item.status for item in before.rounds]) == ("open", ["committed", "open"])
    assert [item.site for item in before.rounds[1].submissions] == ["east"]

    again = trainer.cifer("run", "--resume", run)
    assert again.code == 0, again
    after = trainer.history(run)
    assert after.status == "completed"
    assert after.rounds[0] == before.rounds[0]
    assert after.rounds[1].submissions[0] == before.rounds[1].submissions[0], "what was submitted is not done again"
    assert after.current_model == undisturbed
    rows = re.findall(r"^ +(\d+) +\d\.\d{4} .* (-|\d+\.\d\d)$", again.out, re.MULTILINE)
    assert [(number, seconds == "-") for number, seconds in rows] == [("1", True), ("2", False), ("3", False)], (
        "every round is shown, old ones untimed"
    )
    orphans = [event for event in trainer.events(run) if event["eventType"] == "ABORT"]
    assert {event["job"]["name"].rpartition(".")[2] for event in orphans} >= {"training", "round", "train"}


# ------------------------------------------------------------------------------------------------- at every point


class PowerCut(BaseException):
    """The process ends here: not an `Exception`, so that nothing on the way treats it as a step that raised."""


STEPS = [
    *("prepare", "enrol", "open_run", "start_tracking", "mirror_lineage"),
    *("open_round", "validate_data", "train", "protect", "encrypt", "submit", "seal", "aggregate", "release", "open_aggregate"),
    *("evaluate", "accept", "commit", "track", "register", "close_run"),
]
SENDS = [
    *("RegisterIdentity", "RegisterDataset", "OpenRun", "AppendLineage", "OpenRound", "SubmitUpdate", "SealRound"),
    "ReleaseOpening",
    *("CommitRound", "RegisterModel", "CloseRun"),
]


def test_a_run_cut_short_before_every_step_ends_in_the_same_model(trainer: Any) -> None:
    """One run, ended abruptly at the beginning of each step in turn and taken up again each time, makes the undisturbed model."""
    settings = trainer.settings(encryption__scheme="ckks")
    expected = trainer.history(trainer.train_all(settings).run)
    ref = trainer.open(settings)
    cuts = list(STEPS)

    def cut(progress: Any) -> None:
        if isinstance(progress, StepStarted) and cuts and progress.step == cuts[0]:
            cuts.pop(0)
            raise PowerCut

    attempts = resume_until_done(trainer, ref, [cut])
    assert cuts == []
    assert attempts == len(STEPS) + 1
    same_outcome(trainer.history(ref.run), expected)
    assert tracked_rounds(trainer, ref.run) == [(item.round, "FINISHED") for item in expected.rounds], "also the one cut before its `track`"


def test_a_run_cut_short_after_every_kind_of_transaction_ends_in_the_same_model(
    trainer: Any, make_lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger has it and the process ends before it learns so: nothing is sent twice, and the model is the undisturbed one."""
    settings = trainer.settings(encryption__scheme="ckks")
    other = make_lab(trainer.folder.parent / "other")
    expected = other.history(other.train_all(settings).run)
    cuts, turn = list(SENDS), Lock()
    send, together = Author.send_all, saying.send_together

    def cutting(self: Author, bodies: Any) -> Any:
        return cut(bodies, send(self, bodies))

    def cutting_together(said: Any) -> Any:
        return cut([body for _, body in said], together(said))

    def cut(bodies: Any, receipts: Any) -> Any:
        with turn:  # sites enrol side by side
            if cuts and cuts[0] in {type(body).__name__ for body in bodies}:
                cuts.pop(0)
                raise PowerCut
        return receipts

    ref = trainer.open(settings)
    monkeypatch.setattr(Author, "send_all", cutting)
    monkeypatch.setattr(saying, "send_together", cutting_together)
    attempts = resume_until_done(trainer, ref, [])
    assert cuts == []
    assert attempts == len(SENDS) + 1
    found = trainer.history(ref.run)
    same_outcome(found, expected)
    assert kinds_on(trainer, "lineage.append") >= 4
    for kind in ("run.open", "model.register", "run.close"):
        assert kinds_on(trainer, kind) == 1, kind
    assert kinds_on(trainer, "round.submit") == 6
    assert kinds_on(trainer, "consent.grant") == 3


def test_a_completed_run_that_is_resumed_trains_nothing_again(trainer: Any) -> None:
    """`--resume` of a completed run ends well with the model there is: no round, version or end is added to the ledger."""
    done = trainer.run(training__rounds=1).run
    before = trainer.history(done)
    spoken = trainer.cifer("run", "--resume", done)
    assert spoken.code == 0, spoken
    assert before.current_model.hex() in spoken.out
    after = trainer.history(done)
    assert (after.rounds, after.closed, after.current_model) == (before.rounds, before.closed, before.current_model)
    assert trainer.state().latest_version("lab") == 1


def test_an_aborted_run_stays_aborted(trainer: Any) -> None:
    """`--resume` of an aborted run is refused with the reason on record, and changes nothing on the ledger."""
    ref = trainer.open(trainer.settings(sites__minimum=3, checks={"ranges": {"age": [0, 1]}}))
    with pytest.raises(CiferError):
        trainer.train(ref)
    height = trainer.state().height
    spoken = trainer.cifer("run", "--resume", ref.run)
    assert spoken.code == 1
    (line,) = spoken.lines
    assert re.search(rf"^cifer: {ref.run} was aborted: round 1 has 0 submissions", line)
    assert "--resume" not in line
    assert trainer.state().height == height


def test_two_processes_do_not_write_one_ledger(trainer: Any) -> None:
    """While a run has the ledger, a second command that would write is refused by name of the process; reading is possible."""
    ref = trainer.open(trainer.settings(training__rounds=1))
    said: list[Any] = []

    def meanwhile(progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == "seal":
            process = trainer.process("consent", "withdraw", "north", "lab", "--reason", "test")
            said.append((*process.communicate(timeout=60), process.returncode))
            said.append(trainer.cifer("ledger", "status", "--json"))

    trainer.train(ref, [meanwhile])
    (_, err, code), status = said
    assert code == 1
    assert re.fullmatch(rf"cifer: the ledger in .* is in use by process {os.getpid()}: wait for it or stop it; .*\n", err)
    assert status.code == 0
    assert json.loads(status.out)["height"] > 0


def tracked_rounds(lab: Any, run: str) -> list[tuple[int, str]]:
    """The rounds of a run in MLflow, and how their runs stand."""
    from cifer_tasks.tracking._store import connect

    client = connect(lab.folder)
    everywhere = [item.experiment_id for item in client.search_experiments()]
    found = client.search_runs(everywhere, f"tags.`cifer.run` = '{run}'")
    return sorted((int(item.data.tags["cifer.round"]), item.info.status) for item in found if item.data.tags["cifer.round"])


def resume_until_done(lab: Any, ref: Any, listeners: list[Any]) -> int:
    """Train again after each power cut; the number of attempts."""
    for attempt in range(1, 40):
        try:
            lab.train(ref, listeners)
        except PowerCut:
            continue
        except (CiferError, LedgerError) as error:
            raise AssertionError(f"attempt {attempt}: {error}") from error
        return attempt
    raise AssertionError("never done")


def same_outcome(found: Any, expected: Any) -> None:
    assert found.status == expected.status == "completed"
    assert found.current_model == expected.current_model
    assert [item.outcome.opened for item in found.rounds] == [item.outcome.opened for item in expected.rounds]
    assert [item.sealed_sites for item in found.rounds] == [item.sealed_sites for item in expected.rounds]


def kinds_on(lab: Any, kind: str) -> int:
    """How many transactions of a kind the ledger holds."""
    document = json.loads(lab.cifer("ledger", "blocks", "--last", 1000, "--json").out)
    return sum(block["transactions"].count(kind) for block in document)


def test_the_striking_model_is_the_undisturbed_one_when_it_does_not_strike(trainer: Any) -> None:
    """Control: without a `strike` file the model trains to the end, so the interruptions above come from the signal alone."""
    (trainer.folder / "striker.py").write_text(STRIKER)
    run = trainer.train_all(trainer.settings(model={"path": "striker.Net"}, training__rounds=1)).run
    assert trainer.history(run).status == "completed"
    assert not Path("family").exists()

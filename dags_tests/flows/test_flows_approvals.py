"""A model that needs somebody's word waits for it, is published with it, and is not without; the ledger says who, what and why."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cifer_tasks import tasks
from cifer_tasks.errors import ModelDeclinedError
from cifer_tasks.records import Awaiting, RegisteredModel
from ledger import ApprovalError


@pytest.fixture
def waiting(trainer: Any) -> Any:
    """A run of one round whose model waits for approval."""
    ref = trainer.open(trainer.settings(approval="required", training__rounds=1))
    model = trainer.train(ref)
    assert isinstance(model, Awaiting)
    assert model.model.digest == trainer.history(ref.run).current_model.hex()
    return ref


def refuse_everybody_else(trainer: Any, run: str) -> None:
    """A site's key, an unknown run: one line each, and no decision."""
    as_site = trainer.cifer("approve", run, "--reason", "fine by us", "--as", "north")
    assert as_site.code == 1 and "only an approver or an administrator decides" in as_site.err
    unknown = trainer.cifer("approve", "nope", "--reason", "x")
    assert unknown.code == 2 and "nope: no such run" in unknown.err


def publish_without_asking(trainer: Any, waiting: Any) -> None:
    """The mutant whose register step skips the question: the rule is the ledger's, not the coordinator's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "_approved", lambda workspace, model: True)
        with pytest.raises(ApprovalError, match="requires approval"):
            trainer.train(waiting)


def test_an_approved_model_is_published_by_taking_the_run_up_again(trainer: Any, waiting: Any) -> None:
    """No step and nobody without the role gets around it; approved by a new approver, the run ends with the model and who let it."""
    publish_without_asking(trainer, waiting)
    refuse_everybody_else(trainer, waiting.run)
    assert trainer.state().latest_version("lab") == 0
    assert trainer.history(waiting.run).status == "open"
    assert re.search(rf"{waiting.run} +for approval .*cifer approve {waiting.run}", trainer.cifer("runs").out)

    decided = trainer.cifer("approve", waiting.run, "--reason", "reviewed on site", "--as", "dr-meyer", "--json")
    assert decided.code == 0, decided
    found = json.loads(decided.out)
    assert (found["decision"], found["by"], found["reason"]) == ("approved", "dr-meyer", "reviewed on site")
    assert trainer.state().identity("dr-meyer").role == "approver"

    model = trainer.train(waiting)
    assert isinstance(model, RegisteredModel) and model.model.digest == found["model"]
    audited = trainer.cifer("audit", "model", "lab@champion")
    assert f"approved by dr-meyer, block {found['height']} (tx {found['transaction'][:16]}): reviewed on site" in audited.out
    approvals = trainer.cifer("lineage", "approvals", "lab@champion", "--json").out
    assert "model.approve" in approvals and "approval.require" in approvals

    again = trainer.cifer("approve", waiting.run, "--reason", "twice")
    assert again.code == 2 and "is completed: there is nothing to decide any more" in again.err


def test_a_declined_model_ends_its_run(trainer: Any, waiting: Any) -> None:
    """Declined, the run is aborted with the reason when it is taken up again, publishes nothing, and the word stands."""
    assert trainer.cifer("approve", waiting.run, "--decline", "--reason", "worse for women over 70").code == 0
    changed = trainer.cifer("approve", waiting.run, "--reason", "on second thoughts")
    assert changed.code == 1 and "was declined by 'administrator-0'" in changed.err
    (trainer.home / "keys" / "administrator.signing.secret").rename(trainer.home / "keys" / "moved")
    elsewhere = trainer.cifer("approve", waiting.run, "--reason", "x", "--as", "dr-meyer")
    assert elsewhere.code == 2 and "the administrator, who could admit an approver, is not on this machine" in elsewhere.err
    (trainer.home / "keys" / "moved").rename(trainer.home / "keys" / "administrator.signing.secret")
    with pytest.raises(ModelDeclinedError, match=r"administrator-0 declined model .* worse for women over 70"):
        trainer.train(waiting)
    history = trainer.history(waiting.run)
    assert (history.status, trainer.state().latest_version("lab")) == ("aborted", 0)
    assert "worse for women over 70" in history.reason

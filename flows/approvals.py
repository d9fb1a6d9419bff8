"""`cifer approve`: somebody who may decide lets a trained model be published, or declines it; the ledger keeps who, what and why."""

from __future__ import annotations

from typing import Any

from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import KeyMismatchError, UsageError
from cifer_tasks.network import ADMINISTRATOR, author
from cifer_tasks.workspace import home_folder
from flows.consents import writing
from flows.documents import Report
from ledger import ApproveModel, Author, Ledger, RegisterIdentity, State
from ledger.state.entries import APPROVER, Run


def approve(run: str, reason: str, *, approved: bool, name: str) -> Report:
    """Decide about the model of a run whose rounds are done, signed by `name`'s key, which has to be on this machine.

    name: the administrator, or an approver; somebody new is admitted as approver where the administrator's key is here too.
    Raises `UsageError`, `KeyMismatchError`, and the ledger's own errors: the role, a decision that stands, a run that writes just now.
    """
    with writing(home_folder()) as (ledger, keys):
        found = trained_run(ledger.state(), run)
        receipt = _decider(name, ledger, keys).send(ApproveModel(run, found.current_model, approved, reason))
    verb = "approved" if approved else "declined"
    document: dict[str, Any] = {"run": run, "model": found.current_model.hex(), "decision": verb, "by": name, "reason": reason}
    document |= {"transaction": receipt.transaction.hex(), "height": receipt.height}
    next_ = "publish it" if approved else "end the run"
    lines = (
        f"{verb} model {found.current_model.hex()[:16]} of {run} as {name}, block {receipt.height} (tx {receipt.transaction.hex()[:16]})",
        f"next: {next_} with: cifer run --resume {run}",
    )
    return Report(document, lines)


def trained_run(state: State, run: str) -> Run:
    """A run that has a model to decide about. Raises `UsageError` when it is unknown, over, still training, or has accepted none."""
    found = state.run(run)
    if found is None:
        msg = f"{run}: no such run on the ledger; `cifer runs` lists those there are"
        raise UsageError(msg)
    if found.status != "open":
        msg = f"{run} is {found.status}: there is nothing to decide any more; `cifer audit run {run}` shows it"
        raise UsageError(msg)
    if found.rounds_committed < found.rounds:
        msg = f"{run} has trained {found.rounds_committed} of {found.rounds} rounds; decide when it is done"
        raise UsageError(msg)
    if found.current_model == found.initial_model:
        msg = f"{run} has no model to decide about: the gate accepted no candidate"
        raise UsageError(msg)
    return found


def _decider(name: str, ledger: Ledger, keys: Keystore) -> Author:
    """Who signs; admitted as approver when nobody of that name is on the ledger yet."""
    if name == ADMINISTRATOR:
        return author(ADMINISTRATOR, ledger, keys)
    known = ledger.state().identity(name)
    if known is None:
        if not keys.has(ADMINISTRATOR, "signing"):
            msg = f"{name} is nobody on the ledger, and the administrator, who could admit an approver, is not on this machine; ask there"
            raise UsageError(msg)
        made = author(name, ledger, keys)
        author(ADMINISTRATOR, ledger, keys).send(RegisterIdentity(name, APPROVER, made.public))
        return made
    if not keys.has(name, "signing") or author(name, ledger, keys).public != known.public_key:
        msg = f"the key in {keys.folder} is not the one the ledger knows {name} by; decide where {name}'s key is, or restore it"
        raise KeyMismatchError(msg)
    return author(name, ledger, keys)

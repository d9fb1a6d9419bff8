"""Whose word a model needs before it is published: it is required for a run, and somebody decides. Rules V7-V12 of SPEC.md."""

from __future__ import annotations

from ledger.errors import DuplicateError, FieldError, ModelMismatchError, RoleError
from ledger.state import checks
from ledger.state.entries import ADMINISTRATOR, APPROVER, Approval, ApprovalRequired, Identity, Origin
from ledger.state.view import State
from ledger.types import ApproveModel, RequireApproval

DECIDERS = (APPROVER, ADMINISTRATOR)


def require(state: State, author: Identity, origin: Origin, body: RequireApproval) -> State:
    """From now on no model of the run is registered before somebody has approved it. It is not taken back."""
    run = checks.run_of(state, body.run)
    where = f"run {body.run!r}"
    if author.name != run.coordinator and author.role != ADMINISTRATOR:
        checks.refuse("V7", RoleError, f"{where}: {author.name!r} is neither its coordinator nor an administrator; ask one of them")
    checks.still_open(run)
    if state.read(ApprovalRequired, body.run) is not None:
        checks.refuse("V8", DuplicateError, f"{where} requires approval already; it need not be said again")
    return state.put(ApprovalRequired(body.run, author.name, origin))


def decide(state: State, author: Identity, origin: Origin, body: ApproveModel) -> State:
    """Record what somebody decides about a run's current model: once, for good, and why."""
    run = checks.run_of(state, body.run)
    where = f"model {body.model.hex()[:16]} of run {body.run!r}"
    if author.role not in DECIDERS:
        checks.refuse("V9", RoleError, f"{where}: {author.name!r} is a {author.role}; only an approver or an administrator decides")
    checks.text(where, body.reason)
    if run.current_model != body.model:
        current = run.current_model.hex()[:16]
        checks.refuse("V10", ModelMismatchError, f"{where} is not its current model, which is {current}; decide about that one")
    found = state.read(Approval, body.run, body.model)
    if found is not None:
        decided = "approved" if found.approved else "declined"
        checks.refuse("V11", DuplicateError, f"{where} was {decided} by {found.by!r} at height {found.origin.height}; that stands")
    if not body.reason:
        checks.refuse("V12", FieldError, f"{where}: say why it is {'approved' if body.approved else 'declined'}")
    return state.put(Approval(body.run, body.model, author.name, body.approved, body.reason, origin))

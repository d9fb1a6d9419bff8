"""Which models are published: versions of a name, and its aliases. Rules V1-V6 and V13 of SPEC.md."""

from __future__ import annotations

from ledger.errors import ApprovalError, FieldError, ModelMismatchError, RoleError, RoundStateError
from ledger.state import checks
from ledger.state.entries import Alias, Approval, ApprovalRequired, Identity, Model, ModelName, Origin
from ledger.state.view import State
from ledger.types import RegisterModel


def register(state: State, author: Identity, origin: Origin, body: RegisterModel) -> State:
    """Publish the accepted model of a round as the next version of a name; move the alias to it when one is given."""
    run = checks.run_of(state, body.run)
    checks.coordinated(run, author)
    where = f"model {body.name[:80]!r} version {body.version}"
    checks.name(where, body.name)
    outcome = checks.round_of(state, run, body.round).outcome
    source = f"round {body.round} of run {body.run!r}"
    if outcome is None:
        checks.refuse("V1", RoundStateError, f"{where}: {source} is not committed; commit it first")
    if not outcome.accepted:
        checks.refuse("V2", RoundStateError, f"{where}: the candidate of {source} was rejected; publish the model of an accepted round")
    if outcome.candidate != body.model:
        have, made = body.model.hex()[:16], outcome.candidate.hex()[:16]
        checks.refuse("V3", ModelMismatchError, f"{where}: {have} is not {made}, the model that {source} made; publish that one")
    _approved(state, where, body)
    head = state.read(ModelName, body.name)
    if head is not None and head.owner != author.name:
        checks.refuse("V4", RoleError, f"{where}: the name belongs to {head.owner!r}, not to {author.name!r}; choose another name")
    latest = 0 if head is None else head.latest_version
    if body.version != latest + 1:
        checks.refuse("V5", ModelMismatchError, f"{where}: the next version is {latest + 1}; register that one")
    state = state.put(
        ModelName(body.name, author.name, body.version),
        Model(body.name, body.version, body.model, body.run, body.round, origin),
    )
    return state.put(_alias(where, body, origin)) if body.alias else state


def _approved(state: State, where: str, body: RegisterModel) -> None:
    if state.read(ApprovalRequired, body.run) is None:
        return
    approval = state.read(Approval, body.run, body.model)
    if approval is None or not approval.approved:
        why = f"{approval.by!r} declined it: {approval.reason}" if approval else "nobody has decided about it; ask an approver"
        checks.refuse("V13", ApprovalError, f"{where}: run {body.run!r} requires approval, and {why}")


def _alias(where: str, body: RegisterModel, origin: Origin) -> Alias:
    checks.name(f"{where}: alias", body.alias)
    if body.alias.isdigit():
        checks.refuse("V6", FieldError, f"{where}: alias {body.alias!r} reads as a version; use a word")
    return Alias(body.name, body.alias, body.version, origin)

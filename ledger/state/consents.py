"""What a dataset may be used for: its owner says so, and takes it back. Rules P1-P4 of SPEC.md."""

from __future__ import annotations

from ledger.errors import ConsentError, DuplicateError, RoleError, UnknownDatasetError
from ledger.state import checks
from ledger.state.entries import Consent, Dataset, Identity, Origin
from ledger.state.view import State
from ledger.types import GrantConsent, WithdrawConsent


def grant(state: State, author: Identity, origin: Origin, body: GrantConsent) -> State:
    """Let `body.purpose` use the dataset from now on."""
    where = _where(body)
    checks.name(where, body.purpose)
    _own_dataset(state, author, body)
    standing = state.read(Consent, body.dataset, body.purpose)
    if standing is not None and standing.live:
        checks.refuse("P3", DuplicateError, f"{where} stands since height {standing.granted.height}; it need not be given again")
    return state.put(Consent(body.dataset, body.purpose, origin, None, ""))


def withdraw(state: State, author: Identity, origin: Origin, body: WithdrawConsent) -> State:
    """End a consent that stands; what was sealed under it stays sealed."""
    where = _where(body)
    checks.text(where, body.reason)
    _own_dataset(state, author, body)
    standing = state.read(Consent, body.dataset, body.purpose)
    if standing is None or not standing.live:
        checks.refuse("P4", ConsentError, f"{where} does not stand, so there is nothing to withdraw")
    return state.put(Consent(body.dataset, body.purpose, standing.granted, origin, body.reason))


def require_live(state: State, rule: str, who: str, dataset: bytes, purpose: str) -> Consent:
    """The consent for this use. Refuses with `ConsentError` under the caller's rule when none stands."""
    consent = state.read(Consent, dataset, purpose)
    if consent is None:
        checks.refuse(rule, ConsentError, f"{who}: dataset {dataset.hex()[:16]} has no consent for {purpose!r}; its owner has to grant it")
    if not consent.live:
        since = f"withdrawn at height {consent.withdrawn.height}" if consent.withdrawn else "withdrawn"
        checks.refuse(rule, ConsentError, f"{who}: consent of dataset {dataset.hex()[:16]} for {purpose!r} was {since}; leave the site out")
    return consent


def _own_dataset(state: State, author: Identity, body: GrantConsent | WithdrawConsent) -> None:
    dataset = state.read(Dataset, body.dataset)
    where = _where(body)
    if dataset is None:
        checks.refuse("P1", UnknownDatasetError, f"{where}: no such dataset is on the ledger; register it first")
    if dataset.owner != author.name:
        checks.refuse(
            "P2", RoleError, f"{where}: the dataset belongs to {dataset.owner!r}, not to {author.name!r}; only its owner consents"
        )


def _where(body: GrantConsent | WithdrawConsent) -> str:
    return f"consent of dataset {body.dataset.hex()[:16]} for {body.purpose[:80]!r}"

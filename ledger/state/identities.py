"""Who may take part: an administrator admits a key under a name and a role. Rules I1-I5 of SPEC.md."""

from __future__ import annotations

from ledger.crypto import is_public_key
from ledger.errors import DuplicateError, FieldError, RoleError
from ledger.state import checks
from ledger.state.entries import ADMINISTRATOR, AGGREGATOR, APPROVER, AUDITOR, COORDINATOR, SITE, Account, Identity, Origin
from ledger.state.view import State
from ledger.types import RegisterIdentity

ROLES = (SITE, COORDINATOR, AGGREGATOR, AUDITOR, APPROVER)


def register(state: State, author: Identity, origin: Origin, body: RegisterIdentity) -> State:
    """Admit `body.public_key`; its sequence starts at 0."""
    where = f"identity {body.name[:80]!r}"
    if author.role != ADMINISTRATOR:
        checks.refuse("I1", RoleError, f"{where}: {author.name!r} is a {author.role}; only an administrator registers identities")
    checks.name(where, body.name)
    if body.role not in ROLES:
        checks.refuse("I2", FieldError, f"{where}: role {body.role[:80]!r} is not one of {', '.join(ROLES)}")
    if state.read(Identity, body.name) is not None:
        checks.refuse("I3", DuplicateError, f"{where} is already registered; choose another name")
    if state.read(Account, body.public_key) is not None:
        checks.refuse("I4", DuplicateError, f"{where}: key {body.public_key.hex()[:16]} already belongs to somebody; generate another")
    if not is_public_key(body.public_key):
        checks.refuse("I5", FieldError, f"{where}: {body.public_key.hex()[:80]!r} is no Ed25519 public key; give its 32 bytes")
    return state.put(Identity(body.name, body.role, body.public_key, origin), Account(body.public_key, body.name, 0))

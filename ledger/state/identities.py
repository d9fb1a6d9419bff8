"""Who may take part: an administrator admits a key under a name and a role, or invites somebody to name one. Rules I1-I14 of SPEC.md.

The name stays when the key changes: what was said under it, consents and reputation go on. A key that was replaced or revoked speaks
for nobody ever again.
"""

from __future__ import annotations

from ledger import crypto
from ledger.codec import encode
from ledger.crypto import Domain, is_public_key
from ledger.errors import BadSignatureError, DuplicateError, FieldError, RoleError
from ledger.state import checks
from ledger.state.entries import (
    ADMINISTRATOR,
    AGGREGATOR,
    APPROVER,
    AUDITOR,
    COORDINATOR,
    INVITED,
    SITE,
    Account,
    FormerKey,
    Identity,
    Invitation,
    Origin,
)
from ledger.state.view import State
from ledger.types import AcceptInvitation, InviteIdentity, RegisterIdentity, RevokeIdentity, RotateIdentity

ROLES = (SITE, COORDINATOR, AGGREGATOR, AUDITOR, APPROVER)
REVOKED = b""
"""The public key of an identity whose key was revoked."""


def register(state: State, author: Identity, origin: Origin, body: RegisterIdentity) -> State:
    """Admit `body.public_key`, also in place of one that was revoked; its sequence starts at 0."""
    where = f"identity {body.name[:80]!r}"
    _may_admit(where, author, body)
    standing = state.read(Identity, body.name)
    if standing is not None and (standing.public_key != REVOKED or standing.role != body.role):
        checks.refuse("I3", DuplicateError, f"{where} is a {standing.role} already; choose another name, or revoke its key first")
    _new_key(state, where, body.public_key)
    return state.put(Identity(body.name, body.role, body.public_key, origin), Account(body.public_key, body.name, 0))


def invite(state: State, author: Identity, origin: Origin, body: InviteIdentity) -> State:
    """Give a one-time key the right to name the identity's own; it may do nothing else. It takes the place of an earlier invitation."""
    where = f"invitation of {body.name[:80]!r}"
    _may_admit(where, author, body)
    standing = state.read(Identity, body.name)
    if standing is not None and standing.role != INVITED:
        checks.refuse("I3", DuplicateError, f"{where}: {standing.name!r} is a {standing.role} already; choose another name")
    _new_key(state, where, body.invitation)
    checks.integer(f"{where}: last_height", body.last_height)
    if body.last_height < origin.height:
        checks.refuse("I6", FieldError, f"{where} ends at height {body.last_height}, before this one, {origin.height}; let it last")
    return state.put(
        Identity(body.name, INVITED, body.invitation, origin),
        Invitation(body.name, body.role, body.invitation, body.last_height, origin),
        Account(body.invitation, body.name, 0),
    )


def accept(state: State, author: Identity, origin: Origin, body: AcceptInvitation) -> State:
    """The invited names its own key; the invitation's key is nobody's from then on (X4)."""
    where = f"invitation of {author.name!r}"
    invitation = state.read(Invitation, author.name)
    if author.role != INVITED or invitation is None:
        checks.refuse("I7", RoleError, f"{where}: {author.name!r} is a {author.role}; only who is invited accepts, and once")
    if origin.height > invitation.last_height:
        checks.refuse("I8", RoleError, f"{where} ended at height {invitation.last_height}; ask an administrator for another")
    _new_key(state, where, body.public_key)
    if not crypto.verify(body.public_key, Domain.JOINING, joining(state.network, author.name), body.proof):
        checks.refuse("I9", BadSignatureError, f"{where}: {body.public_key.hex()[:16]} did not sign the proof; sign with the key you name")
    return state.put(Identity(author.name, invitation.role, body.public_key, origin), Account(body.public_key, author.name, 0))


def rotate(state: State, author: Identity, origin: Origin, body: RotateIdentity) -> State:
    """Make `body.public_key` the author's, whose numbers go on under it."""
    where = f"rotation of {author.name!r}"
    _keyed_here(where, author)
    _new_key(state, where, body.public_key)
    sequence = state.next_sequence(author.public_key)
    if not crypto.verify(body.public_key, Domain.ROTATING, rotating(state.network, author.public_key, sequence), body.proof):
        checks.refuse("I11", BadSignatureError, f"{where}: {body.public_key.hex()[:16]} did not sign the proof; sign with the key you name")
    account = Account(body.public_key, author.name, sequence + 1)
    return _replaced(state, author, origin, body.public_key).put(account)


def rotating(network: bytes, author: bytes, sequence: int) -> bytes:
    """What a key signs that is to take the place of the key `author`, in transaction number `sequence` of that one: their encoding."""
    return encode((network, author, sequence))


def revoke(state: State, author: Identity, origin: Origin, body: RevokeIdentity) -> State:
    """Leave the identity without a key, until an administrator registers another for it."""
    where = f"revocation of {body.name[:80]!r}"
    if author.role != ADMINISTRATOR and author.name != body.name:
        checks.refuse("I12", RoleError, f"{where}: {author.name!r} is a {author.role}; only an administrator or its holder revokes a key")
    identity = state.read(Identity, body.name)
    if identity is None or identity.public_key != body.public_key or body.public_key == REVOKED:
        checks.refuse("I13", FieldError, f"{where}: {body.public_key.hex()[:16]} is not its present key; name that one")
    _keyed_here(where, identity)
    checks.text(where, body.reason)
    if not body.reason:
        checks.refuse("I14", FieldError, f"{where}: without a reason; say what happened to the key")
    return _replaced(state, identity, origin, REVOKED)


def _keyed_here(where: str, identity: Identity) -> None:
    if identity.role not in ROLES:
        message = f"{where}: the key of a {identity.role} does not change in this way; genesis, invitations and validator changes fix those"
        checks.refuse("I10", RoleError, message)


def _replaced(state: State, identity: Identity, origin: Origin, key: bytes) -> State:
    """The identity with `key`, and its earlier one on record as such."""
    return state.put(
        Identity(identity.name, identity.role, key, origin),
        FormerKey(identity.public_key, identity.name, identity.origin, origin),
    )


def joining(network: bytes, name: str) -> bytes:
    """What the key that joins `network` as `name` signs in proof of itself: both in turn, the network having 32 bytes."""
    return network + name.encode()


def _may_admit(where: str, author: Identity, body: RegisterIdentity | InviteIdentity) -> None:
    if author.role != ADMINISTRATOR:
        checks.refuse("I1", RoleError, f"{where}: {author.name!r} is a {author.role}; only an administrator registers identities")
    checks.name(where, body.name)
    if body.role not in ROLES:
        checks.refuse("I2", FieldError, f"{where}: role {body.role[:80]!r} is not one of {', '.join(ROLES)}")


def _new_key(state: State, where: str, key: bytes) -> None:
    if state.read(Account, key) is not None:
        checks.refuse("I4", DuplicateError, f"{where}: key {key.hex()[:16]} already belongs to somebody; generate another")
    if not is_public_key(key):
        checks.refuse("I5", FieldError, f"{where}: {key.hex()[:80]!r} is no Ed25519 public key; give its 32 bytes")

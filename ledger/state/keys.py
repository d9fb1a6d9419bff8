"""Under which key a site receives what is meant for it alone: X25519 keys, one at a time. Rules Q1-Q3 of SPEC.md.

A run's key holders are its sites with the keys that stand here before the block in which a round opens, whatever is registered while it is
under way: nobody but a site decides what its shares are encrypted to.
"""

from __future__ import annotations

from ledger.crypto import is_exchange_key
from ledger.errors import DuplicateError, FieldError, RoleError
from ledger.state import checks
from ledger.state.entries import SITE, EncryptionKey, EncryptionKeyOwner, Identity, Origin
from ledger.state.view import State
from ledger.types import RegisterKey


def register(state: State, author: Identity, origin: Origin, body: RegisterKey) -> State:
    """Make `body.public_key` the author's encryption key, in place of an earlier one."""
    where = f"encryption key {body.public_key.hex()[:16]} of {author.name!r}"
    if author.role != SITE:
        checks.refuse("Q1", RoleError, f"{where}: {author.name!r} is a {author.role}; only a site registers an encryption key")
    if not is_exchange_key(body.public_key):
        checks.refuse("Q2", FieldError, f"{where}: {body.public_key.hex()[:80]!r} is no X25519 public key; generate another")
    if state.read(EncryptionKeyOwner, body.public_key) is not None:
        checks.refuse("Q3", DuplicateError, f"{where} was registered before; generate a fresh one")
    earlier = state.encryption_key(author.name)
    return state.put(
        EncryptionKey(author.name, body.public_key, origin),
        EncryptionKeyOwner(body.public_key, author.name, earlier.public_key if earlier else b"", origin),
    )

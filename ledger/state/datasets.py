"""Which tables exist: a site states its own. Rules D1 and D2 of SPEC.md."""

from __future__ import annotations

from ledger.errors import DuplicateError, RoleError
from ledger.state import checks
from ledger.state.entries import SITE, Dataset, Identity, Origin
from ledger.state.view import State
from ledger.types import RegisterDataset


def register(state: State, author: Identity, origin: Origin, body: RegisterDataset) -> State:
    """Record one table of `author`. A digest is registered once, by one site."""
    where = f"dataset {body.name[:80]!r}"
    if author.role != SITE:
        checks.refuse("D1", RoleError, f"{where}: {author.name!r} is a {author.role}; only a site registers datasets, its own")
    checks.name(where, body.name)
    checks.digest(where, body.sha256, body.schema_digest)
    checks.text(where, body.dvc_hash, checks.DVC_HASH_CHARACTERS)
    checks.integer(f"{where}: rows", body.rows, least=1)
    known = state.read(Dataset, body.sha256)
    if known is not None:
        whose = "you" if known.owner == author.name else f"{known.owner!r}"
        checks.refuse("D2", DuplicateError, f"{where}: {body.sha256.hex()[:16]} is already registered by {whose}; register other bytes")
    return state.put(Dataset(body.sha256, author.name, body.name, body.dvc_hash, body.rows, body.schema_digest, origin))

"""Who posts lineage events from elsewhere: a key in this home that speaks under its own name on the ledger, and decides nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import KeyMismatchError, UsageError
from cifer_tasks.network import ADMINISTRATOR, author
from flows.consents import writing
from ledger import Ledger, RegisterIdentity
from ledger.backends.base import Receipt
from ledger.state.entries import AUDITOR, Identity
from ledger.types import Body

LEDGER_ROLE: Final = AUDITOR
"""As what a producer is registered: a role that may say things in its own name, and to which no rule gives anything to decide."""


def admit(home: Path, name: str) -> Identity:
    """Make `name` somebody on the ledger, with a key in this home, unless it is so already.

    Raises `UsageError` for a name of somebody else, or where the administrator's key is not here, `KeyMismatchError`, the ledger's errors.
    """
    with writing(home) as (ledger, keys):
        known = ledger.state().identity(name)
        if known is None:
            if not keys.has(ADMINISTRATOR, "signing"):
                msg = f"{name} is nobody on the ledger, and the administrator, who could admit it, is not on this machine; grant it there"
                raise UsageError(msg)
            key = author(name, ledger, keys)
            author(ADMINISTRATOR, ledger, keys).send(RegisterIdentity(name, LEDGER_ROLE, key.public))
            known = ledger.state().identity(name)
        return _own(name, known, ledger, keys)


class Producer:
    """Sends what one producer says. One opens the ledger at a time; a run that writes to an embedded one goes first."""

    _turn = threading.Lock()

    def __init__(self, home: Path, name: str) -> None:
        """name: that of a grant, and on the ledger."""
        self._home = home
        self._name = name

    def send(self, body: Body) -> Receipt:
        """Sign and record one body, final when this returns. Raises `LockedError` while a run writes, and as `Author.send` does."""
        with self._turn, writing(self._home) as (ledger, keys):
            _own(self._name, ledger.state().identity(self._name), ledger, keys)
            return author(self._name, ledger, keys).send(body)


def _own(name: str, known: Identity | None, ledger: Ledger, keys: Keystore) -> Identity:
    """The producer of this name; nobody's else, so that a token never speaks for a site or the coordinator."""
    if known is None or known.role != LEDGER_ROLE:
        what = f"a {known.role}" if known else "nobody"
        msg = f"{name} is {what} on the ledger, and no producer of lineage events: choose another name for cifer access grant"
        raise UsageError(msg)
    if not keys.has(name, "signing") or author(name, ledger, keys).public != known.public_key:
        msg = f"the key in {keys.folder} is not the one the ledger knows {name} by; post where {name}'s key is, or restore it"
        raise KeyMismatchError(msg)
    return known

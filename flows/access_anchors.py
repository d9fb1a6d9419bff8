"""The access log's head on the ledger, so that a log whose end is gone does not hold any more.

An anchor (rule Y1 of ledger/SPEC.md) by an administrator: a tag, the number of entries in 8 bytes, big-endian, and the last entry's hash.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import IntegrityError, UsageError
from cifer_tasks.network import ADMINISTRATOR, author
from cifer_tasks.workspace import home_folder
from flows.access import Access
from flows.consents import writing
from flows.documents import Report
from ledger.provenance.index import Store
from ledger.types import Anchor

TAG: Final = b"cifer/access-log/1:"
_NUMBER_BYTES: Final = 8
_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Anchored:
    """What block `height` says of the log: its entries then, and the hash of the last."""

    entries: int
    hash: bytes
    height: int


def anchor_report() -> Report:
    """Put the log's head on the ledger. Raises `UsageError` for an empty log or without the administrator's key, `IntegrityError`."""
    home = home_folder()
    count, head = Access(home).check_log()
    if not count:
        msg = "the access log has no entries yet: there is nothing to anchor"
        raise UsageError(msg)
    if not _anchors_here(home):
        msg = "the administrator's key is not in this folder: anchor where the network was founded, or keep `cifer access log`'s last hash"
        raise UsageError(msg)
    with writing(home) as (ledger, keys):
        data = TAG + count.to_bytes(_NUMBER_BYTES, "big") + head
        receipt = author(ADMINISTRATOR, ledger, keys).send(Anchor(data))
    document = {"entries": count, "head": head.hex(), "transaction": receipt.transaction.hex(), "height": receipt.height}
    lines = (f"anchored {count} entries, last {head.hex()}, in block {receipt.height} (tx {receipt.transaction.hex()[:16]})",)
    return Report(document, lines)


def _anchors_here(home: Path) -> bool:
    """Whether this is the folder whose log is anchored: the one with the administrator's key."""
    return Keystore.open(home / "keys").has(ADMINISTRATOR, "signing")


def check_anchors(home: Path, access: Access, store: Store) -> Anchored | None:
    """Compare the log with every anchor on the ledger; the last one, None when there is none, or another folder's log is anchored.

    Raises `IntegrityError` for a log that lacks an anchored entry, or has another in its place.
    """
    last = None
    if not _anchors_here(home):
        return None
    for found in _anchors(store):
        have = access.hash_of(found.entries)
        if have is None or not hmac.compare_digest(have, found.hash):
            what = "is not there" if have is None else "is another one"
            msg = (
                f"{access.path}: block {found.height} says that the access log had {found.entries} entries, and entry "
                f"{found.entries} {what}: its end was cut off or it was written anew; keep the file and ask who changed it"
            )
            raise IntegrityError(msg)
        last = found
    return last


def _anchors(store: Store) -> list[Anchored]:
    """The anchors of an access log by an administrator, oldest first."""
    rows = store.rows(
        """SELECT json_extract(n.attributes, '$.data'), a.id >> 20 FROM nodes n JOIN acts a ON a.id = n.act
        JOIN nodes p ON p.name = a.author WHERE n.kind = 'anchor' AND json_extract(p.attributes, '$.role') = 'administrator'
        AND json_extract(n.attributes, '$.data') LIKE ? ORDER BY n.id""",
        (f"{TAG.hex()}%",),
    )
    found = [(bytes.fromhex(data).removeprefix(TAG), height) for data, height in rows]
    return [
        Anchored(int.from_bytes(data[:_NUMBER_BYTES], "big"), data[_NUMBER_BYTES:], height)
        for data, height in found
        if len(data) == _NUMBER_BYTES + _HASH_BYTES
    ]

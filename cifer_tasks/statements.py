"""What a party says to another about a run, off the ledger and on its way through a store: a record, signed.

The bytes are the signature, then canonical JSON. Whoever reads checks them as they were received, under the key that the ledger has for
the speaker, and that they are about this run: what was said in one run is nothing in another.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from cifer_tasks.errors import IntegrityError
from cifer_tasks.records import ArtifactRef, Record
from ledger import SigningKey, State, verify
from ledger.crypto import SIGNATURE_BYTES, Domain

T = TypeVar("T", bound=Record)

_SEPARATOR: Final = b"\n"


class Order(Record, frozen=True):
    """The coordinator asks a site for one stage of preparing a run: ``survey``, ``spread`` or ``settle``.

    settings: of the run.  given: what the stage starts from, itself a statement of the coordinator's; None where it needs nothing.
    """

    run: str
    stage: str
    settings: ArtifactRef
    given: ArtifactRef | None


def sign(key: SigningKey, network: bytes, run: str, record: Record) -> bytes:
    """`record` as said by `key` about `run` on `network`."""
    body = msgspec.json.encode(record)
    return key.sign(Domain.SITE_STATEMENT, _context(network, run, type(record)) + body) + body


def read(data: bytes, state: State, speaker: str, run: str, kind: type[T]) -> T:
    """What `speaker` said. Raises `IntegrityError` when it is not signed by the key that the ledger has for it, or is something else."""
    signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    identity = state.identity(speaker)
    context = _context(state.network, run, kind)
    if identity is None or not verify(identity.public_key, Domain.SITE_STATEMENT, context + body, signature):
        msg = f"run {run}: what is said to be {speaker}'s {kind.__name__.lower()} is not signed by {speaker}; it is not used"
        raise IntegrityError(msg)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        msg = f"run {run}: {speaker}'s {kind.__name__.lower()} does not parse ({error}); both sides need the same version of Cifer"
        raise IntegrityError(msg) from None


def _context(network: bytes, run: str, kind: type[Record]) -> bytes:
    """The network's 32 bytes, then run and kind, each ended by a line break, which neither contains."""
    return network + _SEPARATOR.join((run.encode(), kind.__name__.encode(), b""))

"""What every store checks of what it reads, and what it says when something does not hold. Rule C17 of SPEC.md."""

from __future__ import annotations

from hashlib import sha256
from typing import Final, TypeVar

from ledger.codec import decode
from ledger.digests import certificate_digest, header_digest, transaction_id, transactions_root
from ledger.errors import CorruptionError, FormatError, MalformedError, PrunedError
from ledger.state.transition import decode_transaction
from ledger.types import CommittedBlock

T = TypeVar("T")

REMEDY: Final = "restore this file from a backup, or move it away and rebuild it from the other validators"


def digest(body: bytes) -> bytes:
    """SHA-256: the checksum beside every body."""
    return sha256(body).digest()


def checked_bytes(place: object, what: str, body: object, checksum: object) -> bytes:
    """The body, if it matches its checksum. Raises `CorruptionError`."""
    if not isinstance(body, bytes) or digest(body) != checksum:
        raise CorruptionError(f"{place}: the bytes of {what} do not match their checksum: {REMEDY}")
    return body


def checked(place: object, kind: type[T], what: str, body: object, checksum: object) -> T:
    """The record of a body that matches its checksum. Raises `CorruptionError`."""
    try:
        return decode(checked_bytes(place, what, body, checksum), kind)
    except MalformedError as error:
        raise CorruptionError(f"{place}: {what} does not decode ({error}): {REMEDY}") from error


def checked_block(place: object, height: int, identity: object, body: object, checksum: object) -> CommittedBlock:
    """A block that also hashes to the identity it is filed under and holds what its header names. Raises `CorruptionError`."""
    committed = checked(place, CommittedBlock, f"block {height}", body, checksum)
    if committed.block.header.height != height or committed.certificate.block != identity or not is_sound(committed):
        raise CorruptionError(f"{place}: block {height} contradicts its own header: {REMEDY}")
    return committed


def is_sound(committed: CommittedBlock) -> bool:
    """Whether a block holds the transactions and the parent certificate that its header names, and its certificate is about it."""
    header = committed.block.header
    return (
        header_digest(header) == committed.certificate.block
        and header.transactions_root == transactions_root(committed.block.transactions)
        and header.certificate == certificate_digest(committed.block.parent)
    )


def require_indexed(place: object, transaction: bytes, height: int, position: object, committed: CommittedBlock | None) -> int:
    """The position, if that transaction is there. Raises `CorruptionError` when the index points elsewhere."""
    held = committed.block.transactions if committed else ()
    if not isinstance(position, int) or not 0 <= position < len(held) or transaction_id(decode_transaction(held[position])) != transaction:
        raise CorruptionError(f"{place}: the index files transaction {transaction.hex()[:16]} at a wrong place in block {height}: {REMEDY}")
    return position


def missing_block(place: object, height: int, floor: int) -> CorruptionError | PrunedError:
    """Why a block is not there: it was given up, or it is lost."""
    if height < floor:
        return PrunedError(
            f"{place}: block {height} was given up, blocks {floor} and later are held: what it did is proved from the state; "
            "its transactions are at validators that keep all blocks"
        )
    return CorruptionError(f"{place}: block {height} is missing: {REMEDY}")


def require_format(place: object, found: int, known: int) -> None:
    """Raise `FormatError` unless the file has the format that this program writes."""
    if found < 1:
        raise CorruptionError(f"{place} is no ledger's store: {REMEDY}")
    if found > known:
        raise FormatError(f"{place} has format {found}, this program knows formats up to {known}: run the version of Cifer that wrote it")
    if found < known:
        raise FormatError(f"{place} has format {found}, this program writes {known}: run `cifer ledger upgrade` on its folder")

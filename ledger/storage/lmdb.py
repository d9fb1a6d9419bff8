"""A validator's chain in one LMDB file: copy-on-write pages, a synced meta page for each transaction, one transaction per `write`.

Beside each body lies its SHA-256, and blocks are checked against their headers, as in SQLite's store. A file that is cut short is noticed
when it is opened, a changed body when it is read. But LMDB keeps no checksums of its own pages: damage to those can end the process with
a signal instead of a named error, which is why SQLite is the default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from ledger.codec import decode, encode
from ledger.consensus.messages import Lock, SignedVote
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, LedgerError, LockedError, MalformedError, StorageError
from ledger.state.transition import decode_transaction
from ledger.storage.base import Forget, Rows, VoteRecord, Write
from ledger.storage.checks import REMEDY, checked, checked_block, checked_bytes, digest, missing_block, require_format, require_indexed
from ledger.types import CommittedBlock, Genesis

T = TypeVar("T")

FORMAT: Final = 2
MAP_BYTES: Final = 1 << 40
"""Address space, not disk: the file grows with what it holds."""
_TABLES: Final = (b"meta", b"blocks", b"transactions", b"votes", b"locked", b"snapshot")
_MARK: Final = b"cifer-ledger"


class LmdbStore:
    """A `BlockStore` in one file. Use `create`, `open` or `open_reader`. One process opens a file once."""

    def __init__(self, path: Path, *, create: Genesis | None = None, readonly: bool = False) -> None:
        """See `create`, `open` and `open_reader`."""
        self._path = path
        self._environment: Any = None
        self._readonly = readonly
        with _translated(path):
            if create is None:
                _require_whole(path)
            self._environment = lmdb.open(
                str(path), subdir=False, map_size=MAP_BYTES, max_dbs=len(_TABLES), readonly=readonly, lock=not readonly or _writable(path)
            )
        try:
            with _translated(path):
                self._require_length()
                self._tables = self._open_tables(create)
            self._genesis = self._checked(b"meta", b"genesis", Genesis, "the genesis record")
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, genesis: Genesis) -> LmdbStore:
        """A new store without blocks. Raises `LedgerError` when the file exists with another genesis or with blocks."""
        store = cls(path, create=genesis)
        if store.genesis != genesis or store.height():
            store.close()
            raise LedgerError(f"{path} already holds a ledger: open it, or choose an empty folder")
        return store

    @classmethod
    def open(cls, path: Path) -> LmdbStore:
        """An existing store, for writing. Raises `CorruptionError` when it is missing or damaged."""
        return cls(path)

    @classmethod
    def open_reader(cls, path: Path) -> LmdbStore:
        """An existing store, read-only, also while another process writes to it, and on a read-only medium."""
        return cls(path, readonly=True)

    @property
    def place(self) -> str:
        """The path of the file."""
        return str(self._path)

    @property
    def genesis(self) -> Genesis:
        """The genesis it was created with."""
        return self._genesis

    def height(self) -> int:
        """Height of the last block, 0 when there is none."""
        with self._reading() as transaction:
            cursor = transaction.cursor(self._tables[b"blocks"])
            last = int.from_bytes(cursor.key(), "big") if cursor.last() else 0
            return max(last, self._floor(transaction) - 1)

    def floor(self) -> int:
        """The height from which on every block is held."""
        with self._reading() as transaction:
            return self._floor(transaction)

    def row(self, key: bytes) -> bytes | None:
        """A row of the snapshot's area, checked against its checksum."""
        found = self._get(b"snapshot", key)
        return None if found is None else checked_bytes(self._path, f"row {key.hex()} of the snapshot", found[32:], found[:32])

    def rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the snapshot's area whose keys begin so, in ascending order of key."""
        for key in self._keys(b"snapshot", prefix):
            body = self.row(key)
            if body is not None:
                yield key, body

    def transactions(self, until: int | None = None) -> int:
        """Number of indexed transactions, up to and with height `until`."""
        with self._reading() as transaction:
            table = self._tables[b"transactions"]
            if until is None:
                return int(transaction.stat(table)["entries"])
            return sum(int.from_bytes(value[:8], "big") <= until for _, value in transaction.cursor(table))

    def write(self, entries: Sequence[Write]) -> None:
        """Votes, blocks, rows and what is forgotten, in one durable step: see `BlockStore.write`."""
        with _translated(self._path), self._open_environment().begin(write=True) as transaction:
            for entry in entries:
                match entry:
                    case VoteRecord():
                        self._put_vote(transaction, entry)
                    case CommittedBlock():
                        self._put_block(transaction, entry)
                    case Rows(put, remove):
                        for key in remove:
                            transaction.delete(key, db=self._tables[b"snapshot"])
                        for key, body in put.items():
                            transaction.put(key, digest(body) + body, db=self._tables[b"snapshot"])
                    case Forget(below, keep):
                        self._forget(transaction, below, keep)

    def block(self, height: int) -> CommittedBlock | None:
        """The block of this height, checked against its digests."""
        found = self._get(b"blocks", _number(height))
        return None if found is None else checked_block(self._path, height, found[32:64], found[64:], found[:32])

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Blocks of heights `start` up to and without `stop`, in order. Raises `CorruptionError` at a gap, `PrunedError`."""
        end = self.height() + 1 if stop is None else min(stop, self.height() + 1)
        for height in range(start, end):
            found = self.block(height)
            if found is None:
                raise missing_block(self._path, height, self.floor())
            yield found

    def find(self, transaction: bytes) -> tuple[int, int] | None:
        """Height and place of a committed transaction. Raises `CorruptionError` when the index points elsewhere."""
        found = self._get(b"transactions", transaction)
        if found is None:
            return None
        height = int.from_bytes(found[:8], "big")
        return height, require_indexed(self._path, transaction, height, int.from_bytes(found[8:], "big"), self.block(height))

    def votes(self) -> tuple[SignedVote, ...]:
        """What was signed above the last block."""
        keys = self._keys(b"votes", b"")
        return tuple(self._checked(b"votes", key, SignedVote, f"the vote at height {int.from_bytes(key[:8], 'big')}") for key in keys)

    def locked(self) -> Lock | None:
        """The block locked above the last block, and why."""
        for key in self._keys(b"locked", b""):
            return self._checked(b"locked", key, Lock, f"the block locked at height {int.from_bytes(key, 'big')}")
        return None

    def copy(self, target: Path) -> None:
        """A consistent copy, made by LMDB inside one reading transaction: see `BlockStore.copy`."""
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with _translated(target):
                self._open_environment().copyfd(descriptor, compact=False)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def compact(self) -> None:
        """Nothing: LMDB uses free pages again, and its file does not shrink."""

    def close(self) -> None:
        """Let go of the file."""
        environment, self._environment = self._environment, None
        if environment is not None:
            with suppress(lmdb.Error):
                environment.close()

    # ------------------------------------------------------------------------------------------------------ inside

    def _open_tables(self, create: Genesis | None) -> dict[bytes, Any]:
        environment = self._open_environment()
        try:
            tables = {name: environment.open_db(name, create=create is not None) for name in _TABLES}
        except (lmdb.NotFoundError, lmdb.ReadonlyError) as error:
            raise CorruptionError(f"{self._path} is no ledger's store: {REMEDY}") from error
        meta = tables[b"meta"]
        if create is not None:
            with environment.begin(write=True) as transaction:
                if transaction.get(_MARK, db=meta) is None:
                    body = encode(create)
                    transaction.put(_MARK, encode(FORMAT), db=meta)
                    transaction.put(b"genesis", digest(body) + body, db=meta)
        with environment.begin() as transaction:
            found = transaction.get(_MARK, db=meta)
        try:
            require_format(self._path, 0 if found is None else decode(bytes(found), int), FORMAT)
        except MalformedError as error:
            raise CorruptionError(f"{self._path} is no ledger's store: {REMEDY}") from error
        return tables

    def _require_length(self) -> None:
        """A file that lost its end would end the process when it is read there."""
        environment = self._open_environment()
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        length = self._path.stat().st_size
        if length < needed:
            raise CorruptionError(f"{self._path} has {length} bytes of {needed}: its end is lost: {REMEDY}")

    def _floor(self, transaction: Any) -> int:
        found = transaction.get(b"floor", db=self._tables[b"meta"])
        return 1 if found is None else int.from_bytes(found, "big")

    def _put_vote(self, transaction: Any, record: VoteRecord) -> None:
        vote, body = record.vote, encode(record.vote)
        key = _number(vote.height) + _number(vote.round) + bytes((vote.step,))
        if not transaction.put(key, digest(body) + body, overwrite=False, db=self._tables[b"votes"]):
            raise _second(self._path, f"a vote at height {vote.height}, round {vote.round}, step {vote.step}")
        if record.locked is not None:
            body = encode(record.locked)
            transaction.drop(self._tables[b"locked"], delete=False)
            transaction.put(_number(vote.height), digest(body) + body, db=self._tables[b"locked"])

    def _put_block(self, transaction: Any, committed: CommittedBlock) -> None:
        height, body = committed.block.header.height, encode(committed)
        value = digest(body) + committed.certificate.block + body
        if not transaction.put(_number(height), value, overwrite=False, db=self._tables[b"blocks"]):
            raise _second(self._path, f"block {height}")
        for position, data in enumerate(committed.block.transactions):
            identity = transaction_id(decode_transaction(data))
            value = _number(height) + _number(position)
            if not transaction.put(identity, value, overwrite=False, db=self._tables[b"transactions"]):
                raise _second(self._path, f"transaction {identity.hex()[:16]}")
        self._drop_votes(transaction, height + 1)

    def _forget(self, transaction: Any, below: int, keep: tuple[int, ...]) -> None:
        def gone(height: bytes) -> bool:
            return int.from_bytes(height, "big") < below and int.from_bytes(height, "big") not in keep

        index, blocks = self._tables[b"transactions"], self._tables[b"blocks"]
        for key in [bytes(key) for key, value in transaction.cursor(index) if gone(value[:8])]:
            transaction.delete(key, db=index)
        for key in [bytes(key) for key in transaction.cursor(blocks).iternext(values=False) if gone(key)]:
            transaction.delete(key, db=blocks)
        self._drop_votes(transaction, below)
        transaction.put(b"floor", _number(below), db=self._tables[b"meta"])

    def _drop_votes(self, transaction: Any, below: int) -> None:
        for name in (b"votes", b"locked"):
            cursor = transaction.cursor(self._tables[name])
            while cursor.first() and int.from_bytes(cursor.key()[:8], "big") < below:
                cursor.delete()

    def _checked(self, table: bytes, key: bytes, kind: type[T], what: str) -> T:
        found = self._get(table, key)
        if found is None:
            raise CorruptionError(f"{self._path}: {what} is missing: {REMEDY}")
        return checked(self._path, kind, what, found[32:], found[:32])

    def _get(self, table: bytes, key: bytes) -> bytes | None:
        with self._reading() as transaction:
            found: bytes | None = transaction.get(key, db=self._tables[table])
            return found

    def _keys(self, table: bytes, prefix: bytes) -> list[bytes]:
        with self._reading() as transaction:
            cursor, keys = transaction.cursor(self._tables[table]), []
            more = cursor.set_range(prefix) if prefix else cursor.first()
            while more and cursor.key().startswith(prefix):
                keys.append(bytes(cursor.key()))
                more = cursor.next()
            return keys

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with _translated(self._path), self._open_environment().begin() as transaction:
            yield transaction

    def _open_environment(self) -> Any:
        if self._environment is None:
            raise StorageError(f"{self._path} is closed: open the ledger again")
        return self._environment


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def _second(path: Path, what: str) -> StorageError:
    return StorageError(f"{path} refuses a second entry in one place ({what}): this is a fault of the program, please report it")


def _writable(path: Path) -> bool:
    """Whether readers can take their place in the lock file: not on a read-only medium."""
    return os.access(path.parent, os.W_OK)


def _require_whole(path: Path) -> None:
    if not path.is_file() or path.stat().st_size == 0:
        raise CorruptionError(f"{path} is missing or empty: {REMEDY}")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """LMDB's errors as the ledger's, each with what to do."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError) as error:
        raise StorageError(f"{path}: the disk is full: free some space, then run again") from error
    except lmdb.ReadonlyError as error:
        raise StorageError(f"{path} is read-only: make the file and its folder writable, then run again") from error
    except lmdb.LockError as error:
        raise LockedError(f"{path} is in use by another program: close it there, then run again") from error
    except lmdb.Error as error:
        said = str(error)
        if "already open" in said:
            raise LockedError(f"{path} is open in this process already: close it there, then run again") from error
        if "No space left" in said or "File too large" in said:
            raise StorageError(f"{path}: the disk is full: free some space, then run again") from error
        if any(reason in said for reason in ("Permission denied", "Read-only", "Input/output")):
            raise StorageError(f"{path} cannot be read or written ({error}): check the disk and its permissions") from error
        raise CorruptionError(f"{path} is damaged ({error}): {REMEDY}") from error

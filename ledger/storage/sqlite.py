"""A validator's chain in one SQLite file: write-ahead journal, synchronous FULL, one transaction per `write`.

Every row carries the SHA-256 of its body; a block must also hash to the identity it is filed under and carry the
transactions and the parent certificate its header names. Whether certificates verify and blocks chain is for whoever
replays them (`ledger.consensus.blocks.follow`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any, Final, TypeVar

from ledger.codec import decode, encode
from ledger.consensus.messages import Lock, SignedVote
from ledger.digests import certificate_digest, header_digest, transaction_id, transactions_root
from ledger.errors import CorruptionError, LedgerError, LockedError, MalformedError, StorageError
from ledger.state.transition import decode_transaction, transaction_ids
from ledger.storage.base import VoteRecord, Write
from ledger.types import CommittedBlock, Genesis

T = TypeVar("T")

FORMAT: Final = 1
_APPLICATION: Final = 0x43496652
_PAGE_BLOCKS: Final = 64

_SCHEMA: Final = """
CREATE TABLE genesis (one INTEGER PRIMARY KEY CHECK (one = 0), body BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE blocks (height INTEGER PRIMARY KEY, id BLOB NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE transactions (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE votes (height INTEGER, round INTEGER, step INTEGER, body BLOB NOT NULL, digest BLOB NOT NULL,
                    PRIMARY KEY (height, round, step)) WITHOUT ROWID;
CREATE TABLE locked (one INTEGER PRIMARY KEY CHECK (one = 0), height INTEGER NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL);
"""

REMEDY: Final = "restore this file from a backup, or move it away and rebuild it from the other validators"


class SqliteStore:
    """A `BlockStore` in one file. Use `create`, `open` or `open_reader`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """See `create`, `open` and `open_reader`."""
        self._path = path
        self._connection: sqlite3.Connection | None = connection
        self._mutex = RLock()
        connection.text_factory = bytes  # damage may turn a blob into text that is no UTF-8
        self._genesis = self._read_genesis()

    @classmethod
    def create(cls, path: Path, genesis: Genesis) -> SqliteStore:
        """A new store without blocks. Raises `LedgerError` when the file exists with another genesis or with blocks."""
        with _translated(path):
            connection = _connect(f"{path.absolute().as_uri()}?mode=rwc")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                body = encode(genesis)
                connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {FORMAT};PRAGMA application_id = {_APPLICATION};")
                connection.execute("INSERT INTO genesis VALUES (0, ?, ?)", (body, _digest(body)))
                connection.execute("COMMIT")
        store = cls(path, connection)
        if store.genesis != genesis or store.height():
            store.close()
            raise LedgerError(f"{path} already holds a ledger: open it, or choose an empty folder")
        return store

    @classmethod
    def open(cls, path: Path) -> SqliteStore:
        """An existing store, for writing. Raises `CorruptionError` when it is missing or damaged."""
        _require(path)
        with _translated(path):
            return cls(path, _connect(f"{path.absolute().as_uri()}?mode=rw"))

    @classmethod
    def open_reader(cls, path: Path) -> SqliteStore:
        """An existing store, read-only, also while another process writes to it, and on a read-only medium."""
        _require(path)
        journal = path.with_name(path.name + "-wal")
        with _translated(path):
            try:
                connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False, isolation_level=None)
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            except sqlite3.OperationalError:
                if journal.exists() and journal.stat().st_size:
                    raise
                uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
                connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
            return cls(path, connection)

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
        return int(self._rows("SELECT coalesce(max(height), 0) FROM blocks")[0][0])

    def transactions(self, until: int | None = None) -> int:
        """Number of indexed transactions, up to and with height `until`."""
        if until is None:
            return int(self._rows("SELECT count(*) FROM transactions")[0][0])
        return int(self._rows("SELECT count(*) FROM transactions WHERE height <= ?", until)[0][0])

    def write(self, entries: Sequence[Write]) -> None:
        """Votes and blocks in one durable step: see `BlockStore.write`. The table refuses a second, different vote in one place."""
        with self._atomically() as connection:
            for entry in entries:
                if isinstance(entry, VoteRecord):
                    _insert_vote(connection, entry)
                else:
                    _insert_block(connection, entry)

    def block(self, height: int) -> CommittedBlock | None:
        """The block of this height, checked against its digests."""
        rows = self._rows("SELECT height, id, body, digest FROM blocks WHERE height = ?", height)
        return self._checked_block(*rows[0]) if rows else None

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Blocks of heights `start` up to and without `stop`, in order. Raises `CorruptionError` at a gap."""
        height, end = start, self.height() + 1 if stop is None else min(stop, self.height() + 1)
        while height < end:
            until = min(height + _PAGE_BLOCKS, end)
            rows = self._rows("SELECT height, id, body, digest FROM blocks WHERE height >= ? AND height < ? ORDER BY height", height, until)
            for row in rows:
                if row[0] != height:
                    break
                yield self._checked_block(*row)
                height += 1
            if height != until:
                raise CorruptionError(f"{self._path}: block {height} is missing: {REMEDY}")

    def find(self, transaction: bytes) -> tuple[int, int] | None:
        """Height and place of a committed transaction. Raises `CorruptionError` when the index points elsewhere."""
        rows = self._rows("SELECT height, position FROM transactions WHERE id = ?", transaction)
        if not rows:
            return None
        height, position = rows[0]
        committed = self.block(height)
        held = committed.block.transactions if committed else ()
        if (
            not isinstance(position, int)
            or not 0 <= position < len(held)
            or transaction_id(decode_transaction(held[position])) != transaction
        ):
            raise CorruptionError(
                f"{self._path}: the index files transaction {transaction.hex()[:16]} at a wrong place in block {height}: {REMEDY}"
            )
        return height, position

    def votes(self) -> tuple[SignedVote, ...]:
        """What was signed above the last block."""
        rows = self._rows("SELECT body, digest, height FROM votes ORDER BY height, round, step")
        return tuple(self._checked(SignedVote, f"the vote at height {height}", body, digest) for body, digest, height in rows)

    def locked(self) -> Lock | None:
        """The block locked above the last block, and why."""
        rows = self._rows("SELECT body, digest, height FROM locked")
        return next((self._checked(Lock, f"the block locked at height {height}", body, digest) for body, digest, height in rows), None)

    def close(self) -> None:
        """Let go of the file."""
        with self._mutex:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()

    def _read_genesis(self) -> Genesis:
        rows = self._rows("SELECT body, digest FROM genesis")
        if not rows:
            raise CorruptionError(f"{self._path}: the genesis record is missing: {REMEDY}")
        return self._checked(Genesis, "the genesis record", *rows[0])

    def _checked_block(self, height: int, identity: bytes, body: bytes, digest: bytes) -> CommittedBlock:
        committed = self._checked(CommittedBlock, f"block {height}", body, digest)
        header, certificate = committed.block.header, committed.certificate
        sound = (
            header.height == height
            and header_digest(header) == identity == certificate.block
            and header.transactions_root == transactions_root(committed.block.transactions)
            and header.certificate == certificate_digest(committed.block.parent)
        )
        if not sound:
            raise CorruptionError(f"{self._path}: block {height} contradicts its own header: {REMEDY}")
        return committed

    def _checked(self, kind: type[T], what: str, body: bytes, digest: bytes) -> T:
        if not isinstance(body, bytes) or _digest(body) != digest:
            raise CorruptionError(f"{self._path}: the bytes of {what} do not match their checksum: {REMEDY}")
        try:
            return decode(body, kind)
        except MalformedError as error:
            raise CorruptionError(f"{self._path}: {what} does not decode ({error}): {REMEDY}") from error

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._mutex, _translated(self._path):
            return self._open_connection().execute(query, values).fetchall()

    @contextmanager
    def _atomically(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, _translated(self._path):
            connection = self._open_connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StorageError(f"{self._path} is closed: open the ledger again")
        return self._connection


def _insert_vote(connection: sqlite3.Connection, record: VoteRecord) -> None:
    vote, body = record.vote, encode(record.vote)
    connection.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?)", (vote.height, vote.round, vote.step, body, _digest(body)))
    if record.locked is not None:
        block = encode(record.locked)
        connection.execute("INSERT OR REPLACE INTO locked VALUES (0, ?, ?, ?)", (vote.height, block, _digest(block)))


def _insert_block(connection: sqlite3.Connection, committed: CommittedBlock) -> None:
    height, body = committed.block.header.height, encode(committed)
    index = [(identity, height, position) for position, identity in enumerate(transaction_ids(committed.block.transactions))]
    connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", (height, committed.certificate.block, body, _digest(body)))
    connection.executemany("INSERT INTO transactions VALUES (?, ?, ?)", index)
    connection.execute("DELETE FROM votes WHERE height <= ?", (height,))
    connection.execute("DELETE FROM locked WHERE height <= ?", (height,))


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _require(path: Path) -> None:
    if not path.is_file():
        raise CorruptionError(f"{path} is missing: {REMEDY}")


def _digest(body: bytes) -> bytes:
    return sha256(body).digest()


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as the ledger's, each with what to do."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StorageError(
            f"{path} refuses a second entry in one place ({error}): this is a fault of the program, please report it"
        ) from error
    except sqlite3.DatabaseError as error:
        name = str(getattr(error, "sqlite_errorname", ""))
        if name.startswith("SQLITE_FULL"):
            raise StorageError(f"{path}: the disk is full: free some space, then run again") from error
        if name.startswith("SQLITE_READONLY"):
            raise StorageError(f"{path} is read-only: make the file and its folder writable, then run again") from error
        if name.startswith("SQLITE_BUSY"):
            raise LockedError(f"{path} is in use by another program: close it there, then run again") from error
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH")):
            raise StorageError(f"{path} cannot be read or written ({error}): check the disk and its permissions") from error
        raise CorruptionError(f"{path} is damaged ({error}): {REMEDY}") from error

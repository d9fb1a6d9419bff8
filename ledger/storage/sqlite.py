"""A validator's chain in one SQLite file: write-ahead journal, synchronous FULL, one transaction per `write`.

Every row carries the SHA-256 of its body; a block must also hash to the identity it is filed under and carry the
transactions and the parent certificate its header names. Whether certificates verify and blocks chain is for whoever
replays them (`ledger.consensus.blocks.follow`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, Final

from ledger.codec import encode
from ledger.consensus.messages import Lock, SignedVote
from ledger.errors import CorruptionError, LedgerError, LockedError, StorageError
from ledger.state.transition import transaction_ids
from ledger.storage.base import Forget, Rows, VoteRecord, Write
from ledger.storage.checks import (
    REMEDY,
    checked,
    checked_block,
    checked_bytes,
    digest,
    missing_block,
    require_format,
    require_indexed,
)
from ledger.types import CommittedBlock, Genesis

FORMAT: Final = 2
_APPLICATION: Final = 0x43496652
_PAGE_BLOCKS: Final = 64
_CACHE_KIB: Final = 512  # SQLite's own is four times as large, fills with pages of old blocks, and the system caches the file as well

_SCHEMA: Final = """
CREATE TABLE genesis (one INTEGER PRIMARY KEY CHECK (one = 0), body BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE blocks (height INTEGER PRIMARY KEY, id BLOB NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE transactions (id BLOB PRIMARY KEY, height INTEGER NOT NULL, position INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE votes (height INTEGER, round INTEGER, step INTEGER, body BLOB NOT NULL, digest BLOB NOT NULL,
                    PRIMARY KEY (height, round, step)) WITHOUT ROWID;
CREATE TABLE locked (one INTEGER PRIMARY KEY CHECK (one = 0), height INTEGER NOT NULL, body BLOB NOT NULL, digest BLOB NOT NULL);
"""
_SECOND: Final = """
CREATE TABLE snapshot (key BLOB PRIMARY KEY, body BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE floor (one INTEGER PRIMARY KEY CHECK (one = 0), height INTEGER NOT NULL);
"""
_INDEX: Final = """
WITH RECURSIVE place(at) AS (SELECT 0 WHERE ?1 UNION ALL SELECT at + 1 FROM place WHERE at + 1 < ?1)
INSERT INTO transactions SELECT substr(?2, 32 * at + 1, 32), ?3, at FROM place
"""
"""Files a block's transactions without a step back into Python for each."""
_MARKS: Final = f"PRAGMA user_version = {FORMAT};PRAGMA application_id = {_APPLICATION};"


class SqliteStore:
    """A `BlockStore` in one file. Use `create`, `open` or `open_reader`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """See `create`, `open` and `open_reader`."""
        self._path = path
        self._connection: sqlite3.Connection | None = connection
        self._mutex = RLock()
        require_format(path, int(connection.execute("PRAGMA user_version").fetchone()[0]), FORMAT)
        connection.text_factory = bytes  # damage may turn a blob into text that is no UTF-8
        self._genesis = self._read_genesis()

    @classmethod
    def create(cls, path: Path, genesis: Genesis) -> SqliteStore:
        """A new store without blocks. Raises `LedgerError` when the file exists with another genesis or with blocks."""
        with _translated(path):
            connection = _connect(f"{path.absolute().as_uri()}?mode=rwc")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                body = encode(genesis)
                connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}{_SECOND}{_MARKS}")
                connection.execute("INSERT INTO genesis VALUES (0, ?, ?)", (body, digest(body)))
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
        return max(int(self._rows("SELECT coalesce(max(height), 0) FROM blocks")[0][0]), self.floor() - 1)

    def floor(self) -> int:
        """The height from which on every block is held."""
        return int(self._rows("SELECT coalesce(max(height), 1) FROM floor")[0][0])

    def row(self, key: bytes) -> bytes | None:
        """A row of the snapshot's area, checked against its checksum."""
        rows = self._rows("SELECT body, digest FROM snapshot WHERE key = ?", key)
        return checked_bytes(self._path, f"row {key.hex()} of the snapshot", *rows[0]) if rows else None

    def rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the snapshot's area whose keys begin so, in ascending order of key."""
        keys = self._rows("SELECT key FROM snapshot WHERE key >= ? AND substr(key, 1, ?) = ? ORDER BY key", prefix, len(prefix), prefix)
        for (key,) in keys:
            body = self.row(key)
            if body is not None:
                yield key, body

    def transactions(self, until: int | None = None) -> int:
        """Number of indexed transactions, up to and with height `until`."""
        if until is None:
            return int(self._rows("SELECT count(*) FROM transactions")[0][0])
        return int(self._rows("SELECT count(*) FROM transactions WHERE height <= ?", until)[0][0])

    def write(self, entries: Sequence[Write]) -> None:
        """Votes and blocks in one durable step: see `BlockStore.write`. The table refuses a second, different vote in one place."""
        with self._atomically() as connection:
            for entry in entries:
                match entry:
                    case VoteRecord():
                        _insert_vote(connection, entry)
                    case CommittedBlock():
                        _insert_block(connection, entry)
                    case Rows(put, remove):
                        connection.executemany("DELETE FROM snapshot WHERE key = ?", [(key,) for key in remove])
                        rows = [(key, body, digest(body)) for key, body in put.items()]
                        connection.executemany("INSERT OR REPLACE INTO snapshot VALUES (?, ?, ?)", rows)
                    case Forget(below, keep):
                        _forget(connection, below, keep)

    def block(self, height: int) -> CommittedBlock | None:
        """The block of this height, checked against its digests."""
        rows = self._rows("SELECT height, id, body, digest FROM blocks WHERE height = ?", height)
        return checked_block(self._path, *rows[0]) if rows else None

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Blocks of heights `start` up to and without `stop`, in order. Raises `CorruptionError` at a gap."""
        height, end = start, self.height() + 1 if stop is None else min(stop, self.height() + 1)
        while height < end:
            until = min(height + _PAGE_BLOCKS, end)
            rows = self._rows("SELECT height, id, body, digest FROM blocks WHERE height >= ? AND height < ? ORDER BY height", height, until)
            for row in rows:
                if row[0] != height:
                    break
                yield checked_block(self._path, *row)
                height += 1
            if height != until:
                raise missing_block(self._path, height, self.floor())

    def find(self, transaction: bytes) -> tuple[int, int] | None:
        """Height and place of a committed transaction. Raises `CorruptionError` when the index points elsewhere."""
        rows = self._rows("SELECT height, position FROM transactions WHERE id = ?", transaction)
        if not rows:
            return None
        height, position = rows[0]
        return height, require_indexed(self._path, transaction, height, position, self.block(height))

    def votes(self) -> tuple[SignedVote, ...]:
        """What was signed above the last block."""
        rows = self._rows("SELECT body, digest, height FROM votes ORDER BY height, round, step")
        return tuple(checked(self._path, SignedVote, f"the vote at height {height}", body, digest) for body, digest, height in rows)

    def locked(self) -> Lock | None:
        """The block locked above the last block, and why."""
        rows = self._rows("SELECT body, digest, height FROM locked")
        for body, checksum, height in rows:
            return checked(self._path, Lock, f"the block locked at height {height}", body, checksum)
        return None

    def copy(self, target: Path) -> None:
        """A consistent copy, made by SQLite's own online backup: see `BlockStore.copy`."""
        uri = f"{target.absolute().as_uri()}?mode=rwc"
        with _translated(target), closing(_connect(uri, journal="DELETE")) as copy, self._mutex:
            self._open_connection().backup(copy)

    def compact(self) -> None:
        """Rewrite the file without its free pages."""
        self._rows("VACUUM")

    @staticmethod
    def upgrade(path: Path) -> tuple[int, int, Path | None]:
        """Bring a file of an older format up to date: its format before and now, and where a copy of the old file is, if it was older.

        Only while nobody has it open. Raises `FormatError` for a newer one, `CorruptionError`, `StorageError`.
        """
        _require(path)
        with _translated(path), closing(_connect(f"{path.absolute().as_uri()}?mode=rw")) as connection:
            before = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if before != 1:
                require_format(path, before, FORMAT)
                return before, FORMAT, None
            kept = path.with_name(f"{path.name}.format-{before}")
            with closing(_connect(f"{kept.absolute().as_uri()}?mode=rwc", journal="DELETE")) as copy:
                connection.backup(copy)
            connection.executescript(f"BEGIN IMMEDIATE;{_SECOND}{_MARKS}COMMIT;")
        return before, FORMAT, kept

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
        return checked(self._path, Genesis, "the genesis record", *rows[0])

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
    connection.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?)", (vote.height, vote.round, vote.step, body, digest(body)))
    if record.locked is not None:
        block = encode(record.locked)
        connection.execute("INSERT OR REPLACE INTO locked VALUES (0, ?, ?, ?)", (vote.height, block, digest(block)))


def _insert_block(connection: sqlite3.Connection, committed: CommittedBlock) -> None:
    height, body = committed.block.header.height, encode(committed)
    identities = transaction_ids(committed.block.transactions)
    connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?)", (height, committed.certificate.block, body, digest(body)))
    connection.execute(_INDEX, (len(identities), b"".join(identities), height))
    connection.execute("DELETE FROM votes WHERE height <= ?", (height,))
    connection.execute("DELETE FROM locked WHERE height <= ?", (height,))


def _forget(connection: sqlite3.Connection, below: int, keep: tuple[int, ...]) -> None:
    kept = ",".join(str(int(height)) for height in keep)
    connection.execute(f"DELETE FROM transactions WHERE height < ? AND height NOT IN ({kept})", (below,))  # noqa: S608 - integers
    connection.execute(f"DELETE FROM blocks WHERE height < ? AND height NOT IN ({kept})", (below,))  # noqa: S608 - integers
    connection.execute("DELETE FROM votes WHERE height < ?", (below,))
    connection.execute("DELETE FROM locked WHERE height < ?", (below,))
    connection.execute("INSERT OR REPLACE INTO floor VALUES (0, ?)", (below,))


def _connect(uri: str, journal: str = "WAL") -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


def _require(path: Path) -> None:
    if not path.is_file():
        raise CorruptionError(f"{path} is missing: {REMEDY}")


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

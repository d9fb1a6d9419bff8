"""The provenance graph in an embedded SQLite file: a cache of what `ledger.provenance.graph` derives, and nothing else.

It can be deleted at any time; `Index.update` builds it from the blocks again, and afterwards goes on from the last height it holds. One
transaction of SQLite a number of blocks, so a process that is killed leaves whole blocks behind. One process writes, any number read.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from ledger.digests import header_digest, network_id
from ledger.errors import CorruptionError, LockedError, StorageError
from ledger.provenance.graph import derive_genesis
from ledger.provenance.openlineage import lines_of
from ledger.provenance.writer import INDEXES, SCHEMA, Blocks, Writer
from ledger.types import Genesis

FORMAT: Final = f"2-{sha256((SCHEMA + INDEXES).encode()).hexdigest()[:16]}"
"""Of what the tables hold: count it up when the same tables are filled with something else."""
_CACHED_BATCHES: Final = 64
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR})


class Store(Protocol):
    """Where questions look: anything that holds the tables of this module and answers a query on them."""

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT."""

    def event(self, act: int, line: int) -> bytes:
        """The JSON of one OpenLineage event as it was committed."""


class Index:
    """An open index. Safe to share between threads: each reads through a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Use `Index.open`."""
        self.path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._batches: OrderedDict[int, list[bytes]] = OrderedDict()

    @classmethod
    def open(cls, path: Path, genesis: Genesis) -> Index:
        """The index at `path`, made when there is none, or when it has the format of another release.

        Raises `CorruptionError` when it belongs to another network or is no index, `StorageError` when the folder cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            index = cls(path)
            index._prepare(genesis)
        except sqlite3.DatabaseError as error:
            raise _damaged(path, error) from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror or error}; free or unlock the folder") from error
        return index

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""
        with self._guard:
            opened, self._connections = self._connections, []
        for connection in opened:
            connection.close()
        self._local = threading.local()

    def __enter__(self) -> Index:
        """The index itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def height(self) -> int:
        """The last height that is indexed, 0 for none."""
        return int(self.rows("SELECT value FROM meta WHERE key = 'height'")[0][0])

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT. Raises `CorruptionError` when the file is damaged."""
        try:
            return self._connection().execute(query, tuple(parameters)).fetchall()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
                raise
            raise _damaged(self.path, error) from error

    def event(self, act: int, line: int) -> bytes:
        """The JSON of one OpenLineage event as it was committed. Raises KeyError when there is none."""
        with self._guard:
            lines = self._batches.get(act)
        if lines is None:
            found = self.rows("SELECT events FROM batches WHERE act = ?", (act,))
            if not found:
                raise KeyError(act)
            lines = lines_of(found[0][0])
            with self._guard:
                self._batches[act] = lines
                while len(self._batches) > _CACHED_BATCHES:
                    self._batches.popitem(last=False)
        return lines[line]

    def update(self, blocks: Blocks, progress: Callable[[int, int], None] | None = None) -> int:
        """Derive what was committed since the last height, and return the height it now stands at.

        progress: told (height, head) after each commit.  Raises `CorruptionError` for another network's blocks, `LockedError` when another
        process is building the index at this moment, `StorageError` when the disk refuses.
        """
        head = blocks.head()
        last = 0 if head is None else head.height
        with self._writing:
            _check_network(self.path, self.rows("SELECT value FROM meta WHERE key = 'network'")[0][0], blocks.genesis)
            self._check_block(blocks, last)
            if self.height >= last:
                return self.height
            try:
                with closing(self._connect()) as connection:
                    connection.execute("PRAGMA cache_size = -262144")
                    connection.execute("PRAGMA wal_autocheckpoint = 20000")
                    Writer(connection).extend(blocks, last, progress)
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise LockedError(f"{self.path} is being built by another process: ask again when it is done") from error
                raise StorageError(f"{self.path}: {error}; free or unlock the folder") from error
            except sqlite3.DatabaseError as error:
                raise _damaged(self.path, error) from error
        return self.height

    def _check_block(self, blocks: Blocks, last: int) -> None:
        """The last indexed block is the ledger's own. A ledger opened before that block was added cannot say, and adds nothing."""
        known = dict(self.rows("SELECT key, value FROM meta"))
        height = int(known["height"])
        if 0 < height <= last:
            (committed,) = blocks.blocks(height, height + 1)
            if header_digest(committed.block.header).hex() != known["block"]:
                raise CorruptionError(f"{self.path} holds another block {height} than the ledger: delete the file, it is built again")

    def _prepare(self, genesis: Genesis) -> None:
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "meta" in tables:
                known = dict(connection.execute("SELECT key, value FROM meta"))
                _check_network(self.path, known.get("network", ""), genesis)
                if known.get("format") == FORMAT:
                    return
            elif tables:
                raise CorruptionError(f"{self.path} is a database of something else: move it away")
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'words_%'").fetchall():
                connection.execute(f'DROP TABLE "{name}"')
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("format", FORMAT), ("network", network_id(genesis).hex()), ("height", "0"), ("block", "")],
            )
            Writer(connection).add(derive_genesis(genesis))
            connection.execute("COMMIT")
        finally:
            connection.rollback()

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._connect()
            with self._guard:
                self._connections.append(found)
        return found

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA mmap_size = 268435456")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection


def _check_network(path: Path, known: str, genesis: Genesis) -> None:
    given = network_id(genesis).hex()
    if known != given:
        raise CorruptionError(f"{path} indexes network {known[:16]}, the ledger is of {given[:16]}: delete the file, it is built again")


def _damaged(path: Path, error: Exception) -> CorruptionError:
    return CorruptionError(f"{path}: {error}; delete the file, it is built again from the ledger")

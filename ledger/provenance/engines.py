"""What an index is kept in: an embedded SQLite file (the default), or a schema of a PostgreSQL database (`ledger.provenance.postgres`).

There is one set of statements, in SQLite's words; an engine that speaks others translates them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from ledger.errors import CorruptionError, LockedError, StorageError

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR})


class Rows(Protocol):
    """What a statement gave."""

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Row by row."""

    def fetchone(self) -> Any:
        """The next row, None behind the last."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""


class Connection(Protocol):
    """A connection on which every statement is its own transaction, unless one was begun with ``BEGIN IMMEDIATE``."""

    def execute(self, query: str, parameters: Sequence[object] = ..., /) -> Rows:
        """Run one statement; ``?`` are its parameters in order, ``?1`` the first wherever it stands."""

    def executemany(self, query: str, parameters: Iterable[Sequence[object]], /) -> object:
        """Run one statement for each set of parameters."""

    def rollback(self) -> None:
        """End what was begun, without effect; harmless when nothing was."""

    def close(self) -> None:
        """Let go."""


class Engine(Protocol):
    """Where an index is and how it is reached. place: for messages, without secrets.  remedy: what gets rid of a damaged index."""

    place: str
    remedy: str

    def connect(self, *, bulk: bool = False) -> Connection:
        """A new connection, for one thread at a time. bulk: to write much."""

    def alive(self, connection: Connection) -> bool:
        """Whether a connection can be used on."""

    def tables(self, connection: Connection) -> frozenset[str]:
        """The tables there are."""

    def clear(self, connection: Connection) -> None:
        """Remove them all."""

    def reading(self) -> AbstractContextManager[None]:
        """Turn the driver's errors into `CorruptionError` and `StorageError` where a person can do something about them."""

    def writing(self) -> AbstractContextManager[None]:
        """Turn the driver's errors into `CorruptionError`, `StorageError` and, when another process writes, `LockedError`."""


class Sqlite:
    """An `Engine`: one file."""

    def __init__(self, path: Path) -> None:
        """path: of the file; its folder is made."""
        self.path, self.place, self.remedy = path, str(path), "delete the file"

    def connect(self, *, bulk: bool = False) -> Connection:
        """See `Engine`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute("PRAGMA mmap_size = 268435456")
        connection.execute("PRAGMA temp_store = MEMORY")
        if bulk:
            connection.execute("PRAGMA cache_size = -262144")
            connection.execute("PRAGMA wal_autocheckpoint = 20000")
        return connection

    def alive(self, connection: Connection) -> bool:
        """See `Engine`."""
        return True

    def tables(self, connection: Connection) -> frozenset[str]:
        """See `Engine`."""
        return frozenset(name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))

    def clear(self, connection: Connection) -> None:
        """See `Engine`."""
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'words_%'").fetchall():
            connection.execute(f'DROP TABLE "{name}"')

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See `Engine`."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
                raise
            raise self._damaged(error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Engine`."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise LockedError(f"{self.place} is being built by another process: ask again when it is done") from error
            raise StorageError(f"{self.place}: {error}; free or unlock the folder") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> CorruptionError:
        return CorruptionError(f"{self.place}: {error}; {self.remedy}, it is built again from the ledger")

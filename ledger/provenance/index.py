"""The provenance graph in an embedded SQLite file: a cache of what `ledger.provenance.graph` derives, and nothing else.

It can be deleted at any time; `Index.update` builds it from the blocks again, and afterwards goes on from the last height it holds. One
transaction of SQLite a number of blocks, so a process that is killed leaves whole blocks behind. One process writes, any number read.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from ledger.codec import decode
from ledger.digests import network_id
from ledger.errors import CorruptionError, LockedError, StorageError
from ledger.provenance.graph import Derived, derive, derive_genesis
from ledger.provenance.openlineage import ENDS, lines_of
from ledger.provenance.parts import round_id, run_id
from ledger.state.transition import decode_transaction
from ledger.types import AppendLineage, CommittedBlock, Genesis, Header, Transaction

FORMAT: Final = "1"
BLOCKS_PER_COMMIT: Final = 200
_CACHED_BATCHES: Final = 64
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR})
_ACT_BITS: Final = 20
"""An act's number is its height and, in the low 20 bits, its place in the block: so acts sort by when they were committed."""

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE acts (
    id INTEGER PRIMARY KEY, "transaction" BLOB NOT NULL, author TEXT NOT NULL, kind TEXT NOT NULL,
    run TEXT NOT NULL, round INTEGER NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX acts_by_run ON acts (run, id) WHERE run <> '';
CREATE INDEX acts_by_subject ON acts (subject, id);
CREATE INDEX acts_by_author ON acts (author, id);
CREATE INDEX acts_by_kind ON acts (kind, id);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, label TEXT NOT NULL, digest BLOB,
    attributes TEXT NOT NULL, act INTEGER NOT NULL, changed INTEGER NOT NULL
);
CREATE INDEX nodes_by_kind ON nodes (kind, id);
CREATE INDEX nodes_by_digest ON nodes (digest) WHERE digest IS NOT NULL;
CREATE TABLE edges (
    source INTEGER NOT NULL, kind TEXT NOT NULL, target INTEGER NOT NULL, basis TEXT NOT NULL, act INTEGER NOT NULL,
    PRIMARY KEY (source, basis, kind, target)
) WITHOUT ROWID;
CREATE INDEX edges_by_target ON edges (target, basis, kind, source);
CREATE TABLE batches (act INTEGER PRIMARY KEY, run TEXT NOT NULL, round INTEGER NOT NULL, events BLOB NOT NULL);
CREATE TABLE events (
    act INTEGER NOT NULL, line INTEGER NOT NULL, time_us INTEGER NOT NULL, type TEXT NOT NULL, run INTEGER, job INTEGER,
    PRIMARY KEY (act, line)
) WITHOUT ROWID;
CREATE INDEX events_by_time ON events (time_us);
CREATE INDEX events_by_run ON events (run, time_us);
CREATE TABLE unfinished (run INTEGER PRIMARY KEY);
CREATE TABLE validated (node INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (node, sha256)) WITHOUT ROWID;
CREATE TABLE evidence (node INTEGER NOT NULL, what TEXT NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (node, what)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize="unicode61 tokenchars '_'", prefix='3 8');
"""


class Store(Protocol):
    """Where questions look: anything that holds the tables of this module and answers a query on them."""

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT."""

    def event(self, act: int, line: int) -> bytes:
        """The JSON of one OpenLineage event as it was committed."""


class Blocks(Protocol):
    """What the index is built from: a `ledger.backends.base.Ledger`, or anything else that hands out committed blocks."""

    @property
    def genesis(self) -> Genesis:
        """What the network started from."""

    def head(self) -> Header | None:
        """The last header."""

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Committed blocks in order."""


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
            if self.height >= last:
                return self.height
            try:
                with closing(self._connect()) as connection:
                    _Writer(connection).extend(blocks, last, progress)
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise LockedError(f"{self.path} is being built by another process: ask again when it is done") from error
                raise StorageError(f"{self.path}: {error}; free or unlock the folder") from error
            except sqlite3.DatabaseError as error:
                raise _damaged(self.path, error) from error
        return self.height

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
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)", [("format", FORMAT), ("network", network_id(genesis).hex()), ("height", "0")]
            )
            _Writer(connection).add(derive_genesis(genesis))
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


class _Writer:
    """Writes what is derived, and is what later blocks refer to: keys and versions are few, so they are held in memory."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._ids: dict[str, int] = {}
        self._parties: dict[bytes, str] = {}
        self._versions: dict[bytes, str] = {}
        self._models: dict[str, str] = {}
        for name, digest, kind in connection.execute(
            "SELECT name, digest, kind FROM nodes WHERE kind IN ('party', 'site', 'version') ORDER BY id"
        ):
            (self._versions if kind == "version" else self._parties)[digest] = name

    def party(self, public_key: bytes) -> str:
        return self._parties[public_key]

    def version(self, digest: bytes) -> str | None:
        return self._versions.get(digest)

    def current(self, run: str) -> str:
        if run not in self._models:
            found = self._db.execute(
                "SELECT name FROM nodes WHERE name > ? AND name < ? AND kind = 'weights' ORDER BY act DESC LIMIT 1",
                (f"{run_id(run)}/", f"{run_id(run)}0"),
            ).fetchone()
            self._models[run] = found[0]
        return self._models[run]

    def extend(self, blocks: Blocks, last: int, progress: Callable[[int, int], None] | None) -> None:
        """Raises sqlite3's own errors; whole commits stay."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (start,) = self._db.execute("SELECT value FROM meta WHERE key = 'height'").fetchone()
            for committed in blocks.blocks(int(start) + 1, last + 1):
                height = committed.block.header.height
                for index, derived in enumerate(derive(committed, self)):
                    self.add(derived)
                    if derived.events:
                        self._add_batch(derived, committed.block.transactions[index])
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'height'", (str(height),))
                if height % BLOCKS_PER_COMMIT == 0:
                    self._db.execute("COMMIT")
                    if progress is not None:
                        progress(height, last)
                    self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):
                self._db.execute("ROLLBACK")
            raise
        if progress is not None:
            progress(last, last)

    def add(self, derived: Derived) -> None:
        act = derived.act
        number = act.height << _ACT_BITS | act.index
        self._db.execute(
            "INSERT INTO acts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, act.transaction, act.author, act.kind, act.run, act.round, act.subject, act.text),
        )
        for node in derived.nodes:
            attributes = msgspec.json.encode(node.attributes).decode()
            (id_, made, kind) = self._db.execute(
                """INSERT INTO nodes (name, kind, label, digest, attributes, act, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
                ON CONFLICT (name) DO UPDATE SET
                    label = CASE WHEN excluded.label = '' THEN label ELSE excluded.label END, digest = coalesce(excluded.digest, digest),
                    attributes = json_patch(attributes, excluded.attributes), changed = excluded.act
                RETURNING id, act = changed, kind""",
                (node.id, node.kind, node.label, node.digest, attributes, number),
            ).fetchone()
            if made and kind != "lineage-run":
                self._db.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (id_, _words(node.id, node.label)))
            self._ids[node.id] = id_
            if node.digest is not None and node.kind in {"party", "site", "version"}:
                (self._versions if node.kind == "version" else self._parties)[node.digest] = node.id
            if node.kind == "weights":
                self._models[act.run] = node.id
        self._db.executemany(
            "INSERT OR IGNORE INTO edges VALUES (?, ?, ?, ?, ?)",
            ((self._id(edge.source, number), edge.kind, self._id(edge.target, number), edge.basis, number) for edge in derived.edges),
        )
        if act.run:
            self._add_evidence(derived, number)
        if len(self._ids) > 1 << 20:
            self._ids.clear()

    def _add_batch(self, derived: Derived, data: bytes) -> None:
        act = derived.act
        number = act.height << _ACT_BITS | act.index
        body = decode(decode_transaction(data).payload, Transaction).body
        if not isinstance(body, AppendLineage):
            raise TypeError(f"{type(body).__name__} has no events")
        self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (number, act.run, act.round, body.events))
        rows = [
            (
                number,
                event.line,
                event.time_us,
                event.type,
                self._id(event.run, number) if event.run else None,
                self._id(event.job, number) if event.job else None,
            )
            for event in derived.events
        ]
        self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
        for row in rows:
            if row[3] == "START":
                self._db.execute("INSERT OR IGNORE INTO unfinished VALUES (?)", (row[4],))
            elif row[3] in ENDS:
                self._db.execute("DELETE FROM unfinished WHERE run = ?", (row[4],))

    def _add_evidence(self, derived: Derived, number: int) -> None:
        """Count what a round, or the run as a whole, has to show for itself."""
        act = derived.act
        node = self._id(round_id(act.run, act.round) if act.round else run_id(act.run), number)
        if act.kind in {"round.submit", "round.release", "round.exclude"}:
            self._count(node, act.kind.removeprefix("round."), 1)
        if derived.events:
            self._count(node, "event", len(derived.events))
            seen = {event.validated for event in derived.events if event.validated}
            before = self._db.total_changes
            self._db.executemany("INSERT OR IGNORE INTO validated VALUES (?, ?)", ((node, sha256) for sha256 in sorted(seen)))
            self._count(node, "validation", self._db.total_changes - before)

    def _count(self, node: int, what: str, amount: int) -> None:
        self._db.execute(
            "INSERT INTO evidence VALUES (?, ?, ?) ON CONFLICT (node, what) DO UPDATE SET amount = amount + excluded.amount",
            (node, what, amount),
        )

    def _id(self, name: str, act: int) -> int:
        """The number of a node. One that only an edge names so far, as a run that an event calls its parent, is made without content."""
        found = self._ids.get(name)
        if found is None:
            row = self._db.execute("SELECT id FROM nodes WHERE name = ?", (name,)).fetchone()
            if row is None:
                kind = "-".join(name.split("/")[:2]) if name.startswith("lineage/") else name.partition("/")[0]
                row = self._db.execute(
                    "INSERT INTO nodes (name, kind, label, attributes, act, changed) VALUES (?, ?, '', '{}', ?, ?) RETURNING id",
                    (name, kind, act, act),
                ).fetchone()
            found = self._ids[name] = int(row[0])
        return found


def _words(name: str, label: str) -> str:
    return f"{name.replace('%2F', ' ').replace('%2f', ' ')} {label}"


def _check_network(path: Path, known: str, genesis: Genesis) -> None:
    given = network_id(genesis).hex()
    if known != given:
        raise CorruptionError(f"{path} indexes network {known[:16]}, the ledger is of {given[:16]}: delete the file, it is built again")


def _damaged(path: Path, error: Exception) -> CorruptionError:
    return CorruptionError(f"{path}: {error}; delete the file, it is built again from the ledger")

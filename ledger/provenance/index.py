"""The provenance graph in a database: a cache of what `ledger.provenance.graph` derives, and nothing else.

It can be deleted at any time; `Index.update` builds it from the blocks again, and afterwards goes on from the last height it holds. One
transaction of the database a number of blocks, so a process that is killed leaves whole blocks behind. One process writes, any number read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

from ledger.digests import header_digest, network_id
from ledger.errors import CorruptionError, StorageError
from ledger.provenance.engines import Connection, Engine, Sqlite
from ledger.provenance.graph import derive_genesis
from ledger.provenance.openlineage import Lines
from ledger.provenance.writer import INDEXES, SCHEMA, Blocks, Writer
from ledger.types import Genesis

FORMAT: Final = f"3-{sha256((SCHEMA + INDEXES).encode()).hexdigest()[:16]}"
"""Of what the tables hold: count it up when the same tables are filled with something else."""
_CACHED_BATCHES: Final = 64


class Store(Protocol):
    """Where questions look: anything that holds the tables of this module and answers a query on them."""

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one SELECT."""

    def event(self, act: int, line: int) -> bytes:
        """The JSON of one OpenLineage event as it was committed."""


class Index:
    """An open index. Safe to share between threads: each reads through a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        """Use `Index.open` or `Index.on`."""
        self.engine = engine
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._batches: OrderedDict[int, Lines] = OrderedDict()

    @classmethod
    def open(cls, path: Path, genesis: Genesis) -> Index:
        """The index at `path`, made when there is none, or when it has the format of another release.

        Raises `CorruptionError` when it belongs to another network or is no index, `StorageError` when the folder cannot be written.
        """
        return cls.on(Sqlite(path), genesis)

    @classmethod
    def on(cls, engine: Engine, genesis: Genesis) -> Index:
        """The index that an engine keeps, made as `open` makes it. Raises as `open`."""
        index = cls(engine)
        try:
            with engine.writing():
                index._prepare(genesis)
        except OSError as error:
            raise StorageError(f"{engine.place}: cannot be written: {error.strerror or error}; free or unlock the folder") from error
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
        """The rows of one SELECT. Raises `CorruptionError` when the index is damaged, `StorageError` when a server does not answer."""
        with self.engine.reading():
            return self._connection().execute(query, tuple(parameters)).fetchall()

    def event(self, act: int, line: int) -> bytes:
        """The JSON of one OpenLineage event as it was committed. Raises KeyError when there is none."""
        with self._guard:
            lines = self._batches.get(act)
        if lines is None:
            found = self.rows("SELECT events FROM batches WHERE act = ?", (act,))
            if not found:
                raise KeyError(act)
            lines = Lines(found[0][0])
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
            self._check_network(self.rows("SELECT value FROM meta WHERE key = 'network'")[0][0], blocks.genesis)
            self._check_block(blocks, last)
            if self.height >= last:
                return self.height
            with self.engine.writing(), closing(self.engine.connect(bulk=True)) as connection:
                Writer(connection).extend(blocks, last, progress)
        return self.height

    def _check_block(self, blocks: Blocks, last: int) -> None:
        """The last indexed block is the ledger's own. A ledger opened before that block was added cannot say, and adds nothing."""
        known = dict(self.rows("SELECT key, value FROM meta"))
        height = int(known["height"])
        if 0 < height <= last:
            (committed,) = blocks.blocks(height, height + 1)
            if header_digest(committed.block.header).hex() != known["block"]:
                found = f"{self.engine.place} holds another block {height} than the ledger"
                raise CorruptionError(f"{found}: {self.engine.remedy}, it is built again")

    def _check_network(self, known: str, genesis: Genesis) -> None:
        given = network_id(genesis).hex()
        if known != given:
            found = f"{self.engine.place} indexes network {known[:16]}, the ledger is of {given[:16]}"
            raise CorruptionError(f"{found}: {self.engine.remedy}, it is built again")

    def _prepare(self, genesis: Genesis) -> None:
        connection, engine = self._connection(), self.engine
        connection.execute("BEGIN IMMEDIATE")
        try:
            tables = engine.tables(connection)
            if "meta" in tables:
                known: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta").fetchall())
                self._check_network(known.get("network", ""), genesis)
                if known.get("format") == FORMAT:
                    return
            elif tables:
                raise CorruptionError(f"{engine.place} holds something else: move it away")
            engine.clear(connection)
            for statement in SCHEMA.strip().removesuffix(";").split(";\n"):
                connection.execute(statement)
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("format", FORMAT), ("network", network_id(genesis).hex()), ("height", "0"), ("block", "")],
            )
            Writer(connection).add(derive_genesis(genesis))
            connection.execute("COMMIT")
        finally:
            connection.rollback()

    def _connection(self) -> Connection:
        found: Connection | None = getattr(self._local, "connection", None)
        if found is None or not self.engine.alive(found):
            found = self._local.connection = self.engine.connect()
            with self._guard:
                self._connections.append(found)
        return found

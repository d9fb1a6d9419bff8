"""The tables of the index, and how what is derived from blocks is written to them.

`evidence`, `shares` and `uses` count what questions would otherwise have to count each time; all of it follows from the rows before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from ledger.codec import decode
from ledger.digests import header_digest
from ledger.provenance.engines import Connection
from ledger.provenance.graph import Act, Derived, derive
from ledger.provenance.openlineage import ENDS
from ledger.provenance.parts import CLAIM, KINDS, round_id, run_id
from ledger.state.transition import decode_transaction
from ledger.types import AppendLineage, CommittedBlock, Genesis, Header, Transaction

BLOCKS_PER_COMMIT: Final = 500
MOST_IDS: Final = 1 << 18
"""Nodes whose numbers are held in memory."""
COUNTED: Final = {"shares": ("site", "run"), "uses": ("dataset", "run"), "evidence": ("node",)}
"""The tables of counters, and their keys."""
ACT_BITS: Final = 20
"""An act's number is its height and, in the low 20 bits, its place in the block: so acts sort by when they were committed."""
KIND_BITS: Final = 5
"""A node's number has its kind, its place in `KINDS`, in the low 5 bits: a walk knows what it reached without looking it up."""

SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE acts (
    id INTEGER PRIMARY KEY, "transaction" BLOB NOT NULL, author TEXT NOT NULL, kind TEXT NOT NULL,
    run TEXT NOT NULL, round INTEGER NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE nodes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, label TEXT NOT NULL, digest BLOB,
    attributes TEXT NOT NULL, act INTEGER NOT NULL, changed INTEGER NOT NULL
);
CREATE TABLE edges (
    source INTEGER NOT NULL, kind TEXT NOT NULL, target INTEGER NOT NULL, basis TEXT NOT NULL, act INTEGER NOT NULL,
    PRIMARY KEY (source, basis, kind, target)
) WITHOUT ROWID;
CREATE TABLE batches (act INTEGER PRIMARY KEY, run TEXT NOT NULL, round INTEGER NOT NULL, events BLOB NOT NULL);
CREATE TABLE events (
    act INTEGER NOT NULL, line INTEGER NOT NULL, time_us INTEGER NOT NULL, type TEXT NOT NULL, run INTEGER, job INTEGER,
    PRIMARY KEY (act, line)
) WITHOUT ROWID;
CREATE INDEX unreadable ON events (act) WHERE type = 'UNREADABLE';
CREATE TABLE flows (
    job INTEGER NOT NULL, dataset INTEGER NOT NULL, writes INTEGER NOT NULL, PRIMARY KEY (job, dataset, writes)
) WITHOUT ROWID;
CREATE TABLE unfinished (run INTEGER PRIMARY KEY);
CREATE TABLE validated (node INTEGER NOT NULL, sha256 BLOB NOT NULL, PRIMARY KEY (node, sha256)) WITHOUT ROWID;
CREATE TABLE evidence (
    node INTEGER PRIMARY KEY, sealed INTEGER NOT NULL DEFAULT 0, committed INTEGER NOT NULL DEFAULT 0, releases INTEGER NOT NULL DEFAULT 0,
    events INTEGER NOT NULL DEFAULT 0, validations INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE shares (
    site INTEGER NOT NULL, run INTEGER NOT NULL, submitted INTEGER NOT NULL DEFAULT 0, sealed INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0, update_bytes INTEGER NOT NULL DEFAULT 0, released INTEGER NOT NULL DEFAULT 0,
    excluded INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (site, run)
) WITHOUT ROWID;
CREATE TABLE uses (
    dataset INTEGER NOT NULL, run INTEGER NOT NULL, submitted INTEGER NOT NULL DEFAULT 0, accepted INTEGER NOT NULL DEFAULT 0,
    since INTEGER, PRIMARY KEY (dataset, run)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize="unicode61 tokenchars '_'", prefix='3 8');
"""


INDEXES: Final = """
CREATE INDEX IF NOT EXISTS acts_by_run ON acts (run, id) WHERE run <> '';
CREATE INDEX IF NOT EXISTS acts_by_subject ON acts (subject, id);
CREATE INDEX IF NOT EXISTS acts_by_author ON acts (author, id);
CREATE INDEX IF NOT EXISTS acts_by_kind ON acts (kind, id);
CREATE INDEX IF NOT EXISTS nodes_by_kind ON nodes (kind, id);
CREATE INDEX IF NOT EXISTS nodes_by_digest ON nodes (digest) WHERE digest IS NOT NULL;
CREATE INDEX IF NOT EXISTS edges_by_target ON edges (target, basis, kind, source);
CREATE INDEX IF NOT EXISTS events_by_time ON events (time_us);
CREATE INDEX IF NOT EXISTS events_by_job ON events (job, time_us);
CREATE INDEX IF NOT EXISTS events_by_run ON events (run, time_us);
CREATE INDEX IF NOT EXISTS flows_by_dataset ON flows (dataset, writes, job);
"""
"""What questions need and writing does not: made at the end of the first build, which is quicker than keeping them up to date meanwhile."""


class Blocks(Protocol):
    """What the index is built from: a `ledger.backends.base.Ledger`, or anything else that hands out committed blocks."""

    @property
    def genesis(self) -> Genesis:
        """What the network started from."""

    def head(self) -> Header | None:
        """The last header."""

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Committed blocks in order."""


class Writer:
    """Writes what is derived, and is what later blocks refer to: keys and versions are few, so they are held in memory."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection
        self._ids: dict[str, int] = {}
        self._parties: dict[bytes, str] = {}
        self._versions: dict[bytes, str] = {}
        self._models: dict[str, str] = {}
        self._counts: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
        self._since: dict[tuple[int, int], int] = {}
        self._judged: dict[int, str] = {}
        ((last,),) = connection.execute("SELECT coalesce(max(id), 0) FROM nodes").fetchall()
        self._next = (int(last) >> KIND_BITS) + 1
        for name, digest, kind in connection.execute(
            "SELECT name, digest, kind FROM nodes WHERE kind IN ('party', 'site', 'version') ORDER BY id"
        ):
            (self._versions if kind == "version" else self._parties)[digest] = name

    def party(self, public_key: bytes) -> str:
        """Whose key it is; see `Known`."""
        return self._parties[public_key]

    def version(self, digest: bytes) -> str | None:
        """The last registered version with these bytes; see `Known`."""
        return self._versions.get(digest)

    def current(self, run: str) -> str:
        """The node of a run's current model; see `Known`."""
        if run not in self._models:
            found = self._db.execute(
                "SELECT name FROM nodes WHERE name > ? AND name < ? AND kind = 'weights' ORDER BY act DESC LIMIT 1",
                (f"{run_id(run)}/", f"{run_id(run)}0"),
            ).fetchone()
            self._models[run] = found[0]
        return self._models[run]

    def purpose(self, run: str) -> str:
        """What a run was declared for; see `Known`."""
        query = "SELECT json_extract(attributes, '$.purpose') FROM nodes WHERE name = ?"
        return str(self._db.execute(query, (run_id(run),)).fetchone()[0])

    def extend(self, blocks: Blocks, last: int, progress: Callable[[int, int], None] | None) -> None:
        """Raises the driver's own errors; whole commits stay."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            (start,) = self._db.execute("SELECT value FROM meta WHERE key = 'height'").fetchone()
            height = int(start)
            for committed in blocks.blocks(height + 1, last + 1):
                height = committed.block.header.height
                for index, derived in enumerate(derive(committed, self)):
                    self.add(derived)
                    if derived.events:
                        self._add_batch(derived, committed.block.transactions[index])
                self._settle()
                block = header_digest(committed.block.header).hex()
                self._db.executemany("UPDATE meta SET value = ? WHERE key = ?", ((str(height), "height"), (block, "block")))
                if height % BLOCKS_PER_COMMIT == 0:
                    self._db.execute("COMMIT")
                    if progress is not None:
                        progress(height, last)
                    self._db.execute("BEGIN IMMEDIATE")
            for statement in INDEXES.strip().split(";\n"):
                self._db.execute(statement)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise
        if progress is not None:
            progress(height, last)

    def add(self, derived: Derived) -> None:
        """Write what one transaction adds."""
        act = derived.act
        number = act.height << ACT_BITS | act.index
        self._db.execute(
            "INSERT INTO acts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, act.transaction, act.author, act.kind, act.run, act.round, act.subject, act.text),
        )
        self._find({node.id for node in derived.nodes} | {end for edge in derived.edges for end in (edge.source, edge.target)})
        self._add_nodes(derived, number)
        self._db.executemany(
            "INSERT INTO edges VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(self._id(edge.source, number), edge.kind, self._id(edge.target, number), edge.basis, number) for edge in derived.edges],
        )
        if act.run:
            self._add_evidence(derived, number)
        if len(self._ids) > MOST_IDS:
            self._ids.clear()

    def _find(self, names: set[str]) -> None:
        """Look up the numbers of those names that there are already, all at once."""
        unknown = msgspec.json.encode(names.difference(self._ids)).decode()
        self._ids.update(self._db.execute("SELECT n.name, n.id FROM json_each(?) j CROSS JOIN nodes n ON n.name = j.value", (unknown,)))

    def _add_nodes(self, derived: Derived, number: int) -> None:
        """Nodes that are new, and what is new about the others, of which some were only named so far; every name was looked up before."""
        made, words, changed = [], [], []
        for node in derived.nodes:
            attributes = msgspec.json.encode(node.attributes).decode()
            id_ = self._ids.get(node.id)
            if id_ is None:
                id_ = self._ids[node.id] = self._number(node.kind)
                self._next += 1
                made.append((id_, node.id, node.kind, node.label, node.digest, attributes, number, number))
                if node.kind != "lineage-run" and (node.kind != "lineage-version" or node.digest is None):
                    words.append((id_, _words(node.id, node.label)))
            else:
                changed.append((node.label, node.label, node.digest, attributes, number, number, id_))
            if node.digest is not None and node.kind in {"party", "site", "version"}:
                (self._versions if node.kind == "version" else self._parties)[node.digest] = node.id
            if node.kind == "weights":
                self._models[derived.act.run] = node.id
        self._db.executemany("INSERT INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", made)
        self._db.executemany(
            """UPDATE nodes SET label = CASE WHEN ? = '' THEN label ELSE ? END, digest = coalesce(?, digest),
            attributes = json_patch(attributes, ?), act = CASE WHEN label = '' AND attributes = '{}' THEN ? ELSE act END, changed = ?
            WHERE id = ?""",
            changed,
        )
        self._db.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", words)

    def _add_batch(self, derived: Derived, data: bytes) -> None:
        act = derived.act
        number = act.height << ACT_BITS | act.index
        body = decode(decode_transaction(data).payload, Transaction).body
        if not isinstance(body, AppendLineage):
            raise TypeError(f"{type(body).__name__} has no events")
        self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?)", (number, act.run, act.round, body.events))
        self._add_flows(derived, number)
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
        ended = {run: type_ in ENDS for *_, type_, run, _ in rows if type_ == "START" or type_ in ENDS}
        started = [(run,) for run, over in ended.items() if not over]
        self._db.executemany("INSERT INTO unfinished VALUES (?) ON CONFLICT DO NOTHING", started)
        self._db.executemany("DELETE FROM unfinished WHERE run = ?", [(run,) for run, over in ended.items() if over])

    def _add_flows(self, derived: Derived, number: int) -> None:
        """Which job reads and writes which dataset, whatever the run and the version."""
        job_of = {edge.source: edge.target for edge in derived.edges if edge.kind == "run_of"}
        dataset_of = {edge.source: edge.target for edge in derived.edges if edge.kind == "version_of" and edge.basis == CLAIM}
        found = {
            (job_of.get(edge.source, edge.source), dataset_of.get(edge.target, edge.target), 0)
            for edge in derived.edges
            if edge.kind == "reads"
        } | {
            (job_of.get(edge.target, edge.target), dataset_of.get(edge.source, edge.source), 1)
            for edge in derived.edges
            if edge.kind == "written_by"
        }
        self._db.executemany(
            "INSERT INTO flows VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            ((self._id(job, number), self._id(dataset, number), writes) for job, dataset, writes in sorted(found)),
        )

    def _add_evidence(self, derived: Derived, number: int) -> None:
        """Count what a round, or the run as a whole, has to show for itself, each site's share in the run, and each table's use by it."""
        act = derived.act
        run = self._id(run_id(act.run), number)
        node = self._id(round_id(act.run, act.round), number) if act.round else run
        match act.kind:
            case "round.submit":
                (size,) = (item.attributes["size_bytes"] for item in derived.nodes if item.kind == "submission")
                (dataset,) = (self._id(edge.target, number) for edge in derived.edges if edge.kind == "trained_on")
                self._count("shares", "submitted", 1, self._id(act.author, number), run)
                self._count("shares", "update_bytes", int(size), self._id(act.author, number), run)
                self._count("uses", "submitted", 1, dataset, run)
            case "round.exclude":
                (site,) = (self._id(edge.target, number) for edge in derived.edges if edge.kind == "of")
                self._count("shares", "excluded", 1, site, run)
            case "round.release":
                self._count("shares", "released", 1, self._id(act.author, number), run)
                self._count("evidence", "releases", 1, node)
            case "round.seal":
                sealed = self._sealed(act)
                self._count("evidence", "sealed", len(sealed), node)
                for site, _ in sealed:
                    self._count("shares", "sealed", 1, site, run)
            case "round.commit":
                self._count("evidence", "committed", 1, node)
                for site, dataset in self._sealed(act) if any(item.kind == "weights" for item in derived.nodes) else ():
                    self._count("shares", "accepted", 1, site, run)
                    self._count("uses", "accepted", 1, dataset, run)
                    self._since.setdefault((dataset, run), act.round)
        if derived.events:
            self._count("evidence", "events", len(derived.events), node)
            seen = {bytes.fromhex(event.validated) for event in derived.events if event.validated}
            self._db.executemany("INSERT INTO validated VALUES (?, ?) ON CONFLICT DO NOTHING", ((node, sha256) for sha256 in sorted(seen)))
        if derived.events or act.kind == "round.seal":
            self._judged[node] = f"{round_id(act.run, act.round)}/aggregate"

    def _settle(self) -> None:
        """Write what was counted, and how many of each round's sums rest on a validated table."""
        by_counter: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        for (table, what, key), amount in self._counts.items():
            by_counter.setdefault((table, what), []).append((*key, amount))
        for (table, what), rows in by_counter.items():
            columns = COUNTED[table]
            self._db.executemany(
                f"""INSERT INTO {table} ({", ".join(columns)}, {what}) VALUES ({", ".join("?" * (len(columns) + 1))})
                ON CONFLICT ({", ".join(columns)}) DO UPDATE SET {what} = {table}.{what} + excluded.{what}""",
                rows,
            )
        self._db.executemany(
            "UPDATE uses SET since = coalesce(since, ?) WHERE dataset = ? AND run = ?",
            [(round_, *key) for key, round_ in self._since.items()],
        )
        self._db.executemany(
            """UPDATE evidence SET validations = (
                SELECT count(*) FROM nodes s JOIN edges e ON e.source = s.id AND e.basis = 'data' AND e.kind = 'sums'
                JOIN edges t ON t.source = e.target AND t.basis = 'data' AND t.kind = 'trained_on'
                JOIN nodes d ON d.id = t.target JOIN validated v ON v.node = ?1 AND v.sha256 = d.digest WHERE s.name = ?2
            ) WHERE node = ?1""",
            list(self._judged.items()),
        )
        self._counts.clear()
        self._since.clear()
        self._judged.clear()

    def _sealed(self, act: Act) -> list[tuple[int, int]]:
        """The sites whose updates are in a round's sum, each with the table it trained on."""
        return self._db.execute(
            """SELECT b.target, t.target FROM nodes s JOIN edges e ON e.source = s.id AND e.basis = 'data' AND e.kind = 'sums'
            JOIN edges b ON b.source = e.target AND b.basis = 'context' AND b.kind = 'by'
            JOIN edges t ON t.source = e.target AND t.basis = 'data' AND t.kind = 'trained_on' WHERE s.name = ?""",
            (f"{round_id(act.run, act.round)}/aggregate",),
        ).fetchall()

    def _count(self, table: str, what: str, amount: int, *key: int) -> None:
        """Add to one counter of a row of a table, when the block is done. key: as `COUNTED` has it."""
        self._counts[table, what, key] += amount

    def _number(self, kind: str) -> int:
        """The number of the next node, should it be of this kind."""
        return self._next << KIND_BITS | KINDS.index(kind)

    def _id(self, name: str, act: int) -> int:
        """The number of a node. One that only an edge names so far, as a run that an event calls its parent, is made without content."""
        found: int | None = self._ids.get(name)
        if found is None:
            row = self._db.execute("SELECT id FROM nodes WHERE name = ?", (name,)).fetchone()
            if row is None:
                kind = "-".join(name.split("/")[:2]) if name.startswith("lineage/") else name.partition("/")[0]
                row = (self._number(kind),)
                self._next += 1
                self._db.execute(
                    "INSERT INTO nodes (id, name, kind, label, attributes, act, changed) VALUES (?1, ?2, ?3, '', '{}', ?4, ?4)",
                    (*row, name, kind, act),
                )
            found = self._ids[name] = int(row[0])
        return found


def _words(name: str, label: str) -> str:
    return f"{name.replace('%2F', ' ').replace('%2f', ' ')} {label}"

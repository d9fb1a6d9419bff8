"""Looking around in the graph: what is beside a node, what a word finds, who decided what, and what lacks its evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from ledger.provenance.index import Store
from ledger.provenance.things import ActRow, Thing, acts, thing, things
from ledger.provenance.writer import ACT_BITS

DECISIONS: Final = (
    "identity.register",
    "identity.rotate",
    "identity.revoke",
    "dataset.register",
    "consent.grant",
    "consent.withdraw",
    "run.open",
    "run.admit",
    "round.commit",
    "run.close",
    "model.register",
    "approval.require",
    "model.approve",
    "validator.change",
    "validator.report",
)
_LINK: Final = f"""SELECT s.name, t.name, e.kind, e.basis, e.act >> {ACT_BITS}, a."transaction" FROM edges e
JOIN nodes s ON s.id = e.source JOIN nodes t ON t.id = e.target JOIN acts a ON a.id = e.act"""
_WORD: Final = re.compile(r"[^\W_]+(?:_[^\W_]+)*", re.ASCII)


class Link(msgspec.Struct, frozen=True):
    """An edge from `source` to `target`, and what vouches for it."""

    source: str
    target: str
    kind: str
    basis: str
    height: int
    transaction: str


class Neighbours(msgspec.Struct, frozen=True):
    """A node, `limit` of its edges from number `offset` on, outgoing ones first, and the nodes at their other ends.

    more: whether there are further ones.  same_bytes: other nodes with the node's own digest.
    """

    node: Thing
    links: tuple[Link, ...]
    nodes: tuple[Thing, ...]
    same_bytes: tuple[Thing, ...]
    more: bool


class Gap(msgspec.Struct, frozen=True):
    """A node and what it has no evidence of; `expected` and `found` count it."""

    node: str
    missing: str
    expected: int
    found: int


class Gaps(msgspec.Struct, frozen=True):
    """The first gaps, oldest first, and how many there are in all, by what is missing."""

    gaps: tuple[Gap, ...]
    totals: Mapping[str, int]


def neighbours(store: Store, node: str, limit: int = 100, offset: int = 0) -> Neighbours:
    """What is beside a node. Raises `NotOnRecordError`."""
    found = thing(store, node)
    ((id_, outgoing),) = store.rows("SELECT n.id, (SELECT count(*) FROM edges WHERE source = n.id) FROM nodes n WHERE n.name = ?", (node,))
    rows = store.rows(f"{_LINK} WHERE e.source = ? ORDER BY e.basis, e.kind, e.target LIMIT ? OFFSET ?", (id_, limit + 1, offset))
    rows += store.rows(
        f"{_LINK} WHERE e.target = ? ORDER BY e.basis, e.kind, e.source LIMIT ? OFFSET ?",
        (id_, limit + 1 - len(rows), max(0, offset - outgoing)),
    )
    links = tuple(
        Link(source, target, kind, basis, height, transaction.hex()) for source, target, kind, basis, height, transaction in rows[:limit]
    )
    others = sorted({end for link in links for end in (link.source, link.target)} - {node})
    names = msgspec.json.encode(others).decode()
    beside = things(store, "WHERE n.name IN (SELECT value FROM json_each(?)) ORDER BY n.id", (names,))
    same = (
        things(store, "WHERE n.digest = ? AND n.name <> ? ORDER BY n.id LIMIT ?", (bytes.fromhex(found.digest), node, limit))
        if found.digest
        else ()
    )
    return Neighbours(found, links, beside, same, len(rows) > limit)


def search(store: Store, text: str, limit: int = 50) -> tuple[Thing, ...]:
    """Nodes whose name, label or digest has every word of `text`, each as a beginning; runs of OpenLineage jobs by identifier
    only, and versions of their datasets that are digests by the digest only."""
    words = _WORD.findall(text)
    if not words:
        return ()
    match = " ".join(f'"{word}"*' for word in words)
    found = things(
        store,
        "WHERE n.id IN (SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid LIMIT ?) ORDER BY n.id & 31, n.id DESC",
        (match, limit),
    )
    runs = things(
        store,
        "WHERE n.name >= ?1 AND n.name < ?1 || 'g' ORDER BY n.name LIMIT ?2",
        (f"lineage/run/{text.strip().lower()}", limit - len(found)),
    )
    digests = _with_digest(store, text.strip().lower(), limit)
    return tuple({item.id: item for item in (*digests, *found, *runs)}.values())[:limit]


def approvals(store: Store, about: str = "", limit: int = 500) -> tuple[ActRow, ...]:
    """Who decided what: the last `limit` decisions, in order.

    about: a node; the decisions about it, the run and round behind it and the tables and consents of that run, or of that party;
    "" for everybody's. Raises `NotOnRecordError`.
    """
    kinds = msgspec.json.encode(DECISIONS).decode()
    decided = "a.kind IN (SELECT value FROM json_each(?))"
    if not about:
        union = " UNION ALL ".join(
            ["SELECT id FROM (SELECT id FROM acts WHERE kind = ? ORDER BY id DESC LIMIT ?) AS latest"] * len(DECISIONS)
        )
        parameters = [item for kind in DECISIONS for item in (kind, limit)]
        found = acts(store, f"WHERE a.id IN ({union}) ORDER BY a.id DESC LIMIT ?", (*parameters, limit))
    elif (node := thing(store, about)).kind in {"site", "party"}:
        found = acts(store, f"WHERE a.author = ? AND {decided} ORDER BY a.id DESC LIMIT ?", (about, kinds, limit))
    else:
        run = node.text("run") or (node.label if node.kind == "run" else "")
        found = acts(
            store,
            f"""WHERE a.id IN (
                SELECT id FROM acts WHERE subject = ? UNION SELECT id FROM acts WHERE run = ? AND run <> ''
                UNION SELECT o.id FROM nodes r JOIN edges e ON e.source = r.id AND e.basis = 'context' AND e.kind IN ('declares', 'under')
                JOIN nodes t ON t.id = e.target JOIN acts o ON o.subject = t.name WHERE r.name = ?
            ) AND {decided} ORDER BY a.id DESC LIMIT ?""",
            (about, run, f"run/{run}", kinds, limit),
        )
    return tuple(reversed(found))


def without_evidence(store: Store, limit: int = 500) -> Gaps:
    """Which entries lack what an auditor expects beside them.

    A committed round: a release or more, lineage events, and a validated table behind each sealed submission. A run: code that is a
    clean commit, events of its own. A run of a job that an event started: its end. A line of a batch: that it is an event at all.
    """
    rows = store.rows(
        """WITH gaps AS (
            SELECT node AS id, 'release' AS missing, 1 AS expected, 0 AS found FROM evidence WHERE committed > 0 AND releases = 0
            UNION ALL SELECT node, 'lineage', 1, 0 FROM evidence WHERE committed > 0 AND events = 0
            UNION ALL SELECT node, 'validation', sealed, validations FROM evidence WHERE committed > 0 AND validations < sealed
            UNION ALL SELECT r.id, 'lineage', 1, 0 FROM nodes r LEFT JOIN evidence v ON v.node = r.id
                WHERE r.kind = 'run' AND json_extract(r.attributes, '$.status') <> 'open' AND coalesce(v.events, 0) = 0
            UNION ALL SELECT id, 'clean commit', 1, 0 FROM nodes WHERE kind = 'run'
                AND (json_extract(attributes, '$.code_commit') = 'unversioned' OR json_extract(attributes, '$.code_commit') LIKE '%-dirty')
            UNION ALL SELECT run, 'end', 1, 0 FROM unfinished
            UNION ALL SELECT n.id, 'readable event', count(*), 0 FROM events e INDEXED BY unreadable JOIN acts a ON a.id = e.act
                JOIN nodes n ON n.name = a.subject WHERE e.type = 'UNREADABLE' GROUP BY n.id
        ) SELECT id, missing, expected, found FROM gaps ORDER BY id, missing"""
    )
    totals: dict[str, int] = {}
    for row in rows:
        totals[row[1]] = totals.get(row[1], 0) + 1
    shown = rows[:limit]
    ids = msgspec.json.encode(sorted({row[0] for row in shown})).decode()
    names = dict(store.rows("SELECT id, name FROM nodes WHERE id IN (SELECT CAST(value AS INTEGER) FROM json_each(?))", (ids,)))
    return Gaps(tuple(Gap(names[id_], missing, expected, found) for id_, missing, expected, found in shown), totals)


def _with_digest(store: Store, prefix: str, limit: int) -> tuple[Thing, ...]:
    if not 8 <= len(prefix) <= 64 or set(prefix) - set("0123456789abcdef"):
        return ()
    low, high = bytes.fromhex(prefix.ljust(64, "0")), bytes.fromhex(prefix.ljust(64, "f"))
    return things(store, "WHERE n.digest BETWEEN ? AND ? ORDER BY n.id LIMIT ?", (low, high, limit))

"""The graph: what blocks add to it, and that the index is nothing but that."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import patch

import pytest
from bundle_chains import invited, key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger.codec import encode
from ledger.crypto import SigningKey
from ledger.errors import CorruptionError
from ledger.provenance import graph, kinds, openlineage, speaking
from ledger.provenance.graph import Derived, derive, derive_genesis
from ledger.provenance.index import Index
from ledger.provenance.parts import KINDS
from ledger.types import AppendLineage, Block, Body, CommittedBlock, Genesis, Header, SignedTransaction, Transaction

SITES = ("hospital-a", "hospital-b", "hospital-c")
UUIDS = st.uuids().map(str)
TEXT = st.text(min_size=1, max_size=12)
DATASET = st.builds(
    lambda namespace, name, version: {
        "namespace": namespace,
        "name": name,
        "facets": {"version": {"datasetVersion": version}} if version else {},
    },
    TEXT,
    TEXT,
    st.one_of(st.just(""), TEXT, st.binary(min_size=32, max_size=32).map(bytes.hex)),
)
EVENT = st.builds(
    lambda kind, run, job, inputs, outputs, parent: {
        "eventTime": "2026-01-01T00:00:00Z",
        "eventType": kind,
        "run": {"runId": run, "facets": {"parent": {"run": {"runId": parent}, "job": {}}} if parent else {}},
        "job": {"namespace": "n/s", "name": job},
        "inputs": inputs,
        "outputs": outputs,
    },
    st.sampled_from(["START", "RUNNING", "COMPLETE", "FAIL", "ABORT"]),
    UUIDS,
    TEXT,
    st.lists(DATASET, max_size=3),
    st.lists(DATASET, max_size=3),
    st.one_of(st.just(""), UUIDS),
)


def table_of(site: str) -> bytes:
    """The digest of a site's table in the story."""
    return sha256(f"table of {site}".encode()).digest()


def batch(*events: Any, run: str = "run-1", number: int = 1) -> AppendLineage:
    """A batch of events, each JSON-ready or a line as it stands."""
    lines = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    plain = b"\n".join(lines) + b"\n"
    return AppendLineage(run, number, len(lines), sha256(plain).digest(), zlib.compress(plain))


class Memory:
    """The slow, obvious store: every node and edge in a dictionary, what is known found by looking through them all."""

    def __init__(self, genesis: Genesis) -> None:
        self.nodes: dict[str, tuple[str, str, bytes | None, dict[str, Any], int]] = {}
        self.edges: dict[tuple[str, str, str, str], int] = {}
        self.parties: dict[bytes, str] = {}
        self.versions: dict[bytes, str] = {}
        self.models: dict[str, str] = {}
        self.take(derive_genesis(genesis))

    def party(self, public_key: bytes) -> str:
        return self.parties[public_key]

    def version(self, digest: bytes) -> str | None:
        return self.versions.get(digest)

    def current(self, run: str) -> str:
        return self.models[run]

    def purpose(self, run: str) -> str:
        return str(self.nodes[f"run/{run}"][3]["purpose"])

    def take(self, derived: Derived) -> None:
        for node in derived.nodes:
            kind, label, known, attributes, height = self.nodes.get(node.id, (node.kind, node.label, None, {}, derived.act.height))
            self.nodes[node.id] = (kind, node.label or label, node.digest or known, {**attributes, **node.attributes}, height)
            if node.digest and node.kind in {"party", "site"}:
                self.parties[node.digest] = node.id
            if node.digest and node.kind == "version":
                self.versions[node.digest] = node.id
            if node.kind == "weights":
                self.models[derived.act.run] = node.id
        for edge in derived.edges:
            self.edges.setdefault((edge.source, edge.kind, edge.target, edge.basis), derived.act.height)


def contents(index: Index) -> tuple[dict[str, Any], dict[Any, int]]:
    """What an index holds, in the form of `Memory`."""
    nodes = {
        name: (kind, label, digest, json.loads(attributes), act >> 20)
        for name, kind, label, digest, attributes, act in index.rows("SELECT name, kind, label, digest, attributes, act FROM nodes")
    }
    rows = index.rows(
        "SELECT s.name, e.kind, t.name, e.basis, e.act >> 20 FROM edges e JOIN nodes s ON s.id = e.source JOIN nodes t ON t.id = e.target"
    )
    return nodes, {(source, kind, target, basis): height for source, kind, target, basis, height in rows}


def tables(path: Path) -> dict[str, list[Any]]:
    """Every row of every table of an index, in order."""
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'words%'")]
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}  # noqa: S608 - names of tables


@pytest.fixture
def index(story: Any, tmp_path: Path) -> Iterator[Index]:
    """An index of the whole story."""
    with Index.open(tmp_path / "index.sqlite", story.ledger.genesis) as found:
        found.update(story.ledger)
        yield found


def test_the_index_holds_what_the_obvious_store_holds(story: Any, index: Index) -> None:
    """Node for node and edge for edge, the index has what folding `derive` over the blocks into dictionaries gives."""
    memory = Memory(story.ledger.genesis)
    for committed in story.ledger.blocks():
        for derived in derive(committed, memory):
            memory.take(derived)
    nodes, edges = contents(index)
    assert nodes == memory.nodes
    assert edges == memory.edges
    assert len(nodes) == 38 and len(edges) == 77


class Upto:
    """A ledger as it was at some height, that counts which blocks it is asked for."""

    def __init__(self, story: Any, height: int) -> None:
        self.genesis = story.ledger.genesis
        self.height = height
        self.asked: list[int] = []
        self._blocks = list(story.ledger.blocks())

    def head(self) -> Header:
        return self._blocks[self.height - 1].block.header

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        for committed in self._blocks[start - 1 : min(stop or self.height + 1, self.height + 1) - 1]:
            self.asked.append(committed.block.header.height)
            yield committed


@given(cuts=st.lists(st.integers(1, 36), max_size=6))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_building_in_parts_is_building_at_once(story: Any, index: Index, cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the heights at which an index was brought up to date, opened afresh each time, it ends row for row the same."""
    folder = tmp_path_factory.mktemp("parts")
    for height in [*sorted(cuts), index.height]:
        with Index.open(folder / "parts.sqlite", story.ledger.genesis) as parts:
            assert parts.update(Upto(story, height)) == height
    assert tables(folder / "parts.sqlite") == tables(index.engine.path)


def test_only_new_blocks_are_read(story: Any, tmp_path: Path) -> None:
    """The second update reads the last indexed block, to see that it is the same, and those after it."""
    with Index.open(tmp_path / "index.sqlite", story.ledger.genesis) as found:
        found.update(Upto(story, 20))
        later = Upto(story, 23)
        found.update(later)
        assert later.asked == [20, 21, 22, 23]
        assert found.update(Upto(story, 10)) == 23


def test_a_failure_midway_leaves_whole_blocks(story: Any, index: Index, tmp_path: Path) -> None:
    """Where reading blocks fails in the middle, nothing of the unfinished part is seen, and the next update completes the same index."""

    class Failing(Upto):
        def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
            for committed in super().blocks(start, stop):
                if committed.block.header.height == 17:
                    raise OSError("the cable is out")
                yield committed

    path = tmp_path / "failing.sqlite"
    with Index.open(path, story.ledger.genesis) as found:
        with pytest.raises(OSError, match="cable"):
            found.update(Failing(story, 36))
        assert found.height == 0
        found.update(story.ledger)
    assert tables(path) == tables(index.engine.path)


def test_another_networks_blocks_are_refused(story: Any, index: Index, tmp_path: Path) -> None:
    """An index belongs to one network: it neither opens for another one nor takes its blocks, and says which file to delete."""
    other = Upto(story, 36)
    other.genesis = Genesis(
        "other", story.ledger.genesis.verifier, bytes(16), story.ledger.genesis.validators, story.ledger.genesis.administrators
    )
    with pytest.raises(CorruptionError, match=r"index\.sqlite indexes network .* delete the file"):
        index.update(other)
    with pytest.raises(CorruptionError, match="indexes network"):
        Index.open(index.engine.path, other.genesis)


def test_another_history_of_the_network_is_refused(story: Any, tmp_path: Path) -> None:
    """A ledger whose block at the last indexed height is another one is refused, instead of being continued."""
    other = Upto(story, 22)
    block = other._blocks[21].block
    other._blocks[21] = replace(other._blocks[21], block=replace(block, header=replace(block.header, proposer=bytes(32))))
    with Index.open(tmp_path / "index.sqlite", story.ledger.genesis) as found:
        found.update(Upto(story, 22))
        with pytest.raises(CorruptionError, match="another block 22"):
            found.update(other)


@pytest.mark.parametrize("content", [b"no database at all, but long enough to have a header " * 20, b"SQLite format 3\x00" + b"\x00" * 200])
def test_a_file_that_is_no_index_is_named(story: Any, tmp_path: Path, content: bytes) -> None:
    """Garbage under the index's name is one line that says which file to delete."""
    path = tmp_path / "index.sqlite"
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"index\.sqlite: .*; delete the file"):
        Index.open(path, story.ledger.genesis)


def test_an_index_of_another_release_is_built_again(story: Any, index: Index) -> None:
    """An index with another format's number is emptied and built again, to the same rows."""
    before = tables(index.engine.path)
    index.close()
    with sqlite3.connect(index.engine.path) as connection:
        connection.execute("UPDATE meta SET value = '0' WHERE key = 'format'")
    with Index.open(index.engine.path, story.ledger.genesis) as again:
        assert again.height == 0
        again.update(story.ledger)
    assert tables(index.engine.path) == before


def test_every_kind_of_transaction_says_what_it_adds() -> None:
    """A new kind of transaction has to be given its nodes, or be left out here on purpose."""
    assert set(get_args(Body)) == {*kinds._RULES, AppendLineage}


def test_every_node_is_vouched_for_by_a_transaction_on_the_ledger(story: Any, index: Index) -> None:
    """Each node and edge names a transaction that the ledger finds at that height; only what genesis fixed names none."""
    rows = index.rows(
        'SELECT DISTINCT a.id >> 20, a."transaction" FROM acts a JOIN (SELECT act FROM nodes UNION SELECT act FROM edges) n ON n.act = a.id'
    )
    assert (0, bytes(32)) in rows
    for height, transaction in rows:
        receipt = story.ledger.find(transaction)
        assert (receipt.height if receipt else 0) == height
    assert {kind for (kind,) in index.rows("SELECT DISTINCT kind FROM nodes")} <= set(KINDS)


# ------------------------------------------------------------------------------------------------------------- events


@given(events=st.lists(EVENT, max_size=6))
@settings(max_examples=60, deadline=None)
def test_events_become_their_datasets_jobs_and_runs(events: list[dict[str, Any]]) -> None:
    """Whatever an event's names, its run, job, inputs and outputs come out as nodes and edges with an id each, and ids never collide."""
    nodes, edges, read = openlineage.read_batch(batch(*events)) if events else ([], [], ())
    assert [event.type for event in read] == [event["eventType"] for event in events]
    named = {
        "lineage-job": {("n/s", event["job"]["name"]) for event in events},
        "lineage-dataset": {(item["namespace"], item["name"]) for event in events for item in (*event["inputs"], *event["outputs"])},
    }
    for kind, expected in named.items():
        found = [node for node in nodes if node.kind == kind]
        assert {(node.attributes["namespace"], node.attributes["name"]) for node in found} == expected
        assert len({node.id for node in found}) == len(expected)
    known = {node.id for node in nodes}
    for edge in edges:
        assert edge.source in known
        assert edge.target in known or edge.kind == "started_by"
        assert edge.basis == graph.CLAIM


UUID_1 = "3f9c0a17-0000-4000-8000-000000000001"
TABLE = sha256(b"a table").hexdigest()
BROKEN = [
    b"{",
    b"[]",
    b'"text"',
    b"\xff\xfe",
    b'{"eventTime":"yesterday","job":{"namespace":"a","name":"b"}}',
    b'{"eventTime":"2026-01-01T00:00:00","job":{"namespace":"a","name":"b"}}',
    b'{"eventTime":"2026-01-01T00:00:00Z"}',
    b'{"eventTime":"2026-01-01T00:00:00Z","job":{"namespace":"a","name":"b"},"run":{"runId":"no uuid"}}',
    b'{"eventTime":"2026-01-01T00:00:00Z","job":{"namespace":7,"name":"b"}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", BROKEN, ids=range(len(BROKEN)))
def test_a_line_that_is_no_event_is_kept_as_unreadable(line: bytes) -> None:
    """A committed line that is no event, or whose time depends on where it is read, adds nothing and does not harm its neighbours."""
    good = {"eventTime": "2026-01-01T00:00:00Z", "eventType": "START", "run": {"runId": UUID_1}, "job": {"namespace": "n", "name": "j"}}
    alone = openlineage.read_batch(batch(good))
    nodes, edges, events = openlineage.read_batch(batch(line, good))
    assert [event.type for event in events] == ["UNREADABLE", "START"]
    assert (nodes, edges) == alone[:2]


def test_a_table_that_was_not_validated_is_missed(story: Any, index: Index) -> None:
    """The rounds of the story have no events of validation: each of their sealed updates is counted as lacking one."""
    assert dict(index.rows("SELECT n.name, v.sealed - v.validations FROM evidence v JOIN nodes n ON n.id = v.node WHERE v.committed")) == {
        "run/run-1/round/1": 2,
        "run/run-1/round/2": 3,
        "run/run-1/round/3": 3,
    }


def test_validation_counts_for_sealed_tables_only() -> None:
    """An event of validation names its table; one of another job, of another step's end or without a digest names none."""
    table = {"namespace": "n", "name": "site/a/table", "facets": {"version": {"datasetVersion": TABLE}}}
    event = {
        "eventTime": "2026-01-01T00:00:00Z",
        "eventType": "COMPLETE",
        "run": {"runId": UUID_1},
        "job": {"namespace": "n", "name": "scn.validate_data"},
        "inputs": [table],
    }

    def validated(**changes: Any) -> str:
        return openlineage.read_batch(batch({**event, **changes}))[2][0].validated

    assert validated() == TABLE
    assert validated(job={"namespace": "n", "name": "scn.fused_site"}) == TABLE
    assert validated(eventType="FAIL") == validated(job={"namespace": "n", "name": "scn.train"}) == ""
    assert validated(inputs=[{**table, "facets": {"version": {"datasetVersion": "3"}}}]) == ""


def test_the_story_says_who(story: Any, index: Index) -> None:
    """Sites are authors of their own submissions, and the coordinator of the outcome."""
    rows = dict(index.rows("SELECT subject, author FROM acts WHERE kind = 'round.submit' AND round = 2"))
    assert rows == {f"run/run-1/round/2/submission/{site}": f"site/{site}" for site in SITES}
    assert index.rows("SELECT DISTINCT author FROM acts WHERE kind = 'round.commit'") == [("party/coordinator",)]


def test_an_invitation_is_accepted_in_a_later_block(tmp_path: Path) -> None:
    """Whose invitation a key is, is known in later blocks and by whoever opens the index again, as everybody's own key is."""
    chain = invited()
    with Index.open(tmp_path / "index.sqlite", chain.genesis) as found:
        for header in [committed.block.header for committed in chain.blocks()]:
            found.update(SimpleNamespace(genesis=chain.genesis, head=lambda header=header: header, blocks=chain.blocks))
        rows = found.rows("SELECT author, text FROM acts WHERE kind = 'identity.accept'")
        assert rows == [("site/hospital-a", "hospital-a joins with a key of its own")]
        assert found.rows("SELECT digest FROM nodes WHERE name = 'site/hospital-a'") == [(key("hospital-a").public,)]


@given(lines=st.lists(st.text("ab", min_size=1, max_size=30).map(str.encode), min_size=1, max_size=12), ended=st.booleans(), data=st.data())
def test_any_line_of_a_batch_is_read_without_the_rest(lines: list[bytes], ended: bool, data: Any) -> None:
    """In whatever order lines are asked for, and wherever a step of reading ends, each is the one that splitting the whole batch gives."""
    plain = b"\n".join(lines) + b"\n" * ended
    with patch.object(openlineage, "_STEP_BYTES", data.draw(st.integers(1, 40))):
        read = openlineage.Lines(zlib.compress(plain))
        for line in data.draw(st.lists(st.integers(0, len(lines) + 2), max_size=20)):
            if line < len(lines):
                assert read[line] == openlineage.lines_of(plain)[line] == lines[line]
            else:
                with pytest.raises(IndexError):
                    read[line]
    with pytest.raises(zlib.error):
        openlineage.Lines(zlib.compress(plain)[:-5])[len(lines)]


# --------------------------------------------------------------------------------------------- what sites say of a run

THEIRS = speaking.step_id("run-1", "hospital-b", UUID_1)
OWN = speaking.step_id("run-1", "hospital-a", UUID_1)


def said(identifier: str, *, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """A site's event that a step is over."""
    named = [[{"namespace": "n", "name": name} for name in names] for names in (inputs, outputs)]
    event = {"eventTime": "2026-01-01T00:00:00Z", "eventType": "COMPLETE", "job": {"namespace": "n", "name": "scn.train"}}
    return {**event, "run": {"runId": identifier}, "inputs": named[0], "outputs": named[1], **changes}


FOREIGN = {
    "a step of the coordinator": said(UUID_1),
    "a step of another site": said(THEIRS),
    "its step in another run": said(speaking.step_id("run-2", "hospital-a", UUID_1)),
    "a step written in another way": said(OWN.upper()),
    "another site's table": said(OWN, inputs=("site/hospital-b/table",)),
    "a site whose name begins with its own": said(OWN, inputs=("site/hospital-ab/table",)),
    "another site's update": said(OWN, outputs=("site/hospital-b/update",)),
    "an artifact of the run": said(OWN, outputs=("artifact/model",)),
    "no run": {**said(OWN), "run": None},
    "no job": {**said(OWN), "job": None, "dataset": {"namespace": "n", "name": "x"}},
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_site_says_what_it_did_and_no_more(foreign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an event of its own, one of what others did adds nothing; the coordinator may say it, and a reader without A7 believes it."""
    own = said(OWN, inputs=("site/hospital-a/table", "artifact/model"), outputs=("site/hospital-a/update", "ledger/transactions"))
    lines = batch(own, FOREIGN[foreign])
    nodes, edges, events = openlineage.read_batch(lines, "hospital-a")
    assert [event.type for event in events] == ["COMPLETE", "UNREADABLE"]
    assert (nodes, edges) == openlineage.read_batch(batch(own))[:2]
    assert speaking.count_foreign("run-1", "hospital-a", zlib.decompress(lines.events)) == (0 if foreign == "no job" else 1)
    believed = openlineage.read_batch(lines)
    assert believed[2][1].type != "UNREADABLE"
    monkeypatch.setattr(openlineage, "_require_own", lambda *_: None)
    assert openlineage.read_batch(lines, "hospital-a") == believed != (nodes, edges, events)


def test_a_sites_batch_counts_for_its_round(story: Any, tmp_path: Path) -> None:
    """A site's event of validation is the round's evidence, its event of another's step is nowhere, and the flow above is whose it is."""
    table = {"namespace": "n", "name": "site/hospital-a/table", "facets": {"version": {"datasetVersion": table_of("hospital-a").hex()}}}
    validated = {**said(OWN), "job": {"namespace": "n", "name": "scn.validate_data"}, "inputs": [table]}
    validated["run"]["facets"] = {"parent": {"run": {"runId": UUID_1}}}
    longer = Upto(story, story.ledger.head().height + 1)
    last = longer._blocks[-1].block.header
    transactions = [
        SignedTransaction(encode(Transaction(last.network, SigningKey.from_seed(sha256(who).digest()).public, 99, body)), bytes(64))
        for who, body in ((b"hospital-a", batch(validated, said(THEIRS))), (b"coordinator", batch(said(UUID_1))))
    ]
    block = Block(replace(last, height=last.height + 1), None, tuple(map(encode, transactions)))
    longer._blocks.append(CommittedBlock(block, longer._blocks[-1].certificate))
    with Index.open(tmp_path / "index.sqlite", story.ledger.genesis) as found:
        found.update(longer)
        vouching = "SELECT a.author FROM nodes n JOIN acts a ON a.id = n.act WHERE n.name = ?"
        authors = [found.rows(vouching, (f"lineage/run/{run}",)) for run in (OWN, THEIRS, UUID_1)]
        assert authors == [[("site/hospital-a",)], [], [("party/coordinator",)]]
        missing = "SELECT v.sealed - v.validations FROM evidence v JOIN nodes n ON n.id = v.node WHERE n.name = 'run/run-1/round/1'"
        assert found.rows(missing) == [(1,)]

"""OpenLineage events (spec 2-0-2) out of a committed batch, as nodes and edges. What they say are claims of whoever signed the batch.

    lineage/run/<uuid>                             lineage/job/<namespace>/<name>
    lineage/dataset/<namespace>/<name>             lineage/version/<namespace>/<name>/<version>

Namespaces and names are percent-encoded (RFC 3986), so that an id has one reading. The ledger does not check that a line is an event
(rule A4): one that is none, or that the site which signed it may not say (A7), is kept as an `Event` of type ``UNREADABLE``, and adds
nothing to the graph.
"""

from __future__ import annotations

import re
import threading
import uuid
import zlib
from bisect import bisect_left
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from urllib.parse import quote

import msgspec

from ledger.provenance.parts import CLAIM, Edge, Node
from ledger.provenance.speaking import is_own
from ledger.types import AppendLineage

UNREADABLE: Final = "UNREADABLE"
ENDS: Final = frozenset({"COMPLETE", "FAIL", "ABORT"})
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Event(msgspec.Struct, frozen=True):
    """One line of a batch. time_us: microseconds since 1970-01-01 UTC, as the producer says.  type: START, RUNNING, COMPLETE, FAIL, ABORT,
    OTHER, ``DATASET`` or ``JOB`` for an event of no run, or ``UNREADABLE``.

    run, job: nodes, "" for none.  validated: hex SHA-256 of a table that the event says was validated, "" for none.
    """

    line: int
    time_us: int
    type: str
    run: str
    job: str
    validated: str = ""


class _Version(msgspec.Struct):
    datasetVersion: str  # noqa: N815 - the specification's name


class _DatasetFacets(msgspec.Struct):
    version: _Version | None = None


class _Dataset(msgspec.Struct):
    namespace: str
    name: str
    facets: _DatasetFacets | None = None


class _RunId(msgspec.Struct):
    runId: str  # noqa: N815


class _Parent(msgspec.Struct):
    run: _RunId


class _RunFacets(msgspec.Struct):
    parent: _Parent | None = None


class _Run(msgspec.Struct):
    runId: str  # noqa: N815
    facets: _RunFacets | None = None


class _JobType(msgspec.Struct):
    jobType: str = ""  # noqa: N815


class _JobFacets(msgspec.Struct):
    jobType: _JobType | None = None  # noqa: N815


class _Job(msgspec.Struct):
    namespace: str
    name: str
    facets: _JobFacets | None = None


class _Event(msgspec.Struct):
    eventTime: str  # noqa: N815
    eventType: str = "OTHER"  # noqa: N815
    run: _Run | None = None
    job: _Job | None = None
    dataset: _Dataset | None = None
    inputs: list[_Dataset] = []
    outputs: list[_Dataset] = []


_decoder = msgspec.json.Decoder(_Event)


def read_batch(body: AppendLineage, site: str = "") -> tuple[list[Node], list[Edge], tuple[Event, ...]]:
    """The nodes and edges that a batch claims, each once, and its events in order.

    site: who appended it to its run, "" when that was the run's coordinator, or when it is of no run.
    Raises zlib.error for a batch that rule A2 would refuse.
    """
    nodes: dict[str, Node] = {}
    edges: dict[tuple[str, str, str], Edge] = {}
    events = []
    for line, data in enumerate(lines_of(zlib.decompress(body.events))):
        try:
            said = _decoder.decode(data)
            if site:
                _require_own(said, body.run, site)
            event, found, links = _read(line, said)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            events.append(Event(line, 0, UNREADABLE, "", ""))
            continue
        events.append(event)
        for node in found:
            known = nodes.setdefault(node.id, node)
            if known is not node:
                nodes[node.id] = Node(node.id, node.kind, node.label, node.digest, {**known.attributes, **node.attributes})
        for edge in links:
            edges[edge.source, edge.kind, edge.target] = edge
    return list(nodes.values()), list(edges.values()), tuple(events)


def lines_of(plain: bytes) -> list[bytes]:
    """The lines of a batch, as A4 counts them, without their newlines."""
    return plain.removesuffix(b"\n").split(b"\n")


class Lines:
    """The lines of a compressed batch, read as far as they are asked for: one event is wanted more often than all. Threads may share it."""

    def __init__(self, events: bytes) -> None:
        """events: one complete zlib stream (RFC 1950)."""
        self._stream = zlib.decompressobj()
        self._unread = events
        self._plain = bytearray()
        self._ends = [0]
        self._steps = [0]
        self._turn = threading.Lock()

    def __getitem__(self, line: int) -> bytes:
        """Line number `line`, from 0, without its newline. Raises IndexError behind the last one, zlib.error for what is no stream."""
        with self._turn:
            while self._ends[-1] <= line and not self._stream.eof:
                self._read()
            step = max(bisect_left(self._ends, line) - 1, 0)
            start = self._steps[step]
            for _ in range(line - self._ends[step]):
                start = self._plain.find(b"\n", start) + 1 or len(self._plain)
            if start == len(self._plain):
                raise IndexError(line)
            end = self._plain.find(b"\n", start)
            return bytes(self._plain[start : end if end >= 0 else len(self._plain)])

    def _read(self) -> None:
        """One step further. `_ends` is the number of newlines before each of `_steps`: splitting what nobody asks for takes time."""
        found = self._stream.decompress(self._unread, _STEP_BYTES)
        if not found and not self._stream.eof:
            raise zlib.error("the stream is cut short")
        self._unread = self._stream.unconsumed_tail
        self._plain += found
        self._ends.append(self._ends[-1] + found.count(b"\n"))
        self._steps.append(len(self._plain))


def job_id(namespace: str, name: str) -> str:
    """The node of a job."""
    return f"lineage/job/{_quoted(namespace)}/{_quoted(name)}"


def dataset_id(namespace: str, name: str) -> str:
    """The node of a dataset, whatever its version."""
    return f"lineage/dataset/{_quoted(namespace)}/{_quoted(name)}"


def version_id(namespace: str, name: str, version: str) -> str:
    """The node of one version of a dataset."""
    return f"lineage/version/{_quoted(namespace)}/{_quoted(name)}/{_quoted(version)}"


def _require_own(event: _Event, run: str, site: str) -> None:
    """Raises ValueError for what `site` may not say of `run`."""
    names = [[item.name for item in items] for items in (event.inputs, event.outputs)]
    if event.job is None or event.run is None or not is_own(run, site, event.run.runId, *names):
        raise ValueError("an event of what somebody else did")


def _read(line: int, event: _Event) -> tuple[Event, list[Node], list[Edge]]:
    """Raises ValueError for a time, an identifier or a combination of fields that the specification does not have."""
    time = datetime.fromisoformat(event.eventTime)
    if time.tzinfo is None:
        raise ValueError("a time without its offset")  # would read as another instant on another machine
    time_us = (time - _EPOCH) // _MICROSECOND
    nodes: list[Node] = []
    edges: list[Edge] = []
    if event.job is None:
        if event.dataset is None:
            raise ValueError("an event of nothing")
        found = _dataset(event.dataset)
        nodes += _written(found, time_us)
        edges += found.edges
        return Event(line, time_us, "DATASET", "", ""), nodes, edges
    job = event.job
    job_type = job.facets.jobType.jobType if job.facets is not None and job.facets.jobType is not None else ""
    made = _job_node(job.namespace, job.name, job_type)
    nodes.append(made)
    user = job_node = made.id
    if event.run is not None:
        user = _run_node(event.run.runId)
        nodes.append(Node(user, "lineage-run", job.name, None, _life(event.eventType, time_us)))
        edges.append(Edge(user, job_node, "run_of", CLAIM))
        if event.run.facets is not None and event.run.facets.parent is not None:
            edges.append(Edge(user, _run_node(event.run.facets.parent.run.runId), "started_by", CLAIM))
    validated = ""
    for item in event.inputs:
        found = _dataset(item)
        nodes += found.nodes
        edges += found.edges
        edges.append(Edge(user, found.id, "reads", CLAIM))
        if event.eventType == "COMPLETE" and item.name.endswith("/table") and job.name.endswith(_VALIDATING):
            validated = _version_of(item) if _digest(_version_of(item)) is not None else ""
    for item in event.outputs:
        found = _dataset(item)
        nodes += _written(found, time_us)
        edges += found.edges
        edges.append(Edge(found.id, user, "written_by", CLAIM))
    kind = event.eventType if event.run is not None else "JOB"
    return Event(line, time_us, kind, user if event.run is not None else "", job_node, validated), nodes, edges


_STEP_BYTES: Final = 16 * 1024
_VALIDATING: Final = (".validate_data", ".fused_site")
"""The steps in which a table is put to its suite; one that fails it is left out of the round, and its site is not sealed."""
_MICROSECOND: Final = datetime.resolution
_CANONICAL: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""How `uuid.UUID` writes itself; anything else it reads is brought to this form."""


@lru_cache(maxsize=1 << 12)
def _job_node(namespace: str, name: str, job_type: str) -> Node:
    return Node(job_id(namespace, name), "lineage-job", name, None, {"namespace": namespace, "name": name, "type": job_type})


def _life(state: str, time_us: int) -> dict[str, str | int]:
    if state == "START":
        return {"state": state, "started_us": time_us}
    return {"state": state, "ended_us": time_us} if state in ENDS else {"state": state}


def _run_node(identifier: str) -> str:
    return f"lineage/run/{identifier if _CANONICAL.fullmatch(identifier) else uuid.UUID(identifier)}"


class _Named(msgspec.Struct, frozen=True):
    """One version of a dataset, or a dataset of no version: its nodes, the edge between them, and which of the two is read or written."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    id: str


# A step's two events name the same versions, and the next step names them again.
@lru_cache(maxsize=1 << 14)
def _named(namespace: str, name: str, version: str) -> _Named:
    dataset = Node(dataset_id(namespace, name), "lineage-dataset", name, None, {"namespace": namespace, "name": name})
    if not version:
        return _Named((dataset,), (), dataset.id)
    attributes = {"namespace": namespace, "name": name, "version": version}
    node = Node(version_id(namespace, name, version), "lineage-version", name, _digest(version), attributes)
    return _Named((dataset, node), (Edge(node.id, dataset.id, "version_of", CLAIM),), node.id)


def _dataset(item: _Dataset) -> _Named:
    return _named(item.namespace, item.name, _version_of(item))


def _written(found: _Named, time_us: int) -> tuple[Node, ...]:
    """The nodes of what was written at a time."""
    if len(found.nodes) == 1:
        return found.nodes
    dataset, node = found.nodes
    return dataset, Node(node.id, node.kind, node.label, node.digest, {**node.attributes, "written_us": time_us})


def _version_of(item: _Dataset) -> str:
    return item.facets.version.datasetVersion if item.facets is not None and item.facets.version is not None else ""


@lru_cache(maxsize=1 << 12)
def _digest(version: str) -> bytes | None:
    if len(version) != 64 or set(version) - set("0123456789abcdef"):
        return None
    return bytes.fromhex(version)


@lru_cache(maxsize=1 << 14)
def _quoted(text: str) -> str:
    return quote(text, safe="")

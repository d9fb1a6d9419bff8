"""What Marquez would answer, read from the provenance index: namespaces, jobs, runs, datasets, versions, the lineage graph, events.

Shapes are those of Marquez' OpenAPI description. Every one of these is a claim of whoever signed the event onto the ledger;
`cifer_ledger` in a run's facets says which transactions to check. Times are those of events. A dataset version's UUID is the first half
of its digest, or derived from its name where the version is no digest.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from flows.services import marquez_shapes as shapes
from ledger.errors import NotOnRecordError
from ledger.provenance import browse
from ledger.provenance.index import Store
from ledger.provenance.openlineage import dataset_id, job_id, version_id
from ledger.provenance.things import things

Json = dict[str, Any]
MOST_NODES: Final = 2_000
"""In one answer of the lineage graph."""


def namespaces(store: Store, limit: int, offset: int) -> list[Json]:
    """Every namespace of a job or dataset, by name."""
    rows = store.rows(
        """SELECT DISTINCT namespace FROM (
            SELECT json_extract(attributes, '$.namespace') AS namespace FROM nodes WHERE kind IN ('lineage-job', 'lineage-dataset')
        ) AS named WHERE namespace IS NOT NULL ORDER BY namespace LIMIT ? OFFSET ?""",
        (limit, offset),
    )
    return [shapes.namespace(name) for (name,) in rows]


def namespace(store: Store, name: str) -> Json:
    """One namespace. Raises `NotOnRecordError`."""
    if not (shapes.below(store, job_id(name, ""), 1, 0) or shapes.below(store, dataset_id(name, ""), 1, 0)):
        raise NotOnRecordError(f"namespace {name!r} is in no event on the ledger")
    return shapes.namespace(name)


def jobs(store: Store, space: str | None, limit: int, offset: int) -> tuple[list[Json], int]:
    """Jobs of a namespace, or of all, and how many there are."""
    prefix = job_id(space, "") if space is not None else "lineage/job/"
    return [shapes.job(store, item) for item in shapes.below(store, prefix, limit, offset)], shapes.count(store, prefix)


def job(store: Store, space: str, name: str) -> Json:
    """One job. Raises `NotOnRecordError`."""
    return shapes.job(store, shapes.thing(store, job_id(space, name), f"job {name!r} of namespace {space!r}"))


def job_runs(store: Store, space: str, name: str, limit: int, offset: int) -> tuple[list[Json], int]:
    """Runs of a job, the latest first. Raises `NotOnRecordError`."""
    item = shapes.thing(store, job_id(space, name), f"job {name!r} of namespace {space!r}")
    ((count,),) = store.rows(
        """SELECT count(*) FROM nodes j JOIN edges e ON e.target = j.id AND e.basis = 'claim' AND e.kind = 'run_of' WHERE j.name = ?""",
        (item.id,),
    )
    return [shapes.run(store, run) for run in shapes.runs(store, item.id, limit, offset)], count


def run(store: Store, identifier: str) -> Json:
    """One run by its UUID. Raises `NotOnRecordError`."""
    return shapes.run(store, shapes.thing(store, shapes.run_node(identifier), f"run {identifier}"))


def facets(store: Store, identifier: str, kind: str) -> Json:
    """The ``run`` or ``job`` facets of a run's last event. Raises `NotOnRecordError`."""
    node = shapes.thing(store, shapes.run_node(identifier), f"run {identifier}")
    return {"runId": node.id.rpartition("/")[2], "facets": shapes.last_event(store, node).get(kind, {}).get("facets", {})}


def job_versions(store: Store, space: str, name: str) -> list[Json]:
    """A job's one version: what it reads and writes, as all events so far say. Raises `NotOnRecordError`."""
    return [shapes.job_version(store, shapes.thing(store, job_id(space, name), f"job {name!r} of namespace {space!r}"))]


def job_version(store: Store, space: str, name: str, which: str) -> Json:
    """That version, by its UUID. Raises `NotOnRecordError`: also for one that the job has outgrown."""
    (found,) = job_versions(store, space, name)
    if found["version"] != which.lower():
        raise NotOnRecordError(f"job {name!r} of namespace {space!r} has no version {which!r} now; it has {found['version']}")
    return found


def datasets(store: Store, space: str, limit: int, offset: int) -> tuple[list[Json], int]:
    """Datasets of a namespace, and how many there are."""
    prefix = dataset_id(space, "")
    return [shapes.dataset(store, item) for item in shapes.below(store, prefix, limit, offset)], shapes.count(store, prefix)


def dataset(store: Store, space: str, name: str) -> Json:
    """One dataset. Raises `NotOnRecordError`."""
    return shapes.dataset(store, shapes.thing(store, dataset_id(space, name), f"dataset {name!r} of namespace {space!r}"))


def versions(store: Store, space: str, name: str, limit: int, offset: int) -> tuple[list[Json], int]:
    """Versions of a dataset, the latest first, and how many there are. Raises `NotOnRecordError`."""
    shapes.thing(store, dataset_id(space, name), f"dataset {name!r} of namespace {space!r}")
    found = shapes.versions(store, dataset_id(space, name), limit, offset)
    return [shapes.version(store, item) for item in found], shapes.count(store, version_id(space, name, ""))


def version(store: Store, space: str, name: str, which: str) -> Json:
    """One version of a dataset, by its UUID or by the version itself. Raises `NotOnRecordError`."""
    exact = things(store, "WHERE n.name = ?", (version_id(space, name, which),))
    found = exact or tuple(item for item in shapes.candidates(store, space, name, which) if shapes.version_uuid(item) == which.lower())
    if not found:
        raise NotOnRecordError(f"dataset {name!r} of namespace {space!r} has no version {which!r} on the ledger")
    return shapes.version(store, found[0])


def events(
    store: Store,
    before: datetime | None,
    after: datetime | None,
    limit: int,
    offset: int,
    *,
    ascending: bool = False,
    space: str | None = None,
) -> Json:
    """Events as they were committed, the latest first unless `ascending`, between two instants; `space`: of jobs in one namespace."""
    between = (shapes.microseconds(after, -(2**62)), shapes.microseconds(before, 2**62))
    direction = "ASC" if ascending else "DESC"
    most = limit + offset
    found = _all_events(store, between, most, direction) if space is None else _events_of(store, space, between, most, direction)
    rows, total = found
    return {"events": [json.loads(store.event(act, line)) for _, act, line in rows[offset:]], "totalCount": total}


_Place = tuple[int, int, int]
"""Of an event: when, act, line."""


def _all_events(store: Store, between: tuple[int, int], most: int, direction: str) -> tuple[list[_Place], int]:
    """The first of all events between two instants, and how many there are: counted over an index, without the few that are none."""
    ((total,),) = store.rows(
        """SELECT (SELECT count(*) FROM events WHERE time_us >= ?1 AND time_us < ?2)
        - (SELECT count(*) FROM events INDEXED BY unreadable WHERE type = 'UNREADABLE' AND time_us >= ?1 AND time_us < ?2)""",
        between,
    )
    rows = store.rows(
        f"""SELECT time_us, act, line FROM events WHERE type <> 'UNREADABLE' AND time_us >= ? AND time_us < ?
        ORDER BY time_us {direction}, act {direction}, line {direction} LIMIT ?""",  # noqa: S608 - ASC or DESC
        (*between, most),
    )
    return rows, total


def _events_of(store: Store, space: str, between: tuple[int, int], most: int, direction: str) -> tuple[list[_Place], int]:
    """The first events of jobs of a namespace, and how many there are; each job's are in order already."""
    prefix = job_id(space, "")
    rows: list[_Place] = []
    total = 0
    for (job_,) in store.rows("SELECT id FROM nodes WHERE name > ? AND name < ?", (prefix, shapes.after(prefix))):
        ((count,),) = store.rows("SELECT count(*) FROM events WHERE job = ? AND time_us >= ? AND time_us < ?", (job_, *between))
        rows += store.rows(
            f"""SELECT time_us, act, line FROM events WHERE job = ? AND time_us >= ? AND time_us < ?
            ORDER BY time_us {direction}, act {direction}, line {direction} LIMIT ?""",  # noqa: S608 - ASC or DESC
            (job_, *between, most),
        )
        total += count
    return sorted(rows, reverse=direction == "DESC")[:most], total


def lineage(store: Store, node: str, depth: int) -> Json:
    """The jobs and datasets within `depth` steps of ``job:NAMESPACE:NAME`` or ``dataset:NAMESPACE:NAME``, in either direction.

    At most 2,000 nodes, the nearest. Raises `NotOnRecordError`.
    """
    start = shapes.thing(store, shapes.graph_node(node), f"node {node!r}")
    rows = store.rows(
        f"""WITH RECURSIVE near (id, far) AS (
            SELECT id, 0 FROM nodes WHERE name = ?
            UNION SELECT CASE WHEN n.id = f.job THEN f.dataset ELSE f.job END, n.far + 1
            FROM near n JOIN flows f ON f.job = n.id OR f.dataset = n.id WHERE n.far < ?
        ), seen AS (SELECT id, far FROM near LIMIT {20 * MOST_NODES})
        SELECT id FROM seen GROUP BY id ORDER BY min(far), id LIMIT {MOST_NODES}""",  # noqa: S608 - fixed text, values are bound
        (start.id, depth),
    )
    ids = json.dumps([id_ for (id_,) in rows])
    inside = {id_: item for (id_,), item in zip(sorted(rows), shapes.by_number(store, ids), strict=True)}
    pairs = store.rows(
        """SELECT job, dataset, writes FROM flows
        WHERE job IN (SELECT CAST(value AS INTEGER) FROM json_each(?1)) AND dataset IN (SELECT CAST(value AS INTEGER) FROM json_each(?1))
        ORDER BY job, dataset, writes""",
        (ids,),
    )
    links = [(inside[job_], inside[dataset_]) if writes else (inside[dataset_], inside[job_]) for job_, dataset_, writes in pairs]
    edges = [{"origin": shapes.graph_id(origin), "destination": shapes.graph_id(end)} for origin, end in links]
    return {"graph": [shapes.graph_entry(store, item, edges) for item in inside.values()]}


def search(store: Store, text: str, only: str, limit: int) -> Json:
    """Jobs and datasets whose name has the words of `text`; only: ``job``, ``dataset`` or "" for both."""
    kinds = {"": ("lineage-job", "lineage-dataset"), "job": ("lineage-job",), "dataset": ("lineage-dataset",)}[only]
    found = [item for item in browse.search(store, text.replace("%", " "), 10 * limit) if item.kind in kinds][:limit]
    results = [
        {
            "name": item.text("name"),
            "nodeId": shapes.graph_id(item),
            "type": "JOB" if item.kind == "lineage-job" else "DATASET",
            "namespace": item.text("namespace"),
            "updatedAt": shapes.updated(store, item),
        }
        for item in found
    ]
    return {"totalCount": len(results), "results": results}

"""What Marquez would answer, read from the provenance index: namespaces, jobs, runs, datasets, versions, the lineage graph, events.

Shapes are those of Marquez' OpenAPI description. Every one of these is a claim of whoever signed the event onto the ledger;
`cifer_ledger` in a run's facets says which transactions to check. Times are those of events. A dataset version's UUID is the first half
of its digest, or derived from its name where the version is no digest.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ledger.errors import NotOnRecordError
from ledger.provenance import browse
from ledger.provenance.index import Store
from ledger.provenance.openlineage import dataset_id, job_id, version_id
from ledger.provenance.things import Thing, things

Json = dict[str, Any]
MOST_NODES: Final = 2_000
"""In one answer of the lineage graph."""
_STATES: Final = {"START": "RUNNING", "RUNNING": "RUNNING", "COMPLETE": "COMPLETED", "FAIL": "FAILED", "ABORT": "ABORTED"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = "1970-01-01T00:00:00+00:00"


def namespaces(store: Store, limit: int, offset: int) -> list[Json]:
    """Every namespace of a job or dataset, by name."""
    rows = store.rows(
        """SELECT DISTINCT namespace FROM (
            SELECT json_extract(attributes, '$.namespace') AS namespace FROM nodes WHERE kind IN ('lineage-job', 'lineage-dataset')
        ) AS named WHERE namespace IS NOT NULL ORDER BY namespace LIMIT ? OFFSET ?""",
        (limit, offset),
    )
    return [_namespace(name) for (name,) in rows]


def namespace(store: Store, name: str) -> Json:
    """One namespace. Raises `NotOnRecordError`."""
    if not (_below(store, job_id(name, ""), 1, 0) or _below(store, dataset_id(name, ""), 1, 0)):
        raise NotOnRecordError(f"namespace {name!r} is in no event on the ledger")
    return _namespace(name)


def jobs(store: Store, space: str | None, limit: int, offset: int) -> tuple[list[Json], int]:
    """Jobs of a namespace, or of all, and how many there are."""
    prefix = job_id(space, "") if space is not None else "lineage/job/"
    return [_job(store, item) for item in _below(store, prefix, limit, offset)], _count(store, prefix)


def job(store: Store, space: str, name: str) -> Json:
    """One job. Raises `NotOnRecordError`."""
    return _job(store, _thing(store, job_id(space, name), f"job {name!r} of namespace {space!r}"))


def job_runs(store: Store, space: str, name: str, limit: int, offset: int) -> tuple[list[Json], int]:
    """Runs of a job, the latest first. Raises `NotOnRecordError`."""
    item = _thing(store, job_id(space, name), f"job {name!r} of namespace {space!r}")
    ((count,),) = store.rows(
        """SELECT count(*) FROM nodes j JOIN edges e ON e.target = j.id AND e.basis = 'claim' AND e.kind = 'run_of' WHERE j.name = ?""",
        (item.id,),
    )
    return [_run(store, run) for run in _runs(store, item.id, limit, offset)], count


def run(store: Store, identifier: str) -> Json:
    """One run by its UUID. Raises `NotOnRecordError`."""
    return _run(store, _thing(store, _run_node(identifier), f"run {identifier}"))


def facets(store: Store, identifier: str, kind: str) -> Json:
    """The ``run`` or ``job`` facets of a run's last event. Raises `NotOnRecordError`."""
    node = _thing(store, _run_node(identifier), f"run {identifier}")
    return {"runId": node.id.rpartition("/")[2], "facets": _last_event(store, node).get(kind, {}).get("facets", {})}


def datasets(store: Store, space: str, limit: int, offset: int) -> tuple[list[Json], int]:
    """Datasets of a namespace, and how many there are."""
    prefix = dataset_id(space, "")
    return [_dataset(store, item) for item in _below(store, prefix, limit, offset)], _count(store, prefix)


def dataset(store: Store, space: str, name: str) -> Json:
    """One dataset. Raises `NotOnRecordError`."""
    return _dataset(store, _thing(store, dataset_id(space, name), f"dataset {name!r} of namespace {space!r}"))


def versions(store: Store, space: str, name: str, limit: int, offset: int) -> tuple[list[Json], int]:
    """Versions of a dataset, the latest first, and how many there are. Raises `NotOnRecordError`."""
    _thing(store, dataset_id(space, name), f"dataset {name!r} of namespace {space!r}")
    prefix = version_id(space, name, "")
    found = things(store, "WHERE n.name > ? AND n.name < ? ORDER BY n.id DESC LIMIT ? OFFSET ?", (prefix, _after(prefix), limit, offset))
    return [_version(store, item) for item in found], _count(store, prefix)


def version(store: Store, space: str, name: str, which: str) -> Json:
    """One version of a dataset, by its UUID or by the version itself. Raises `NotOnRecordError`."""
    exact = things(store, "WHERE n.name = ?", (version_id(space, name, which),))
    found = exact or tuple(item for item in _candidates(store, space, name, which) if _version_uuid(item) == which.lower())
    if not found:
        raise NotOnRecordError(f"dataset {name!r} of namespace {space!r} has no version {which!r} on the ledger")
    return _version(store, found[0])


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
    where = "e.type <> 'UNREADABLE' AND e.time_us >= ? AND e.time_us < ?"
    parameters: list[int | str] = [_microseconds(after, -(2**62)), _microseconds(before, 2**62)]
    if space is not None:
        where += " AND e.job IN (SELECT id FROM nodes WHERE name > ? AND name < ?)"
        parameters += [job_id(space, ""), _after(job_id(space, ""))]
    ((total,),) = store.rows(f"SELECT count(*) FROM events e WHERE {where}", parameters)  # noqa: S608 - fixed text, values are bound
    order = "ASC" if ascending else "DESC"
    rows = store.rows(
        f"SELECT e.act, e.line FROM events e WHERE {where} ORDER BY e.time_us {order}, e.act {order}, e.line {order} LIMIT ? OFFSET ?",  # noqa: S608
        (*parameters, limit, offset),
    )
    return {"events": [json.loads(store.event(act, line)) for act, line in rows], "totalCount": total}


def lineage(store: Store, node: str, depth: int) -> Json:
    """The jobs and datasets within `depth` steps of ``job:NAMESPACE:NAME`` or ``dataset:NAMESPACE:NAME``, in either direction.

    At most 2,000 nodes, the nearest. Raises `NotOnRecordError`.
    """
    start = _thing(store, _graph_node(node), f"node {node!r}")
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
    inside = {id_: item for (id_,), item in zip(sorted(rows), _by_number(store, ids), strict=True)}
    pairs = store.rows(
        """SELECT job, dataset, writes FROM flows
        WHERE job IN (SELECT CAST(value AS INTEGER) FROM json_each(?1)) AND dataset IN (SELECT CAST(value AS INTEGER) FROM json_each(?1))
        ORDER BY job, dataset, writes""",
        (ids,),
    )
    links = [(inside[job_], inside[dataset_]) if writes else (inside[dataset_], inside[job_]) for job_, dataset_, writes in pairs]
    edges = [{"origin": _graph_id(origin), "destination": _graph_id(end)} for origin, end in links]
    return {"graph": [_graph_entry(store, item, edges) for item in inside.values()]}


def search(store: Store, text: str, only: str, limit: int) -> Json:
    """Jobs and datasets whose name has the words of `text`; only: ``job``, ``dataset`` or "" for both."""
    kinds = {"": ("lineage-job", "lineage-dataset"), "job": ("lineage-job",), "dataset": ("lineage-dataset",)}[only]
    found = [item for item in browse.search(store, text.replace("%", " "), 10 * limit) if item.kind in kinds][:limit]
    results = [
        {
            "name": item.text("name"),
            "nodeId": _graph_id(item),
            "type": "JOB" if item.kind == "lineage-job" else "DATASET",
            "namespace": item.text("namespace"),
            "updatedAt": _updated(store, item),
        }
        for item in found
    ]
    return {"totalCount": len(results), "results": results}


# ------------------------------------------------------------------------------------------------------------ shapes


def _namespace(name: str) -> Json:
    return {"name": name, "createdAt": _NEVER, "updatedAt": _NEVER, "ownerName": "", "description": None, "isHidden": False}


def _job(store: Store, item: Thing) -> Json:
    latest = [_run(store, run_) for run_ in _runs(store, item.id, 10, 0)]
    times = [run_["createdAt"] for run_ in latest] + [run_["updatedAt"] for run_ in latest]
    return {
        "id": _name(item),
        "type": "BATCH",
        "name": item.text("name"),
        "simpleName": item.text("name").rpartition(".")[2],
        "createdAt": min(times, default=_NEVER),
        "updatedAt": max(times, default=_NEVER),
        "namespace": item.text("namespace"),
        "inputs": _beside(store, item, writes=False),
        "outputs": _beside(store, item, writes=True),
        "description": None,
        "latestRun": latest[0] if latest else None,
        "latestRuns": latest,
        "facets": {},
        "tags": [],
    }


def _run(store: Store, item: Thing) -> Json:
    started, ended = item.attributes.get("started_us"), item.attributes.get("ended_us")
    event = _last_event(store, item)
    first = _time(started if isinstance(started, int) else ended)
    return {
        "id": item.id.rpartition("/")[2],
        "createdAt": first,
        "updatedAt": _time(ended if isinstance(ended, int) else started),
        "nominalStartTime": None,
        "nominalEndTime": None,
        "state": _STATES.get(item.text("state"), "NEW"),
        "startedAt": _time(started) if isinstance(started, int) else None,
        "endedAt": _time(ended) if isinstance(ended, int) else None,
        "durationMs": (ended - started) // 1000 if isinstance(started, int) and isinstance(ended, int) else None,
        "args": {},
        "facets": event.get("run", {}).get("facets", {}),
        "job": event.get("job"),
        "transaction": item.transaction,
        "height": item.height,
    }


def _dataset(store: Store, item: Thing) -> Json:
    space, name = item.text("namespace"), item.text("name")
    prefix = version_id(space, name, "")
    newest = things(store, "WHERE n.name > ? AND n.name < ? ORDER BY n.id DESC LIMIT 1", (prefix, _after(prefix)))
    updated = _written(newest[0]) if newest else _NEVER
    return {
        "id": _name(item),
        "type": "DB_TABLE",
        "name": name,
        "physicalName": name,
        "createdAt": updated,
        "updatedAt": updated,
        "namespace": space,
        "sourceName": space,
        "fields": [],
        "tags": [],
        "lastModifiedAt": updated,
        "description": None,
        "currentVersion": _version_uuid(newest[0]) if newest else None,
        "facets": {},
        "deleted": False,
    }


def _version(store: Store, item: Thing) -> Json:
    which = _version_uuid(item)
    makers = things(
        store,
        """WHERE n.id IN (SELECT e.target FROM nodes v JOIN edges e ON e.source = v.id AND e.basis = 'claim' AND e.kind = 'written_by'
        WHERE v.name = ? LIMIT 1)""",
        (item.id,),
    )
    return {
        "id": {**_name(item), "version": which},
        "type": "DB_TABLE",
        "name": item.text("name"),
        "physicalName": item.text("name"),
        "createdAt": _written(item),
        "version": which,
        "namespace": item.text("namespace"),
        "sourceName": item.text("namespace"),
        "fields": [],
        "description": "",
        "createdByRun": _run(store, makers[0]) if makers and makers[0].kind == "lineage-run" else None,
        "facets": _output_facets(store, makers[0], item) if makers else {},
    }


def _graph_entry(store: Store, item: Thing, edges: list[dict[str, str]]) -> Json:
    id_ = _graph_id(item)
    job_ = item.kind == "lineage-job"
    return {
        "id": id_,
        "type": "JOB" if job_ else "DATASET",
        "data": _job(store, item) if job_ else _dataset(store, item),
        "inEdges": [edge for edge in edges if edge["destination"] == id_],
        "outEdges": [edge for edge in edges if edge["origin"] == id_],
    }


def _name(item: Thing) -> Json:
    return {"namespace": item.text("namespace"), "name": item.text("name")}


def _graph_id(item: Thing) -> str:
    return f"{'job' if item.kind == 'lineage-job' else 'dataset'}:{item.text('namespace')}:{item.text('name')}"


# ------------------------------------------------------------------------------------------------------------ look-ups


def _thing(store: Store, id_: str, what: str) -> Thing:
    found = things(store, "WHERE n.name = ?", (id_,))
    if not found:
        raise NotOnRecordError(f"{what} is in no event on the ledger")
    return found[0]


def _graph_node(node: str) -> str:
    kind, _, rest = node.partition(":")
    space, _, name = rest.rpartition(":")
    if kind not in {"job", "dataset"} or not name:
        raise NotOnRecordError(f"{node!r} is no node: give job:NAMESPACE:NAME or dataset:NAMESPACE:NAME")
    return job_id(space, name) if kind == "job" else dataset_id(space, name)


def _run_node(identifier: str) -> str:
    try:
        return f"lineage/run/{uuid.UUID(identifier)}"
    except ValueError:
        raise NotOnRecordError(f"{identifier!r} is no run: give its UUID") from None


def _below(store: Store, prefix: str, limit: int, offset: int) -> tuple[Thing, ...]:
    return things(store, "WHERE n.name > ? AND n.name < ? ORDER BY n.name LIMIT ? OFFSET ?", (prefix, _after(prefix), limit, offset))


def _count(store: Store, prefix: str) -> int:
    ((count,),) = store.rows("SELECT count(*) FROM nodes WHERE name > ? AND name < ?", (prefix, _after(prefix)))
    return int(count)


def _after(prefix: str) -> str:
    """The first text behind all that begin with `prefix`, which ends with a slash."""
    return f"{prefix[:-1]}0"


def _by_number(store: Store, ids: str) -> tuple[Thing, ...]:
    return things(store, "WHERE n.id IN (SELECT CAST(value AS INTEGER) FROM json_each(?)) ORDER BY n.id", (ids,))


def _runs(store: Store, job_: str, limit: int, offset: int) -> tuple[Thing, ...]:
    return things(
        store,
        """WHERE n.id IN (SELECT e.source FROM nodes j JOIN edges e ON e.target = j.id AND e.basis = 'claim' AND e.kind = 'run_of'
        WHERE j.name = ? ORDER BY e.source DESC LIMIT ? OFFSET ?) ORDER BY n.id DESC""",
        (job_, limit, offset),
    )


def _beside(store: Store, job_: Thing, *, writes: bool) -> list[Json]:
    rows = things(
        store,
        "WHERE n.id IN (SELECT f.dataset FROM nodes j JOIN flows f ON f.job = j.id AND f.writes = ? WHERE j.name = ?) ORDER BY n.name",
        (int(writes), job_.id),
    )
    return [_name(item) for item in rows]


def _last_event(store: Store, run_: Thing) -> Json:
    rows = store.rows(
        """SELECT e.act, e.line FROM nodes r JOIN events e ON e.run = r.id WHERE r.name = ? ORDER BY e.time_us DESC, e.act DESC, e.line DESC
        LIMIT 1""",
        (run_.id,),
    )
    found: Json = json.loads(store.event(*rows[0])) if rows else {}
    return found


def _output_facets(store: Store, maker: Thing, item: Thing) -> Json:
    """The facets that the run which wrote a version gave it."""
    for output in _last_event(store, maker).get("outputs", ()):
        if (output["namespace"], output["name"]) == (item.text("namespace"), item.text("name")):
            found: Json = output.get("facets", {})
            return found
    return {}


def _candidates(store: Store, space: str, name: str, which: str) -> Iterable[Thing]:
    """The versions of a dataset that could have this UUID: those whose digest begins with it, and those without digest."""
    try:
        start = uuid.UUID(which).bytes
    except ValueError:
        return ()
    prefix = version_id(space, name, "")
    inside = (prefix, _after(prefix))
    return (
        *things(store, "WHERE n.digest BETWEEN ? AND ? AND n.name > ? AND n.name < ?", (start + bytes(16), start + b"\xff" * 16, *inside)),
        *things(store, "WHERE n.name > ? AND n.name < ? AND n.digest IS NULL", inside),
    )


def _version_uuid(item: Thing) -> str:
    return str(uuid.UUID(item.digest[:32]) if item.digest else uuid.uuid5(uuid.NAMESPACE_URL, item.id))


def _updated(store: Store, item: Thing) -> str:
    return str((_job(store, item) if item.kind == "lineage-job" else _dataset(store, item))["updatedAt"])


def _written(item: Thing) -> str:
    return _time(item.attributes.get("written_us"))


def _time(microseconds: object) -> str:
    """ISO 8601 in UTC; the epoch for a time that no event gives."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat() if isinstance(microseconds, int) else _NEVER


def _microseconds(time: datetime | None, otherwise: int) -> int:
    if time is None:
        return otherwise
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)

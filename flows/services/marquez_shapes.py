"""The shapes of Marquez' answers and the look-ups behind them; see `flows.services.marquez`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ledger.errors import NotOnRecordError
from ledger.provenance.index import Store
from ledger.provenance.openlineage import dataset_id, job_id, version_id
from ledger.provenance.things import Thing, things

Json = dict[str, Any]
_STATES: Final = {"START": "RUNNING", "RUNNING": "RUNNING", "COMPLETE": "COMPLETED", "FAIL": "FAILED", "ABORT": "ABORTED"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = "1970-01-01T00:00:00+00:00"


# ------------------------------------------------------------------------------------------------------------ shapes


def namespace(name: str) -> Json:
    """A namespace, of which the ledger knows nothing but its name."""
    return {"name": name, "createdAt": _NEVER, "updatedAt": _NEVER, "ownerName": "", "description": None, "isHidden": False}


def job(store: Store, item: Thing) -> Json:
    """A job with its last ten runs."""
    latest = [run(store, run_) for run_ in runs(store, item.id, 10, 0)]
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


def job_version(store: Store, item: Thing) -> Json:
    """Named by a UUID (version 5, RFC 9562) over the job and the names of what it reads and writes, as Marquez does over these."""
    whole = job(store, item)
    content = json.dumps([item.id, whole["inputs"], whole["outputs"]], sort_keys=True)
    version_ = str(uuid.uuid5(uuid.NAMESPACE_URL, content))
    return {
        "id": {**_name(item), "version": version_},
        "name": whole["name"],
        "namespace": whole["namespace"],
        "version": version_,
        "type": whole["type"],
        "createdAt": whole["createdAt"],
        "inputs": whole["inputs"],
        "outputs": whole["outputs"],
        "location": None,
        "context": {},
        "latestRun": whole["latestRun"],
        "facets": {},
    }


def run(store: Store, item: Thing) -> Json:
    """A run of a job: its times, and the facets of its last event."""
    return _run(item, last_event(store, item))


def _run(item: Thing, event: Json) -> Json:
    started, ended = item.attributes.get("started_us"), item.attributes.get("ended_us")
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


def dataset(store: Store, item: Thing) -> Json:
    """A dataset and its newest version."""
    space, name = item.text("namespace"), item.text("name")
    newest = versions(store, item.id, 1, 0)
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
        "currentVersion": version_uuid(newest[0]) if newest else None,
        "facets": {},
        "deleted": False,
    }


def versions(store: Store, dataset_: str, limit: int, offset: int) -> tuple[Thing, ...]:
    """Versions of a dataset, given by its node, the latest first."""
    return things(
        store,
        """WHERE n.id IN (SELECT e.source FROM nodes d JOIN edges e ON e.target = d.id AND e.basis = 'claim' AND e.kind = 'version_of'
        WHERE d.name = ? ORDER BY e.source DESC LIMIT ? OFFSET ?) ORDER BY n.id DESC""",
        (dataset_, limit, offset),
    )


def version(store: Store, item: Thing) -> Json:
    """A version of a dataset, and the run that wrote it."""
    which = version_uuid(item)
    makers = things(
        store,
        """WHERE n.id IN (SELECT e.target FROM nodes v JOIN edges e ON e.source = v.id AND e.basis = 'claim' AND e.kind = 'written_by'
        WHERE v.name = ? LIMIT 1)""",
        (item.id,),
    )
    event = last_event(store, makers[0]) if makers else {}
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
        "createdByRun": _run(makers[0], event) if makers and makers[0].kind == "lineage-run" else None,
        "facets": _output_facets(event, item),
    }


def graph_entry(store: Store, item: Thing, edges: list[dict[str, str]]) -> Json:
    """A node of the lineage graph, with those of `edges` that touch it."""
    id_ = graph_id(item)
    job_ = item.kind == "lineage-job"
    return {
        "id": id_,
        "type": "JOB" if job_ else "DATASET",
        "data": job(store, item) if job_ else dataset(store, item),
        "inEdges": [edge for edge in edges if edge["destination"] == id_],
        "outEdges": [edge for edge in edges if edge["origin"] == id_],
    }


def _name(item: Thing) -> Json:
    return {"namespace": item.text("namespace"), "name": item.text("name")}


def graph_id(item: Thing) -> str:
    """A job or dataset as Marquez' graph names it."""
    return f"{'job' if item.kind == 'lineage-job' else 'dataset'}:{item.text('namespace')}:{item.text('name')}"


# ------------------------------------------------------------------------------------------------------------ look-ups


def thing(store: Store, id_: str, what: str) -> Thing:
    """The node of this name. Raises `NotOnRecordError` for `what`."""
    found = things(store, "WHERE n.name = ?", (id_,))
    if not found:
        raise NotOnRecordError(f"{what} is in no event on the ledger")
    return found[0]


def graph_node(node: str) -> str:
    """The name of a node that Marquez' graph names so. Raises `NotOnRecordError`."""
    kind, _, rest = node.partition(":")
    space, _, name = rest.rpartition(":")
    if kind not in {"job", "dataset"} or not name:
        raise NotOnRecordError(f"{node!r} is no node: give job:NAMESPACE:NAME or dataset:NAMESPACE:NAME")
    return job_id(space, name) if kind == "job" else dataset_id(space, name)


def run_node(identifier: str) -> str:
    """The name of the node of a run. Raises `NotOnRecordError` for what is no UUID."""
    try:
        return f"lineage/run/{uuid.UUID(identifier)}"
    except ValueError:
        raise NotOnRecordError(f"{identifier!r} is no run: give its UUID") from None


def below(store: Store, prefix: str, limit: int, offset: int) -> tuple[Thing, ...]:
    """Nodes whose names begin with `prefix`, by name."""
    return things(store, "WHERE n.name > ? AND n.name < ? ORDER BY n.name LIMIT ? OFFSET ?", (prefix, after(prefix), limit, offset))


def count(store: Store, prefix: str) -> int:
    """How many nodes have names that begin with `prefix`."""
    ((count,),) = store.rows("SELECT count(*) FROM nodes WHERE name > ? AND name < ?", (prefix, after(prefix)))
    return int(count)


def after(prefix: str) -> str:
    """The first text behind all that begin with `prefix`, which ends with a slash."""
    return f"{prefix[:-1]}0"


def by_number(store: Store, ids: str) -> tuple[Thing, ...]:
    """Nodes by a JSON array of their numbers."""
    return things(store, "WHERE n.id IN (SELECT CAST(value AS INTEGER) FROM json_each(?)) ORDER BY n.id", (ids,))


def runs(store: Store, job_: str, limit: int, offset: int) -> tuple[Thing, ...]:
    """Runs of a job, the latest first."""
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


def last_event(store: Store, run_: Thing) -> Json:
    """The last event of a run, {} for a run that only another one names."""
    rows = store.rows(
        """SELECT e.act, e.line FROM nodes r JOIN events e ON e.run = r.id WHERE r.name = ? ORDER BY e.time_us DESC, e.act DESC, e.line DESC
        LIMIT 1""",
        (run_.id,),
    )
    found: Json = json.loads(store.event(*rows[0])) if rows else {}
    return found


def _output_facets(event: Json, item: Thing) -> Json:
    """The facets that the last event of the run which wrote a version gave it."""
    for output in event.get("outputs", ()):
        if (output["namespace"], output["name"]) == (item.text("namespace"), item.text("name")):
            found: Json = output.get("facets", {})
            return found
    return {}


def candidates(store: Store, space: str, name: str, which: str) -> Iterable[Thing]:
    """The versions of a dataset that could have this UUID: those whose digest begins with it, and those without digest."""
    try:
        start = uuid.UUID(which).bytes
    except ValueError:
        return ()
    prefix = version_id(space, name, "")
    inside = (prefix, after(prefix))
    return (
        *things(store, "WHERE n.digest BETWEEN ? AND ? AND n.name > ? AND n.name < ?", (start + bytes(16), start + b"\xff" * 16, *inside)),
        *things(store, "WHERE n.name > ? AND n.name < ? AND n.digest IS NULL", inside),
    )


def version_uuid(item: Thing) -> str:
    """The first half of a version's digest, or one derived from its name."""
    return str(uuid.UUID(item.digest[:32]) if item.digest else uuid.uuid5(uuid.NAMESPACE_URL, item.id))


def updated(store: Store, item: Thing) -> str:
    """When something happened to a job or dataset last."""
    return str((job(store, item) if item.kind == "lineage-job" else dataset(store, item))["updatedAt"])


def _written(item: Thing) -> str:
    return _time(item.attributes.get("written_us"))


def _time(microseconds: object) -> str:
    """ISO 8601 in UTC; the epoch for a time that no event gives."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat() if isinstance(microseconds, int) else _NEVER


def microseconds(time: datetime | None, otherwise: int) -> int:
    """An instant in microseconds since 1970, in UTC unless it says otherwise."""
    if time is None:
        return otherwise
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)

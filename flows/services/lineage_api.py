"""The lineage API: Marquez' read endpoints and every question of the provenance graph over HTTP, and events from other producers.

`router` is mounted by whoever runs a server; `application` is the API alone. Both read an index and never the ledger, except that a posted
event is appended to it by the author whom its token stands for. Who may read is the caller's to say: `authorise`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Protocol
from urllib.parse import unquote

import msgspec
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from cifer_tasks.lineage.facets import schema_of
from flows.services import marquez
from ledger import AppendLineage, BusyError, LedgerError, LockedError, NotOnRecordError, RejectedError, UnavailableError
from ledger.backends.base import Receipt
from ledger.provenance import browse, questions
from ledger.provenance.index import Store
from ledger.provenance.openlineage import UNREADABLE, read_batch
from ledger.provenance.things import find_consents, find_run, find_version

MOST_EVENT_BYTES: Final = 512 * 1024
OWN: Final = "cifer/"
"""Namespaces that begin so are written by trainings and owners of tables, not through this API."""

Authorise = Callable[[Request], object]
"""Whether a request may read: raises `HTTPException` (401, 403) when not. What it returns is not looked at."""


class Sender(Protocol):
    """Somebody who signs and records, as a `ledger.Author` does."""

    def send(self, body: AppendLineage) -> Receipt:
        """Return once it is final. Raises the ledger's errors."""


Producer = Callable[[Request], Sender]
"""Whose events a request posts: raises `HTTPException` (401, 403) when its token stands for nobody who may."""
Fresh = Callable[[], Store]
"""The index, as far as the ledger goes now."""

Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=10**9)]
Json = dict[str, Any]


class _Route(APIRoute):
    """A route whose path parameters may hold slashes as ``%2F``, and whose errors are answers."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path as it was sent, and decode each parameter on its own."""
        raw = scope.get("raw_path")
        if raw:
            scope = {**scope, "path": raw.partition(b"?")[0].decode("latin-1")}
        match, found = super().matches(scope)
        if "path_params" in found:
            found["path_params"] = {
                name: unquote(value) if isinstance(value, str) else value for name, value in found["path_params"].items()
            }
        return match, found

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Answer the ledger's own errors with a status and one line, in the shape that Marquez' clients read."""
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except LedgerError as error:
                return _failure(error)

        return handler


def _failure(error: LedgerError) -> Response:
    headers = {}
    if isinstance(error, NotOnRecordError):
        status = 404
    elif isinstance(error, RejectedError):
        status = 403
    elif isinstance(error, UnavailableError | LockedError):
        status = 503
        headers["Retry-After"] = str(-(-error.retry_after_ms // 1000) or 1) if isinstance(error, BusyError) else "5"
    else:
        raise error
    return JSONResponse({"code": status, "message": str(error)}, status, headers)


def application(fresh: Fresh, *, authorise: Authorise, producer: Producer) -> FastAPI:
    """The API alone, as a pure ASGI application; bind it to 127.0.0.1."""
    app = FastAPI(title="Cifer lineage", version="1", docs_url=None, redoc_url=None)
    app.include_router(router(fresh, authorise=authorise, producer=producer))
    return app


def router(fresh: Fresh, *, authorise: Authorise, producer: Producer) -> APIRouter:
    """Everything below ``/api/v1``. `authorise` is asked before every read, `producer` before every event; see their types."""
    made = APIRouter(prefix="/api/v1", route_class=_Route)
    readable = APIRouter(prefix="/api/v1", route_class=_Route, dependencies=[Depends(_asking(authorise))])
    _marquez_routes(readable, fresh)
    _question_routes(readable, fresh)
    _post_route(made, fresh, producer)
    made.routes.extend(readable.routes)
    return made


def _asking(authorise: Authorise) -> Callable[[Request], None]:
    def ask(request: Request) -> None:
        authorise(request)

    return ask


def _marquez_routes(api: APIRouter, fresh: Fresh) -> None:
    @api.get("/namespaces")
    def namespaces(limit: Limit = 100, offset: Offset = 0) -> Json:
        return {"namespaces": marquez.namespaces(fresh(), limit, offset)}

    @api.get("/namespaces/{namespace}")
    def namespace(namespace: str) -> Json:
        return marquez.namespace(fresh(), namespace)

    @api.get("/jobs")
    def all_jobs(limit: Limit = 100, offset: Offset = 0) -> Json:
        return _page("jobs", marquez.jobs(fresh(), None, limit, offset))

    @api.get("/namespaces/{namespace}/jobs")
    def jobs(namespace: str, limit: Limit = 100, offset: Offset = 0) -> Json:
        return _page("jobs", marquez.jobs(fresh(), namespace, limit, offset))

    @api.get("/namespaces/{namespace}/jobs/{job}")
    def job(namespace: str, job: str) -> Json:
        return marquez.job(fresh(), namespace, job)

    @api.get("/namespaces/{namespace}/jobs/{job}/runs")
    def runs(namespace: str, job: str, limit: Limit = 100, offset: Offset = 0) -> Json:
        return _page("runs", marquez.job_runs(fresh(), namespace, job, limit, offset))

    @api.get("/jobs/runs/{id}")
    def run(id: str) -> Json:
        return marquez.run(fresh(), id)

    @api.get("/jobs/runs/{id}/facets")
    def facets(id: str, type: Literal["run", "job"]) -> Json:
        return marquez.facets(fresh(), id, type)

    @api.get("/namespaces/{namespace}/datasets")
    def datasets(namespace: str, limit: Limit = 100, offset: Offset = 0) -> Json:
        return _page("datasets", marquez.datasets(fresh(), namespace, limit, offset))

    @api.get("/namespaces/{namespace}/datasets/{dataset}")
    def dataset(namespace: str, dataset: str) -> Json:
        return marquez.dataset(fresh(), namespace, dataset)

    @api.get("/namespaces/{namespace}/datasets/{dataset}/versions")
    def versions(namespace: str, dataset: str, limit: Limit = 100, offset: Offset = 0) -> Json:
        return _page("versions", marquez.versions(fresh(), namespace, dataset, limit, offset))

    @api.get("/namespaces/{namespace}/datasets/{dataset}/versions/{version}")
    def version(namespace: str, dataset: str, version: str) -> Json:
        return marquez.version(fresh(), namespace, dataset, version)

    @api.get("/lineage")
    def lineage(nodeId: str, depth: Annotated[int, Query(ge=0, le=100)] = 20) -> Json:  # noqa: N803 - Marquez' name
        return marquez.lineage(fresh(), nodeId, depth)

    @api.get("/events/lineage")
    def lineage_events(
        before: datetime | None = None,
        after: datetime | None = None,
        limit: Limit = 100,
        offset: Offset = 0,
        sortDirection: Literal["asc", "desc", "ASC", "DESC"] = "desc",  # noqa: N803
    ) -> Json:
        return marquez.events(fresh(), before, after, limit, offset, ascending=sortDirection.lower() == "asc")

    @api.get("/events")
    def events(limit: Limit = 100, offset: Offset = 0) -> Json:
        return marquez.events(fresh(), None, None, limit, offset)

    @api.get("/events/{namespace}")
    def namespace_events(namespace: str, limit: Limit = 100, offset: Offset = 0) -> Json:
        return marquez.events(fresh(), None, None, limit, offset, space=namespace)

    @api.get("/search")
    def search(
        q: Annotated[str, Query(max_length=500)], filter: Literal["", "job", "dataset", "JOB", "DATASET"] = "", limit: Limit = 10
    ) -> Json:
        return marquez.search(fresh(), q, filter.lower(), limit)


def _question_routes(api: APIRouter, fresh: Fresh) -> None:
    @api.get("/provenance/ancestors")
    def ancestors(model: str) -> Response:
        return _answer(questions.ancestors(fresh(), model))

    @api.get("/provenance/descendants")
    def descendants(dataset: str) -> Response:
        return _answer(questions.descendants(fresh(), dataset))

    @api.get("/provenance/consequences")
    def consequences(site: str, purpose: str) -> Response:
        store = fresh()
        return _answer([questions.consequences(store, consent.id) for consent in find_consents(store, site, purpose)])

    @api.get("/provenance/contributions")
    def contributions(site: str) -> Response:
        return _answer(questions.contributions(fresh(), site))

    @api.get("/provenance/difference")
    def difference(first: str, second: str) -> Response:
        return _answer(questions.difference(fresh(), first, second))

    @api.get("/provenance/timeline")
    def timeline(run: str) -> Response:
        return _answer(questions.timeline(fresh(), run))

    @api.get("/provenance/approvals")
    def approvals(about: str = "", limit: Limit = 500) -> Response:
        store = fresh()
        if "@" in about:
            about = find_version(store, about).id
        elif about and "/" not in about:
            about = find_run(store, about).id
        return _answer(browse.approvals(store, about, limit))

    @api.get("/provenance/gaps")
    def gaps(limit: Limit = 500) -> Response:
        return _answer(browse.without_evidence(fresh(), limit))

    @api.get("/provenance/neighbours")
    def neighbours(node: str, limit: Limit = 100, offset: Offset = 0) -> Response:
        return _answer(browse.neighbours(fresh(), node, limit, offset))

    @api.get("/provenance/search")
    def search(q: Annotated[str, Query(max_length=500)], limit: Limit = 50) -> Response:
        return _answer(browse.search(fresh(), q, limit))

    @api.get("/provenance/facets/{name}")
    def facet_schema(name: str) -> Json:
        try:
            return schema_of(name)
        except KeyError:
            raise HTTPException(404, f"no facet is called {name!r}") from None


_POSTED: Final[Json] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object", "required": ["eventTime"]}}}},
    "security": [{"bearer": []}],
    "responses": {
        "401": {"description": "No token, or one that is unknown, expired or revoked"},
        "403": {"description": "A token that posts nothing, or an event in a namespace of trainings"},
        "413": {"description": f"More than {MOST_EVENT_BYTES} bytes"},
        "422": {"description": "No OpenLineage event"},
        "429": {"description": "Too many requests; Retry-After says when to come again"},
        "503": {"description": "The ledger takes nothing at the moment, for a run writes to it; Retry-After says when to come again"},
    },
}


def _post_route(api: APIRouter, fresh: Fresh, producer: Producer) -> None:
    @api.post("/lineage", status_code=201, openapi_extra=_POSTED)
    async def record(request: Request) -> Json:
        """Record one OpenLineage event (run, job or dataset event, spec 2-0-2) on the ledger, under the name that the token stands for."""
        author = producer(request)
        line = _one_line(await _body(request))
        receipt = await _in_thread(lambda: author.send(_batch(line)))
        await _in_thread(fresh)
        return {"transaction": receipt.transaction.hex(), "height": receipt.height}


async def _in_thread(call: Callable[[], Any]) -> Any:
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(call)


async def _body(request: Request) -> bytes:
    """The body, read no further than is allowed."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > MOST_EVENT_BYTES:
            raise HTTPException(413, f"an event of more than {MOST_EVENT_BYTES} bytes")
    return data


def _one_line(data: bytes) -> bytes:
    """An event as one line of JSON. Raises `HTTPException` (422, 403) for what is no event, or speaks for a training."""
    try:
        event = json.loads(data, parse_constant=_no_constant)
        line = json.dumps(event, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        (read,) = read_batch(_batch(line))[2]
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"the body is no JSON document: {error}") from None
    if read.type == UNREADABLE or not isinstance(event, dict):
        raise HTTPException(422, "no OpenLineage event: it needs an eventTime with offset, and a run of a job, a job or a dataset")
    for item in (event.get("job"), event.get("dataset"), *event.get("outputs", ())):
        if isinstance(item, dict) and str(item.get("namespace", "")).startswith(OWN):
            raise HTTPException(403, f"namespaces that begin with {OWN!r} are those of trainings: use one of your own")
    return line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _batch(line: bytes) -> AppendLineage:
    return AppendLineage("", 0, 1, hashlib.sha256(line).digest(), zlib.compress(line, 6))


def _page(name: str, found: tuple[list[Json], int]) -> Json:
    return {name: found[0], "totalCount": found[1]}


def _answer(found: object) -> Response:
    return Response(msgspec.json.encode(found), media_type="application/json")

"""The lineage API over a real ledger: Marquez' own client, Marquez' own description, who may read and who may post, and a fuzzer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
import yaml
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error

from flows.services.lineage_api import application
from ledger.author import Author
from ledger.backends.embedded import EmbeddedLedger
from ledger.provenance.index import Index

SPEC = Path(__file__).parents[2] / "vectors" / "marquez" / "openapi.yml"
NAMESPACE = "cifer/0123456789abcdef"
RUN_ID = "3f9c0a17-0000-4000-8000-000000000001"
TABLE = sha256(b"table").digest()
MODEL = sha256(b"model").digest()
PRODUCER = {"Authorization": "Bearer etl"}


@dataclass(frozen=True)
class Api:
    """The application, a client that may read, the ledger behind, and its index."""

    app: Any
    client: TestClient
    ledger: EmbeddedLedger
    index: Index
    lines: bytes


def _author(request: Request, authors: dict[str, Author]) -> Author:
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token not in authors:
        raise HTTPException(401, "who are you?")
    return authors[token]


def _reader(request: Request) -> str:
    if request.headers.get("x-reader") != "auditor":
        raise HTTPException(401, "log in first")
    return "auditor"


@pytest.fixture(scope="module")
def api(recorded: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The application over the recorded ledger, with a producer `etl` that may post."""
    ledger, authors = recorded.ledger, {"etl": recorded.authors["etl"]}
    with Index.open(tmp_path_factory.mktemp("api") / "index.sqlite", ledger.genesis) as index:

        def fresh() -> Index:
            index.update(ledger)
            return index

        app = application(fresh, authorise=_reader, producer=lambda request: _author(request, authors))
        yield Api(app, TestClient(app, headers={"x-reader": "auditor"}), ledger, index, recorded.lines)


def event(**changes: Any) -> dict[str, Any]:
    """Another producer's event."""
    return {
        "eventTime": "2026-02-01T00:00:00Z",
        "eventType": "COMPLETE",
        "producer": "https://example.org/etl",
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": "3f9c0a17-0000-4000-8000-0000000000aa"},
        "job": {"namespace": "warehouse", "name": "extract"},
        "outputs": [{"namespace": "warehouse", "name": "patients"}],
        **changes,
    }


# ------------------------------------------------------------------------------------------------------------ reading


def test_marquez_own_client_reads_it(api: Api) -> None:
    """`marquez-python`, over a socket on this machine, lists and gets namespaces, jobs, runs, datasets, versions and events."""
    from marquez_client import MarquezClient
    from marquez_client.client import _HEADERS

    server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, log_level="error"))
    ready = threading.Event()
    startup = server.startup

    async def announced(*args: Any, **kwargs: Any) -> None:
        await startup(*args, **kwargs)
        ready.set()

    server.startup = announced  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    _HEADERS["x-reader"] = "auditor"
    try:
        client = MarquezClient(f"http://127.0.0.1:{port}")
        assert NAMESPACE in {item["name"] for item in client.list_namespaces()["namespaces"]}
        assert client.get_namespace(NAMESPACE)["name"] == NAMESPACE
        (job,) = client.list_jobs(NAMESPACE)["jobs"]
        assert job["inputs"] == [{"namespace": NAMESPACE, "name": "site/hospital-a/table"}]
        assert client.get_job(NAMESPACE, "study.train")["latestRun"]["state"] == "COMPLETED"
        (run,) = client.list_job_runs(NAMESPACE, "study.train")["runs"]
        assert (run["id"], run["durationMs"]) == (RUN_ID, 2000)
        assert client.get_job_run(RUN_ID)["facets"]["cifer_ledger"]["codeCommit"] == "abc"
        assert len(client.list_datasets(NAMESPACE)["datasets"]) == 3
        assert client.get_dataset(NAMESPACE, "site/hospital-a/table")["name"] == "site/hospital-a/table"
        (version,) = client.list_dataset_versions(NAMESPACE, "artifact/model")["versions"]
        assert client.get_dataset_version(NAMESPACE, "artifact/model", version["version"]) == version
        assert version["facets"]["version"]["datasetVersion"] == MODEL.hex()
        (numbered,) = client.list_dataset_versions(NAMESPACE, "registry/study")["versions"]
        assert client.get_dataset_version(NAMESPACE, "registry/study", numbered["version"]) == numbered
        assert {item["eventType"] for item in client.list_events()["events"]} >= {"START", "COMPLETE"}
    finally:
        _HEADERS.pop("x-reader")
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize(
    ("path", "described"),
    [
        ("/namespaces", "/namespaces"),
        (f"/namespaces/{NAMESPACE.replace('/', '%2F')}", "/namespaces/{namespace}"),
        (f"/namespaces/{NAMESPACE.replace('/', '%2F')}/jobs", "/namespaces/{namespace}/jobs"),
        (f"/namespaces/{NAMESPACE.replace('/', '%2F')}/jobs/study.train", "/namespaces/{namespace}/jobs/{job}"),
        (f"/namespaces/{NAMESPACE.replace('/', '%2F')}/jobs/study.train/runs", "/namespaces/{namespace}/jobs/{job}/runs"),
        (f"/namespaces/{NAMESPACE.replace('/', '%2F')}/datasets", "/namespaces/{namespace}/datasets"),
        (f"/namespaces/{NAMESPACE.replace('/', '%2F')}/datasets/artifact%2Fmodel", "/namespaces/{namespace}/datasets/{dataset}"),
        (
            f"/namespaces/{NAMESPACE.replace('/', '%2F')}/datasets/artifact%2Fmodel/versions",
            "/namespaces/{namespace}/datasets/{dataset}/versions",
        ),
        (f"/namespaces/{NAMESPACE.replace('/', '%2F')}/jobs/study.train/versions", "/namespaces/{namespace}/jobs/{job}/versions"),
        (f"/jobs/runs/{RUN_ID}", "/jobs/runs/{id}"),
        (f"/lineage?nodeId=dataset:{NAMESPACE}:artifact/model", "/lineage"),
        ("/events/lineage", "/events/lineage"),
        ("/search?q=model", "/search"),
    ],
)
def test_answers_satisfy_marquez_own_description(api: Api, path: str, described: str) -> None:
    """What a read endpoint answers satisfies the schema that Marquez' OpenAPI document gives it, and names every field it knows."""
    document = yaml.safe_load(SPEC.read_text())
    answer = api.client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    content = document["paths"][described]["get"]["responses"]
    schema = _lenient(next(iter(content.get("200", content.get(200))["content"].values()))["schema"])
    whole = {**schema, "components": _lenient(document["components"])}
    Draft202012Validator(whole).validate(answer.json())


def _lenient(schema: Any) -> Any:
    """OpenAPI 3.0 as JSON Schema: its description leaves out which fields may be null, and its server answers null for many."""
    if isinstance(schema, dict):
        made = {key: _lenient(value) for key, value in schema.items() if value is not None and key != "example"}
        if "discriminator" in made and "oneOf" in made:
            made["anyOf"] = made.pop("oneOf")  # told apart by a field, which JSON Schema does not know
        if isinstance(made.get("type"), str) and made["type"] != "object":
            made["type"] = [made["type"], "null"]
        return made
    return [_lenient(item) for item in schema] if isinstance(schema, list) else schema


def test_a_jobs_version_is_what_it_reads_and_writes(api: Api) -> None:
    """The one in the list is got by its UUID, satisfies Marquez' description, and becomes another one when the job writes something new."""
    jobs = f"/api/v1/namespaces/{NAMESPACE.replace('/', '%2F')}/jobs/study.train/versions"
    (version,) = api.client.get(jobs).json()["versions"]
    assert api.client.get(f"{jobs}/{version['version']}").json() == version
    assert (version["inputs"], version["latestRun"]["id"]) == ([{"namespace": NAMESPACE, "name": "site/hospital-a/table"}], RUN_ID)
    components = _lenient(yaml.safe_load(SPEC.read_text())["components"])
    Draft202012Validator({"$ref": "#/components/schemas/JobVersion", "components": components}).validate(version)
    seen = []
    for outputs in (["a"], ["a"], ["b"]):
        made = event(job={"namespace": "versions", "name": "job"}, outputs=[{"namespace": "versions", "name": name} for name in outputs])
        assert api.client.post("/api/v1/lineage", json=made, headers=PRODUCER).status_code == 201
        seen.append(api.client.get("/api/v1/namespaces/versions/jobs/job/versions").json()["versions"][0]["version"])
    assert seen[0] == seen[1] != seen[2]
    assert api.client.get(f"/api/v1/namespaces/versions/jobs/job/versions/{seen[0]}").status_code == 404


def test_a_graph_is_walked_as_far_as_asked(api: Api) -> None:
    """One step from the table is its job, two steps are what the job writes; edges join exactly the nodes that are there."""
    start = f"dataset:{NAMESPACE}:site/hospital-a/table"
    found = {}
    for depth in range(3):
        graph = api.client.get("/api/v1/lineage", params={"nodeId": start, "depth": depth}).json()["graph"]
        found[depth] = {node["id"].rpartition(":")[2] for node in graph}
        ends = {end for node in graph for edge in (*node["inEdges"], *node["outEdges"]) for end in edge.values()}
        assert ends <= {node["id"] for node in graph}
    assert found[0] == {"site/hospital-a/table"}
    assert found[1] == {"site/hospital-a/table", "study.train"}
    assert found[2] == {"site/hospital-a/table", "study.train", "artifact/model", "registry/study"}


def test_events_are_those_that_were_committed(api: Api) -> None:
    """Events come back byte for byte in meaning, in either order, page by page, between two instants."""
    committed = [json.loads(line) for line in api.lines.splitlines()]

    def ask(**parameters: Any) -> list[Any]:
        return list(api.client.get("/api/v1/events/lineage", params={"before": "2026-01-31T00:00:00Z", **parameters}).json()["events"])

    assert ask(sortDirection="asc") == committed
    assert ask() == committed[::-1]
    assert ask(limit=1, offset=1) == committed[:1]
    assert ask(after="2026-01-01T00:00:01Z") == committed[1:]
    assert api.client.get("/api/v1/events/nobody").json() == {"events": [], "totalCount": 0}


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("ancestors?model=study@champion", "sources"),
        (f"descendants?dataset={TABLE.hex()[:12]}", "models"),
        ("contributions?site=hospital-a", "runs"),
        ("difference?first=study@1&second=study@champion", "shared"),
        ("timeline?run=run-1", "acts"),
        ("gaps", "totals"),
        ("neighbours?node=run/run-1/round/1", "links"),
        ("facets/CiferConsentRunFacet", "$defs"),
    ],
)
def test_every_question_has_its_endpoint(api: Api, path: str, key: str) -> None:
    """Each question answers over HTTP what the function answers."""
    answer = api.client.get(f"/api/v1/provenance/{path}")
    assert answer.status_code == 200 and answer.json()[key]


def test_facets_of_a_run_and_of_its_job(api: Api) -> None:
    """Either kind of facets comes by name, as it was committed."""
    path = f"/api/v1/jobs/runs/{RUN_ID}/facets"
    assert api.client.get(path, params={"type": "run"}).json()["facets"]["cifer_ledger"]["training"] == "run-1"
    assert api.client.get(path, params={"type": "job"}).json()["facets"]["jobType"]["jobType"] == "TASK"
    assert api.client.get(path).status_code == 422


def test_lists_of_answers(api: Api) -> None:
    """Consequences, approvals and search answer with lists."""
    (one,) = api.client.get("/api/v1/provenance/consequences?site=hospital-a&purpose=study").json()
    assert [model["id"] for model in one["tainted"]] == ["model/study/1"] and one["runs"][0]["must_stop"]
    assert api.client.get("/api/v1/provenance/approvals?about=study@1").json()[-1]["kind"] == "model.register"
    assert api.client.get("/api/v1/provenance/search?q=hospital-a").json()[0]["id"] == "site/hospital-a"


@pytest.mark.parametrize(
    "path", ["namespaces/none", "namespaces/a/jobs/b", "jobs/runs/7", "lineage?nodeId=x", "provenance/ancestors?model=x@1"]
)
def test_what_is_not_there_is_404_in_marquez_form(api: Api, path: str) -> None:
    """Something that is in no event is a 404 with a code and a message."""
    answer = api.client.get(f"/api/v1/{path}")
    assert answer.status_code == 404
    assert answer.json()["code"] == 404 and len(answer.json()["message"]) > 20


# -------------------------------------------------------------------------------------------------- who may do what


def readable_by_strangers(app: Any) -> list[str]:
    """The GET endpoints below /api/v1 that answer somebody who did not log in."""
    stranger = TestClient(app, raise_server_exceptions=False)
    paths = [path for path, methods in app.openapi()["paths"].items() if "get" in methods]
    assert len(paths) > 25
    filled = {path: path.replace("{id}", RUN_ID).replace("{", "").replace("}", "") for path in paths}
    return [path for path, asked in filled.items() if stranger.get(asked).status_code != 401]


def test_nothing_is_read_without_leave(api: Api) -> None:
    """Every endpoint refuses a reader whom `authorise` refuses; an endpoint added past it would be found."""
    assert readable_by_strangers(api.app) == []
    mutant = application(lambda: api.index, authorise=_reader, producer=lambda request: _author(request, {}))
    mutant.get("/api/v1/leak")(lambda: api.index.height)
    assert readable_by_strangers(mutant) == ["/api/v1/leak"]


def test_an_event_is_appended_by_whom_its_token_stands_for(api: Api) -> None:
    """A posted event is on the ledger, signed by the producer and under no run, and joins the graph; reading needs other leave."""
    answer = api.client.post("/api/v1/lineage", json=event(), headers=PRODUCER)
    assert answer.status_code == 201, answer.text
    receipt = api.ledger.find(bytes.fromhex(answer.json()["transaction"]))
    assert receipt is not None and receipt.height == answer.json()["height"]
    (batch,) = [entry for entry in api.ledger.state().lineage("", 0) if entry.origin.height == receipt.height]
    assert batch.author == "etl"
    job = api.client.get("/api/v1/namespaces/warehouse/jobs/extract").json()
    assert job["outputs"] == [{"namespace": "warehouse", "name": "patients"}]
    assert TestClient(api.app).get("/api/v1/namespaces", headers=PRODUCER).status_code == 401


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nobody"}, {"Authorization": "etl2"}, {"x-reader": "auditor"}])
def test_a_stranger_appends_nothing(api: Api, headers: dict[str, str]) -> None:
    """Without a producer's token nothing is appended, whatever else the request shows."""
    before = api.ledger.status().height
    assert TestClient(api.app).post("/api/v1/lineage", json=event(), headers=headers).status_code == 401
    assert api.ledger.status().height == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b"7", 422),
        (b"{", 422),
        (b'{"eventTime": NaN}', 422),
        (b"\xff\xfe", 422),
        (b"[" * 200_000, 422),
        (json.dumps(event(eventTime="2026-01-01T00:00:00")).encode(), 422),
        (json.dumps(event(run={"runId": "7"})).encode(), 422),
        (json.dumps(event(outputs=[{"namespace": NAMESPACE, "name": "artifact/model"}])).encode(), 403),
        (json.dumps(event(job={"namespace": NAMESPACE, "name": "study.train"})).encode(), 403),
        (b" " * 600_000, 413),
    ],
    ids=range(12),
)
def test_what_is_no_event_is_refused(api: Api, body: bytes, status: int) -> None:
    """No JSON, no event, too much of it, or one that speaks for a training: refused with a reason, and nothing is appended."""
    before = api.ledger.status().height
    answer = api.client.post("/api/v1/lineage", content=body, headers=PRODUCER)
    assert answer.status_code == status and answer.json()["detail"]
    assert api.ledger.status().height == before


# ------------------------------------------------------------------------------------------------------------- fuzz


def test_no_request_breaks_the_server(api: Api) -> None:
    """Whatever schemathesis makes of the API's own description, asked with leave, no endpoint fails with a server error."""
    operations = [found.ok() for found in schemathesis.openapi.from_asgi("/openapi.json", api.app).get_all_operations()]
    assert len(operations) > 28
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
        def ask(case: Any) -> None:
            case.call_and_validate(checks=[not_a_server_error], headers={"x-reader": "auditor", **PRODUCER})

        ask()

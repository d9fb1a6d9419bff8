"""Other producers' events through the portal's front door: whose they are, what is refused, and openlineage-python's own HTTP transport."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from starlette.testclient import TestClient

from cifer_tasks.config import LedgerSettings
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.network import ADMINISTRATOR, author, connect
from flows.access import Access, Role
from flows.cli import cli
from flows.portal.app import COOKIE, Portal
from flows.services.lineage_api import MOST_EVENT_BYTES
from flows.services.processes import listen
from ledger import RegisterIdentity
from ledger.backends.reader import open_readonly

HOME = "http://127.0.0.1:4220"


@dataclass(frozen=True)
class Folder:
    """A home with a ledger that nobody has open, the portal over it, and tokens by role."""

    home: Path
    portal: Portal
    client: TestClient
    tokens: dict[str, str]

    def post(self, role: str, body: Any, **headers: str) -> Any:
        """Post an event with the token of a role, "" for none."""
        token = {"authorization": f"Bearer {self.tokens[role]}"} if role else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post("/api/v1/lineage", content=content, headers={**token, **headers})

    def authors(self) -> list[str]:
        """By whom the batches of events under no run are."""
        ledger = open_readonly(self.home / "ledger")
        try:
            return [batch.author for batch in ledger.state().lineage("", 0)]
        finally:
            ledger.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """Founded, with a site called north; `etl` was made a producer by the command."""
    home = tmp_path_factory.mktemp("producers") / ".cifer"
    keys = Keystore.open(home / "keys")
    ledger = connect(LedgerSettings(), home, keys)
    author(ADMINISTRATOR, ledger, keys).send(RegisterIdentity("north", "site", author("north", ledger, keys).public))
    ledger.close()
    made = CliRunner().invoke(cli, ["access", "grant", "etl", "--role", "producer", "--json"], env={"CIFER_HOME": str(home)})
    assert made.exit_code == 0, made.output
    tokens = {"producer": json.loads(made.output)["token"], "auditor": Access(home).grant("maria", Role.AUDITOR, 30)[1]}
    portal = Portal(home)
    yield Folder(home, portal, TestClient(portal.application(), base_url=HOME), tokens)
    portal.record.close()


def event(**changes: Any) -> dict[str, Any]:
    """A run event of a warehouse."""
    return {
        "eventTime": "2026-02-01T00:00:00Z",
        "eventType": "COMPLETE",
        "producer": "https://example.org/etl",
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": "3f9c0a17-0000-4000-8000-0000000000aa"},
        "job": {"namespace": "warehouse", "name": "extract"},
        **changes,
    }


def test_openlineages_own_transport_posts_under_the_producers_name(folder: Folder) -> None:
    """What openlineage-python emits over HTTP with the token as API key is on the ledger, signed by `etl`, and an auditor reads it."""
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport

    with listen(0) as socket:
        server = uvicorn.Server(uvicorn.Config(folder.portal.application(), log_level="error"))
        thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
        thread.start()
        try:
            before = folder.authors()
            auth = ApiKeyTokenProvider({"api_key": folder.tokens["producer"]})
            transport = HttpTransport(HttpConfig(url=f"http://127.0.0.1:{socket.getsockname()[1]}", auth=auth))
            run = Run("3f9c0a17-0000-4000-8000-0000000000ab")
            output = OutputDataset("warehouse", "patients")
            emitted = RunEvent(
                eventType=RunState.COMPLETE,
                eventTime="2026-02-01T00:00:00+00:00",
                run=run,
                job=Job("warehouse", "load"),
                outputs=[output],
                producer="https://example.org/etl",
            )
            OpenLineageClient(transport=transport).emit(emitted)
        finally:
            server.should_exit = True
            thread.join(30)
    assert folder.authors() == [*before, "etl"]
    read = {"authorization": f"Bearer {folder.tokens['auditor']}"}
    job = folder.client.get("/api/v1/namespaces/warehouse/jobs/load", headers=read).json()
    assert job["outputs"] == [{"namespace": "warehouse", "name": "patients"}]
    (found,) = folder.client.get("/api/v1/events/warehouse", headers=read).json()["events"]
    assert found["run"]["runId"] == run.runId


@pytest.mark.parametrize(
    ("role", "body", "status"),
    [
        ("", event(), 403),
        ("auditor", event(), 403),
        ("producer", event(job={"namespace": "cifer/0123", "name": "x"}), 403),
        ("producer", b" " * (MOST_EVENT_BYTES + 1), 413),
        ("producer", {"eventTime": "2026-02-01T00:00:00Z"}, 422),
    ],
    ids=["nobody", "a reader", "a training's namespace", "too large", "no event"],
)
def test_what_is_refused_leaves_no_trace(folder: Folder, role: str, body: Any, status: int) -> None:
    """Without a producer's token, too large, no event, or in the name of a training: refused, and nothing is on the ledger."""
    before = folder.authors()
    assert folder.post(role, body).status_code == status
    assert folder.authors() == before


def test_a_producer_reads_nothing_and_a_session_posts_nothing(folder: Folder) -> None:
    """The token opens no page and no read of the API; a browser that is logged in with it posts nothing, since pages of others could."""
    token = {"authorization": f"Bearer {folder.tokens['producer']}"}
    for path in ("/", "/blocks", "/genesis", "/api/v1/namespaces", "/access"):
        assert folder.client.get(path, headers=token).status_code == 403, path
    session = folder.portal.access.log_in(folder.tokens["producer"])
    folder.client.cookies.set(COOKIE, session)
    assert folder.post("", event(), origin=HOME).status_code == 401
    folder.client.cookies.clear()


def test_a_run_that_writes_goes_first(folder: Folder) -> None:
    """While a run has the ledger open, a producer is told when to come again; then the same event is taken."""
    ledger = connect(LedgerSettings(), folder.home, Keystore.open(folder.home / "keys"))
    try:
        answer = folder.post("producer", event())
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    finally:
        ledger.close()
    answer = folder.post("producer", event())
    assert answer.status_code == 201, answer.text
    assert open_readonly(folder.home / "ledger").find(bytes.fromhex(answer.json()["transaction"])) is not None


def test_a_token_never_speaks_for_a_site(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer cannot be called as somebody else on the ledger is, and a grant that was made past the command posts nothing."""
    monkeypatch.setenv("CIFER_HOME", str(folder.home))
    refused = CliRunner().invoke(cli, ["access", "grant", "north", "--role", "producer"])
    assert refused.exit_code != 0 and "north is a site on the ledger" in str(refused.exception or refused.output)
    before = folder.authors()
    folder.tokens["forged"] = folder.portal.access.grant("north", Role.PRODUCER, 30)[1]
    assert folder.post("forged", event()).status_code == 500
    assert folder.authors() == before


def test_a_revoked_token_posts_nothing(folder: Folder) -> None:
    """From the revocation on the token is nobody's."""
    folder.tokens["gone"] = folder.portal.access.grant("etl", Role.PRODUCER, 30)[1]
    folder.portal.access.revoke("etl")
    assert folder.post("gone", event()).status_code == 401


def test_the_api_describes_itself(folder: Folder) -> None:
    """The portal's OpenAPI document holds the API, the posting with its refusals, and none of the pages."""
    document = folder.client.get("/api/v1/openapi.json").json()
    assert {"401", "403", "413", "422", "503"} <= set(document["paths"]["/api/v1/lineage"]["post"]["responses"])
    assert all(path.startswith("/api/v1/") for path in document["paths"])

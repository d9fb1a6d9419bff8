"""A deployment carries the settings as typed parameters; its flow names the run after itself, so that starting again goes on."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from cifer_tasks.config import Settings
from cifer_tasks.errors import UsageError
from cifer_tasks.records import ArtifactRef, Awaiting, Committed, RegisteredModel
from flows import deployments
from flows.services.kinds import KINDS, environment, url_of
from flows.services.processes import healthy, listen, start_child

MODEL = ArtifactRef("model", "ab" * 32, 9)


@pytest.fixture
def made(lab: Any) -> Any:
    """A nightly deployment of the laboratory's scenario."""
    return deployments.deployment("nightly", "0 2 * * *", lab.settings(approval="required"), lab.folder, lab.home, lab.folder)


def test_a_deployment_has_schedule_and_settings(lab: Any, made: Any) -> None:
    """The schedule is the given one in UTC, and the parameters are the settings, which read back as the same."""
    (schedule,) = made.schedules
    assert (schedule.schedule.cron, made.name, made.flow_name) == ("0 2 * * *", "nightly", deployments.FLOW_NAME)
    read = Settings.model_validate(made.parameters["settings"])
    assert read.digest() == lab.settings(approval="required").digest()
    assert made.entrypoint == "flows.deployments.scheduled_training"


def test_the_page_checks_the_parameters_by_type(made: Any) -> None:
    """The schema that Prefect's page makes its form of takes the settings, and refuses a wrong type, choice and key."""
    schema = made._parameter_openapi_schema.model_dump()
    schema = {"type": "object", "properties": schema["properties"], "definitions": schema["definitions"]}
    jsonschema.validate(made.parameters, schema)
    for key, value in (("training", {"rounds": "many"}), ("approval", "maybe"), ("trainin", {})):
        wrong = {**made.parameters, "settings": {**made.parameters["settings"], key: value}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("cron", ["tomorrow", "61 2 * * *", "* *"])
def test_a_schedule_that_is_none_is_named(lab: Any, cron: str) -> None:
    """A mistake in the schedule is one line that shows how one looks."""
    with pytest.raises(UsageError, match="is no schedule: give five fields"):
        deployments.deployment("nightly", cron, lab.settings(), lab.folder, lab.home, lab.folder)


def test_without_a_server_the_command_says_what_to_start(lab: Any) -> None:
    """Both commands need `cifer up` and say so, exit 1."""
    for arguments in (["deployments"], ["deploy", lab.write(), "--cron", "0 2 * * *"]):
        spoken = lab.cifer(*arguments)
        assert spoken.code == 1 and spoken.lines == [
            "cifer: schedules need the Prefect server, and it does not run; start it with: cifer up"
        ]


class SuspendedError(Exception):
    """What stands for Prefect's way of leaving a flow run."""


def test_a_flow_run_waits_for_approval_and_goes_on_in_the_same_run(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspended while the model waits, again when resumed too early, each time under a new key; resumed after, the same run ends."""
    registered = RegisteredModel("lab", 1, "champion", MODEL, Committed("cd" * 32, 7))
    outcomes: list[Any] = [Awaiting("run", MODEL), Awaiting("run", MODEL), registered, None]
    trained, keys = [], []

    def train(ref: Any, listeners: Any) -> Any:
        trained.append(ref.run)
        return outcomes.pop(0)

    def suspend(timeout: int, key: str) -> None:
        keys.append(key)
        raise SuspendedError

    monkeypatch.setattr(deployments, "train", train)
    monkeypatch.setattr(deployments, "engine", lambda home: __import__("contextlib").nullcontext())
    monkeypatch.setattr("prefect.flow_runs.suspend_flow_run", suspend)
    monkeypatch.setattr("prefect.runtime.flow_run", SimpleNamespace(id="1f3a9c2e-0000"), raising=False)
    parameters = (lab.settings(approval="required"), lab.folder, lab.home, Path.cwd())
    for _ in range(2):
        with pytest.raises(SuspendedError):
            deployments.scheduled_training.fn(*parameters)
    assert deployments.scheduled_training.fn(*parameters) == f"lab version 1, sha256 {MODEL.digest}"
    assert "accepted no candidate" in deployments.scheduled_training.fn(*parameters)
    assert set(trained) == {"lab-1f3a9c2e"} and len(set(keys)) == 2
    assert [folder.name for folder in (lab.home / "runs").iterdir()] == ["lab-1f3a9c2e"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server as `cifer up` configures it, which this process uses."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    home = tmp_path_factory.mktemp("automations")
    kind = KINDS["prefect"]
    with listen(0) as listening, (home / "log").open("wb") as log:
        port = int(listening.getsockname()[1])
        process = start_child(kind, listening, environment(kind, home, home, port), home, log)
    try:
        deadline = time.monotonic() + 300
        while not healthy(kind, port):
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
        with temporary_settings({PREFECT_API_URL: f"{url_of(port)}/api"}):
            yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def heard() -> Iterator[tuple[str, queue.Queue[Any]]]:
    """An address, and what is posted there."""
    posted: queue.Queue[Any] = queue.Queue()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.put(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/hook", posted
        listening.shutdown()


def test_the_server_tells_of_a_run_that_failed(server: None, made: Any, heard: tuple[str, queue.Queue[Any]]) -> None:
    """The automation of `--notify` posts a failed run of this deployment and no other's; made again it is one, given up none."""
    from prefect.client.orchestration import get_client
    from prefect.states import Failed

    url, posted = heard
    with get_client(sync_client=True) as client:
        flow = client.create_flow(deployments.scheduled_training)
        ours, other = (client.create_deployment(flow_id=flow, name=name) for name in ("nightly", "weekly"))
        for address in (url, url):
            asyncio.run(deployments.tell_of_failures(ours, "nightly", address))
        (automation,) = client.read_automations_by_name("cifer: nightly failed")
        assert url not in automation.model_dump_json()
        failed = {}
        for identity in (other, ours):
            run = client.create_flow_run_from_deployment(identity, name="lab")
            client.set_flow_run_state(run.id, Failed(message="ValueError: Patient-4711"), force=True)
            failed[identity] = run
        said = json.loads(posted.get(timeout=120))
        name = f"lab-{str(failed[ours].id)[:8]}"
        assert said == {"text": f"Cifer run {name}: failed: Failed", "run": name, "scenario": "lab", "event": "failed", "detail": "Failed"}
        assert posted.empty()
        asyncio.run(deployments.tell_of_failures(ours, "nightly", ""))
        assert client.read_automations_by_name("cifer: nightly failed") == []

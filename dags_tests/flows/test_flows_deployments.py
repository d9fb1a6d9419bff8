"""A deployment carries the settings as typed parameters; its flow names the run after itself, so that starting again goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.exceptions import ObjectNotFound

from cifer_tasks.config import Settings
from cifer_tasks.errors import FailureError, UsageError
from cifer_tasks.records import ArtifactRef, Awaiting, Committed, RegisteredModel
from flows import deployments, schedules
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
    """Every command on deployments needs `cifer up` and says so, exit 1."""
    for arguments in (["deployments"], ["deploy", lab.write(), "--cron", "0 2 * * *"], ["undeploy", "nightly"]):
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
        process = start_child(kind, listening, environment(kind, home, home, {"prefect": port}), home, log)
    try:
        deadline = time.monotonic() + 300
        while not healthy(kind, port):
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
        with temporary_settings({PREFECT_API_URL: f"{url_of(port)}/api"}):
            yield
    finally:
        process.kill()
        process.wait()


def test_a_deployment_is_registered_once_and_withdrawn(server: None, made: Any) -> None:
    """Registered twice it is one, in the pool that `cifer up` serves, with its schedule; withdrawn it is gone, and its name unknown."""
    from prefect.client.orchestration import get_client

    assert deployments.register(made, "") == deployments.register(made, "")
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(f"{deployments.FLOW_NAME}/nightly")
        assert (found.work_pool_name, found.parameters["settings"]) == (schedules.POOL, made.parameters["settings"])
    row = {"name": "nightly", "schedules": ["0 2 * * *"], "paused": False, "last_run": "never run"}
    assert deployments.deployments_report().document == [row]
    deployments.withdraw("nightly")
    assert deployments.deployments_report().document == []
    with pytest.raises(UsageError, match="there is no deployment 'nightly'; `cifer deployments` lists them"):
        deployments.withdraw("nightly")


def test_a_pool_of_another_kind_is_named(server: None) -> None:
    """A work pool of our name that somebody made for containers is left as it is, and the command that deletes it is named."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectNotFound):
            client.delete_work_pool(schedules.POOL)
        client.create_work_pool(WorkPoolCreate(name=schedules.POOL, type="docker"))
        with pytest.raises(FailureError, match=r"a work pool 'cifer' of type 'docker'; delete it: prefect work-pool delete cifer"):
            asyncio.run(schedules.open_pool())
        client.delete_work_pool(schedules.POOL)


def test_what_an_earlier_worker_left_is_taken_over(server: None, made: Any) -> None:
    """Begun runs are scheduled again, one that was being cancelled is cancelled, one that waits for a person waits on; missed ones follow
    `missed`.
    """
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling, Pending, Running, Suspended

    identity = deployments.register(made, "")
    with get_client(sync_client=True) as client:
        left = {}
        begun: list[Any] = [Pending(), Running(), Cancelling(), Suspended()]
        for state in begun:
            left[state.name] = client.create_flow_run_from_deployment(identity).id
            client.set_flow_run_state(left[state.name], state, force=True)
        asyncio.run(schedules.take_over())
        found = {name: getattr(client.read_flow_run(run).state, "name", "") for name, run in left.items()}
    assert found == {"Pending": "Scheduled", "Running": "Scheduled", "Cancelling": "Cancelled", "Suspended": "Suspended"}
    deployments.withdraw("nightly")


NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOURS = st.integers(-100, 100).map(lambda hours: NOW + timedelta(hours=hours))
PLANNED = st.builds(
    lambda deployment, when, auto, count: SimpleNamespace(
        deployment_id=deployment, expected_start_time=when, auto_scheduled=auto, run_count=count
    ),
    st.sampled_from("ab"),
    HOURS,
    st.booleans(),
    st.sampled_from([0, 0, 1]),
)


def forgoes_everything_missed(scheduled: Sequence[Any], now: datetime) -> list[Any]:
    """A mutant: what was missed is never made up for."""
    return [run for run in scheduled if run.auto_scheduled and not run.run_count and run.expected_start_time <= now]


def makes_up_for_all(scheduled: Sequence[Any], now: datetime) -> list[Any]:
    """A mutant: seven nights without a server are followed by seven trainings."""
    return []


def kept_as_promised(choose: Callable[..., list[Any]], runs: list[Any]) -> bool:
    """Nothing is forgone that a person started, that began or that is not due; of the rest each deployment keeps one of the latest."""
    forgone = choose(sorted(runs, key=lambda run: run.expected_start_time), NOW)
    overdue = [run for run in runs if run.auto_scheduled and not run.run_count and run.expected_start_time <= NOW]
    if any(run not in overdue for run in forgone):
        return False
    for name in {run.deployment_id for run in overdue}:
        mine = [run for run in overdue if run.deployment_id == name]
        kept = [run for run in mine if not any(run is other for other in forgone)]
        if len(kept) != 1 or kept[0].expected_start_time != max(run.expected_start_time for run in mine):
            return False
    return True


@given(runs=st.lists(PLANNED, max_size=12))
def test_of_missed_runs_the_latest_is_made_up_for(runs: list[Any]) -> None:
    """Whatever was scheduled, the rule keeps its promise."""
    assert kept_as_promised(schedules.missed, runs)


@pytest.mark.parametrize("mutant", [forgoes_everything_missed, makes_up_for_all])
def test_another_rule_for_missed_runs_is_noticed(mutant: Callable[..., list[Any]]) -> None:
    """The promise is broken by rules that make up for nothing or for everything."""
    two = [
        SimpleNamespace(deployment_id="a", expected_start_time=NOW - timedelta(days=days), auto_scheduled=True, run_count=0)
        for days in (1, 2)
    ]
    assert kept_as_promised(schedules.missed, two) and not kept_as_promised(mutant, two)


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

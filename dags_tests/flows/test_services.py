"""The services as real processes: started, found, broken, restarted, stopped."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifer_tasks.errors import FailureError, StorageError, UsageError
from flows import services
from flows.services import control, private
from flows.services.child import ContentSecurityPolicy
from flows.services.kinds import HOST, KINDS
from flows.services.processes import LONGEST_DELAY_SECONDS, Identity, delay_before, healthy, listen, reserve, stop
from flows.services.state import Started, State, read_state, services_folder, write_state

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 300


def _until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, by a deadline that only a defect reaches."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {DEADLINE_SECONDS} s")
        _let_others_run(0.05)


def _let_others_run(seconds: float) -> None:
    """Let other processes run."""
    import select

    select.select([], [], [], seconds)


def _free_port() -> int:
    with listen(0) as listening:
        return int(listening.getsockname()[1])


def _get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.request("GET", path, headers={"Accept": "text/html"})
    response = connection.getresponse()
    return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Child processes find the packages under test, and no Prefect configuration of ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        for name in [key for key in os.environ if key.startswith(("PREFECT_", "MLFLOW_"))]:
            patch.delenv(name)
        yield


class Up:
    """Services that were started once for this module."""

    def __init__(self, lab: Any) -> None:
        self.lab, self.home, self.project = lab, lab.home, lab.folder
        self.ports = {name: _free_port() for name in KINDS}
        self.told: list[str] = []
        self.services = self.again()

    def again(self, *everywhere: str) -> tuple[services.Service, ...]:
        return services.up(self.home, self.ports, project=self.project, everywhere=set(everywhere), progress=self.told.append)

    def state(self, name: str) -> str:
        return {item.name: item.state for item in services.status(self.home)}[name]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, make_lab: Callable[[Path], Any]) -> Iterator[Up]:
    """Every service on free ports; whatever the tests did, they are stopped in the end."""
    lab = make_lab(tmp_path_factory.mktemp("services"))
    try:
        yield Up(lab)
    finally:
        services.down(lab.home)


@pytest.fixture
def up(started: Up) -> Up:
    """The services of this module, as `cifer up` leaves them: tests run in any order, and some kill or stop them."""
    if [item.pid for item in services.status(started.home)] != [item.pid for item in started.services]:
        services.down(started.home)
        started.services = started.again()
    return started


def test_up_returns_when_everything_answers(up: Up) -> None:
    """Each service runs where it was asked to, with its own process, and progress was told by name."""
    for service in up.services:
        assert (service.state, service.port, service.restarts) == ("running", up.ports[service.name], 0)
        assert service.pid is not None
        assert psutil.pid_exists(service.pid)
        assert any(service.title in text for text in up.told)
        assert healthy(KINDS[service.name], service.port)


def test_up_twice_is_up_once(up: Up) -> None:
    """A second `up` keeps the processes; with another port, or for another folder, it says what to do instead."""
    assert [item.pid for item in up.again()] == [item.pid for item in services.status(up.home)]
    with pytest.raises(UsageError, match=rf"Prefect on port {up.ports['prefect']}; `cifer down` first"):
        services.up(up.home, {**up.ports, "prefect": _free_port()}, project=up.project)
    with pytest.raises(UsageError, match="the services run already for the folder"):
        services.up(up.home, up.ports, project=up.project.parent)


def test_a_port_in_use_is_named_with_holder_and_flag(up: Up, tmp_path: Path) -> None:
    """Another home that wants the same port learns who has it and which flag changes it; nothing is started or left there."""
    pid = next(item.pid for item in up.services if item.name == "mlflow")
    ports = {**{name: _free_port() for name in KINDS}, "mlflow": up.ports["mlflow"]}
    with pytest.raises(UsageError, match=rf"port {ports['mlflow']} for MLflow is in use by .*\(process \d+\).*--mlflow-port") as caught:
        services.up(tmp_path, ports)
    family = {str(pid), str(psutil.Process(pid).ppid())}
    assert any(f"process {member}" in str(caught.value) for member in family)
    assert [item.state for item in services.status(tmp_path)] == ["stopped"] * len(KINDS)
    listen(ports["prefect"]).close()


def test_pages_are_served_and_may_talk_to_their_service_only(up: Up) -> None:
    """The pages of Prefect and MLflow arrive with a policy whose connections are this machine's own, so no analytics host is reached."""
    for name, path in (("prefect", "/v2/runs"), ("prefect", "/dashboard"), ("mlflow", "/")):
        status, headers, body = _get(up.ports[name], path)
        assert status in {200, 302, 307}, (name, path, status, body[:200])
        policy = headers["content-security-policy"]
        (connect,) = (part for part in policy.split(";") if part.strip().startswith("connect-src"))
        assert {host for host in connect.split() if "://" in host} == {
            f"{scheme}://{host}:{up.ports[name]}" for scheme in ("http", "ws") for host in ("127.0.0.1", "localhost")
        }
        assert not [part for part in policy.split() if "*" in part]


def hosts(pid: int | None) -> set[str]:
    """The addresses that a process listens at."""
    return {item.laddr.ip for item in psutil.Process(pid).net_connections() if item.status == psutil.CONN_LISTEN}


def test_no_service_listens_to_the_network(up: Up) -> None:
    """Every listening socket of the services is bound to the loopback interface."""
    for service in up.services:
        assert hosts(service.pid) == {HOST}


def test_a_command_uses_the_running_server(up: Up) -> None:
    """`prefect_server` finds the one that `up` started, points there, and leaves it running."""
    with services.prefect_server(up.home) as server:
        server.wait_ready()
        assert not server.private
        assert server.environment["PREFECT_API_URL"] == f"http://127.0.0.1:{up.ports['prefect']}/api"
    assert up.state("prefect") == "running"


def test_a_crashed_service_comes_back_on_its_port(up: Up) -> None:
    """SIGKILL to one service: the supervisor starts it again on the same port, counts that, and the other is left alone."""
    before = {item.name: item for item in services.status(up.home)}
    os.kill(before["mlflow"].pid or 0, signal.SIGKILL)
    _until(lambda: up.state("mlflow") != "running", "noticing the crash")
    _until(lambda: up.state("mlflow") == "running", "the restart")
    after = {item.name: item for item in services.status(up.home)}
    assert after["mlflow"].restarts == before["mlflow"].restarts + 1
    assert after["mlflow"].port == up.ports["mlflow"]
    assert after["prefect"] == before["prefect"]


class Scheduled:
    """A training that `cifer deploy` registered and somebody started, under way in a process of its own."""

    def __init__(self, up: Up) -> None:
        self.up = up
        path = up.lab.write(name="nightly", training__rounds=1, baselines=False)
        environment = {**os.environ, "CIFER_HOME": str(up.home)}
        command = [sys.executable, "-m", "flows.cli", "deploy", str(path), "--cron", "0 2 1 1 *"]
        done = subprocess.run(command, cwd=up.project, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        deployment = done.stdout.strip().rpartition("/")[2]
        made = self.ask(f"/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        assert "id" in made, f"{made} for {done.stdout}"
        self.run = f"nightly-{made['id'][:8]}"
        self.identity = made["id"]
        _until((up.home / "runs" / self.run / "run.json").exists, "the beginning of the training")
        (service,) = (item for item in services.status(up.home) if item.name == "schedules")
        self.process = [child for child in map(Identity.of, _children(service.pid)) if child]

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the Prefect server answers."""
        connection = http.client.HTTPConnection(HOST, self.up.ports["prefect"], timeout=30)
        headers = {"content-type": "application/json"}
        connection.request("POST" if body else "GET", f"/api{path}", json.dumps(body) if body else None, headers)
        return json.loads(connection.getresponse().read())

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"/flow_runs/{self.identity}")["state"]
        return found


def _children(pid: int | None) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_services_and_a_training_do_not_outlive_their_supervisor(started: Up) -> None:
    """SIGKILL to the supervisor: its services and the scheduled training stop by themselves; `up` starts afresh, and the training is taken
    up again and ends in the same run; a service that other machines may reach is the only one; after `down` no process and no port is left.
    """
    up = started
    up.again()  # where they run already, they stay
    training = Scheduled(up)
    state = read_state(up.home)
    assert state is not None
    children = [*training.process, *(item.process for item in state.services.values() if item.process)]
    assert len(children) > len(KINDS)
    os.kill(state.supervisor.pid, signal.SIGKILL)
    _until(lambda: not any(child.alive() for child in children), "the end of the orphans")
    assert [item.state for item in services.status(up.home)] == ["stopped"] * len(KINDS)
    assert services.down(up.home) == ()
    afresh = up.again("artifacts")
    assert {item.pid for item in afresh}.isdisjoint(child.pid for child in children)
    assert {item.name for item in afresh if hosts(item.pid) != {HOST}} == {"artifacts"}
    _until(lambda: training.state()["type"] not in {"SCHEDULED", "PENDING", "RUNNING"}, "the end of the training")
    log = (services_folder(up.home) / "schedules.log").read_text()
    assert training.state()["type"] == "COMPLETED", (training.state(), log[-4000:])
    assert [folder.name for folder in (up.home / "runs").iterdir()] == [training.run]
    found = up.lab.state().run(training.run)
    assert (found.status, found.rounds_committed) == ("completed", 1)
    processes = [psutil.Process(item.pid) for item in afresh]
    assert sorted(services.down(up.home)) == sorted(KINDS)
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
    for port in up.ports.values():
        listen(port).close()
    assert [item.state for item in services.status(up.home)] == ["stopped"] * len(KINDS)


def test_a_private_server_ends_with_a_killed_parent(tmp_path: Path) -> None:
    """SIGKILL to the command that started a private server: the server is gone too, even while it was still starting."""
    program = f"""
import sys
from pathlib import Path
from flows.services import prefect_server
server = prefect_server(Path({str(tmp_path)!r}))
server.start()
print(server._process.pid, server.private, flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, private = parent.stdout.readline().split()
    child = Identity.of(int(pid))
    assert private == "True"
    assert child is not None
    parent.kill()
    parent.wait()
    _until(lambda: not child.alive(), "the end of the private server")


def test_a_private_server_that_is_killed_comes_back_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL to the server of a command: another process answers on the same port, and connections made meanwhile are not refused; after
    `stop` nobody is there, and the port is free. The service is one that starts fast.
    """
    monkeypatch.setattr(private, "_KIND", KINDS["predict"])
    with services.prefect_server(tmp_path) as server:
        server.wait_ready()
        first, port = server._process, server._port
        assert first is not None
        first.kill()
        first.wait()
        socket.create_connection((HOST, port), timeout=30).close()
        _until(lambda: healthy(KINDS["predict"], port), "the return of the server")
        second = server._process
        assert second is not None and second.pid != first.pid and server._port == port
    assert second.poll() is not None
    listen(port).close()


def test_a_private_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """With a folder where its database should be, waiting ends with the last line of its log, not after the deadline."""
    (tmp_path / "prefect" / "prefect.db").mkdir(parents=True)
    with services.prefect_server(tmp_path) as server, pytest.raises(FailureError, match=r"ended while it started: .*prefect-private\.log"):
        server.wait_ready()


def test_a_service_that_keeps_ending_fails_up(tmp_path: Path, furnish: Callable[[Path, Path], None]) -> None:
    """The same for `up`: one line with the service, its last words and its log; and everything that was started is stopped again."""
    home = tmp_path / ".cifer"
    furnish(tmp_path / "elsewhere", home)
    (tmp_path / "mlruns").write_text("in the way")
    ports = {name: _free_port() for name in KINDS}
    with pytest.raises(FailureError, match=r"MLflow keeps ending: .*mlruns.*mlflow\.log"):
        services.up(home, ports, project=tmp_path)
    assert [item.state for item in services.status(home)] == ["stopped"] * len(KINDS)
    for port in ports.values():
        listen(port).close()


def test_a_recycled_process_number_is_left_alone(tmp_path: Path) -> None:
    """A state that names our number with another start time, as after a reboot, makes `down` touch nothing.

    The mutant that knows processes by their number alone does kill it.
    """
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        real = Identity.of(stranger.pid)
        assert real is not None
        past = Identity(stranger.pid, real.started - 3600)
        assert not past.alive()
        services_folder(tmp_path).mkdir(parents=True)
        write_state(tmp_path, State(past, str(tmp_path), {"prefect": Started(4200, past, "", 0)}))
        assert services.down(tmp_path) == ()
        assert real.alive()
        with pytest.MonkeyPatch.context() as mutant:
            mutant.setattr(Identity, "_is", lambda self, started: True)
            stop([past], 5.0)
        assert not real.alive()
    finally:
        stranger.kill()
        stranger.wait()


def test_what_ignores_sigterm_is_killed() -> None:
    """A process that ignores SIGTERM, and the child it has, are gone after the grace period."""
    program = "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    program += "child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True); child.wait(); signal.pause()"
    deaf = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert deaf.stdout is not None
    child = Identity.of(int(deaf.stdout.readline()))
    parent = Identity.of(deaf.pid)
    assert child is not None
    assert parent is not None
    assert stop([parent], 0.2) == ()
    assert not parent.alive()
    assert not child.alive()
    deaf.wait()


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_that_is_none_is_a_usage_error(port: int) -> None:
    """A number that is no port is refused by name, with the flag that sets it."""
    with pytest.raises(UsageError, match=rf"port {port} for Prefect cannot be used.*--prefect-port"):
        reserve(KINDS["prefect"], port)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """While one `up` or `down` is at work in a home, another is refused rather than mixed in."""
    with control._alone(tmp_path), pytest.raises(UsageError, match="another `cifer up` or `cifer down` is at work"):
        services.up(tmp_path)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in the place of the services' folder is one line that names it, for `up` and for a private server."""
    (tmp_path / "services").write_text("in the way")
    with pytest.raises(StorageError, match="services: cannot be written"):
        services.up(tmp_path)
    with pytest.raises(StorageError, match="services: a Prefect server cannot be started there"):
        services.prefect_server(tmp_path).start()


@given(
    ports=st.lists(st.integers(1, 65535), min_size=1, max_size=2),
    restarts=st.integers(0, 10),
    started=st.floats(1e9, 2e9),
    alive=st.booleans(),
)
def test_state_survives_its_file(
    ports: list[int], restarts: int, started: float, alive: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What the supervisor writes is read back as it was."""
    home = tmp_path_factory.mktemp("state")
    process = Identity(4711, started) if alive else None
    known = {name: Started(port, process, "2026-01-01T00:00:00+00:00", restarts) for name, port in zip(KINDS, ports, strict=False)}
    state = State(Identity(1, started), "/project", known)
    write_state(home, state)
    assert read_state(home) == state


@given(damage=st.binary(max_size=60))
def test_a_damaged_state_is_no_state(damage: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever bytes stand in the state's file, reading it gives None or a state, and status still answers."""
    home = tmp_path_factory.mktemp("state")
    services_folder(home).mkdir()
    (services_folder(home) / "state.json").write_bytes(damage)
    assert read_state(home) is None
    assert [item.state for item in services.status(home)] == ["stopped"] * len(KINDS)


@given(restart=st.integers(1, 10**6))
def test_restarts_wait_longer_and_longer(restart: int) -> None:
    """The wait before a restart never shrinks and never exceeds its bound."""
    assert 0 < delay_before(restart) <= delay_before(restart + 1) <= LONGEST_DELAY_SECONDS


def test_the_policy_is_added_to_what_is_there() -> None:
    """The middleware keeps the headers of an answer, adds one, and leaves websockets alone."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    wrapped = ContentSecurityPolicy(application, 4200)
    asyncio.run(wrapped({"type": "http"}, receive, send))
    asyncio.run(wrapped({"type": "websocket"}, receive, send))
    assert [key for key, _ in sent[0]["headers"]] == [b"x", b"content-security-policy"]
    assert sent[1]["headers"] == [(b"x", b"y")]


def test_a_listening_socket_that_nobody_serves_is_unhealthy() -> None:
    """A port that accepts connections but never answers is not healthy, and asking does not hang."""
    with listen(0) as listening:
        assert not healthy(KINDS["prefect"], int(listening.getsockname()[1]), timeout_seconds=0.2)
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        assert not healthy(KINDS["prefect"], int(closed.getsockname()[1]), timeout_seconds=0.2)

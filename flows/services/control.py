"""`cifer up`, `cifer down`, `cifer status`."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cifer_tasks.database import database_url, prepare_database
from cifer_tasks.errors import FailureError, StorageError, UsageError
from flows.services.kinds import ANYWHERE, DEFAULT_PORTS, HOST, KINDS, Kind, url_of
from flows.services.processes import Identity, healthy, reserve, stop
from flows.services.state import Started, State, read_state, services_folder

READY_SECONDS: Final = 180.0
STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.1
_TOO_MANY_RESTARTS: Final = 2


@dataclass(frozen=True, slots=True)
class Service:
    """A service as it is now.

    state: ``running`` answers its health check, ``unhealthy`` should run and does not answer, ``stopped``.
    pid: None unless a process is there.  since: when that was started, ISO 8601, "" when stopped.  restarts: after crashes.
    log: path of its log.
    """

    name: str
    title: str
    state: Literal["running", "unhealthy", "stopped"]
    url: str
    port: int
    pid: int | None
    since: str
    restarts: int
    log: str


def up(
    home: Path,
    ports: Mapping[str, int] | None = None,
    *,
    project: Path | None = None,
    everywhere: Set[str] = frozenset(),
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Service, ...]:
    """Start every service and wait until all answer; what runs already is left as it is.

    home: keeps state, logs and Prefect's database.  ports: by service name, the defaults for those not named.
    everywhere: services that other machines may reach; the others listen on this one only.
    project: the folder whose ``mlruns/`` MLflow shows, the current one when None.  progress: told in short sentences how it goes.

    Raises `UsageError` when a port is in use, or services run on other ports; `FailureError` with the end of its log when a
    service does not start; `StorageError` when `home` cannot be written, or the database of CIFER_DATABASE_URL does not answer.
    """
    wanted = {**DEFAULT_PORTS, **(ports or {})}
    if url := database_url():
        prepare_database(url)
    home, project = home.resolve(), (project or Path.cwd()).resolve()
    with _alone(home):
        state = read_state(home)
        if state is not None and state.supervisor.alive():
            _check_same(state, wanted, project)
            supervisor = state.supervisor
        else:
            _stop_all(state)
            supervisor = _start_supervisor(home, project, wanted, everywhere, progress)
        _wait_ready(home, supervisor, wanted, progress)
    return status(home)


def down(home: Path) -> tuple[str, ...]:
    """Stop every service and the supervisor; returns the names of those that ran.

    Only processes that `up` started are touched. Raises `FailureError` naming a process that cannot be stopped.
    """
    home = home.resolve()
    if not services_folder(home).exists():
        return ()
    with _alone(home):
        state = read_state(home)
        running = tuple(name for name, item in _known(state).items() if item.process is not None and item.process.alive())
        _stop_all(state)
        (services_folder(home) / "state.json").unlink(missing_ok=True)
    return running


def status(home: Path) -> tuple[Service, ...]:
    """How every service is now; asks those that should run for their health, 2 s each at most."""
    home = home.resolve()
    state = read_state(home)
    supervised = state is not None and state.supervisor.alive()
    return tuple(_service(home, kind, _known(state).get(kind.name), supervised) for kind in KINDS.values())


def _service(home: Path, kind: Kind, known: Started | None, supervised: bool) -> Service:
    alive = known is not None and known.process is not None and known.process.alive()
    port = known.port if known is not None and (supervised or alive) else DEFAULT_PORTS[kind.name]
    state: Literal["running", "unhealthy", "stopped"] = "stopped"
    if supervised or alive:
        state = "running" if alive and healthy(kind, port) else "unhealthy"
    return Service(
        name=kind.name,
        title=kind.title,
        state=state,
        url=url_of(port, kind.scheme),
        port=port,
        pid=known.process.pid if alive and known is not None and known.process is not None else None,
        since=known.since if alive and known is not None else "",
        restarts=known.restarts if supervised and known is not None else 0,
        log=str(_log(home, kind.name)),
    )


def _check_same(state: State, wanted: Mapping[str, int], project: Path) -> None:
    running = {name: item.port for name, item in state.services.items()}
    differing = [name for name, port in running.items() if wanted[name] != port]
    if differing:
        where = ", ".join(f"{KINDS[name].title} on port {running[name]}" for name in differing)
        msg = f"the services run already, {where}; `cifer down` first, then `cifer up` with the ports you want"
        raise UsageError(msg)
    if Path(state.project) != project:
        msg = f"the services run already for the folder {state.project}; `cifer down` first, or go there"
        raise UsageError(msg)


def _start_supervisor(
    home: Path, project: Path, wanted: Mapping[str, int], everywhere: Set[str], progress: Callable[[str], None]
) -> Identity:
    """A supervisor in a session of its own, holding the sockets."""
    sockets = {}
    try:
        for name, kind in KINDS.items():
            sockets[name] = reserve(kind, wanted[name], ANYWHERE if name in everywhere else HOST)
        progress(f"starting {', '.join(kind.title for kind in KINDS.values())}")
        pairs = [f"{name}={listening.fileno()}" for name, listening in sockets.items()]
        with _log(home, "supervisor").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.services.supervisor", str(home), str(project), *pairs],
                cwd=services_folder(home),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listening.fileno() for listening in sockets.values()],
                start_new_session=True,
            )
    finally:
        for listening in sockets.values():
            listening.close()
    identity = Identity.of(process.pid)
    if identity is None:
        raise FailureError(_told(home, "supervisor", "the supervisor ended at once"))
    return identity


def _wait_ready(home: Path, supervisor: Identity, wanted: Mapping[str, int], progress: Callable[[str], None]) -> None:
    """Return once every service answers; on failure stop them all and raise `FailureError`."""
    waiting = dict(wanted)
    deadline = time.monotonic() + READY_SECONDS
    trouble = ""
    while waiting and not trouble:
        known = _known(read_state(home))
        for name in tuple(waiting):
            item = known.get(name)
            if item is not None and item.process is not None and item.process.alive() and healthy(KINDS[name], waiting[name], 1.0):
                progress(f"{KINDS[name].title} is ready at {url_of(waiting.pop(name), KINDS[name].scheme)}")
            elif item is not None and item.restarts >= _TOO_MANY_RESTARTS:
                trouble = _told(home, name, f"{KINDS[name].title} keeps ending")
            elif time.monotonic() > deadline:
                trouble = _told(home, name, f"{KINDS[name].title} did not answer within {READY_SECONDS:.0f} s")
        if not supervisor.alive():
            trouble = _told(home, "supervisor", "the supervisor ended")
        if waiting and not trouble:
            time.sleep(_POLL_SECONDS)
    if trouble:
        stop([supervisor], STOP_SECONDS)
        _stop_all(read_state(home))
        raise FailureError(trouble)


def _stop_all(state: State | None) -> None:
    """Stop the supervisor first, which stops its services, then whatever of them is left. Raises `FailureError` when one cannot be."""
    if state is None:
        return
    services = [item.process for item in state.services.values() if item.process is not None]
    left = (*stop([state.supervisor], STOP_SECONDS), *stop(services, STOP_SECONDS))
    if left:
        msg = f"process {', '.join(str(identity.pid) for identity in left)} could not be stopped; it may belong to another user"
        raise FailureError(msg)


def _known(state: State | None) -> Mapping[str, Started]:
    return {} if state is None else state.services


def _log(home: Path, name: str) -> Path:
    return services_folder(home) / f"{name}.log"


def _told(home: Path, name: str, what: str) -> str:
    """One line: what happened, the last line of the log, and where the log is."""
    log = _log(home, name)
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{what}: {lines[-1].strip() if lines else 'it wrote nothing'} (log: {log})"


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """One `up` or `down` at a time. Raises `StorageError` when the folder cannot be written, `UsageError` when another is at it."""
    folder = services_folder(home)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        msg = f"{folder}: cannot be written: {error.strerror}; set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        msg = f"another `cifer up` or `cifer down` is at work in {folder}; wait for it"
        raise UsageError(msg) from None
    try:
        yield
    finally:
        os.close(descriptor)

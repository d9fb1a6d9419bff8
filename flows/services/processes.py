"""Processes and ports, so that what is stopped is what was started: a process is known by its number and its start together."""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from cifer_tasks.errors import UsageError
from flows.services.kinds import HOST, Kind

FIRST_DELAY_SECONDS: Final = 0.5
LONGEST_DELAY_SECONDS: Final = 30.0
_START_TOLERANCE_SECONDS: Final = 1.0


def delay_before(restart: int) -> float:
    """Seconds to wait before restart number 1, 2, ...: doubling, up to half a minute."""
    return min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(restart - 1, 16))


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: its number, and when it started in seconds since 1970; a later process with the same number is another one."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """The identity of a process that is there now; None when there is none."""
        import psutil

        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def alive(self) -> bool:
        """Whether this very process is still there and not a zombie."""
        import psutil

        try:
            process = psutil.Process(self.pid)
            return self._is(process.create_time()) and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def _is(self, started: float) -> bool:
        return abs(self.started - started) <= _START_TOLERANCE_SECONDS


def stop(identities: Iterable[Identity], grace_seconds: float) -> tuple[Identity, ...]:
    """SIGTERM to each process, which is to stop what it started; SIGKILL to those of either still there after `grace_seconds`.

    Returns those that are there even so: owned by somebody else, or stuck in the kernel.
    """
    import psutil

    wanted = tuple(identities)
    asked: list[psutil.Process] = []
    started: list[psutil.Process] = []
    for identity in wanted:
        with suppress(psutil.NoSuchProcess):
            if identity.alive():
                process = psutil.Process(identity.pid)
                started += process.children(recursive=True)
                asked.append(process)
    _signal(asked, signal.SIGTERM)
    _, left = psutil.wait_procs([*asked, *started], timeout=grace_seconds)
    _signal(left, signal.SIGKILL)
    psutil.wait_procs(left, timeout=5)
    return tuple(identity for identity in wanted if identity.alive())


def _signal(processes: Iterable[object], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(number)  # type: ignore[attr-defined]


def listen(port: int, host: str = HOST) -> socket.socket:
    """A socket that listens on the loopback interface, or as `host` says, on any free port for 0. Raises OSError when it is in use."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(2048)
    except OSError:
        made.close()
        raise
    return made


def reserve(kind: Kind, port: int, host: str = HOST) -> socket.socket:
    """A socket that listens on `port` for a service. Raises `UsageError` naming port, holder and flag when that cannot be had."""
    try:
        return listen(port, host)
    except (OSError, OverflowError) as error:
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = f"is in use{_holder(port)}" if in_use else f"cannot be used: {getattr(error, 'strerror', None) or error}"
        msg = f"port {port} for {kind.title} {reason}; stop that program, or choose another port with {kind.flag}"
        raise UsageError(msg) from None


def _holder(port: int) -> str:
    """Who listens on a port, as far as this user may know."""
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


def healthy(kind: Kind, port: int, timeout_seconds: float = 2.0) -> bool:
    """Whether the service on `port` answers its health check with 200."""
    if kind.scheme == "https":  # nothing is told or believed here: whether our own child answers
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(HOST, port, timeout=timeout_seconds, context=unverified)
    else:
        connection = http.client.HTTPConnection(HOST, port, timeout=timeout_seconds)
    try:
        connection.request("GET", kind.health_path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def start_child(
    kind: Kind, listening: socket.socket, environment: Mapping[str, str], folder: Path, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start a service on a listening socket, which may be closed here afterwards. It ends when its `stdin` is closed.

    A session of its own keeps a Ctrl-C in the terminal away from it: who started it decides when it stops.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.services.child", kind.name, str(listening.fileno())],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        pass_fds=(listening.fileno(),),
        start_new_session=True,
    )

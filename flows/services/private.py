"""A Prefect server for one command: `cifer up`'s when it runs, else one that lives exactly as long as the command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from cifer_tasks.database import database_url, prepare_database
from cifer_tasks.errors import FailureError, StorageError
from cifer_tasks.files import write_atomically
from flows.services.control import READY_SECONDS, status
from flows.services.kinds import KINDS, prefect_client_environment, private_prefect_environment, url_of
from flows.services.processes import Identity, delay_before, healthy, listen, start_child, stop
from flows.services.state import services_folder

_KIND: Final = KINDS["prefect"]
_POLL_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 20.0
_DRAIN_SECONDS: Final = 10.0


class PrefectServer:
    """A context manager: entering starts the server without waiting for it, leaving stops it, unless it was there before.

    The server ends with this process however that ends, since it watches a pipe that this process holds. Should it end first, it is started
    again on the port that this process holds: its clients wait, and what it knew is in its database.
    """

    def __init__(self, home: Path) -> None:
        """home: its ``prefect/`` holds the database, the same that `cifer up` serves."""
        self.home = home.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._listening: socket.socket | None = None
        self._keeper: threading.Thread | None = None
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._port = 0

    def __enter__(self) -> PrefectServer:
        """Start as `start` does."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop as `stop` does."""
        self.stop()

    @property
    def environment(self) -> Mapping[str, str]:
        """What has to be in ``os.environ`` before Prefect is imported; known as soon as the server is started."""
        return MappingProxyType(prefect_client_environment(self.home, self._port))

    @property
    def url(self) -> str:
        """Where Prefect's page is."""
        return url_of(self._port)

    @property
    def private(self) -> bool:
        """Whether the server ends with this process."""
        return self._process is not None

    def start(self) -> None:
        """Find a running server or start one; returns at once. Raises `StorageError` when `home` cannot be written."""
        if self._port:
            return
        (running,) = (service for service in status(self.home) if service.name == _KIND.name)
        if running.state == "running":
            self._port = running.port
            return
        folder = services_folder(self.home)
        if url := database_url():
            prepare_database(url)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (self.home / "prefect").mkdir(parents=True, exist_ok=True)
            self._listening = listen(0)
            self._port = int(self._listening.getsockname()[1])
            self._process = self._begin(self._listening)
        except OSError as error:
            msg = f"{folder}: a Prefect server cannot be started there: {error.strerror}; set CIFER_HOME to a folder you can write to"
            raise StorageError(msg) from None

    def wait_ready(self) -> None:
        """Block until the server answers. Raises `FailureError` with the end of its log when it ends instead, or does not in time."""
        deadline = time.monotonic() + READY_SECONDS
        while not healthy(_KIND, self._port):
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if self._log.exists() else []
                what = "ended while it started" if ended else f"did not answer within {READY_SECONDS:.0f} s"
                msg = f"the Prefect server {what}: {lines[-1].strip() if lines else 'it wrote nothing'} (log: {self._log})"
                raise FailureError(msg)
            time.sleep(_POLL_SECONDS)
        if self.private and self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, daemon=True)
            self._keeper.start()

    def _begin(self, listening: socket.socket) -> subprocess.Popen[bytes]:
        environment = private_prefect_environment(self.home, self._port)
        with self._log.open("ab") as log:
            return start_child(_KIND, listening, environment, services_folder(self.home), log)

    def _keep(self) -> None:
        """Start the server again, after growing pauses, whenever it ends before `stop`."""
        for restart in count(1):
            process, listening = self._process, self._listening
            if process is None or listening is None:
                return
            process.wait()
            self._stopping.wait(delay_before(restart))
            with self._guard:
                if self._stopping.is_set():
                    return
                self._process = self._begin(listening)

    def stop(self) -> None:
        """Stop the server if it is this one's own. Safe to call again."""
        if self._process is not None:
            _send_what_waits()
        self._stopping.set()
        with self._guard:
            process, self._process, self._port = self._process, None, 0
            listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()
        if process is None:
            return
        identity = Identity.of(process.pid)
        if process.stdin is not None:
            process.stdin.close()
        if identity is not None:
            stop([identity], _GRACE_SECONDS)
        process.wait()

    @property
    def _log(self) -> Path:
        return services_folder(self.home) / "prefect-private.log"


def use_running_server(home: Path) -> str:
    """Have this process, before it imports Prefect, use `cifer up`'s server. Returns its page; raises `FailureError` when there is none."""
    (found,) = (service for service in status(home) if service.name == _KIND.name)
    if found.state != "running":
        msg = "schedules need the Prefect server, and it does not run; start it with: cifer up"
        raise FailureError(msg)
    os.environ.update(prefect_client_environment(home, found.port))
    return found.url


def lone_authority(home: Path) -> Path:
    """A PEM file with one certificate authority whose key nobody has: clients that trust it alone accept no TLS connection at all.

    For clients of a server on this machine that speaks plain HTTP.
    """
    path = services_folder(home) / "no-authority.pem"
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody")])
        moment = datetime.now(UTC)
        made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), moment, moment + timedelta(days=36_500))
        pem = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, None).public_bytes(Encoding.PEM)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pem)
    return path


def _send_what_waits() -> None:
    """Let Prefect's client, if this process used it, send the events it still holds."""
    worker = sys.modules.get("prefect.events.worker")
    if worker is not None:
        worker.EventsWorker.drain_all(timeout=_DRAIN_SECONDS)


def prefect_server(home: Path) -> PrefectServer:
    """A Prefect server for the duration of a ``with`` block; see `PrefectServer`."""
    return PrefectServer(home)

"""The process that keeps the services alive: ``python -P -m flows.services.supervisor HOME PROJECT NAME=FD ...``.

It holds the listening sockets, so that a port stays ours while its service is started again. SIGTERM ends services and supervisor;
were the supervisor killed outright, the services would see their standard input end, and stop.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cifer_tasks import logs
from flows.services.kinds import KINDS, Kind, environment
from flows.services.processes import Identity, delay_before, start_child, stop
from flows.services.state import Started, State, services_folder, write_state

_logger = logging.getLogger("cifer.services")

STABLE_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 8.0


@dataclass(slots=True)
class _Watched:
    """A service and its present process. Times are seconds of the monotonic clock."""

    kind: Kind
    listening: socket.socket
    process: subprocess.Popen[bytes] | None = None
    identity: Identity | None = None
    since: str = ""
    started_at: float = 0.0
    start_at: float = 0.0
    restarts: int = 0
    failures: int = 0

    def known(self) -> Started:
        return Started(int(self.listening.getsockname()[1]), self.identity, self.since, self.restarts)


class Supervisor:
    """Starts the services and starts them again when they end by themselves."""

    def __init__(self, home: Path, project: Path, sockets: dict[str, socket.socket]) -> None:
        """sockets: listening, by the name of the service that is to serve them."""
        self.home = home
        self.project = project
        self.watched = [_Watched(KINDS[name], listening) for name, listening in sockets.items()]
        own = Identity.of(os.getpid())
        assert own is not None  # noqa: S101 - this process is there
        self.identity = own

    def run(self) -> None:
        """Supervise until SIGTERM or SIGINT; then stop every service and return."""
        asked = False

        def ask(*_: object) -> None:
            nonlocal asked
            asked = True

        readable, writable = os.pipe()
        os.set_blocking(writable, False)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, ask)
        signal.signal(signal.SIGINT, ask)
        try:
            while not asked:
                if self._reconcile(time.monotonic()):
                    self._write()
                waiting = [item.start_at for item in self.watched if item.process is None]
                timeout = max(0.0, min(waiting) - time.monotonic()) if waiting else None
                if select.select([readable], [], [], timeout)[0]:
                    os.read(readable, 4096)
        finally:
            stop([item.identity for item in self.watched if item.identity is not None], GRACE_SECONDS)

    def _reconcile(self, now: float) -> bool:
        """Note what ended, start what is due; whether anything changed."""
        changed = False
        for item in self.watched:
            if item.process is not None and item.process.poll() is not None:
                self._note_end(item, now)
                changed = True
            if item.process is None and item.start_at <= now:
                self._start(item, now)
                changed = True
        return changed

    def _note_end(self, item: _Watched, now: float) -> None:
        assert item.process is not None  # noqa: S101 - the caller looked
        _logger.warning("%s ended with %s", item.kind.name, item.process.returncode)
        if item.process.stdin is not None:
            with suppress(OSError):
                item.process.stdin.close()
        item.failures = 1 if now - item.started_at >= STABLE_SECONDS else item.failures + 1
        item.restarts += 1
        item.process = item.identity = None
        item.start_at = now + delay_before(item.failures)

    def _start(self, item: _Watched, now: float) -> None:
        ports = {other.kind.name: other.known().port for other in self.watched}
        folder = services_folder(self.home)
        with (folder / f"{item.kind.name}.log").open("ab") as log:
            settings = environment(item.kind, self.home, self.project, ports)
            item.process = start_child(item.kind, item.listening, settings, folder, log)
        item.identity = Identity.of(item.process.pid)
        item.since = datetime.now(UTC).isoformat(timespec="seconds")
        item.started_at = now

    def _write(self) -> None:
        write_state(self.home, State(self.identity, str(self.project), {item.kind.name: item.known() for item in self.watched}))


def main(home: str, project: str, *listening: str) -> None:
    """Supervise the services whose sockets this process inherited."""
    if logs.wanted():
        logs.configure()
    else:
        logging.basicConfig(format="%(asctime)s %(message)s")
    pairs = (item.split("=") for item in listening)
    Supervisor(Path(home), Path(project), {name: socket.socket(fileno=int(number)) for name, number in pairs}).run()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A PostgreSQL server of one's own: in a fresh folder, on a free port, run by an ordinary user, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROLE, PASSWORD = "cifer", "planted-4f9c1e"
ORDER = ("--locale-provider=icu", "--icu-locale=en")
"""Text compares as people sort it, which is not how SQLite does."""
OTHER_USER = "nobody"
"""PostgreSQL refuses to run as root; tests in a container often do."""


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`, None where PostgreSQL is not installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if (named := shutil.which("initdb")) is not None:
        found.append(Path(named).resolve().parent)
    return max(found, default=None)


MISSING = "PostgreSQL is not installed: apt-get install postgresql" if programs() is None else ""


@dataclass(frozen=True)
class Server:
    """A running server. url: without the password, which is in `passfile`."""

    url: str
    passfile: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a client has in its environment."""
        return {"CIFER_DATABASE_URL": self.url, "PGPASSFILE": str(self.passfile)}

    @property
    def log(self) -> str:
        """What the server said."""
        return (self.folder / "log").read_text()


@contextmanager
def running() -> Iterator[Server]:
    """Start a server with one role and its database, password required; stop it and remove its folder at the end."""
    there = programs()
    assert there is not None, MISSING
    folder = Path(tempfile.mkdtemp(prefix="cifer-pg-"))
    user = OTHER_USER if os.geteuid() == 0 else None
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password"):
        if user is not None:
            shutil.chown(path, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(there / program), *arguments]
        done = subprocess.run(
            command, user=user, extra_groups=[] if user else None, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    try:
        secret = ("--auth=scram-sha-256", f"--pwfile={folder / 'password'}")
        run("initdb", "-D", str(folder / "data"), "-U", ROLE, *secret, "--no-sync", "--encoding=UTF8", "--locale=C", *ORDER)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", str(folder / "data"), "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            passfile = folder / "pgpass"
            passfile.write_text(f"127.0.0.1:{port}:*:{ROLE}:{PASSWORD}\n")
            passfile.chmod(0o600)
            yield Server(f"postgresql://{ROLE}@127.0.0.1:{port}/postgres", passfile, folder)
        finally:
            run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)

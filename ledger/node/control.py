"""Starting and stopping validators on this machine. A process is known by its number and its start, so no stranger is ever signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from ledger.errors import LedgerError, StorageError
from ledger.node.folder import ValidatorFolder, is_validator, read_validator

PID_FILE: Final = "running.json"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class ValidatorStatus:
    """state: ``ok``, ``catching-up``, ``no-quorum``, ``stopped`` or ``silent`` (there, but it does not answer)."""

    name: str
    state: str
    pid: int | None
    height: int | None
    address: str
    health: str
    peers: tuple[str, ...]


def validators_in(directory: Path) -> tuple[Path, ...]:
    """The validators' folders in a network's directory, or the folder itself. Raises `LedgerError` when there is none."""
    found = [directory] if is_validator(directory) else sorted(path for path in directory.glob("*") if is_validator(path))
    if not found:
        raise LedgerError(f"there is no validator in {directory}: name the folder given to `cifer ledger init`, or one validator's")
    return tuple(found)


def start(folders: Iterable[Path], seconds: float = START_SECONDS) -> tuple[ValidatorStatus, ...]:
    """Start those that do not run, and return once each answers. Raises `LedgerError` with what the validator says when it ends instead."""
    checked = [read_validator(path) for path in folders]
    launched = {folder.name: launch(folder.path) for folder in checked if running(folder.path) is None}
    deadline = time.monotonic() + seconds
    for folder in checked:
        while health_of(folder) is None:
            process = launched.get(folder.name)
            if process is None and running(folder.path) is None:  # it ended meanwhile
                launched[folder.name] = launch(folder.path)
            elif process is not None and process.poll() is not None:
                said = (folder.path / "stderr.log").read_text(errors="replace").strip().splitlines()
                reason = said[-1].removeprefix("cifer: ") if said else f"exit status {process.returncode}"
                raise LedgerError(f"{folder.name} did not start: {reason}")
            if time.monotonic() > deadline:
                raise LedgerError(f"{folder.name} does not answer after {seconds:g} s: see {folder.path / 'log.jsonl'}")
            time.sleep(POLL_SECONDS)
    return tuple(status_of(folder) for folder in checked)


def launch(path: Path, program: Sequence[str] = ("-m", "ledger.node")) -> subprocess.Popen[bytes]:
    """Start one validator detached from this process, its errors in ``stderr.log``. program: what Python runs on the folder."""
    try:
        with (path / "stderr.log").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *program, str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(dict.fromkeys([_SOURCE, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])),
                },
            )
        identity = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
        (path / PID_FILE).write_text(json.dumps(identity))
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror}): make it writable") from error
    return process


def stop(folders: Iterable[Path], seconds: float = STOP_SECONDS) -> tuple[str, ...]:
    """SIGTERM, and SIGKILL after `seconds`: nothing is lost either way. Returns the names of those that ran."""
    found = [(path.name, process) for path in folders if (process := running(path)) is not None]
    for _, process in found:
        process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs([process for _, process in found], timeout=seconds)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=seconds)
    return tuple(name for name, _ in found)


def restart(folders: Sequence[Path], seconds: float = START_SECONDS) -> tuple[ValidatorStatus, ...]:
    """One after the other, each only when the one before is back with the others: the network goes on deciding meanwhile.

    Raises `LedgerError` when one does not come back; those behind it are left running.
    """
    for path in folders:
        stop([path])
        start([path], seconds)
        folder, deadline = read_validator(path), time.monotonic() + seconds
        while (found := health_of(folder)) is None or found["status"] != "ok":
            if time.monotonic() > deadline:
                raise LedgerError(
                    f"{folder.name} is {found['status'] if found else 'silent'} after {seconds:g} s: the others were left running"
                )
            time.sleep(POLL_SECONDS)
    return tuple(status_of(read_validator(path)) for path in folders)


def status_of(folder: ValidatorFolder) -> ValidatorStatus:
    """How one validator is, as its health endpoint says."""
    process, found = running(folder.path), health_of(folder)
    state = str(found["status"]) if found else "silent" if process else "stopped"
    return ValidatorStatus(
        name=folder.name,
        state=state,
        pid=process.pid if process else None,
        height=int(found["height"]) if found else None,
        address=f"{folder.host}:{folder.port}",
        health=f"http://{folder.host}:{folder.health_port}/health",
        peers=tuple(found["peers"]) if found else (),
    )


def running(path: Path) -> psutil.Process | None:
    """The process of the validator in this folder, if it is there."""
    try:
        identity = json.loads((path / PID_FILE).read_text())
        process = psutil.Process(int(identity["pid"]))
        alive = process.create_time() == float(identity["started"]) and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, TypeError, psutil.NoSuchProcess):
        return None
    return process if alive else None


def health_of(folder: ValidatorFolder) -> dict[str, Any] | None:
    """What `/health` answers; None when nobody, or another validator, answers there."""
    url = f"http://{folder.host}:{folder.health_port}/health"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            found: Any = json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            found = json.load(error)
        except ValueError:
            return None
    except (OSError, ValueError):
        return None
    ours = isinstance(found, dict) and (found.get("validator"), found.get("network")) == (folder.name, folder.network.hex())
    return found if ours else None


_SOURCE: Final = str(Path(__file__).resolve().parents[2])

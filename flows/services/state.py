"""What the supervisor writes down for others to read: ``<home>/services/state.json``, replaced as a whole at every change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cifer_tasks.files import write_atomically
from flows.services.processes import Identity


@dataclass(frozen=True, slots=True)
class Started:
    """One service as the supervisor knows it. process: None between a crash and the next start.

    since: when this process was started, ISO 8601 in UTC.  restarts: how often it was started again after it ended by itself.
    """

    port: int
    process: Identity | None
    since: str
    restarts: int


@dataclass(frozen=True, slots=True)
class State:
    """The supervisor, the project folder whose ``mlruns/`` is served, and the services by name."""

    supervisor: Identity
    project: str
    services: Mapping[str, Started] = field(default_factory=dict)


def services_folder(home: Path) -> Path:
    """Where state, lock and logs of the services lie."""
    return home / "services"


def read_state(home: Path) -> State | None:
    """The last state; None when no supervisor wrote one, or what is there is no state."""
    try:
        raw = json.loads((services_folder(home) / "state.json").read_text(encoding="utf-8"))
        services = {
            name: Started(item["port"], Identity(**item["process"]) if item["process"] else None, item["since"], item["restarts"])
            for name, item in raw["services"].items()
        }
        return State(Identity(**raw["supervisor"]), raw["project"], services)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(home: Path, state: State) -> None:
    """Replace the state. Raises `StorageError`."""
    services = {
        name: {"port": item.port, "process": _plain(item.process), "since": item.since, "restarts": item.restarts}
        for name, item in state.services.items()
    }
    document = {"supervisor": _plain(state.supervisor), "project": state.project, "services": services}
    write_atomically(services_folder(home) / "state.json", (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def _plain(identity: Identity | None) -> dict[str, int | float] | None:
    return None if identity is None else {"pid": identity.pid, "started": identity.started}

"""The services around a training, as local processes: the Prefect server and the MLflow page.

    up(home, ports) -> services         start them under a supervisor and wait until they answer
    down(home) -> names                 stop them; nothing is left
    status(home) -> services
    with prefect_server(home) as server: ...        a server for one command, unless `up`'s runs

They listen on 127.0.0.1 only and phone nobody. `kinds.py` lists them.

    up -> supervisor -> child (prefect)             a supervisor that ends otherwise takes its children along: they watch a pipe
                     -> child (mlflow)
"""

from __future__ import annotations

from flows.services.control import Service, down, status, up
from flows.services.kinds import DEFAULT_PORTS
from flows.services.private import PrefectServer, lone_authority, prefect_server, use_running_server

__all__ = ["DEFAULT_PORTS", "PrefectServer", "Service", "down", "lone_authority", "prefect_server", "status", "up", "use_running_server"]

"""The services there are. A new one is an entry in `KINDS` and a function that makes its ASGI application."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cifer_tasks.database import database_url, prefect_environment

HOST: Final = "127.0.0.1"
ANYWHERE: Final = "0.0.0.0"  # noqa: S104 - only for a service that was asked to be reachable

QUIET: Final[Mapping[str, str]] = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
)
"""Nothing phones home."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A service: how it is called, where it listens unless told otherwise, and what runs it.

    application: ``module:function`` that returns the ASGI application; of an ``https`` service, ``tls_context`` beside it gives its
    certificate.  health_path: answers 200 when the service is ready.
    """

    name: str
    title: str
    default_port: int
    flag: str
    application: str
    health_path: str
    scheme: str = "http"


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind("prefect", "Prefect", 4200, "--prefect-port", "flows.services.prefect_app:create", "/api/health"),
            Kind("mlflow", "MLflow", 5000, "--mlflow-port", "cifer_tasks.tracking.server:create", "/health"),
            Kind("artifacts", "Artifacts", 7300, "--artifacts-port", "flows.services.artifacts_app:create", "/health", "https"),
            Kind("portal", "Portal", 4220, "--portal-port", "flows.portal.app:create", "/health"),
            Kind("predict", "Encrypted inference", 4210, "--predict-port", "cifer_tasks.inference.server:create", "/health"),
            Kind("schedules", "Schedules", 4230, "--schedules-port", "flows.services.schedules_app:create", "/health"),
        )
    }
)

DEFAULT_PORTS: Final[Mapping[str, int]] = MappingProxyType({kind.name: kind.default_port for kind in KINDS.values()})


def url_of(port: int, scheme: str = "http") -> str:
    """Where a service on `port` is reached from this machine."""
    return f"{scheme}://{HOST}:{port}"


def prefect_client_environment(home: Path, port: int) -> dict[str, str]:
    """What a process needs in its environment, before it imports Prefect, to use the server on `port`."""
    own = {"PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": f"{url_of(port)}/api"}
    # The server asks for no token, and every new client would ask it for one.
    return {**QUIET, **own, "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false"}


def environment(kind: Kind, home: Path, project: Path, ports: Mapping[str, int]) -> dict[str, str]:
    """What a service's process needs in its environment. ports: of the services that are started together, by name; its own is one."""
    port = ports[kind.name]
    origins = f"http://{HOST}:{port},http://localhost:{port}"
    own = {"CIFER_HOME": str(home), "CIFER_PROJECT": str(project)}
    match kind.name:
        case "prefect":
            if url := database_url():
                own |= prefect_environment(url)
            own |= {
                "PREFECT_HOME": str(home / "prefect"),
                "PREFECT_UI_API_URL": f"{url_of(port)}/api",
                "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
                "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
                # One SQLite transaction a second instead of one per task-run event: the backlog is what makes long runs slow.
                "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
                "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
                "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
                "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
            }
        case "schedules":
            own |= {**prefect_client_environment(home, ports["prefect"]), "PREFECT_WORKER_QUERY_SECONDS": "3"}
        case "mlflow":
            own |= {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": origins, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return {**QUIET, **own}


def private_prefect_environment(home: Path, port: int) -> dict[str, str]:
    """The environment of a server that lives as long as one command: nothing is scheduled, so what waits for schedules is off.

    So is the page's event feed, which costs as much as all task runs together; runs, states, logs and artifacts are kept.
    """
    idle = (
        "EVENT_PERSISTER",
        "SCHEDULER",
        "LATE_RUNS",
        "FOREMAN",
        "PAUSE_EXPIRATIONS",
        "CANCELLATION_CLEANUP",
        "CLEANUP_RECONCILER",
        "REPOSSESSOR",
        "TRIGGERS",
    )
    off = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in idle}
    return {**environment(KINDS["prefect"], home, home, {"prefect": port}), **off}

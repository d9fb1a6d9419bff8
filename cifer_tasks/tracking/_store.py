"""Where MLflow keeps what it is told, and a client for it that is quiet and calls nobody."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cifer_tasks.errors import StorageError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_opening = threading.Lock()


def folder_of(project: Path) -> Path:
    """MLflow's folder in a project."""
    return project / "mlruns"


def tracking_uri(project: Path) -> str:
    """The database as MLflow names it, for `mlflow.set_tracking_uri` and ``mlflow server --backend-store-uri``."""
    return f"sqlite:///{folder_of(project).resolve() / 'mlflow.db'}"


def artifact_root(project: Path) -> Path:
    """The folder below which experiments keep files."""
    return folder_of(project).resolve() / "artifacts"


def connect(project: Path) -> MlflowClient:
    """A client for the project's database, which is made when it is not there (2 s). Raises `StorageError` when that fails.

    MLflow's global state (`mlflow.set_tracking_uri`, active runs) is left alone.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with _opening:
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            artifact_root(project).mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=tracking_uri(project), registry_uri=tracking_uri(project))
            client.search_experiments(max_results=1)
        except Exception as error:
            reason = str(error).strip().splitlines()
            msg = f"{folder_of(project)}: MLflow cannot keep its database there: {reason[0] if reason else type(error).__name__}"
            raise StorageError(msg) from None
    return client

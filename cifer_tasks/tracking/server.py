"""MLflow's page and API over the project's own database, as an ASGI application."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cifer_tasks.tracking._store import artifact_root, connect, tracking_uri


def create() -> Any:
    """The application for the project in ``CIFER_PROJECT`` (the current folder when unset). What `mlflow server` does, without its workers.

    Raises `StorageError` when the database cannot be opened.
    """
    project = Path(os.environ.get("CIFER_PROJECT", "."))
    connect(project)

    from mlflow.server import constants

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = tracking_uri(project)
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = tracking_uri(project)
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = artifact_root(project).as_uri()
    os.environ["_MLFLOW_SGI_NAME"] = "uvicorn"

    from mlflow.server.fastapi_app import app

    return app

"""Where MLflow keeps what it is told, and a client for it that is quiet and calls nobody."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cifer_tasks.database import database_url, mlflow_uri, prepare_database
from cifer_tasks.errors import CiferError, StorageError
from cifer_tasks.files import flush_tree
from ledger.files import flush

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_opening = threading.Lock()


def folder_of(project: Path) -> Path:
    """MLflow's folder in a project."""
    return project / "mlruns"


def tracking_uri(project: Path) -> str:
    """The database as MLflow names it, for `mlflow.set_tracking_uri` and ``mlflow server --backend-store-uri``.

    A file of the project, or what CIFER_DATABASE_URL names.
    """
    if url := database_url():
        return mlflow_uri(url)
    return f"sqlite:///{folder_of(project).resolve() / 'mlflow.db'}"


def artifact_root(project: Path) -> Path:
    """The folder below which experiments keep files."""
    return folder_of(project).resolve() / "artifacts"


def flush_artifacts(uri: str) -> None:
    """Make durable what MLflow put at `uri`, where that is on this machine: MLflow copies files and flushes none. Raises `OSError`."""
    place = urlsplit(uri)
    if place.scheme in {"", "file"}:
        flush_tree(Path(url2pathname(place.path)))


def flush_database(project: Path) -> None:
    """Make durable what MLflow's own database was told: SQLite commits by removing its journal, and MLflow does not have it flush that.

    (``synchronous = FULL`` with a rollback journal; only EXTRA flushes the folder: sqlite.org/pragma.html.) Raises `OSError`.
    """
    if not database_url():
        flush(folder_of(project))


@contextmanager
def recording(project: Path) -> Iterator[None]:
    """Turn what MLflow and the disk raise inside the block into a `StorageError` that names the project's folder."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException | OSError):
            raise
        # MLflow quotes the whole SQL statement with its parameters; the cause is in the first line that has one in brackets.
        lines = [line for line in str(error).splitlines() if line.startswith(("(sqlite3", "(psycopg"))] or str(error).splitlines()
        msg = f"{folder_of(project)}: MLflow cannot write there: {lines[0] if lines else type(error).__name__}; free space or unlock it"
        raise StorageError(msg) from None


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
            if url := database_url():
                prepare_database(url)
            client = MlflowClient(tracking_uri=tracking_uri(project), registry_uri=tracking_uri(project))
            client.search_experiments(max_results=1)
        except CiferError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            msg = f"{folder_of(project)}: MLflow cannot keep its database there: {reason[0] if reason else type(error).__name__}"
            raise StorageError(msg) from None
    return client

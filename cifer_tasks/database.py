"""CIFER_DATABASE_URL: the PostgreSQL database that Prefect, MLflow and the provenance index use instead of SQLite files.

    CIFER_DATABASE_URL=postgresql://cifer@db.example.org/cifer        unset: SQLite files below CIFER_HOME and mlruns/

Each has a schema of its own in that one database: ``cifer_prefect``, ``cifer_mlflow``, ``cifer_provenance``. The password is where
libpq's clients look for it, in the file PGPASSFILE or in PGPASSWORD, and TLS is set by PGSSLMODE and PGSSLROOTCERT: the URL travels to
services and stands in messages, so one that holds a password is refused.
"""

from __future__ import annotations

import os
import re
from typing import Final
from urllib.parse import urlsplit

from cifer_tasks.errors import StorageError, UsageError

VARIABLE: Final = "CIFER_DATABASE_URL"
PREFECT: Final = "cifer_prefect"
MLFLOW: Final = "cifer_mlflow"
_SCHEME: Final = "postgresql://"
_NAME: Final = re.compile(r"/[^/]+")


def database_url() -> str:
    """What CIFER_DATABASE_URL says, "" for SQLite. Raises `UsageError`, which never quotes a password."""
    url = os.environ.get(VARIABLE, "")
    if not url:
        return ""
    example = f"{VARIABLE}={_SCHEME}cifer@db.example.org/cifer"
    try:
        parts = urlsplit(url)
        secret, whole = parts.password is not None, parts.hostname and _NAME.fullmatch(parts.path) and (parts.port or True)
    except ValueError:
        secret, whole = False, False
    if secret:
        msg = f"{VARIABLE} holds a password; put that in the file PGPASSFILE (HOST:PORT:DATABASE:USER:PASSWORD, mode 600) or in PGPASSWORD"
        raise UsageError(msg)
    if not (url.startswith(_SCHEME) and whole and not parts.query and not parts.fragment):
        msg = f"{VARIABLE} is not the address of a PostgreSQL database; write it like {example}, with TLS in PGSSLMODE and PGSSLROOTCERT"
        raise UsageError(msg)
    return url


def mlflow_uri(url: str) -> str:
    """The database as MLflow names it."""
    return f"{url.replace(_SCHEME, 'postgresql+psycopg://', 1)}?options=-csearch_path%3D{MLFLOW}"


def prefect_environment(url: str) -> dict[str, str]:
    """What Prefect's server needs in its environment."""
    return {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": url.replace(_SCHEME, "postgresql+asyncpg://", 1),
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH": PREFECT,
    }


def prepare_database(url: str) -> str:
    """Make the schemas of Prefect and MLflow where they are not there; the server's version. Raises `StorageError` with what to do."""
    try:
        import psycopg
        from psycopg import sql
    except ImportError:
        msg = f"{VARIABLE} is set and the driver of PostgreSQL is not installed: pip install 'cifer[postgres]'"
        raise StorageError(msg) from None
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            there = {name for (name,) in connection.execute("SELECT nspname FROM pg_namespace")}
            for schema in (PREFECT, MLFLOW):
                if schema not in there:
                    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            return connection.info.parameter_status("server_version") or "of an unknown version"
    except psycopg.Error as error:
        lines = str(error).strip().splitlines()
        msg = f"{url}: {lines[-1] if lines else type(error).__name__}; check {VARIABLE}, PGPASSFILE and the role's right to create schemas"
        raise StorageError(msg) from None

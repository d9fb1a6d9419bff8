"""Prefect, MLflow and the provenance index on a PostgreSQL that this suite starts; and no password anywhere."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks.database import VARIABLE, database_url, mlflow_uri, prepare_database
from cifer_tasks.errors import StorageError, UsageError

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = runpy.run_path(str(ROOT / "dags_tests" / "postgres_server.py"), run_name="postgres_server")
SMALL = ("--set", "training.rounds=1", "--set", "training.local_epochs=1", "--set", "baselines=false")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://cifer:hunter-2218@db/cifer", "holds a password"),
        ("mysql://cifer@db/cifer", "not the address of a PostgreSQL database"),
        ("postgresql://cifer@db", "not the address"),
        ("postgresql://cifer@db:port/cifer", "not the address"),
        ("postgresql://cifer@db/cifer?password=hunter-2218", "not the address"),
    ],
)
def test_an_address_that_would_leak_or_mislead_is_refused(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL with a password, of another database or without a name is a usage error that says what to write, and never quotes it."""
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(UsageError, match=says) as refused:
        database_url()
    assert "hunter" not in str(refused.value)


def test_without_the_variable_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset or empty, the databases are files."""
    monkeypatch.setenv(VARIABLE, "")
    assert database_url() == ""
    assert mlflow_uri("postgresql://a@b/c") == "postgresql+psycopg://a@b/c?options=-csearch_path%3Dcifer_mlflow"


def test_a_server_that_does_not_answer_stops_at_once() -> None:
    """Nobody listens there: a failure that names address and remedy."""
    with pytest.raises(StorageError, match=r"postgresql://cifer@127\.0\.0\.1:1/cifer: .*check CIFER_DATABASE_URL"):
        prepare_database("postgresql://cifer@127.0.0.1:1/cifer")


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    if POSTGRES["MISSING"]:
        pytest.skip(POSTGRES["MISSING"])
    with POSTGRES["running"]() as found:
        yield found


def test_a_run_and_its_record_live_in_the_database(server: Any, tmp_path: Path) -> None:
    """`cifer run`, `lineage` and `doctor` use it alone: rows in all three schemas, no SQLite file of Prefect, MLflow or index."""
    import psycopg

    environment = {**os.environ, **server.environment, "CIFER_HOME": str(tmp_path / ".cifer")}
    environment.pop("PREFECT_API_URL", None)

    def cifer(*arguments: str) -> str:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = cifer("run", str(ROOT / "configs" / "quickstart.yaml"), *SMALL)
    said += cifer("lineage", "ancestors", "breast-cancer@1", "--json")
    said += cifer("doctor")
    assert "PostgreSQL 1" in said
    with psycopg.connect(server.url, passfile=str(server.passfile)) as database:

        def count(query: str) -> int:
            row = database.execute(query).fetchone()  # type: ignore[arg-type]
            assert row is not None
            return int(row[0])

        assert count("SELECT count(*) FROM cifer_prefect.task_run") > 10
        assert count("SELECT count(*) FROM cifer_mlflow.registered_models") == 1
        assert count("SELECT count(*) FROM cifer_provenance.nodes WHERE kind = 'version'") == 1
        parameters = database.execute("SELECT parameters::text FROM cifer_prefect.flow_run").fetchall()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name in {"prefect.db", "mlflow.db", "provenance.sqlite"}]
    everything = b"".join(path.read_bytes() for path in files) + said.encode() + json.dumps(parameters).encode() + server.log.encode()
    assert POSTGRES["PASSWORD"].encode() not in everything

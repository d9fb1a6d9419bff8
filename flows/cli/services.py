"""`cifer up | down | status`."""

from __future__ import annotations

import sys

import click

from flows.cli.base import as_json, cli, command


@command(cli, "up", "cifer up\ncifer up --prefect-port 4300 --mlflow-port 5100")
@click.option("--prefect-port", default=4200, show_default=True, help="Port of the Prefect server and its page.")
@click.option("--mlflow-port", default=5000, show_default=True, help="Port of the MLflow page.")
@as_json
def up_command(prefect_port: int, mlflow_port: int, as_json: bool) -> None:
    """Start the Prefect server and the MLflow page as supervised local processes."""
    from flows.commands import up

    up({"prefect": prefect_port, "mlflow": mlflow_port}, as_json=as_json)


@command(cli, "down", "cifer down")
def down_command() -> None:
    """Stop what `cifer up` started."""
    from flows.commands import down

    down()


@command(cli, "status", "cifer status --json")
@as_json
def status_command(as_json: bool) -> None:
    """Say which services run, where, and since when. Exit code 1 when one of them is unhealthy."""
    from flows.commands import status

    sys.exit(status(as_json=as_json))

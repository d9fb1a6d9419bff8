"""`cifer up | down | status`."""

from __future__ import annotations

import sys

import click

from flows.cli.base import as_json, cli, command


@command(cli, "up", "cifer up\ncifer up --prefect-port 4300 --mlflow-port 5100")
@click.option("--prefect-port", default=4200, show_default=True, help="Port of the Prefect server and its page.")
@click.option("--mlflow-port", default=5000, show_default=True, help="Port of the MLflow page.")
@click.option("--portal-port", default=4220, show_default=True, help="Port of the portal.")
@click.option("--artifacts-port", default=7300, show_default=True, help="Port of the artifact service.")
@click.option("--predict-port", default=4210, show_default=True, help="Port of encrypted inference.")
@click.option("--schedules-port", default=4230, show_default=True, help="Port on which the runner of scheduled trainings says how it is.")
@click.option("--open-artifacts", is_flag=True, help="Let other machines reach the artifact service; it admits members only.")
@as_json
def up_command(
    prefect_port: int,
    mlflow_port: int,
    portal_port: int,
    artifacts_port: int,
    predict_port: int,
    schedules_port: int,
    open_artifacts: bool,
    as_json: bool,
) -> None:
    """Start the Prefect server, the MLflow page, the portal, the artifact service, encrypted inference and the runner of scheduled
    trainings, supervised on this machine.
    """
    from flows.commands import up

    ports = {
        "prefect": prefect_port,
        "mlflow": mlflow_port,
        "portal": portal_port,
        "artifacts": artifacts_port,
        "predict": predict_port,
        "schedules": schedules_port,
    }
    up(ports, open_artifacts=open_artifacts, as_json=as_json)


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

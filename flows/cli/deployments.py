"""`cifer deploy | deployments`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import as_json, cli, command, print_report


@command(
    cli,
    "deploy",
    """cifer deploy configs/quickstart.yaml --cron "0 2 * * *" --name nightly
    cifer deploy configs/quickstart.yaml --notify env:TEAM_WEBHOOK""",
)
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--cron", metavar="FIELDS", help="Minute hour day month weekday, UTC. Without it, only when somebody starts it.")
@click.option("--name", help="What the deployment is called; the scenario's name by default.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@click.option("--notify", default="", metavar="URL", help="Have the server POST there when a run fails or crashes; env:NAME reads it.")
def deploy_command(config: Path, cron: str | None, name: str | None, overrides: tuple[str, ...], notify: str) -> None:
    """Train CONFIG by schedule: make a Prefect deployment on `cifer up`'s server, and run what is due until Ctrl-C pauses it."""
    from cifer_tasks.config import load
    from cifer_tasks.home import home_folder
    from flows.notify import address_of
    from flows.services import use_running_server

    home, settings, told = home_folder(), load(config, overrides), address_of(notify, "--notify")
    address = use_running_server(home)
    from flows.deployments import deployment, serve

    made = deployment(name or settings.name, cron, settings, config.resolve().parent, home, Path.cwd())
    click.echo(f"{made.name}: {f'at {cron} UTC' if cron else 'when somebody starts it'}; settings and runs at {address}/deployments")
    serve(made, told)


@command(cli, "deployments", "cifer deployments --json")
@as_json
def deployments_command(as_json: bool) -> None:
    """The scheduled trainings: schedule, whether they are paused, last run."""
    from cifer_tasks.home import home_folder
    from flows.services import use_running_server

    use_running_server(home_folder())
    from flows.deployments import deployments_report

    print_report(deployments_report(), as_json)

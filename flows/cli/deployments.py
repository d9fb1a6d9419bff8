"""`cifer deploy | deployments | undeploy`."""

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
    """Train CONFIG by schedule: make a Prefect deployment, which runs when it is due for as long as `cifer up` does."""
    from cifer_tasks.config import load
    from cifer_tasks.home import home_folder
    from flows.notify import address_of
    from flows.services import use_running_server

    home, settings, told = home_folder(), load(config, overrides), address_of(notify, "--notify")
    address = use_running_server(home)
    from flows.deployments import deployment, register

    made = deployment(name or settings.name, cron, settings, config.resolve().parent, home, Path.cwd())
    identity = register(made, told)
    when = f"at {cron} UTC" if cron else "when somebody starts it"
    click.echo(f"{made.name}: {when}; settings and runs at {address}/deployments/deployment/{identity}")


@command(cli, "deployments", "cifer deployments --json")
@as_json
def deployments_command(as_json: bool) -> None:
    """The scheduled trainings: schedule, whether they are paused, last run."""
    from cifer_tasks.home import home_folder
    from flows.services import use_running_server

    use_running_server(home_folder())
    from flows.deployments import deployments_report

    print_report(deployments_report(), as_json)


@command(cli, "undeploy", "cifer undeploy nightly")
@click.argument("name")
def undeploy_command(name: str) -> None:
    """Take the deployment NAME off the schedule. Its past runs stay on record; one that is under way goes on."""
    from cifer_tasks.home import home_folder
    from flows.services import use_running_server

    use_running_server(home_folder())
    from flows.deployments import withdraw

    withdraw(name)
    click.echo(f"{name}: no longer scheduled")

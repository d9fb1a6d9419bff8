"""`cifer run | runs | prepare | init`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from flows.cli.base import as_json, cli, command, report


@command(
    cli,
    "run",
    """cifer run configs/quickstart.yaml
    cifer run configs/quickstart.yaml --set training.rounds=10 --set encryption.scheme=plain
    cifer run --resume breast-cancer-20260131-120000""",
)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@click.option("--resume", metavar="RUN", help="Take an interrupted run up again at the first step not on the ledger.")
@report
@as_json
def run_command(config: Path | None, overrides: tuple[str, ...], resume: str | None, report: Path | None, as_json: bool) -> None:
    """Train the scenario in CONFIG across its sites, in this process."""
    if (config is None) == (resume is None):
        raise click.UsageError("give either CONFIG or --resume RUN")
    if resume is not None and overrides:
        raise click.UsageError("--set cannot change a run that has begun; start a new one with CONFIG")
    from cifer_tasks.config import load
    from flows import commands

    if config is None:
        sys.exit(commands.resume(str(resume), report=report, as_json=as_json))
    sys.exit(commands.start(load(config, overrides), config.resolve().parent, report=report, as_json=as_json))


@command(cli, "runs", "cifer runs\ncifer runs --json")
@as_json
def runs_command(as_json: bool) -> None:
    """List the runs of this folder and how far each is."""
    from flows.commands import runs

    runs(as_json=as_json)


@command(cli, "prepare", "cifer prepare configs/quickstart.yaml")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@as_json
def prepare_command(config: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write one table per site and the held-out table, as `cifer run` does first."""
    from flows.commands import prepare

    prepare(config, overrides, as_json=as_json)


@command(cli, "init", "cifer init my-study && cd my-study && cifer run scenario.yaml")
@click.argument("folder", type=click.Path(path_type=Path))
def init_command(folder: Path) -> None:
    """Write a runnable scenario with data and a model to start from. Nothing is downloaded."""
    from flows.scaffold import scaffold

    for line in scaffold(folder):
        click.echo(line)

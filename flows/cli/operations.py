"""`cifer doctor | approve | upgrade`: what an operator does before and after runs."""

from __future__ import annotations

import sys

import click

from flows.cli.base import as_json, cli, command, print_report


@command(cli, "doctor", "cifer doctor\ncifer doctor --json")
@as_json
def doctor_command(as_json: bool) -> None:
    """Check versions, ports, disk, clock, keys, ledger, databases and telemetry. Exit code 1 when something is wrong, and what to do."""
    from flows.doctor import doctor_report

    found, healthy = doctor_report()
    print_report(found, as_json)
    if not healthy:
        sys.exit(1)


@command(
    cli,
    "approve",
    """cifer approve breast-cancer-20260131-120000 --reason "reviewed with the hospitals"
    cifer approve breast-cancer-20260131-120000 --decline --reason "worse for women over 70" --as dr-meyer""",
)
@click.argument("run")
@click.option("--reason", required=True, help="Why; it is on the ledger for good.")
@click.option("--decline", is_flag=True, help="Decline the model: the run ends without publishing it.")
@click.option("--as", "name", default="administrator", show_default=True, metavar="NAME", help="Who decides; the key has to be here.")
@as_json
def approve_command(run: str, reason: str, decline: bool, name: str, as_json: bool) -> None:
    """Approve or decline the trained model of RUN, whose settings say `approval: required`. The decision is signed, on the ledger."""
    from flows.approvals import approve

    print_report(approve(run, reason, approved=not decline, name=name), as_json)


@command(cli, "upgrade", "cifer upgrade")
@as_json
def upgrade_command(as_json: bool) -> None:
    """Bring this folder's CIFER_HOME to the format that this version of cifer writes; old files are kept beside the new ones."""
    from cifer_tasks.home import FORMAT, home_place, upgrade
    from flows.documents import Report

    home = home_place()
    done = upgrade(home)
    lines = done or (f"{home} is up to date: format {FORMAT}",)
    print_report(Report({"home": str(home), "format": FORMAT, "done": list(done)}, lines), as_json)

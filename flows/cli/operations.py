"""`cifer doctor | top | approve | upgrade`: what an operator does before and after runs."""

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


@command(cli, "top", "cifer top\ncifer top --once\ncifer top --json")
@click.option("--once", is_flag=True, help="Print one frame and end.")
@click.option("--interval", default=2.0, show_default=True, type=click.FloatRange(min=0.2), help="Seconds between looks, at least.")
@click.option("--runs", "most_runs", default=20, show_default=True, type=click.IntRange(min=1), help="How many runs, open ones first.")
@as_json
def top_command(once: bool, interval: float, most_runs: int, as_json: bool) -> None:
    """Watch the runs of this folder: round, step, who is waited for, accuracy, ledger height and throughput."""
    from flows.top import follow, look, report

    if once or as_json:
        print_report(report(look(most_runs)), as_json)
    else:
        follow(interval, most_runs)

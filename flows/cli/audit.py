"""`cifer audit model | run`, `cifer consent list | withdraw | grant`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report, report


@cli.group(context_settings=CONTEXT)
def audit() -> None:
    """Ask the ledger where a model came from, or what a run did."""


@command(audit, "model", "cifer audit model breast-cancer@champion\ncifer audit model breast-cancer@2 --json")
@click.argument("model", metavar="NAME@ALIAS|NAME@VERSION")
@report
@as_json
def audit_model(model: str, report: Path | None, as_json: bool) -> None:
    """Sites, datasets, consents, rounds, code and blocks behind a model; every block cited is verified first."""
    from flows.audit import model_report

    print_report(model_report(model), as_json, report)


@command(audit, "run", "cifer audit run breast-cancer-20260131-120000")
@click.argument("run")
@report
@as_json
def audit_run(run: str, report: Path | None, as_json: bool) -> None:
    """Everything the ledger holds about a run."""
    from flows.audit import run_report

    print_report(run_report(run), as_json, report)


@cli.group(context_settings=CONTEXT)
def consent() -> None:
    """See and change which tables may be used for what."""


@command(consent, "list", "cifer consent list --json")
@as_json
def consent_list(as_json: bool) -> None:
    """Every consent on the ledger: live, or withdrawn with the reason."""
    from flows.consents import list_consents

    print_report(list_consents(), as_json)


@command(consent, "withdraw", 'cifer consent withdraw hospital-b breast-cancer --reason "patient request 17"')
@click.argument("site")
@click.argument("purpose")
@click.option("--reason", required=True, help="Why; it goes on the ledger, so it must not name a person.")
@as_json
def consent_withdraw(site: str, purpose: str, reason: str, as_json: bool) -> None:
    """Take back SITE's consent for PURPOSE, a scenario's name: its tables may not be submitted on again."""
    from flows.consents import withdraw

    print_report(withdraw(site, purpose, reason), as_json)


@command(consent, "grant", "cifer consent grant hospital-b breast-cancer")
@click.argument("site")
@click.argument("purpose")
@as_json
def consent_grant(site: str, purpose: str, as_json: bool) -> None:
    """Give again a consent that SITE had withdrawn for PURPOSE."""
    from flows.consents import grant

    print_report(grant(site, purpose), as_json)

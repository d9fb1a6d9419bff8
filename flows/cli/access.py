"""`cifer access`: tokens for the portal and its API, and what was read with them."""

from __future__ import annotations

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report

_ROLES = ("auditor", "engineer", "operator", "site", "admin", "producer")


@cli.group(context_settings=CONTEXT)
def access() -> None:
    """Say who may read the record through the portal, and see what was read."""


@command(
    access,
    "grant",
    "cifer access grant maria --role auditor --days 30\n"
    "cifer access grant north --role site --site hospital-a\n"
    "cifer access grant etl --role producer",
)
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(_ROLES), help="What the holder may see.")
@click.option("--days", default=30, show_default=True, help="How long the token lives.")
@click.option("--site", default="", metavar="SITE", help="Whose records, for --role site.")
@as_json
def access_grant(name: str, role: str, days: int, site: str, as_json: bool) -> None:
    """Give NAME a token. It is printed once and never kept."""
    from flows.access_reports import grant_report

    print_report(grant_report(name, role, days, site), as_json)


@command(access, "list", "cifer access list --json")
@as_json
def access_list(as_json: bool) -> None:
    """Every token there ever was: whose, for what, until when; never the token itself."""
    from flows.access_reports import list_report

    print_report(list_report(), as_json)


@command(access, "revoke", "cifer access revoke maria")
@click.argument("which", metavar="NAME|ID")
@as_json
def access_revoke(which: str, as_json: bool) -> None:
    """End tokens at once, and the sessions opened with them."""
    from flows.access_reports import revoke_report

    print_report(revoke_report(which), as_json)


@command(access, "log", "cifer access log --last 50")
@click.option("--last", default=50, show_default=True, type=click.IntRange(1, 100_000), help="How many entries, counted from the end.")
@as_json
def access_log(last: int, as_json: bool) -> None:
    """Who read which records, and whether the log's chain and its anchors hold. Exit code 1 when not."""
    from flows.access_reports import log_report

    print_report(log_report(last), as_json)


@command(access, "anchor", "cifer access anchor --json")
@as_json
def access_anchor(as_json: bool) -> None:
    """Put the log's last hash on the ledger, so that cutting its end off is noticed: daily, from cron."""
    from flows.access_anchors import anchor_report

    print_report(anchor_report(), as_json)

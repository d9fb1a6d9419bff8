"""`cifer reputation`: how each site's conduct stands on the ledger."""

from __future__ import annotations

import click

from flows.cli.base import as_json, cli, command, print_report


@command(cli, "reputation", 'cifer reputation\ncifer reputation north\ncifer reputation north --restore "its sensor is repaired"')
@click.argument("site", required=False)
@click.option("--restore", metavar="REASON", help="As administrator, let SITE submit again, on probation; goes on the ledger.")
@as_json
def reputation(site: str | None, restore: str | None, as_json: bool) -> None:
    """Show every site's score, level and what changed it, or all that led to SITE's.

    Scores go from 0 to 1000: trusted from 800, unreliable below 300. An unreliable site may not submit until it has been kept
    out of 20 rounds or an administrator restores it.
    """
    from flows import reputation as work

    if restore is not None and site is None:
        raise click.UsageError("--restore needs the SITE whose reputation is to be restored")
    print_report(work.show(site) if restore is None or site is None else work.restore(site, restore), as_json)

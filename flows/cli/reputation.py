"""`cifer reputation`: how each site's conduct stands on the ledger."""

from __future__ import annotations

import click

from flows.cli.base import as_json, cli, command, print_report


@command(
    cli,
    "reputation",
    'cifer reputation\ncifer reputation north\ncifer reputation north --restore "its sensor is repaired"\n'
    "cifer reputation north --answers-for validator-1",
)
@click.argument("site", required=False)
@click.option("--restore", metavar="REASON", help="As administrator, let SITE submit again, on probation; goes on the ledger.")
@click.option("--answers-for", metavar="VALIDATOR", help="Let SITE's reputation decide how often VALIDATOR (a name or a folder) leads.")
@as_json
def reputation(site: str | None, restore: str | None, answers_for: str | None, as_json: bool) -> None:
    """Show every site's score, level and what changed it, or all that led to SITE's.

    Scores go from 0 to 1000: trusted from 800, unreliable below 300. An unreliable site may not submit until it has been kept
    out of 20 rounds or an administrator restores it.
    """
    from flows import reputation as work

    if restore is not None and answers_for is not None:
        raise click.UsageError("--restore and --answers-for are two transactions; give one at a time")
    if site is None:
        if restore is not None or answers_for is not None:
            raise click.UsageError("--restore and --answers-for need the SITE whose reputation it is about")
        print_report(work.show(None), as_json)
    elif restore is not None:
        print_report(work.restore(site, restore), as_json)
    elif answers_for is not None:
        print_report(work.answer_for(site, answers_for), as_json)
    else:
        print_report(work.show(site), as_json)

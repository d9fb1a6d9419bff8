"""`cifer artifacts`."""

from __future__ import annotations

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report


@cli.group(context_settings=CONTEXT)
def artifacts() -> None:
    """Look after the store of models, ciphertexts and openings."""


@command(artifacts, "gc", "cifer artifacts gc --dry-run\ncifer artifacts gc --older-than 72 --store s3://bucket/cifer")
@click.option("--store", default="", metavar="URL", help="Another store than this folder's own.")
@click.option(
    "--older-than", "hours", default=24.0, show_default=True, type=click.FloatRange(min=0), metavar="HOURS", help="Keep newer ones."
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@as_json
def artifacts_gc(store: str, hours: float, dry_run: bool, as_json: bool) -> None:
    """Remove artifacts that nothing on the ledger names, and uploads that were never finished."""
    from flows.artifacts import collect_garbage

    print_report(collect_garbage(store, hours, dry_run=dry_run), as_json)

"""`cifer lineage ...`: questions to the provenance graph."""

from __future__ import annotations

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report


@cli.group(context_settings=CONTEXT)
def lineage() -> None:
    """Ask the provenance graph, which is derived from committed blocks alone."""


@command(lineage, "ancestors", "cifer lineage ancestors breast-cancer@champion")
@click.argument("model", metavar="NAME@ALIAS|NAME@VERSION")
@as_json
def lineage_ancestors(model: str, as_json: bool) -> None:
    """What made a model: tables, consents, sites, runs, and the models it started from."""
    from flows.lineage import ancestors_report

    print_report(ancestors_report(model), as_json)


@command(lineage, "descendants", "cifer lineage descendants breast-cancer.hospital-a\ncifer lineage descendants add69245 --json")
@click.argument("table", metavar="NAME|SHA256")
@as_json
def lineage_descendants(table: str, as_json: bool) -> None:
    """What came out of a table: models and runs. SHA256 may be shortened to 8 digits or more."""
    from flows.lineage import descendants_report

    print_report(descendants_report(table), as_json)


@command(lineage, "consequences", "cifer lineage consequences hospital-a breast-cancer")
@click.argument("site")
@click.argument("purpose")
@as_json
def lineage_consequences(site: str, purpose: str, as_json: bool) -> None:
    """What it means that SITE withdraws, or has withdrawn, its consent for PURPOSE: tainted models, runs that must stop."""
    from flows.lineage import consequences_report

    print_report(consequences_report(site, purpose), as_json)


@command(lineage, "site", "cifer lineage site hospital-a")
@click.argument("site")
@as_json
def lineage_site(site: str, as_json: bool) -> None:
    """What one site contributed, run by run, and which models hold it."""
    from flows.lineage import site_report

    print_report(site_report(site), as_json)


@command(lineage, "diff", "cifer lineage diff breast-cancer@1 breast-cancer@champion")
@click.argument("first", metavar="NAME@VERSION")
@click.argument("second", metavar="NAME@VERSION")
@as_json
def lineage_diff(first: str, second: str, as_json: bool) -> None:
    """How two versions differ: settings, code, metrics, tables."""
    from flows.lineage import difference_report

    print_report(difference_report(first, second), as_json)


@command(lineage, "timeline", "cifer lineage timeline breast-cancer-20260131-120000")
@click.argument("run")
@as_json
def lineage_timeline(run: str, as_json: bool) -> None:
    """What was committed about a run and the consents it rests on, in order."""
    from flows.lineage import timeline_report

    print_report(timeline_report(run), as_json)


@command(lineage, "approvals", "cifer lineage approvals breast-cancer@champion\ncifer lineage approvals site/hospital-a")
@click.argument("about", metavar="[NAME@VERSION|RUN|NODE]", required=False, default="")
@as_json
def lineage_approvals(about: str, as_json: bool) -> None:
    """Who registered, consented to, accepted and published what; without an argument, the last 500 decisions."""
    from flows.lineage import approvals_report

    print_report(approvals_report(about), as_json)


@command(lineage, "gaps", "cifer lineage gaps --json")
@as_json
def lineage_gaps(as_json: bool) -> None:
    """Which entries lack evidence: a release, a validation, lineage events, an end, a clean commit."""
    from flows.lineage import gaps_report

    print_report(gaps_report(), as_json)


@command(lineage, "search", "cifer lineage search hospital-a")
@click.argument("text")
@as_json
def lineage_search(text: str, as_json: bool) -> None:
    """Nodes of the graph by words of their names, or the first 8 digits or more of a digest."""
    from flows.lineage import search_report

    print_report(search_report(text), as_json)


@command(lineage, "show", "cifer lineage show model/breast-cancer/1")
@click.argument("node")
@as_json
def lineage_show(node: str, as_json: bool) -> None:
    """One node, and what is beside it."""
    from flows.lineage import node_report

    print_report(node_report(node), as_json)

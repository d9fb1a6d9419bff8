"""`cifer site ...`: a site in a place of its own."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report


@cli.group(context_settings=CONTEXT)
def site() -> None:
    """Be a site beside your own data, or invite one."""


@command(site, "init", "cifer site init hospital-a")
@click.argument("name")
@as_json
def site_init(name: str, as_json: bool) -> None:
    """Make this folder the site NAME's: its keys, its copy of the ledger and its updates stay in it."""
    from flows.membership import init

    print_report(init(name), as_json)


@command(site, "invite", "cifer site invite hospital-a\ncifer site invite hospital-a --artifacts cifer+https://10.0.0.5:7300")
@click.argument("name")
@click.option("--prefect", default="", metavar="URL", help="Where the site reaches Prefect; this machine's by default.")
@click.option("--artifacts", default="", metavar="URL", help="Where it reaches the artifact store: the service's, or s3://... of yours.")
@click.option("--blocks", default=10_000, show_default=True, type=click.IntRange(min=1), help="For how many blocks it holds.")
@click.option("--file", type=click.Path(path_type=Path), help="Where to write it; NAME.invitation by default.")
@as_json
def site_invite(name: str, prefect: str, artifacts: str, blocks: int, file: Path | None, as_json: bool) -> None:
    """As the network's administrator, let somebody join as site NAME, once."""
    from flows.membership import invite

    print_report(invite(name, prefect=prefect.rstrip("/"), artifacts=artifacts, blocks=blocks, file=file), as_json)


@command(site, "join", "cifer site join hospital-a.invitation")
@click.argument("invitation", type=click.Path(path_type=Path))
@as_json
def site_join(invitation: Path, as_json: bool) -> None:
    """Join the network of INVITATION with a key that is made here."""
    from flows.membership import join

    print_report(join(invitation), as_json)


@command(site, "offer", "cifer site offer breast-cancer --table patients.csv")
@click.argument("purpose")
@click.option("--table", type=click.Path(path_type=Path), help="A CSV or Parquet file; none for a scenario whose table Cifer bundles.")
@as_json
def site_offer(purpose: str, table: Path | None, as_json: bool) -> None:
    """Decide that a table may be trained on for PURPOSE, a scenario's name. `cifer consent withdraw` takes it back."""
    from flows.membership import offer

    print_report(offer(purpose, table), as_json)


@command(site, "leave", "cifer site leave breast-cancer --reason 'the study is over'")
@click.argument("purpose")
@click.option("--reason", required=True, help="Kept on the ledger, at most 500 characters.")
@as_json
def site_leave(purpose: str, reason: str, as_json: bool) -> None:
    """Take no further part in runs for PURPOSE: a round that is sealed is finished with it, the next seal is without it."""
    from flows.consents import leave

    print_report(leave(purpose, reason), as_json)


@command(site, "start", "cifer site start")
@as_json
def site_start(as_json: bool) -> None:
    """Do what the coordinator asks of this site, until Ctrl-C. A run of the site's that was cut short is taken up again."""
    import json
    import logging

    from cifer_tasks import logs
    from flows.working import work

    def say(text: str) -> None:
        if logs.wanted():
            logs.said(logging.INFO, text)
        else:
            click.echo(json.dumps({"said": text}) if as_json else text)

    work(say)

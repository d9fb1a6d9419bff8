"""`cifer ledger ...`: found, run and look at the ledger."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report


@cli.group(context_settings=CONTEXT)
def ledger() -> None:
    """Look at the ledger itself."""


@command(ledger, "init", "cifer ledger init network --validators 4\ncifer ledger init network --host 10.0.0.5 --port 7400")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--validators", default=4, show_default=True, type=click.IntRange(1, 100), help="How many; (N - 1) // 3 of them may fail.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address they listen on and are reached at.")
@click.option("--port", default=7400, show_default=True, help="The first of 2 N consecutive ports.")
@click.option("--store", default="sqlite", show_default=True, type=click.Choice(["sqlite", "lmdb"]), help="What they keep the chain in.")
@as_json
def ledger_init(directory: Path, validators: int, host: str, port: int, store: str, as_json: bool) -> None:
    """Found a network of validators that are processes: a folder for each below DIRECTORY, and make this folder a client of it."""
    from flows.validators import init_network

    print_report(init_network(directory, validators, host, port, store), as_json)


@command(ledger, "join", "cifer ledger join network/client")
@click.argument("client", type=click.Path(path_type=Path))
@as_json
def ledger_join(client: Path, as_json: bool) -> None:
    """Make this folder a client of the network whose CLIENT folder was handed over."""
    from flows.validators import join

    print_report(join(client), as_json)


@command(ledger, "start", "cifer ledger start network\ncifer ledger start network/validator-2")
@click.argument("directory", type=click.Path(path_type=Path))
@as_json
def ledger_start(directory: Path, as_json: bool) -> None:
    """Start the validators in DIRECTORY, or the one whose folder it is."""
    from flows.validators import start

    print_report(start(directory), as_json)


@command(ledger, "stop", "cifer ledger stop network")
@click.argument("directory", type=click.Path(path_type=Path))
@as_json
def ledger_stop(directory: Path, as_json: bool) -> None:
    """Stop the validators in DIRECTORY, or the one whose folder it is."""
    from flows.validators import stop

    print_report(stop(directory), as_json)


@command(ledger, "restart", "cifer ledger restart network")
@click.argument("directory", type=click.Path(path_type=Path))
@as_json
def ledger_restart(directory: Path, as_json: bool) -> None:
    """Restart the validators in DIRECTORY one after the other; with four or more the network goes on deciding."""
    from flows.validators import restart

    print_report(restart(directory), as_json)


@command(ledger, "status", "cifer ledger status --json\ncifer ledger status network")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@as_json
def ledger_status(directory: Path | None, as_json: bool) -> None:
    """Height, state root, validators, and how many may fail; with DIRECTORY, how each validator process in it is."""
    if directory is not None:
        from flows.validators import status

        print_report(status(directory), as_json)
        return
    from flows.audit import ledger_status_report

    print_report(ledger_status_report(), as_json)


@command(ledger, "blocks", "cifer ledger blocks --last 20")
@click.option("--last", default=10, show_default=True, type=click.IntRange(min=1), help="How many blocks, the newest last.")
@as_json
def ledger_blocks(last: int, as_json: bool) -> None:
    """The newest blocks: height, digest, proposer, transactions."""
    from flows.audit import blocks_report

    print_report(blocks_report(last), as_json)


@command(ledger, "tx", "cifer ledger tx 3f9c0a17")
@click.argument("transaction", metavar="ID")
@as_json
def ledger_tx(transaction: str, as_json: bool) -> None:
    """One transaction, its author, its block, and a proof that verifies. ID may be shortened to 8 digits or more."""
    from flows.audit import transaction_report

    print_report(transaction_report(transaction), as_json)


@command(ledger, "genesis", "cifer ledger genesis > genesis.json\ncifer ledger genesis --json")
@as_json
def ledger_genesis(as_json: bool) -> None:
    """What the network started from, as JSON: all that `cifer verify` trusts. Give it to auditors by another way than the bundle."""
    from flows.bundles import genesis_report

    print_report(genesis_report(), as_json)


@command(ledger, "verify", "cifer ledger verify")
@as_json
def ledger_verify(as_json: bool) -> None:
    """Execute every block again from genesis: signatures, rules, certificates, state roots."""
    from flows.audit import verify_report

    print_report(verify_report(), as_json)

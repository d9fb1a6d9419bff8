"""`cifer ledger backup`, `restore`, `rebuild`, `prune`, `upgrade`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import as_json, command, print_report
from flows.cli.ledger import ledger

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@command(ledger, "backup", "cifer ledger backup network/validator-2 -o v2.backup\ncifer ledger backup .cifer/ledger -o ledger.backup")
@click.argument("directory", type=FOLDER)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to write; it must be new.")
@as_json
def ledger_backup(directory: Path, output: Path, as_json: bool) -> None:
    """Write everything a validator, or an embedded ledger, needs into one file, while it runs."""
    from flows.upkeep import back_up

    print_report(back_up(directory, output), as_json)


@command(ledger, "restore", "cifer ledger restore validator-2.backup network/validator-2")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
@as_json
def ledger_restore(file: Path, directory: Path, as_json: bool) -> None:
    """Put a backup into DIRECTORY, which must be new. A validator signs again when it cannot sign anything twice."""
    from flows.upkeep import restore

    print_report(restore(file, directory), as_json)


@command(ledger, "rebuild", "cifer ledger rebuild network/validator-2\ncifer ledger rebuild .cifer/ledger --validator validator-2")
@click.argument("directory", type=FOLDER)
@click.option("--validator", metavar="NAME", help="Whose store, where DIRECTORY holds an embedded ledger.")
@as_json
def ledger_rebuild(directory: Path, validator: str | None, as_json: bool) -> None:
    """Replace a validator's lost or damaged store by an empty one, which fetches the chain from the others."""
    from flows.upkeep import rebuild

    print_report(rebuild(directory, validator), as_json)


@command(ledger, "prune", "cifer ledger prune network/validator-2 --keep 10000")
@click.argument("directory", type=FOLDER)
@click.option("--keep", required=True, type=click.IntRange(min=1), help="How many of the last blocks to keep.")
@as_json
def ledger_prune(directory: Path, keep: int, as_json: bool) -> None:
    """Give up old blocks of the stores in DIRECTORY, which nobody may have open; the state and its proofs stay."""
    from flows.upkeep import prune

    print_report(prune(directory, keep), as_json)


@command(ledger, "upgrade", "cifer ledger upgrade network\ncifer ledger upgrade .cifer/ledger")
@click.argument("directory", type=FOLDER)
@as_json
def ledger_upgrade(directory: Path, as_json: bool) -> None:
    """Bring files that an older version wrote up to date; the old ones are kept."""
    from flows.upkeep import upgrade

    print_report(upgrade(directory), as_json)

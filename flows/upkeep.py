"""`cifer ledger backup`, `restore`, `rebuild`, `prune` and `upgrade`: looking after the files of a ledger."""

from __future__ import annotations

from pathlib import Path

from cifer_tasks.errors import UsageError
from cifer_tasks.records import to_plain
from flows.documents import Report
from ledger.backends.network import has_ledger, rebuild_validator
from ledger.node import backup, upkeep
from ledger.node.folder import is_client, is_validator


def back_up(folder: Path, target: Path) -> Report:
    """A backup of a validator's folder or an embedded ledger's, while it runs."""
    found = backup.back_up(folder, target)
    secret = "; it holds the validator's secret key: keep it as safe as the folder" if found.kind == backup.VALIDATOR else ""
    lines = (f"{target} holds {found.kind} {found.name} of network {found.network[:16]} up to height {found.height}{secret}",)
    return Report(to_plain(found), lines)


def restore(source: Path, folder: Path) -> Report:
    """A backup's files in a new folder."""
    found = backup.restore(source, folder)
    lines = [f"{folder} is {found.kind} {found.name} of network {found.network[:16]} as it was at height {found.height}"]
    if found.kind == backup.VALIDATOR:
        lines.append("it may have signed what the backup does not know: it watches, and signs again two blocks past the others (SN7)")
        lines.append(f"next: never start the old folder again; cifer ledger start {folder}")
    else:
        lines.append(f"what was committed behind height {found.height} is not in it")
    return Report(to_plain(found), tuple(lines))


def rebuild(folder: Path, validator: str | None) -> Report:
    """An empty store in place of a lost or damaged one. Raises `UsageError` when it is not said whose."""
    if is_validator(folder):
        if validator is not None:
            msg = f"{folder} is one validator's folder; leave --validator out"
            raise UsageError(msg)
        moved, name = backup.rebuild(folder), folder.name
        after = "it fetches the chain from the others, watches, and signs again two blocks past them (SN7)"
    elif has_ledger(folder) and not is_client(folder):
        if validator is None:
            msg = f"{folder} holds every validator of an embedded ledger; say which with --validator NAME"
            raise UsageError(msg)
        moved, name = rebuild_validator(folder, validator), validator
        after = "it catches up from the others when the ledger is next opened"
    else:
        msg = f"{folder} is neither a validator's folder nor an embedded ledger's; a client's replica.sqlite is simply deleted"
        raise UsageError(msg)
    where = f"; what was there is now {moved}" if moved is not None else ""
    return Report({"validator": name, "moved_to": None if moved is None else str(moved)}, (f"{name} begins anew: {after}{where}",))


def prune(folder: Path, keep: int) -> Report:
    """All but the last blocks given up."""
    found = upkeep.prune_stores(folder, keep)
    lines = [f"{one.store}: {one.given_up} blocks given up, {one.floor} to {one.height} held" for one in found]
    if any(one.given_up for one in found):
        lines.append("still provable: every transaction of a block that is held, and every entry of the state, whichever block made it")
        lines.append("no longer provable from here: the transactions of blocks given up; proofs made of them before still hold")
        lines.append("`cifer ledger verify` and audits, which run every block, need a copy that holds all of them")
    return Report(to_plain(found), tuple(lines))


def upgrade(folder: Path) -> Report:
    """Files of an older format brought up to date."""
    found = upkeep.upgrade_stores(folder)
    lines = [
        f"{one.store}: format {one.before} is now {one.now}; the old file is kept as {one.kept}" if one.kept else f"{one.store}: up to date"
        for one in found
    ]
    return Report(to_plain(found), tuple(lines))

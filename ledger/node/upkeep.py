"""Work on stores that nobody has open: giving old blocks up, and bringing files of an older format up to date. Rule SN6 of SPEC.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.backends.network import has_ledger, read_genesis, store_path
from ledger.crypto import VerificationCache
from ledger.errors import LedgerError
from ledger.node.folder import REPLICA_FILE, is_client, is_validator, validator_store
from ledger.node.replay import replay
from ledger.node.snapshots import Saved, prune, save
from ledger.storage import BlockStore, FolderLock, open_store, store_kind
from ledger.storage.sqlite import SqliteStore


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of one store. given_up: blocks.  floor: the first block that is held.  height: of the last."""

    store: str
    given_up: int
    floor: int
    height: int


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What became of one store. before: its format, which `kept` is a copy of; empty when it was up to date."""

    store: str
    before: int
    now: int
    kept: str


def stores_of(folder: Path) -> dict[Path, list[Path]]:
    """The stores below a folder, by the folder that locks them: of an embedded ledger, a validator, a client, or a network of those.

    Raises `LedgerError` when there is none.
    """
    if is_validator(folder):
        return {folder: [validator_store(folder)]}
    if is_client(folder):
        return {folder: [path for path in [folder / REPLICA_FILE] if path.exists()]}
    if has_ledger(folder):
        return {folder: [store_path(folder, member.name) for member in read_genesis(folder).validators]}
    found = {path: [validator_store(path)] for path in sorted(folder.glob("*")) if is_validator(path)}
    if not found:
        raise LedgerError(f"there is no ledger in {folder}: name a network's folder, a validator's, a client's, or an embedded ledger's")
    return found


def prune_stores(folder: Path, keep: int) -> tuple[Pruned, ...]:
    """Give up all but the last `keep` blocks, 1 or more, of every store below `folder`. Raises `LockedError` where one is in use."""
    verify = VerificationCache().verify
    results = []
    for path, store in _opened(folder):
        found = replay(store, verify)
        if not found.tip.height:
            results.append(Pruned(str(path), 0, 1, 0))
            continue
        saved: Saved | None = found.saved
        if saved is None or saved.tip.height < found.tip.height:
            saved = save(store, found.tip, store.transactions(), saved)
        count = prune(store, saved, keep)
        store.compact()
        results.append(Pruned(str(path), count, store.floor(), found.tip.height))
    return tuple(results)


def upgrade_stores(folder: Path) -> tuple[Upgraded, ...]:
    """Bring every store below `folder` to the format that this program writes; a copy of each is kept beside it.

    Raises `FormatError` for one of a newer format, `LockedError` where one is in use.
    """
    results = []
    for place, paths in stores_of(folder).items():
        with _locked(place):
            for path in paths:
                before, now, kept = SqliteStore.upgrade(path) if store_kind(path) == "sqlite" else (0, 0, None)
                open_store(path).close()
                results.append(Upgraded(str(path), before, now, "" if kept is None else str(kept)))
    return tuple(results)


def _opened(folder: Path) -> Iterator[tuple[Path, BlockStore]]:
    for place, paths in stores_of(folder).items():
        with _locked(place):
            for path in paths:
                store = open_store(path)
                try:
                    yield path, store
                finally:
                    store.close()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FolderLock(folder)
    try:
        yield
    finally:
        lock.release()

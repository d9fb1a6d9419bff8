"""Where one validator keeps its chain and its signatures: `base` is the interface, `sqlite` and `lmdb` are stores.

A store is one file; its suffix says of which kind it is. The same blocks are the same chain in either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol, cast

from ledger.errors import CorruptionError, LedgerError
from ledger.storage.base import BlockStore, Forget, Rows, VoteRecord, Write
from ledger.storage.lock import FolderLock
from ledger.storage.sqlite import SqliteStore
from ledger.types import Genesis

__all__ = [
    "BESIDE",
    "DEFAULT",
    "KINDS",
    "BlockStore",
    "FolderLock",
    "Forget",
    "Rows",
    "SqliteStore",
    "VoteRecord",
    "Write",
    "create_store",
    "move_aside",
    "open_reader",
    "open_store",
    "store_file",
    "store_kind",
    "transfer",
]

KINDS: Final = ("sqlite", "lmdb")
DEFAULT: Final = KINDS[0]
BESIDE: Final = ("-wal", "-shm", "-lock")
"""What a store keeps beside its file while it is open: of no use without it."""


class _Kind(Protocol):
    def create(self, path: Path, genesis: Genesis) -> BlockStore: ...
    def open(self, path: Path) -> BlockStore: ...
    def open_reader(self, path: Path) -> BlockStore: ...


def create_store(path: Path, genesis: Genesis) -> BlockStore:
    """A new store without blocks, of the kind that the suffix says. Raises `LedgerError` when there is one with blocks."""
    return _class_of(path).create(path, genesis)


def open_store(path: Path) -> BlockStore:
    """An existing store, for writing. Raises `CorruptionError` when it is missing or damaged."""
    return _class_of(path).open(path)


def open_reader(path: Path) -> BlockStore:
    """An existing store, read-only, also while another process writes to it."""
    return _class_of(path).open_reader(path)


def store_kind(path: Path) -> str:
    """``sqlite`` or ``lmdb``, by the suffix. Raises `LedgerError` for another."""
    kind = path.suffix.removeprefix(".")
    if kind not in KINDS:
        raise LedgerError(f"{path}: {kind!r} is no kind of store: use {' or '.join(KINDS)}")
    return kind


def store_file(folder: Path, name: str) -> Path:
    """The store called `name` in a folder, whichever kind it is; where there is none, where one of the default kind would be.

    Raises `CorruptionError` when there are two.
    """
    found = [path for kind in KINDS if (path := folder / f"{name}.{kind}").exists()]
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise CorruptionError(f"{folder} holds both {both}: one of them is an old one, move it away")
    return found[0] if found else folder / f"{name}.{DEFAULT}"


def move_aside(path: Path) -> Path | None:
    """Rename a store to ``.damaged``, or ``.damaged-2`` and so on; None when there was none."""
    moved = None
    if path.exists():
        names = [f"{path.name}.damaged", *(f"{path.name}.damaged-{number}" for number in range(2, 1000))]
        moved = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        path.replace(moved)
    for suffix in BESIDE:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return moved


def transfer(source: BlockStore, target: BlockStore) -> None:
    """Write a chain and its snapshot into another store, which is new: of another kind, or of this format.

    What was being voted on is left out.
    """
    floor = source.floor()
    kept = tuple(height for height in range(1, floor) if source.block(height) is not None)
    for height in kept:
        committed = source.block(height)
        if committed is not None:
            target.write((committed,))
    for committed in source.blocks(floor):
        target.write((committed,))
    rest: list[Write] = [Rows(dict(source.rows(b"")))]
    target.write((*rest, Forget(floor, kept)) if floor > 1 else rest)


def _class_of(path: Path) -> _Kind:
    if store_kind(path) == "lmdb":
        from ledger.storage.lmdb import LmdbStore

        return cast(_Kind, LmdbStore)
    return cast(_Kind, SqliteStore)

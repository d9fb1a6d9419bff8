"""Where one validator keeps its chain and its signatures: `base` is the interface, `sqlite` the store, `lock` one writer per folder."""

from __future__ import annotations

from ledger.storage.base import BlockStore, VoteRecord, Write
from ledger.storage.lock import FolderLock
from ledger.storage.sqlite import SqliteStore

__all__ = ["BlockStore", "FolderLock", "SqliteStore", "VoteRecord", "Write"]

"""The record as it is now: the ledger, every new block checked as it comes, and the provenance index beside it."""

from __future__ import annotations

import shutil
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flows.lineage import index_at
from ledger.backends.network import GENESIS_FILE, read_genesis
from ledger.backends.processes import ProcessesLedger
from ledger.backends.reader import ReadonlyLedger, open_readonly
from ledger.node.folder import CLIENT_FILE, PEERS_FILE, is_client
from ledger.provenance.index import Index

FOLLOWER: Final = "portal-ledger"
"""Below CIFER_HOME: the portal's own checked copy of a chain whose validators are processes."""
_PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Opened:
    """follower: asks the validators, None where they are embedded."""

    ledger: ReadonlyLedger
    index: Index
    follower: ProcessesLedger | None
    files: ExitStack


class LiveRecord:
    """Opens the ledger of a folder for reading, on first use and again when another one takes its place. Safe to share between threads.

    Of validators that are processes it is a client of its own, beside this folder's, so that neither waits for the other. With none that
    answers it stays where it is: `reached` says who does.
    """

    def __init__(self, home: Path) -> None:
        """home: CIFER_HOME."""
        self._home = home
        self._guard = threading.Lock()
        self._opened: _Opened | None = None

    def now(self) -> tuple[ReadonlyLedger, Index]:
        """Ledger and index, at the same block. Raises `LedgerError`: no ledger yet, or a block that does not hold."""
        with self._guard:
            if self._opened is not None and self._opened.ledger.genesis != read_genesis(self._home / "ledger"):
                self._close()
            opened = self._opened = self._opened or self._open()
            if opened.follower is not None:
                opened.follower.head()
            opened.ledger.refresh()
            opened.index.update(opened.ledger)
            return opened.ledger, opened.index

    @property
    def reached(self) -> int | None:
        """How many validators answer; None where they are embedded, or nothing was read yet."""
        opened = self._opened
        return None if opened is None or opened.follower is None else len(opened.follower.status().live)

    def close(self) -> None:
        """Let go of all files."""
        with self._guard:
            self._close()

    def _open(self) -> _Opened:
        folder, follower = self._home / "ledger", None
        with ExitStack() as files:
            if is_client(folder):
                folder = self._own_copy(folder)
                follower = files.enter_context(ProcessesLedger.open(folder, _PATIENCE_SECONDS))
                follower.head()
            ledger = open_readonly(folder)
            files.callback(ledger.close)
            index = files.enter_context(index_at(self._home, ledger.genesis))
            return _Opened(ledger, index, follower, files.pop_all())

    def _own_copy(self, client: Path) -> Path:
        """A client's folder with this one's credential and addresses; a chain of another network in it is fetched again."""
        folder = self._home / FOLLOWER
        if (folder / GENESIS_FILE).exists() and read_genesis(folder) != read_genesis(client):
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in (CLIENT_FILE, PEERS_FILE, GENESIS_FILE):
            shutil.copy2(client / name, folder / name)
        return folder

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.files.close()
            self._opened = None

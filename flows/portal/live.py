"""The record as it is now: the ledger, every new block checked as it comes, and the provenance index beside it."""

from __future__ import annotations

import threading
from pathlib import Path

from flows.lineage import index_at
from ledger.backends.network import read_genesis
from ledger.backends.reader import ReadonlyLedger, open_readonly
from ledger.provenance.index import Index


class LiveRecord:
    """Opens the ledger of a folder for reading, on first use and again when another one takes its place. Safe to share between threads.

    Of validators that are processes it reads this folder's own copy, which grows when a command of this folder asks them.
    """

    def __init__(self, home: Path) -> None:
        """home: CIFER_HOME."""
        self._home = home
        self._guard = threading.Lock()
        self._opened: tuple[ReadonlyLedger, Index] | None = None

    def now(self) -> tuple[ReadonlyLedger, Index]:
        """Ledger and index, at the same block. Raises `LedgerError`: no ledger yet, or a block that does not hold."""
        folder = self._home / "ledger"
        with self._guard:
            if self._opened is not None and self._opened[0].genesis != read_genesis(folder):
                self._close()
            if self._opened is None:
                ledger = open_readonly(folder)
                try:
                    self._opened = (ledger, index_at(self._home, ledger.genesis))
                except BaseException:
                    ledger.close()
                    raise
            ledger, index = self._opened
            ledger.refresh()
            index.update(ledger)
            return ledger, index

    def close(self) -> None:
        """Let go of both files."""
        with self._guard:
            self._close()

    def _close(self) -> None:
        if self._opened is not None:
            for item in self._opened:
                item.close()
            self._opened = None

"""Validators as processes: the ledger as a client of them.

The client trusts no validator. It follows the chain over mutually authenticated TLS, checks every block as a validator would (certificates,
links, every rule), and keeps the checked chain in its folder: reading is local. `submit` returns when the client itself has the
transaction in a certified block and a quorum of validators say they have that block; a read first asks all validators that answer how far
they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final, NoReturn, TypeVar

from ledger.backends.answers import describe, find_receipt
from ledger.backends.base import Receipt, Status
from ledger.backends.follower import REMEMBERED, Follower, Pending
from ledger.codec import encode
from ledger.consensus.blocks import Tip
from ledger.crypto import SigningKey, VerificationCache
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, UnavailableError
from ledger.node.folder import REPLICA_FILE, read_client
from ledger.node.replay import replay
from ledger.state.view import State
from ledger.storage.lock import FolderLock
from ledger.storage.sqlite import SqliteStore
from ledger.types import CommittedBlock, Genesis, Header, SignedTransaction

T = TypeVar("T")

BACKEND: Final = "processes"
PATIENCE_SECONDS: Final = 30.0


class ProcessesLedger:
    """A `ledger.backends.base.Ledger` whose validators are processes, here or elsewhere. Use `open`, and `close` or ``with``."""

    def __init__(self, folder: Path, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """See `open`."""
        client = read_client(folder)
        self._folder = folder
        self._patience = patience_seconds
        self._genesis = client.genesis
        self._lock = FolderLock(folder)
        self._closing, self._closed = Lock(), False
        try:
            path = folder / REPLICA_FILE
            self._store = SqliteStore.open(path) if path.exists() else SqliteStore.create(path, client.genesis)
            try:
                if self._store.genesis != client.genesis:
                    raise CorruptionError(
                        f"{path} belongs to another network than genesis.bin beside it: delete {path}, it is fetched again"
                    )
                verify = VerificationCache(REMEMBERED).verify
                self._follower = Follower(client, self._store, replay(self._store, verify).tip, verify)
            except BaseException:
                self._store.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="cifer-ledger-client", daemon=True)
        self._thread.start()
        self._loop.call_soon_threadsafe(self._follower.start)

    @classmethod
    def open(cls, folder: Path, patience_seconds: float = PATIENCE_SECONDS) -> ProcessesLedger:
        """Connect as the client whose folder this is. patience_seconds: how long a call waits for a quorum.

        Raises `LedgerError` when the folder is no client's, `LockedError`, `StorageError`, and `CorruptionError` naming the file and
        the remedy. Validators that do not answer are no error here: they may come.
        """
        return cls(folder, patience_seconds)

    def __enter__(self) -> ProcessesLedger:
        """The ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def genesis(self) -> Genesis:
        """What the network started from."""
        return self._genesis

    @property
    def network(self) -> bytes:
        """The network's identity: 32 bytes."""
        return self._tip.network

    def submit(self, transaction: SignedTransaction) -> Receipt:
        """Return once the transaction is final and durable: see `Ledger`. Raises `BusyError` when it was never taken for too long."""
        return self.submit_all((transaction,))[0]

    def submit_all(self, transactions: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        """Submit in order and return once all are final; raises the first refusal, when those before it may be committed."""
        pending = [Pending(transaction_id(each), encode(each)) for each in transactions]
        self._run(self._follower.submit(pending, self._patience), self._patience + 5)
        for each in pending:
            if each.error is not None:
                raise each.error
        return tuple(self._receipt(each.identity) for each in pending)

    def head(self) -> Header | None:
        """The last header, None before the first block."""
        self._catch_up()
        return self._tip.header

    def state(self) -> State:
        """The state after the last block that any validator that answers has; when none answers, of what is known here."""
        self._catch_up()
        return self._tip.state

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Committed blocks from height `start` up to and without `stop`, checked here."""
        self._catch_up()
        return self._store.blocks(start, stop)

    def find(self, transaction: bytes) -> Receipt | None:
        """Where a transaction was committed, None when it was not."""
        self._catch_up()
        return find_receipt(self._store, transaction)

    def status(self) -> Status:
        """Head, validators, who answers."""
        self._catch_up()
        return describe(self._tip, self._genesis, BACKEND, self._follower.live, self._store.transactions())

    def close(self) -> None:
        """Let go of the connections and the folder. Closing twice is harmless."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._follower.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._store.close()
        self._lock.release()

    @property
    def _tip(self) -> Tip:
        return self._follower.tip

    def _catch_up(self) -> None:
        self._run(self._follower.catch_up(), self._patience)

    def _receipt(self, identity: bytes) -> Receipt:
        found = find_receipt(self._store, identity)
        if found is None:
            raise CorruptionError(
                f"{self._store.place}: transaction {identity.hex()[:16]} was committed and is gone: delete it, it is fetched again"
            )
        return found

    def _run(self, work: Coroutine[Any, Any, T], patience_seconds: float) -> T:
        with self._closing:
            if self._closed:
                work.close()
                raise UnavailableError(f"the ledger in {self._folder} is closed in this process: open it again")
            future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(patience_seconds)
        except FutureTimeoutError:
            future.cancel()
            self._unanswered()

    def _unanswered(self) -> NoReturn:
        raise UnavailableError(self._follower.unanswered(self._patience))


def open_backend(folder: Path, keys: Mapping[str, SigningKey], *, genesis: Genesis | None = None) -> ProcessesLedger:
    """The entry point ``processes``: connect as the client whose folder this is. The validators hold their keys themselves."""
    ledger = ProcessesLedger.open(folder)
    if genesis is not None and ledger.genesis != genesis:
        ledger.close()
        raise CorruptionError(f"{folder} is the client of another network than the one asked for: name its own folder")
    return ledger

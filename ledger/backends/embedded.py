"""Every validator in this process: the ledger of a laptop, a test, a demonstration.

Each validator has its own key, store and state, checks every signature and rule itself, and votes; messages pass through memory. That
protects the record against bugs, crashes and damaged files, and makes it verifiable by outsiders. It does not protect against its own
host: whoever holds the folder and the keys holds every vote. With 1 to 3 validators not one may be faulty: `Status.tolerated_faults` is 0.

One thread of its own does all the work; callers wait for it. Transactions that arrive while a block is being made share the next one.
Where there is a second core, a process verifies signatures of large batches there meanwhile (`ledger.verifying`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Final, TypeVar

from ledger.backends.answers import describe, find_receipt
from ledger.backends.base import Receipt, Status
from ledger.backends.calls import Batch, Command
from ledger.backends.network import check_keys, has_ledger, read_genesis, start_folder, store_path
from ledger.codec import forget
from ledger.consensus.blocks import MOST_TRANSACTIONS, Tip, genesis_tip
from ledger.crypto import SigningKey, VerificationCache
from ledger.digests import transaction_id
from ledger.errors import CorruptionError, LedgerError, RejectedError, StorageError, UnavailableError
from ledger.node.cluster import Cluster
from ledger.node.effects import Accuse
from ledger.node.replay import Replayed, replay
from ledger.node.runs import SharedRuns
from ledger.node.snapshots import Snapshots
from ledger.node.validator import ValidatorNode
from ledger.state.transition import transaction_ids
from ledger.state.view import State
from ledger.storage import DEFAULT, BlockStore, FolderLock, open_store
from ledger.types import CommittedBlock, Genesis, Header, SignedTransaction
from ledger.verifying import Helper

T = TypeVar("T")

BACKEND: Final = "embedded"


class EmbeddedLedger:
    """A `ledger.backends.base.Ledger` whose validators all run here. Use `create` or `open`, and `close` or ``with``."""

    def __init__(self, folder: Path, genesis: Genesis, keys: Mapping[str, SigningKey], *, share_verification: bool = True) -> None:
        """See `create` and `open`. share_verification: False has every validator verify and run all itself, as on a machine of its own."""
        check_keys(genesis, keys)
        self._folder, self._genesis, self._keys = folder, genesis, dict(keys)
        shared = VerificationCache()
        self._helper = Helper(shared, alone=None if share_verification else True)
        self._caches = {name: shared if share_verification else VerificationCache() for name in keys}
        self._runs = SharedRuns() if share_verification else None
        self._tip: Tip = genesis_tip(genesis)
        self._waiting: dict[bytes, list[tuple[Batch, int]]] = {}
        self._told = 0
        self._failures: dict[str, LedgerError] = {}
        self._accusations: list[Accuse] = []
        self._inbox: SimpleQueue[Batch | Command | None] = SimpleQueue()
        self._closing = Lock()
        self._closed = self._ended = False
        self._first: Replayed | None = None
        self._snapshots: dict[str, Snapshots] = {}
        self._process = os.getpid()
        self._lock = FolderLock(folder)
        self._cluster = Cluster(self)
        try:
            self._start_all()
        except BaseException:
            self._release()
            raise
        self._worker = Thread(target=self._work, name="cifer-ledger", daemon=True)
        self._worker.start()

    @classmethod
    def create(
        cls, folder: Path, genesis: Genesis, keys: Mapping[str, SigningKey], store: str = DEFAULT, *, share_verification: bool = True
    ) -> EmbeddedLedger:
        """Start a ledger in `folder`, which is made if need be.

        keys: every validator's signing key, by the name it has in the genesis; they are never written.  store: of which kind the
        validators' are, one of `ledger.storage.KINDS`. Raises `LedgerError` when
        there is a ledger already, `KeyMismatchError`, `GenesisError`, `LockedError`, `StorageError`.
        """
        check_keys(genesis, keys)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder} cannot be made ({error.strerror}): choose a folder that can be written") from error
        lock = FolderLock(folder)
        try:
            start_folder(folder, genesis, store)
        finally:
            lock.release()
        return cls(folder, genesis, keys, share_verification=share_verification)

    @classmethod
    def open(cls, folder: Path, keys: Mapping[str, SigningKey]) -> EmbeddedLedger:
        """Go on with the ledger in `folder`: every block is checked again, every validator goes on from what it had signed.

        Raises `LedgerError` when there is none, `KeyMismatchError`, `LockedError`, `StorageError`, and `CorruptionError`
        naming the file, the height and the remedy.
        """
        return cls(folder, read_genesis(folder), keys)

    def __enter__(self) -> EmbeddedLedger:
        """The ledger itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
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
        """Return once the transaction is final and durable: see `Ledger`."""
        return self.submit_all((transaction,))[0]

    def submit_all(self, transactions: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        """Submit in order and return once all are final; raises the first refusal, when those before it may be committed."""
        if not transactions:
            return ()
        batch = Batch.of(transactions, self._helper)
        self._put(batch)
        return batch.done.result()

    def head(self) -> Header | None:
        """The last header, None before the first block."""
        return self._tip.header

    def state(self) -> State:
        """The state after the last block."""
        return self._tip.state

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Committed blocks from height `start` up to and without `stop`."""
        return self._reader().blocks(start, stop)

    def find(self, transaction: bytes) -> Receipt | None:
        """Where a transaction was committed, None when it was not."""
        return find_receipt(self._reader(), transaction)

    def status(self) -> Status:
        """Head, validators, who is up."""
        live = tuple(validator.name for validator in self._genesis.validators if validator.name in self._cluster.nodes)
        return describe(self._tip, self._genesis, BACKEND, live, self._reader().transactions())

    @property
    def accusations(self) -> tuple[Accuse, ...]:
        """Pairs of contradictory messages of one validator that were seen since this ledger was opened."""
        return tuple(self._accusations)

    def stop_validator(self, name: str) -> None:
        """Take a validator down, as a crash would. Raises `LedgerError` for an unknown name."""
        self._known(name)
        self._command(lambda: self._cluster.remove(name))

    def start_validator(self, name: str) -> None:
        """Bring a validator up again: it checks its store and catches up. Raises `LedgerError`, `CorruptionError`, `StorageError`."""
        self._known(name)
        self._command(lambda: self._start(name))

    def close(self) -> None:
        """Finish what was submitted, and let go of the folder. Closing twice is harmless."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._inbox.put(None)
        if self._process == os.getpid():
            self._worker.join()
        self._release()

    def on_final(self, committed: CommittedBlock) -> None:
        """The first validator at a height moves the head; whoever waits for its transactions hears of it when all are quiet."""
        best = self._cluster.best()
        if best is not None and best.tip.height > self._tip.height:
            self._tip = best.tip
        height = committed.block.header.height
        if height <= self._told:
            return
        self._told = height
        for snapshots in self._snapshots.values():
            snapshots.count(len(committed.block.transactions))
        for index, identity in enumerate(transaction_ids(committed.block.transactions)):
            for batch, place in self._waiting.pop(identity, ()):
                batch.settle(place, Receipt(identity, height, index, committed.certificate.block))

    def on_refused(self, transaction: bytes, error: RejectedError) -> None:
        """The submitter is told which rule refused it."""
        for batch, place in self._waiting.pop(transaction, ()):
            batch.settle(place, error)

    def on_failed(self, name: str, error: LedgerError) -> None:
        """The validator counts as down; the reason is given when no quorum is left."""
        self._failures[name] = error

    def on_accused(self, accusation: Accuse) -> None:
        """Kept for whoever asks."""
        self._accusations.append(accusation)

    def _work(self) -> None:
        try:
            self._serve()
        finally:
            self._refuse_the_rest()

    def _serve(self) -> None:
        while (first := self._inbox.get()) is not None:
            batch: list[Batch | Command] = [first]
            room = MOST_TRANSACTIONS - first.size
            stop = False
            while not stop and room > 0:
                try:
                    more = self._inbox.get_nowait()
                except Empty:
                    break
                if more is None:
                    stop = True
                else:
                    batch.append(more)
                    room -= more.size
            for item in batch:
                if isinstance(item, Command):
                    self._settle()
                    item.fulfil()
                else:
                    self._admit(item)
            self._settle()
            if stop:
                return

    def _refuse_the_rest(self) -> None:
        """Whatever ended the worker, nobody is left waiting and nobody comes to wait."""
        with self._closing:
            self._ended = True
            while not self._inbox.empty():
                item = self._inbox.get_nowait()
                if item is not None:
                    future: Future[Any] = item.result if isinstance(item, Command) else item.done
                    future.set_exception(UnavailableError(f"the ledger in {self._folder} has stopped: open it again"))

    def _admit(self, batch: Batch) -> None:
        short_of = self._missing_quorum()
        for place, transaction in enumerate(batch.transactions):
            batch.ahead.reach(place)
            try:
                receipt = self._admitted(transaction, batch, place, short_of)
            except Exception as error:
                batch.settle(place, error)
                continue
            if receipt is not None:
                batch.settle(place, receipt)

    def _admitted(self, transaction: SignedTransaction, batch: Batch, place: int, short_of: LedgerError | None) -> Receipt | None:
        identity = transaction_id(transaction)
        if identity in self._waiting:
            self._waiting[identity].append((batch, place))
            return None
        if short_of is not None:
            known = self.find(identity)
            if known is None:
                raise short_of
            return known
        entry, *others = self._cluster.nodes.values()
        try:
            entry.submit(transaction)
        except RejectedError:
            known = self.find(identity)
            if known is None:
                raise
            return known
        for node in others:
            node.on_transaction(transaction)
        self._waiting[identity] = [(batch, place)]
        return None

    def _settle(self) -> None:
        """Agree on everything that was admitted. Whatever stops it, nobody is left waiting."""
        try:
            if self._waiting:
                self._cluster.run(lambda: bool(self._waiting))
                self._save_snapshot(Snapshots.due)
            if self._inbox.empty():
                self._rest()
        except LedgerError as error:
            self._abandon(self._with_causes(error))
        except Exception as error:
            stopped = UnavailableError(f"the ledger stopped on {type(error).__name__}: {error}: open it again, and report this")
            stopped.__cause__ = error
            self._abandon(stopped)
            self._inbox.put(None)

    def _rest(self) -> None:
        """Nothing is under way: keep nothing for transactions that are decided."""
        for cache in self._caches.values():
            cache.forget()
        forget()

    def _save_snapshot(self, wanted: Callable[[Snapshots, int], bool]) -> None:
        """One validator's is enough: the others take its state where their chain ends in the same block."""
        name, node = next(iter(self._cluster.nodes.items()), ("", None))
        if node is not None and node.durable_height == node.tip.height and wanted(self._snapshots[name], node.tip.height):
            self._snapshots[name].save(node.tip)

    def _abandon(self, error: LedgerError) -> None:
        lost = list(self._waiting)
        for node in self._cluster.nodes.values():
            node.drop(lost)
        while self._waiting:
            _, waiting = self._waiting.popitem()
            for batch, place in waiting:
                batch.settle(place, error)

    def _start_all(self) -> None:
        for validator in self._genesis.validators:
            self._start(validator.name)
        ends = {node.tip.block for node in self._cluster.nodes.values()}
        if len(ends) > 1:
            names = ", ".join(sorted(self._cluster.nodes))
            raise CorruptionError(
                f"the stores in {self._folder} hold different blocks at height {self._tip.height} ({names}): restore a backup"
            )
        if any(node.locked for node in self._cluster.nodes.values()):
            self._finish_begun()

    def _finish_begun(self) -> None:
        """A block that some validator had locked when the process died may be final already: decide it before anything else."""
        try:
            self._cluster.run(lambda: any(node.locked for node in self._cluster.nodes.values()))
        except UnavailableError:
            return

    def _start(self, name: str) -> None:
        if name in self._cluster.nodes:
            return
        store = open_store(store_path(self._folder, name))
        try:
            if store.genesis != self._genesis:
                raise CorruptionError(f"{store.place} belongs to another network than {self._folder}: put the right file back")
            best = self._cluster.best()
            donor = replace(self._first, tip=best.tip) if best is not None and self._first is not None else None
            verify = self._caches[name].verify
            found = replay(store, verify, donor)
            tip = found.tip
            node = ValidatorNode(self._keys[name], store, tip, verify, runs=self._runs)
        except BaseException:
            store.close()
            raise
        self._first = self._first or found
        self._snapshots[name] = Snapshots(store, found.saved)
        self._failures.pop(name, None)
        if tip.height > self._tip.height:
            self._tip = tip
        self._cluster.add(name, node)
        if name in self._failures:
            raise self._failures[name]

    def _command(self, action: Callable[[], T]) -> T:
        result: Future[T] = Future()
        self._put(Command(action, result))
        return result.result()

    def _put(self, item: Batch | Command) -> None:
        with self._closing:
            if self._closed or self._ended or self._process != os.getpid():
                raise UnavailableError(f"the ledger in {self._folder} is closed in this process: open it again")
            self._inbox.put(item)

    def _known(self, name: str) -> None:
        if name not in self._keys:
            raise LedgerError(f"there is no validator {name!r}: name one of {', '.join(self._keys)}")

    def _reader(self) -> BlockStore:
        best = self._cluster.best()
        if best is None:
            raise UnavailableError(f"no validator of the ledger in {self._folder} is up: start one")
        return best.store

    def _missing_quorum(self) -> LedgerError | None:
        validators, up = self._tip.validators, self._cluster.nodes
        if validators.power(node.key.public for node in up.values()) >= validators.quorum:
            return None
        names = ", ".join(up) or "nobody"
        error = UnavailableError(
            f"{names} of {len(validators.members)} validators up, a decision takes power {validators.quorum}: "
            "start more validators, then submit again; nothing was lost"
        )
        return self._with_causes(error)

    def _with_causes(self, error: LedgerError) -> LedgerError:
        """A validator that stopped because of its disk says why."""
        if not self._failures:
            return error
        causes = "; ".join(f"{name}: {failure}" for name, failure in self._failures.items())
        return UnavailableError(f"{error} (stopped: {causes})")

    def _release(self) -> None:
        self._helper.close()
        with suppress(LedgerError):  # a start without it takes longer, and nothing else is lost
            self._save_snapshot(Snapshots.worth_while)
        self._cluster.close()
        self._lock.release()


def open_backend(folder: Path, keys: Mapping[str, SigningKey], *, genesis: Genesis | None = None, store: str = DEFAULT) -> EmbeddedLedger:
    """The entry point ``embedded``: open, or start when `genesis` is given and the folder holds no ledger yet, with stores of a kind."""
    if genesis is not None and not has_ledger(folder):
        return EmbeddedLedger.create(folder, genesis, keys, store)
    return EmbeddedLedger.open(folder, keys)

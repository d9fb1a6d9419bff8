"""Reading a ledger without writing to it: for audits, also while somebody else writes, and from a copy on a read-only medium.

Trusts nothing in the folder but, unless it is given one, its genesis: every certificate, link, root and rule is checked again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from ledger.backends.answers import describe, find_receipt
from ledger.backends.base import Receipt, Status
from ledger.backends.embedded import BACKEND as EMBEDDED
from ledger.backends.follower import REMEMBERED
from ledger.backends.network import GENESIS_FILE, read_genesis, store_path
from ledger.backends.processes import BACKEND as PROCESSES
from ledger.codec import forget
from ledger.consensus.blocks import Tip
from ledger.crypto import VerificationCache
from ledger.digests import network_id
from ledger.errors import CorruptionError, UnavailableError
from ledger.node.folder import REPLICA_FILE, is_client
from ledger.node.replay import go_on, replay
from ledger.state.view import State
from ledger.storage import BlockStore, open_reader
from ledger.types import CommittedBlock, Genesis, Header, SignedTransaction


class ReadonlyLedger:
    """A `ledger.backends.base.Ledger` that stands still: the chain as it was when it was opened or refreshed. Submitting is refused."""

    def __init__(self, folder: Path, store: BlockStore, backend: str = EMBEDDED) -> None:
        """See `open_readonly`."""
        self._backend = backend
        self._folder = folder
        self._store = store
        self._verify = VerificationCache(REMEMBERED).verify
        self._tip: Tip = replay(store, self._verify, whole=True).tip

    def refresh(self) -> None:
        """Go on to the end of the chain as it is now. Raises `CorruptionError` when what was added does not hold."""
        self._tip = go_on(self._store, self._tip, self._verify)
        forget()

    @property
    def genesis(self) -> Genesis:
        """What the network started from."""
        return self._store.genesis

    @property
    def network(self) -> bytes:
        """The network's identity: 32 bytes."""
        return self._tip.network

    def submit(self, transaction: SignedTransaction) -> Receipt:
        """Refused: raises `UnavailableError`."""
        self._refuse()

    def submit_all(self, transactions: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        """Refused: raises `UnavailableError`."""
        self._refuse()

    def head(self) -> Header | None:
        """The last header, None before the first block."""
        return self._tip.header

    def state(self) -> State:
        """The state after the last block."""
        return self._tip.state

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Committed blocks from height `start` up to and without `stop`, and none that were added since it was opened."""
        end = self._tip.height + 1
        return self._store.blocks(start, end if stop is None else min(stop, end))

    def find(self, transaction: bytes) -> Receipt | None:
        """Where a transaction was committed, None when it was not."""
        receipt = find_receipt(self._store, transaction)
        return receipt if receipt is not None and receipt.height <= self._tip.height else None

    def status(self) -> Status:
        """Head and validators; nobody counts as up."""
        transactions = sum(block.block.header.transactions_count for block in self.blocks())
        return describe(self._tip, self.genesis, self._backend, (), transactions)

    def close(self) -> None:
        """Let go of the file."""
        self._store.close()

    def _refuse(self) -> NoReturn:
        raise UnavailableError(f"the ledger in {self._folder} is open for reading only: open it with the validators' keys to write")


def open_readonly(folder: Path, genesis: Genesis | None = None) -> ReadonlyLedger:
    """The longest chain in `folder`, checked from genesis: of a client of validators that are processes, its own copy.

    genesis: what the reader knows the network by; without it, the folder's own is taken. Raises `LedgerError` when there is no
    ledger, `CorruptionError` naming the file and height when something does not hold, or the genesis is another one.
    """
    found = read_genesis(folder)
    if genesis is not None and genesis != found:
        have, expected = network_id(found).hex()[:16], network_id(genesis).hex()[:16]
        raise CorruptionError(f"{folder / GENESIS_FILE} is of network {have}, expected {expected}: this is another ledger")
    client = is_client(folder)
    stores: list[BlockStore] = []
    damage: CorruptionError | None = None
    for path in [folder / REPLICA_FILE] if client else [store_path(folder, validator.name) for validator in found.validators]:
        try:
            stores.append(open_reader(path))
        except CorruptionError as error:
            damage = error
    if damage is not None:
        for store in stores:
            store.close()
        raise damage
    best = max(stores, key=lambda store: store.height())
    try:
        if best.genesis != found:
            raise CorruptionError(f"{best.place} belongs to another network than {folder / GENESIS_FILE}: put the right file back")
        ledger = ReadonlyLedger(folder, best, PROCESSES if client else EMBEDDED)
    except BaseException:
        best.close()
        raise
    finally:
        for store in stores:
            if store is not best:
                store.close()
    return ledger

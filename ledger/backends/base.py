"""The ledger as a task sees it: submit, read, prove. Backends implement it; nothing above depends on which one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.state.view import State
from ledger.types import CommittedBlock, Genesis, Header, SignedTransaction


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a transaction was committed. `transaction` and `block` are 32-byte digests; `index` counts within the block."""

    transaction: bytes
    height: int
    index: int
    block: bytes


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator asks first: head of the chain, who validates, who is up.

    tolerated_faults: validators that may be faulty, whichever they are; with 1 to 3 validators it is 0, and one that is down stops the
    ledger.  quorum: the voting power that decides.
    """

    network: bytes
    backend: str
    height: int
    block: bytes
    state_root: bytes
    transactions: int
    validators: tuple[str, ...]
    live: tuple[str, ...]
    tolerated_faults: int
    quorum: int


class Ledger(Protocol):
    """A connection to one ledger network. Methods are safe to call from several threads.

    `submit` returns once the transaction is final, and is idempotent: a transaction that is already committed returns
    its first receipt. It raises the named subclass of `ledger.errors.RejectedError` that says which rule refused it,
    and `ledger.errors.UnavailableError` when no quorum answers.
    """

    @property
    def genesis(self) -> Genesis:
        """What the network started from."""

    @property
    def network(self) -> bytes:
        """The network's identity: 32 bytes."""

    def submit(self, transaction: SignedTransaction) -> Receipt:
        """Return once the transaction is final and durable."""

    def submit_all(self, transactions: Sequence[SignedTransaction]) -> tuple[Receipt, ...]:
        """Submit in order, and return once all are final; raises the first refusal, when those before it may be committed."""

    def head(self) -> Header | None:
        """The last header, None before the first block."""

    def state(self) -> State:
        """The state after the last block."""

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Committed blocks from height `start` up to and without `stop`, in order."""

    def find(self, transaction: bytes) -> Receipt | None:
        """Where the transaction of this 32-byte identity was committed, None when it was not."""

    def status(self) -> Status:
        """Head, validators, who is up, how many may fail."""

    def close(self) -> None:
        """Let go of the ledger. Closing twice is harmless."""

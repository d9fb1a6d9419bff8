"""What consensus needs of a disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ledger.consensus.messages import Lock, SignedVote
from ledger.types import CommittedBlock, Genesis


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """What will be signed next, and the block locked with it when the lock changes."""

    vote: SignedVote
    locked: Lock | None


Write = VoteRecord | CommittedBlock
"""One entry of `BlockStore.write`."""


class BlockStore(Protocol):
    """The durable memory of one validator. What a method has returned from survives a power cut.

    Reading methods may be called from several threads while one thread writes. All raise `CorruptionError` for bytes that
    contradict their digests and `StorageError` when the file system refuses.
    """

    @property
    def place(self) -> str:
        """Where it is, for messages."""

    @property
    def genesis(self) -> Genesis:
        """The genesis it was created with."""

    def height(self) -> int:
        """Height of the last block, 0 when there is none."""

    def transactions(self, until: int | None = None) -> int:
        """Number of indexed transactions, up to and with height `until`."""

    def write(self, entries: Sequence[Write]) -> None:
        """Record votes (C6) and add blocks, in this order, as one atomic, durable step: all of it or nothing.

        A block comes with its index entries, and votes up to its height are forgotten. A second, different vote in one place is refused.
        """

    def block(self, height: int) -> CommittedBlock | None:
        """The block of this height, checked against its digests."""

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Blocks of heights `start` up to and without `stop`, in order."""

    def find(self, transaction: bytes) -> tuple[int, int] | None:
        """Height of the block a transaction is in, and its place in that block."""

    def votes(self) -> tuple[SignedVote, ...]:
        """What was signed above the last block."""

    def locked(self) -> Lock | None:
        """The block locked above the last block, and why."""

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""

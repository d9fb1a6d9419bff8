"""What consensus needs of a disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ledger.consensus.messages import Lock, SignedVote
from ledger.types import CommittedBlock, Genesis


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """What will be signed next, and the block locked with it when the lock changes."""

    vote: SignedVote
    locked: Lock | None


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the snapshot's area by key (1 to 16 bytes): those to put, in place of what was there, and those to remove."""

    put: Mapping[bytes, bytes]
    remove: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Forget:
    """Give up the blocks below height `below`, but for those at `keep`, their index entries, and what was signed below it.

    From then on the chain begins at `below`, the store's `floor`; with no block from there on, its height is ``below - 1``.
    """

    below: int
    keep: tuple[int, ...] = ()


Write = VoteRecord | CommittedBlock | Rows | Forget
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

    def floor(self) -> int:
        """The height from which on every block is held: 1, unless some were given up."""

    def row(self, key: bytes) -> bytes | None:
        """A row of the snapshot's area, checked against its checksum."""

    def rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The rows of the snapshot's area whose keys begin so, in ascending order of key."""

    def transactions(self, until: int | None = None) -> int:
        """Number of indexed transactions, up to and with height `until`."""

    def write(self, entries: Sequence[Write]) -> None:
        """Record votes (C6), add blocks, change rows and forget, in this order, as one atomic, durable step: all of it or nothing.

        A block comes with its index entries, and votes up to its height are forgotten. A second, different vote in one place is refused.
        """

    def block(self, height: int) -> CommittedBlock | None:
        """The block of this height, checked against its digests."""

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """Blocks of heights `start` up to and without `stop`, in order. Raises `PrunedError` for one that was given up."""

    def find(self, transaction: bytes) -> tuple[int, int] | None:
        """Height of the block a transaction is in, and its place in that block."""

    def votes(self) -> tuple[SignedVote, ...]:
        """What was signed above the last block."""

    def locked(self) -> Lock | None:
        """The block locked above the last block, and why."""

    def copy(self, target: Path) -> None:
        """Write a consistent copy of everything to the new file `target`, durably, while others go on writing here."""

    def compact(self) -> None:
        """Give disk space that is not needed any more back, where the store can."""

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""

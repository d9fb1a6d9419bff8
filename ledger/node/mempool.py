"""Transactions that wait for a block. Rules C15 and C19 of ``SPEC.md``.

Each author has a queue of its own, in the order of its sequence numbers, and a block is filled from all queues in turn: whoever floods the
pool waits behind its own transactions, not others behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import msgspec

from ledger.codec import encode
from ledger.crypto import Verify
from ledger.errors import BusyError, RejectedError, UnknownAuthorError
from ledger.state.draft import Draft
from ledger.state.transition import check_sequence, check_signature, read_payload, take_transaction
from ledger.state.view import State
from ledger.types import SignedTransaction

CAPACITY: Final = 20_000
CAPACITY_BYTES: Final = 256 * 1024 * 1024
FULL_RETRY_MS: Final = 500


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    author: bytes
    sequence: int
    signed: SignedTransaction
    data: bytes


class Mempool:
    """Bounded, without duplicates. What `admit` let in fits behind everything let in before it.

    capacity, capacity_bytes: of the whole pool.  per_author: transactions that one author may have waiting.
    """

    def __init__(
        self,
        state: State,
        verify: Verify,
        capacity: int = CAPACITY,
        *,
        capacity_bytes: int = CAPACITY_BYTES,
        per_author: int | None = None,
    ) -> None:
        """An empty pool on top of a committed state."""
        self._base = Draft.of(state, state.height + 1)  # remembers what was read; nothing is written to it
        self._pending: Draft | None = None
        self._verify = verify
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._per_author = capacity if per_author is None else per_author
        self._waiting: dict[bytes, _Waiting] = {}
        self._unapplied: list[bytes] = []
        self._authors: dict[bytes, dict[tuple[int, bytes], None]] = {}
        self._size_bytes = 0

    def limit(self, capacity: int, per_author: int) -> None:
        """Set how many transactions may wait, in all and of one author."""
        self._capacity, self._per_author = capacity, per_author

    def __len__(self) -> int:
        """Transactions that wait."""
        return len(self._waiting)

    def __contains__(self, identity: bytes) -> bool:
        """Whether this transaction waits."""
        return identity in self._waiting

    @property
    def size_bytes(self) -> int:
        """Bytes that wait."""
        return self._size_bytes

    def next_sequence(self, author: bytes) -> int:
        """The number behind those of this author's that wait, or its next one in the committed state."""
        waiting = (sequence + 1 for sequence, _ in self._authors.get(author, ()))
        return max([self._base.next_sequence(author), *waiting])

    def offered(self) -> Iterator[tuple[bytes, bytes]]:
        """C19: (identity, encoded transaction) of each: one of every author in turn, each author's by sequence number."""
        turns = deque(iter(sorted(queue)) for queue in self._authors.values())
        while turns:
            queue = turns.popleft()
            entry = next(queue, None)
            if entry is not None:
                yield entry[1], self._waiting[entry[1]].data
                turns.append(queue)

    def encoded(self, identity: bytes) -> bytes | None:
        """A waiting transaction's bytes."""
        found = self._waiting.get(identity)
        return None if found is None else found.data

    def admit(self, signed: SignedTransaction) -> bytes:
        """C15: take a transaction that the rules allow after all those that wait; returns its identity.

        Raises the named `RejectedError`, and `BusyError` when the pool, or the author's share of it, is full.
        """
        content = read_payload(signed.payload)
        identity, transaction = content.identity, content.transaction
        if identity not in self._waiting:
            data = encode(signed)
            self._require_room(transaction.author, len(data))
            take_transaction(self._behind_waiting(), signed, self._verify)
            self._insert(identity, _Waiting(transaction.author, transaction.sequence, signed, data))
        return identity

    def add(self, signed: SignedTransaction) -> bytes:
        """Take a transaction that another validator admitted: its author and signature are checked here, its rule by the leader.

        Raises the named `RejectedError` for an unknown author, a bad signature or a number that is over, and `BusyError`.
        """
        content = read_payload(signed.payload)
        identity, transaction = content.identity, content.transaction
        if identity not in self._waiting:
            data = encode(signed)
            self._require_room(transaction.author, len(data))
            try:
                _, account = check_signature(self._base, signed, transaction, self._verify)
            except UnknownAuthorError:
                _, account = check_signature(self._behind_waiting(), signed, transaction, self._verify)
            if not account.next_sequence <= transaction.sequence < account.next_sequence + self._capacity:
                check_sequence(account, transaction.sequence)
            self._unapplied.append(identity)
            self._insert(identity, _Waiting(transaction.author, transaction.sequence, signed, data))
        return identity

    def discard(self, identities: Iterable[bytes]) -> None:
        """Forget transactions, whether they wait or not. Call `rebase` before the next `admit`."""
        for identity in identities:
            found = self._waiting.pop(identity, None)
            if found is not None:
                self._size_bytes -= len(found.data)
                queue = self._authors[found.author]
                del queue[found.sequence, identity]
                if not queue:
                    del self._authors[found.author]

    def rebase(self, state: State) -> None:
        """Stand on another committed state. What waits is judged again only when the next `admit` or `judge` asks."""
        self._base, self._pending = Draft.of(state, state.height + 1), None
        self._unapplied.clear()

    def commit(self, identities: Sequence[bytes], state: State) -> None:
        """A block with these transactions led to `state`.

        When they are the first that waited, what waits behind them has been judged on top of them already, and is not judged again.
        """
        first = list(islice(self._waiting, len(identities)))
        unmoved = self._pending is not None and not self._unapplied and first == list(identities)
        self.discard(identities)
        pending = self._pending
        self.rebase(state)
        if unmoved and pending is not None and self._waiting:
            written = Draft.of(pending.finish(), state.height + 1) if len(pending.written) > self._capacity else pending
            self._pending = replace(written, height=state.height + 1)

    def judge(self) -> tuple[tuple[bytes, RejectedError], ...]:
        """Apply all that waits to the committed state, in order of arrival, and drop and return what its rules refuse now."""
        if self._pending is not None and not self._unapplied:
            return ()
        pending, refused = Draft.of(self._base, self._base.height), []
        for identity, found in tuple(self._waiting.items()):
            try:
                take_transaction(pending, found.signed, self._verify)
            except RejectedError as error:
                refused.append((identity, error))
        self._pending = pending
        self._unapplied.clear()
        self.discard(identity for identity, _ in refused)
        return tuple(refused)

    def _behind_waiting(self) -> Draft:
        fresh = self._pending is None
        pending = Draft.of(self._base, self._base.height) if self._pending is None else self._pending
        for identity in self._waiting if fresh else self._unapplied:
            found = self._waiting.get(identity)
            try:
                if found is not None:
                    take_transaction(pending, found.signed, self._verify)
            except RejectedError:
                continue  # the next leader refuses it by name, and the submitter hears of it then
        self._pending = pending
        self._unapplied.clear()
        return pending

    def _insert(self, identity: bytes, waiting: _Waiting) -> None:
        self._waiting[identity] = waiting
        self._authors.setdefault(waiting.author, {})[waiting.sequence, identity] = None
        self._size_bytes += len(waiting.data)

    def _require_room(self, author: bytes, size_bytes: int) -> None:
        if len(self._waiting) >= self._capacity or self._size_bytes + size_bytes > self._capacity_bytes:
            waiting = f"{len(self._waiting)} transactions wait already"
            raise BusyError(f"{waiting}, {self._size_bytes} bytes: submit this one again when some are committed", FULL_RETRY_MS)
        mine = len(self._authors.get(author, ()))
        if mine >= self._per_author:
            raise BusyError(
                f"{mine} transactions of this author wait already: submit this one again when some are committed", FULL_RETRY_MS
            )

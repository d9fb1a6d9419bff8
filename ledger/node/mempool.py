"""Transactions that wait for a block, in order of arrival. Rule C15 of ``SPEC.md``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from ledger.codec import encode
from ledger.crypto import Verify
from ledger.digests import transaction_id
from ledger.errors import RejectedError, UnavailableError
from ledger.state.transition import apply_transaction, decode_transaction
from ledger.state.view import State
from ledger.types import SignedTransaction

CAPACITY: Final = 20_000


class Mempool:
    """Bounded, without duplicates. What `admit` let in fits behind everything let in before it."""

    def __init__(self, state: State, verify: Verify, capacity: int = CAPACITY) -> None:
        """An empty pool on top of a committed state; `capacity` counts transactions."""
        self._base = state
        self._pending: State | None = state
        self._verify = verify
        self._capacity = capacity
        self._waiting: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        """Transactions that wait."""
        return len(self._waiting)

    def __contains__(self, identity: bytes) -> bool:
        """Whether this transaction waits."""
        return identity in self._waiting

    def offered(self) -> Iterator[tuple[bytes, bytes]]:
        """(identity, encoded transaction) of each, in order."""
        return iter(tuple(self._waiting.items()))

    def admit(self, signed: SignedTransaction) -> bytes:
        """C15: take a transaction that the rules allow after all those that wait; returns its identity.

        Raises the named `RejectedError`, and `UnavailableError` when the pool is full.
        """
        identity = transaction_id(signed)
        if identity not in self._waiting:
            self._require_room()
            self._pending = apply_transaction(self._behind_waiting(), signed, self._base.height + 1, self._verify)
            self._waiting[identity] = encode(signed)
        return identity

    def add(self, signed: SignedTransaction) -> bytes:
        """Take a transaction that another validator admitted: the leader checks it again before it goes into a block."""
        identity = transaction_id(signed)
        if identity not in self._waiting:
            self._require_room()
            self._waiting[identity] = encode(signed)
        return identity

    def discard(self, identities: Iterable[bytes]) -> None:
        """Forget transactions, whether they wait or not. Call `rebase` before the next `admit`."""
        for identity in identities:
            self._waiting.pop(identity, None)

    def rebase(self, state: State) -> None:
        """Stand on another committed state. What waits is judged again only when the next `admit` asks."""
        self._base, self._pending = state, None

    def _behind_waiting(self) -> State:
        state = self._pending
        if state is None:
            state = self._base
            for data in self._waiting.values():
                try:
                    state = apply_transaction(state, decode_transaction(data), self._base.height + 1, self._verify)
                except RejectedError:
                    continue  # the next leader refuses it by name, and the submitter hears of it then
        return state

    def _require_room(self) -> None:
        if len(self._waiting) >= self._capacity:
            raise UnavailableError(f"{self._capacity} transactions wait already: submit this one again when some are committed")

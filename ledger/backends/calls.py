"""What callers hand to the thread that runs an embedded ledger, and wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ledger.backends.base import Receipt
from ledger.crypto import Domain
from ledger.errors import RejectedError
from ledger.state.transition import read_payload
from ledger.types import SignedTransaction
from ledger.verifying import Ahead, Helper, Signed


@dataclass(eq=False, slots=True)
class Batch:
    """What one call submitted: `done` is set once every transaction has its receipt or its refusal, in `outcomes`.

    open: how many have neither.  ahead: its signatures, which are being verified.
    """

    transactions: Sequence[SignedTransaction]
    done: Future[tuple[Receipt, ...]]
    outcomes: list[Receipt | Exception | None]
    open: int
    ahead: Ahead

    @classmethod
    def of(cls, transactions: Sequence[SignedTransaction], helper: Helper) -> Batch:
        """A batch of which nothing is decided; its signatures are begun to be verified."""
        count = len(transactions)
        return cls(transactions, Future(), [None] * count, count, helper.begin([_signature_of(signed) for signed in transactions]))

    @property
    def size(self) -> int:
        """Transactions that may come into the next block."""
        return len(self.transactions)

    def settle(self, index: int, outcome: Receipt | Exception) -> None:
        """One is decided; the last one releases the caller."""
        self.outcomes[index] = outcome
        self.open -= 1
        if not self.open:
            receipts = tuple(found for found in self.outcomes if isinstance(found, Receipt))
            if len(receipts) == len(self.outcomes):
                self.done.set_result(receipts)
            else:
                self.done.set_exception(next(found for found in self.outcomes if isinstance(found, Exception)))


@dataclass(frozen=True, slots=True)
class Command:
    """Something to do between two blocks."""

    action: Callable[[], Any]
    result: Future[Any]
    size: int = 0

    def fulfil(self) -> None:
        """Do it; what it raises is for the caller."""
        try:
            self.result.set_result(self.action())
        except Exception as error:
            self.result.set_exception(error)


def _signature_of(signed: SignedTransaction) -> Signed:
    """What there is to verify; of what does not decode, a key of no length, which never verifies."""
    try:
        author = read_payload(signed.payload).transaction.author
    except RejectedError:
        author = b""
    return author, Domain.TRANSACTION, signed.payload, signed.signature

"""What transactions lead to, found once for the validators of one process.

A leader and three others running every rule over the same transactions was most of what an embedded ledger spent on a block, and left
four copies of the state. What they find is a function of the state, the height and the bytes, so validators that trust the same memory
may take it from one another; each still checks for itself what the block builds on, who certified that, and what the header says of it
all. Validators on machines of their own share nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ledger.crypto import Verify
from ledger.state.transition import run_transactions
from ledger.state.view import State

MOST_RUNS: Final = 4
"""Of the last block or two, and of what other leaders proposed at their heights."""


class SharedRuns:
    """A `ledger.state.transition.Run` with a short memory. Not safe to share between threads."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: deque[tuple[State, tuple[bytes, ...], State]] = deque(maxlen=MOST_RUNS)

    def __call__(self, state: State, height: int, transactions: tuple[bytes, ...], verify: Verify) -> State:
        """`run_transactions`, unless it was asked the same before. What is refused is run by everybody."""
        for before, same, after in self._known:
            if after.height == height and same == transactions and _equal(before, state):
                return after
        after = run_transactions(state, height, transactions, verify)
        self.note(state, transactions, after)
        return after

    def note(self, state: State, transactions: tuple[bytes, ...], after: State) -> None:
        """A leader has found `after` while it chose the transactions."""
        self._known.append((state, transactions, after))


def _equal(left: State, right: State) -> bool:
    """The root commits to every entry."""
    return left is right or (left.network, left.height, left.root()) == (right.network, right.height, right.root())

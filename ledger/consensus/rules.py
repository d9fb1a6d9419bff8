"""May I vote? Pure predicates, apart from what follows from a vote (`ledger.consensus.core`). Rules C6 to C8 of ``SPEC.md``."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.consensus.messages import Candidate, SignedVote


def may_sign(signed: Iterable[SignedVote], vote: SignedVote) -> bool:
    """C6: a validator signs forward only: nothing at or before a place it has signed, except the very same statement.

    A place is (height, round, step). `signed` is the write-ahead log of this validator, in any order.
    """
    place = (vote.height, vote.round, vote.step)
    return all(
        (entry.height, entry.round, entry.step) < place or (entry.height, entry.round, entry.step, entry.block) == (*place, vote.block)
        for entry in signed
    )


def lock_permits(locked_round: int, locked: Candidate | None, block: bytes, valid_round: int) -> bool:
    """C7: whether the lock lets a replica prevote `block`, proposed with `valid_round` (Algorithm 1, lines 23 and 29).

    A fresh block (-1) needs no lock or a lock on that block; a block with a quorum of prevotes at `valid_round` also
    unlocks every lock that is not newer.
    """
    if locked is None or locked.id == block:
        return True
    return valid_round >= 0 and locked_round <= valid_round


def valid_round_is_sound(round_: int, valid_round: int) -> bool:
    """C8: a proposal of `round_` may name -1 or an earlier round (Algorithm 1, line 28)."""
    return -1 <= valid_round < round_

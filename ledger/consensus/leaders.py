"""Whose turn it is to lead: everybody's, and more often where the members' record speaks for them. Rule C3 of ``SPEC.md``.

The idea of BRFL (Zheng et al., arXiv 2310.13403), who let agreement with the others decide who aggregates: here a member's turns follow
from the committed reputation of the site that answers for it. Votes weigh the same whoever leads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from types import MappingProxyType
from typing import Final

from ledger.state.entries import Operator
from ledger.state.reputation import NORMAL_FROM, TRUSTED_FROM
from ledger.state.view import State
from ledger.types import Validator

TURNS: Final[Mapping[str, int]] = MappingProxyType({"trusted": 3, "usual": 2, "unreliable": 1})


def turns_at(state: State, members: Sequence[Validator], height: int) -> tuple[int, ...]:
    """How many turns each member has in a cycle at `height`: by the state at ``height - 2``, the same in every later state."""
    return tuple(_turns(state, member.name, height) for member in members)


def _turns(state: State, name: str, height: int) -> int:
    known = height - 1
    score = state.score_before(name, known)
    operator = state.read(Operator, name)
    if operator is not None and operator.origin.height < known:
        score = min(score, state.score_before(operator.site, known)) if score < NORMAL_FROM else state.score_before(operator.site, known)
    if score < NORMAL_FROM:
        return TURNS["unreliable"]
    return TURNS["trusted" if score >= TRUSTED_FROM else "usual"]


def cycle(turns: Sequence[int]) -> tuple[int, ...]:
    """Smooth weighted round robin: places 0 to n - 1, each as often as its turns over their common divisor, spread evenly.

    In every step each place gains its turns; the first of those with most leads and pays the sum. Raises ValueError for a turn below 1.
    """
    if not turns or min(turns) < 1:
        raise ValueError(f"turns {list(turns)}: every member has at least one")
    shared = gcd(*turns)
    shares = [turn // shared for turn in turns]
    total, credit, order = sum(shares), [0] * len(shares), []
    for _ in range(total):
        credit = [have + share for have, share in zip(credit, shares, strict=True)]
        place = credit.index(max(credit))
        credit[place] -= total
        order.append(place)
    return tuple(order)

"""The validator set: powers, quorums and leaders. Rules C1 to C3 of ``SPEC.md``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ledger.consensus.leaders import cycle
from ledger.types import Validator


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    """The validators of one height, in the order of the genesis record.

    `total` is the sum of all powers, `power_of` maps a 32-byte public key to its power.  turns: of each member, in one cycle of leading.
    order: who leads in that cycle.
    """

    members: tuple[Validator, ...]
    total: int
    power_of: Mapping[bytes, int]
    turns: tuple[int, ...]
    order: tuple[Validator, ...]

    @staticmethod
    def of(members: tuple[Validator, ...], turns: Sequence[int] = ()) -> ValidatorSet:
        """Build the set; without turns everybody has one. Raises ValueError for an empty set, a repeated key or a power below 1."""
        power_of = {member.public_key: member.power for member in members}
        if not members:
            raise ValueError("a validator set needs at least one validator: list one in the genesis record")
        if len(power_of) != len(members):
            raise ValueError("two validators share one public key: give every validator its own key in the genesis record")
        weak = [member.name for member in members if member.power < 1]
        if weak:
            raise ValueError(f"validator {weak[0]!r} has a power below 1: voting power is a positive integer")
        turns = tuple(turns) or (1,) * len(members)
        order = tuple(members[place] for place in cycle(turns))
        return ValidatorSet(members, sum(power_of.values()), MappingProxyType(power_of), turns, order)

    @property
    def quorum(self) -> int:
        """C1: the power that decides, ``2 * total // 3 + 1``: any two quorums share a correct validator."""
        return 2 * self.total // 3 + 1

    @property
    def tolerated_power(self) -> int:
        """The power f that may be faulty: the largest integer below a third of the total."""
        return (self.total - 1) // 3

    @property
    def one_correct(self) -> int:
        """C2: the power f + 1 that holds at least one correct validator."""
        return self.tolerated_power + 1

    def leader(self, height: int, round_: int) -> Validator:
        """C3: who proposes: in the order of the cycle, by committed height (``height - 1``) plus round."""
        return self.order[(height - 1 + round_) % len(self.order)]

    def power(self, keys: Iterable[bytes]) -> int:
        """Sum of the powers of `keys`, each at most once; strangers count nothing."""
        return sum([self.power_of.get(key, 0) for key in set(keys)])

    def tolerated_faults(self) -> int:
        """How many validators, whichever they are, may be faulty: the strongest ones are counted."""
        left, count = self.tolerated_power, 0
        for power in sorted(self.power_of.values(), reverse=True):
            left -= power
            if left < 0:
                break
            count += 1
        return count

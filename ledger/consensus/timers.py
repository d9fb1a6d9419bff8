"""How long a round waits before it gives up on somebody. Rule C12 of ``SPEC.md``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ABSENT_LEADER_MS: Final = 50
MOST_DOUBLINGS: Final = 20


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Durations in milliseconds: a base per step, growing by `growth_ms` a round up to `limit_ms`.

    The cap keeps a network that was down for hours from waiting hours more once it is whole again.
    """

    propose_ms: int = 1_000
    prevote_ms: int = 500
    precommit_ms: int = 500
    growth_ms: int = 500
    limit_ms: int = 30_000

    def duration_ms(self, base_ms: int, round_: int) -> int:
        """C12: ``min(base + growth * round, limit)``."""
        return min(base_ms + self.growth_ms * round_, self.limit_ms)

    def absent_ms(self, round_: int) -> int:
        """C12: ``min(50 * 2**round, limit)``, for the proposal of a leader that is not connected.

        It doubles because that leader may be connected to all others, and what it said come by way of them.
        """
        return min(ABSENT_LEADER_MS << min(round_, MOST_DOUBLINGS), self.limit_ms)

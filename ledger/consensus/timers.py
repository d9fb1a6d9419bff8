"""How long a round waits before it gives up on somebody. Rule C12 of ``SPEC.md``."""

from __future__ import annotations

from dataclasses import dataclass


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

"""Token buckets: how often somebody may ask. Pure: the time is given, in milliseconds of a clock that does not jump."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MOST_BUCKETS: Final = 4096


@dataclass(frozen=True, slots=True)
class Rate:
    """On average `per_second`, and at most `burst` at once."""

    per_second: int
    burst: int


@dataclass(slots=True)
class TokenBucket:
    """Holds up to `rate.burst` tokens, and gains `rate.per_second` of them a second. Counted in thousandths, so there are no floats."""

    rate: Rate
    now_ms: int
    thousandths: int

    @classmethod
    def full(cls, rate: Rate, now_ms: int) -> TokenBucket:
        """A bucket nobody has taken from."""
        return cls(rate, now_ms, rate.burst * 1000)

    def wait_ms(self, now_ms: int, tokens: int = 1) -> int:
        """After how many milliseconds that many tokens will be there, 0 for now. A clock set back gains nothing."""
        gained = max(0, now_ms - self.now_ms) * self.rate.per_second
        self.thousandths = min(self.rate.burst * 1000, self.thousandths + gained)
        self.now_ms = max(now_ms, self.now_ms)
        missing = min(tokens, self.rate.burst) * 1000 - self.thousandths
        return -(-missing // self.rate.per_second) if missing > 0 else 0

    def take(self, now_ms: int, tokens: int = 1) -> int:
        """Take tokens and return 0, or take none and return `wait_ms`."""
        wait_ms = self.wait_ms(now_ms, tokens)
        if not wait_ms:
            self.thousandths -= tokens * 1000
        return wait_ms


class Buckets:
    """One bucket per key; the one longest unused is forgotten first, when it is full again or there are too many."""

    def __init__(self, rate: Rate) -> None:
        """No buckets yet."""
        self._rate = rate
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def wait_ms(self, key: bytes, now_ms: int, tokens: int = 1) -> int:
        """`TokenBucket.wait_ms` of this key's bucket."""
        bucket = self._buckets.get(key)
        return 0 if bucket is None else bucket.wait_ms(now_ms, tokens)

    def take(self, key: bytes, now_ms: int, tokens: int = 1) -> int:
        """`TokenBucket.take` of this key's bucket."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket.full(self._rate, now_ms)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket.take(now_ms, tokens)

"""How often somebody may ask: a token bucket a key, in this process's memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MOST_KEYS: Final = 4096


class RateLimit:
    """`burst` requests at once and `per_second` in the long run, for each key on its own. Safe to share between threads."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, never going back."""
        self.burst = burst
        self.per_second = per_second
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._guard = threading.Lock()

    def wait(self, key: str) -> int:
        """Take one request; 0 when it may go on, else in how many whole seconds the next one may."""
        with self._guard:
            now = self._clock()
            tokens, since = self._buckets.pop(key, (float(self.burst), now))
            tokens = min(float(self.burst), tokens + (now - since) * self.per_second)
            allowed = tokens >= 1
            self._buckets[key] = (tokens - 1 if allowed else tokens, now)
            while len(self._buckets) > MOST_KEYS:
                self._buckets.popitem(last=False)
            return 0 if allowed else int((1 - tokens) / self.per_second) + 1

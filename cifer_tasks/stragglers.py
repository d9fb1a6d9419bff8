"""Who is in when a round closes, where sites are simulated: a schedule that follows from the settings and the sites, and no clock.

Time is simulated, in whole milliseconds from the start of the first round. A site that is asked begins when the round opens, or when it
is done with what it is at; it takes the time that `simulation.delays` and `seed` give; it submits to the round that is open then, if that
takes its update. One round follows the other at once: encryption, aggregation and the ledger take no simulated time.

A round's schedule does not depend on what its sites' steps come to, so a run that is taken up again, and whoever else knows the
settings, finds the same one. A site whose step fails has its place in it all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cifer_tasks.config import Settings
from cifer_tasks.config_rounds import OTHERS
from cifer_tasks.sampling import drawn


@dataclass(frozen=True, slots=True)
class Work:
    """A site's part of a round: in which round it began, and when it ends, in milliseconds since the run began."""

    site: str
    began: int
    ends: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """One round: when it opens and closes, in milliseconds since the run began; who is in, as they arrive; who is not, ascending.

    late: those whose update the round would have taken.
    """

    round: int
    opens: int
    closes: int
    arrivals: tuple[Work, ...]
    late: tuple[Work, ...]


class Stragglers:
    """The rounds of one run, one after the other; an earlier one than the last that was asked for is found from the first again."""

    def __init__(self, settings: Settings, sites: Sequence[str]) -> None:
        """sites: all that have a place in the run."""
        self._settings, self._sites = settings, tuple(sites)
        self._last = Schedule(0, 0, 0, (), ())
        self._working: dict[str, Work] = {}

    def round(self, number: int) -> Schedule:
        """The schedule of round `number`, from 1."""
        if number < self._last.round:
            self._last, self._working = Schedule(0, 0, 0, (), ()), {}
        while self._last.round < number:
            self._last = self._next()
        return self._last

    def _next(self) -> Schedule:
        settings, number, opens = self._settings, self._last.round + 1, self._last.closes
        oldest = number - settings.rounds.staleness
        for site in drawn(self._sites, settings.sites.fraction, settings.seed, number):
            held = self._working.get(site)
            if held is None or held.began < oldest:
                begins = opens if held is None else max(opens, held.ends)
                self._working[site] = Work(site, number, begins + delay(settings, site, number))
        taken = [work for work in self._working.values() if work.began >= oldest]
        order = sorted(taken, key=lambda work: (max(work.ends, opens), _lot(settings.seed, number, work.site)))
        deadline = opens + round(settings.sites.deadline_seconds * 1000)
        wanted = min(settings.rounds.buffer or len(order), len(order))
        arrivals = tuple(work for work in order[:wanted] if work.ends <= deadline)
        closes = max([opens, *(work.ends for work in arrivals)]) if len(arrivals) == wanted else deadline
        for work in arrivals:
            del self._working[work.site]
        late = tuple(sorted(order[len(arrivals) :], key=lambda work: work.site))
        return Schedule(number, opens, closes, arrivals, late)


def delay(settings: Settings, site: str, number: int) -> int:
    """How long a site's part takes that it begins in round `number`, in milliseconds: even between its two bounds, by SHA-256."""
    delays = settings.simulation.delays
    shortest, longest = (round(bound * 1000) for bound in delays.get(site, delays.get(OTHERS, (0.0, 0.0))))
    lot = hashlib.sha256(f"cifer/simulated-delay/1:{settings.seed}:{number}:{site}".encode()).digest()
    return shortest + int.from_bytes(lot, "big") % (longest - shortest + 1)


def _lot(seed: int, number: int, site: str) -> bytes:
    """Between sites that arrive in one millisecond."""
    return hashlib.sha256(f"cifer/simulated-arrival/1:{seed}:{number}:{site}".encode()).digest()

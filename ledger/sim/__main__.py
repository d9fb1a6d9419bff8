"""Replay one seed, or run a range in as many processes as there are cores: ``python -m ledger.sim SEED [LAST]``.

Exit status 1 when a promise is broken; each broken one is named with the seed that replays it.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from os import cpu_count

from ledger.sim.network import Violation, simulate
from ledger.sim.scenario import draw

CHUNK = 250


def play(last: int, first: int) -> tuple[int, int, tuple[Violation, ...]]:
    """Scenarios, events and violations of the seeds from `first` up to `last`, at most a chunk of them."""
    seeds = range(first, min(first + CHUNK, last + 1))
    outcomes = [simulate(draw(seed)) for seed in seeds]
    return len(seeds), sum(one.events for one in outcomes), tuple(one.violation for one in outcomes if one.violation is not None)


def main(arguments: list[str]) -> int:
    """Play the seeds named on the command line, one line each for what breaks."""
    if not arguments or not all(argument.isdigit() for argument in arguments):
        sys.stderr.write("usage: python -m ledger.sim SEED [LAST]\n")
        return 2
    first, last = int(arguments[0]), int(arguments[-1])
    starts = range(first, last + 1, CHUNK)
    scenarios = events = broken = 0
    with ProcessPoolExecutor(min(len(starts), cpu_count() or 1)) as pool:
        for count, seen, violations in pool.map(partial(play, last), starts) if len(starts) > 1 else map(partial(play, last), starts):
            scenarios, events, broken = scenarios + count, events + seen, broken + len(violations)
            for violation in violations:
                sys.stdout.write(f"seed {violation.seed}: {violation.promise}: {violation.facts}\n")
    sys.stdout.write(f"{scenarios} scenarios, {events} events, {broken} broken promises\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

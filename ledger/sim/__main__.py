"""Replay one seed, or run a range: ``python -m ledger.sim SEED [LAST]``. Exit status 1 when a promise is broken."""

from __future__ import annotations

import sys

from ledger.sim.network import simulate
from ledger.sim.scenario import draw


def main(arguments: list[str]) -> int:
    """Play the seeds named on the command line, one line each for what breaks."""
    if not arguments or not all(argument.isdigit() for argument in arguments):
        sys.stderr.write("usage: python -m ledger.sim SEED [LAST]\n")
        return 2
    first, last = int(arguments[0]), int(arguments[-1])
    broken = events = 0
    for seed in range(first, last + 1):
        outcome = simulate(draw(seed))
        events += outcome.events
        if outcome.violation is not None:
            broken += 1
            sys.stdout.write(f"seed {seed}: {outcome.violation.promise}: {outcome.violation.facts}\n")
    sys.stdout.write(f"{last - first + 1} scenarios, {events} events, {broken} broken promises\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""A seeded network of consensus cores: delay, loss, duplication, reordering, partitions, crashes, and an equivocating twin.

`scenario` draws what goes wrong from a seed, `network` plays it and says which promise was broken. Nothing here reads a clock or global
randomness, so a seed replays its scenario exactly:

    python -m ledger.sim 1234          # replay one seed, and print what happened
"""

from __future__ import annotations

from ledger.sim.network import Outcome, Violation, simulate
from ledger.sim.scenario import Crash, Cut, Scenario, draw

__all__ = ["Crash", "Cut", "Outcome", "Scenario", "Violation", "draw", "simulate"]

"""Which sites train in a round, where `sites.fraction` asks for some of them only (C of FedAvg, McMahan et al. 2017)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

SUSPENDED: Final = "suspended"
"""The step at which the ledger says that a site was left out before it trained, because it may not submit."""
LATE: Final = "deadline"
"""The step at which it says that a site was left out because it had not submitted when the round closed."""


def draw_size(sites: int, fraction: float) -> int:
    """How many of so many sites a fraction draws: rounded up, in decimal as the fraction is written; at least 1."""
    return max(1, math.ceil(sites * Fraction(repr(fraction))))


def drawn(sites: Sequence[str], fraction: float, seed: int, number: int) -> tuple[str, ...]:
    """The sites that train in round `number`, ascending: those whose SHA-256 over seed, round and name is smallest.

    Every subset of that size is as likely as any other. It follows from the settings, whose digest the ledger holds, so that equal
    settings give equal models, anyone can draw again, and whoever writes the settings can know it beforehand.
    """
    if fraction == 1.0:
        return tuple(sorted(sites))

    def lot(site: str) -> bytes:
        return hashlib.sha256(f"cifer/drawn-sites/1:{seed}:{number}:{site}".encode()).digest()

    return tuple(sorted(sorted(sites, key=lot)[: draw_size(len(sites), fraction)]))

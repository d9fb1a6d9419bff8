"""Who holds shares in a round under the threshold scheme: its public context.

All sites of the round do, or a committee drawn among them: K sites that deal to each other make K^2 envelopes, a million at 1,000 sites,
and a committee of h makes K h. It is drawn by lots that follow from the run's opening on the ledger and the round's number, so the
coordinator picks nobody, short of opening one run after the other until it likes the lots, which everybody sees. Whoever can take over
sites of its choice knows every committee of a run beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from math import comb, log2
from typing import Final

from cifer_tasks.encryption import dealing, ring, sharing
from cifer_tasks.encryption._shared import MAXIMUM_SITES
from cifer_tasks.errors import IntegrityError

KEY_BYTES: Final = 32

_RING: Final = f"cifer-ring/{ring.DEGREE}/{ring.PRIMES[0]}/{ring.PRIMES[1]}"
_VERSION: Final = 4
_LOTS_DOMAIN: Final = b"cifer/committee-lots/1:"


@dataclass(frozen=True)
class Roster:
    """Who holds shares: names in ascending order, and the X25519 public key of each.  others: the sites of the round that hold none."""

    names: tuple[str, ...]
    keys: tuple[bytes, ...]
    others: tuple[str, ...] = ()

    @cached_property
    def sites(self) -> int:
        """K: how many submissions a round has at most."""
        return len(self.names) + len(self.others)

    @cached_property
    def threshold(self) -> int:
        """t: how many of them open a sum."""
        return sharing.threshold_of(len(self.names))

    @cached_property
    def shape(self) -> dealing.Shape:
        """What each of them is dealt. Of a committee, half can be dishonest by chance: a key is not packed for one."""
        how = sharing.Sharing.unpacked if self.others else sharing.Sharing.among
        return dealing.shape_of(how(len(self.names)))

    @cached_property
    def smallest_set(self) -> int:
        """The fewest submissions that they open the sum of."""
        return sharing.smallest_set(self.sites)

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each holder, from 0."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def members(self) -> frozenset[str]:
        """All sites of the round."""
        return frozenset((*self.names, *self.others))

    def check_site(self, name: str) -> None:
        """Raise `IntegrityError` for anybody who is not one of the round's sites."""
        if name not in self.members:
            self.place(name)

    def place(self, name: str) -> int:
        """The number of a holder, from 0. Raises `IntegrityError` for anybody else."""
        place = self.numbers.get(name)
        if place is None:
            msg = f"{name} is not one of the {len(self.names)} key holders of this round"
            raise IntegrityError(msg)
        return place


def committee(sites: Iterable[str], size: int, lots: bytes) -> tuple[str, ...]:
    """The `size` sites that hold shares, ascending: those whose SHA-256 over `lots` and name is smallest. Every set is equally likely."""
    return tuple(sorted(sorted(sites, key=lambda site: sha256(_LOTS_DOMAIN + lots + site.encode()).digest())[:size]))


def drawn_log2(sites: int, dishonest: int, holders: int, least: int) -> float:
    """log2 of the chance that at least so many of a committee of `holders` are among the `dishonest` of all `sites`, in one round: the
    hypergeometric tail. Minus infinity where it cannot happen.
    """
    ways = sum(comb(dishonest, bad) * comb(sites - dishonest, holders - bad) for bad in range(least, min(holders, dishonest) + 1))
    return log2(ways) - log2(comb(sites, holders)) if ways else float("-inf")


def roster_bytes(holders: Mapping[str, bytes], others: Iterable[str] = ()) -> bytes:
    """The roster of holders, whose X25519 public keys are given by name, as canonical JSON.  others: sites that hold no shares.

    Raises `ValueError` for fewer than two holders, more than 1,000, or bytes that are no key.
    """
    sites = len(holders) + len(rest := sorted(others))
    if not 2 <= len(holders) <= sites <= MAXIMUM_SITES:
        msg = f"encryption.scheme=threshold needs 2 to {MAXIMUM_SITES} sites, there are {sites}: a sum of one is that one"
        raise ValueError(msg)
    for name, key in holders.items():
        if len(key) != KEY_BYTES:
            msg = f"the encryption key of {name} has {len(key)} bytes, an X25519 key has {KEY_BYTES}"
            raise ValueError(msg)
    fields = {"ring": _RING, "holders": [[name, holders[name].hex()] for name in sorted(holders)], "version": _VERSION}
    if rest:
        fields["others"] = rest
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@lru_cache(maxsize=8)
def parse_roster(data: bytes) -> Roster:
    """Raises `IntegrityError` for anything but what `roster_bytes` writes."""
    try:
        fields = json.loads(data)
        held, others = fields["holders"], tuple(fields.get("others", ()))
        roster = Roster(tuple(name for name, _ in held), tuple(bytes.fromhex(key) for _, key in held), others)
        again = roster_bytes(dict(zip(roster.names, roster.keys, strict=True)), others)
    except (ValueError, KeyError, TypeError, RecursionError):
        again = b""
    if again != data:
        msg = "the public context is not a roster of key holders as this program writes it: it is damaged or of another version"
        raise IntegrityError(msg)
    return roster

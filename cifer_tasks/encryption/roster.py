"""Who holds shares in a round under the threshold scheme: its public context."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cifer_tasks.encryption import dealing, ring, sharing
from cifer_tasks.encryption._shared import MAXIMUM_SITES
from cifer_tasks.errors import IntegrityError

KEY_BYTES: Final = 32

_RING: Final = f"cifer-ring/{ring.DEGREE}/{ring.PRIMES[0]}/{ring.PRIMES[1]}"
_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Roster:
    """Who holds shares: names in ascending order, and the X25519 public key of each."""

    names: tuple[str, ...]
    keys: tuple[bytes, ...]

    @property
    def threshold(self) -> int:
        """t: how many of them open a sum."""
        return sharing.threshold_of(len(self.names))

    @property
    def shape(self) -> dealing.Shape:
        """What each of them is dealt."""
        return dealing.shape_of(len(self.names))

    @property
    def smallest_set(self) -> int:
        """The fewest submissions that they open the sum of."""
        return sharing.smallest_set(len(self.names))

    def place(self, name: str) -> int:
        """The number of a holder, from 0. Raises `IntegrityError` for anybody else."""
        if name not in self.names:
            msg = f"{name} is not one of the {len(self.names)} key holders of this round"
            raise IntegrityError(msg)
        return self.names.index(name)


def roster_bytes(holders: Mapping[str, bytes]) -> bytes:
    """The roster of holders, whose X25519 public keys are given by name, as canonical JSON.

    Raises `ValueError` for fewer than two holders, more than 1,000, or bytes that are no key.
    """
    if not 2 <= len(holders) <= MAXIMUM_SITES:
        msg = f"encryption.scheme=threshold needs 2 to {MAXIMUM_SITES} sites, there are {len(holders)}: a sum of one is that one"
        raise ValueError(msg)
    for name, key in holders.items():
        if len(key) != KEY_BYTES:
            msg = f"the encryption key of {name} has {len(key)} bytes, an X25519 key has {KEY_BYTES}"
            raise ValueError(msg)
    fields = {"ring": _RING, "holders": [[name, holders[name].hex()] for name in sorted(holders)], "version": _VERSION}
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


@lru_cache(maxsize=8)
def parse_roster(data: bytes) -> Roster:
    """Raises `IntegrityError` for anything but what `roster_bytes` writes."""
    try:
        fields = json.loads(data)
        roster = Roster(tuple(name for name, _ in fields["holders"]), tuple(bytes.fromhex(key) for _, key in fields["holders"]))
        again = roster_bytes(dict(zip(roster.names, roster.keys, strict=True)))
    except (ValueError, KeyError, TypeError, RecursionError):
        again = b""
    if again != data:
        msg = "the public context is not a roster of key holders as this program writes it: it is damaged or of another version"
        raise IntegrityError(msg)
    return roster

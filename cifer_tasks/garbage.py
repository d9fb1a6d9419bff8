"""Which artifacts nobody needs any more: those that no entry on the ledger names and that nobody has stored for a while."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from cifer_tasks.shelves import Shelf, address_of
from ledger import State

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection found. removed: hex digests, ascending.  bytes_freed: their sizes.  kept: artifacts that stay."""

    removed: tuple[str, ...]
    bytes_freed: int
    kept: int


def named_on(state: State) -> frozenset[str]:
    """Every digest (hex) in any entry of the state, whatever it is of: models, ciphertexts, openings, settings, and what comes to be.

    A digest of something else keeps no artifact, since no artifact has it; an entry of a kind that is new keeps its own.
    """
    return frozenset(digest.hex() for entry in state.tree.records() for digest in _digests(entry))


def collect(shelf: Shelf, needed: frozenset[str], older_than_seconds: float, *, remove: bool = True) -> Collected:
    """Take off the shelf what is not needed and was stored longer ago; `remove=False` only says what that would be.

    The age is what keeps an artifact between its upload and the ledger entry that will name it: choose more than a round takes.
    """
    removed, freed, kept = [], 0, 0
    for digest, age_seconds in list(shelf.held()):
        if digest in needed or age_seconds <= older_than_seconds:
            kept += 1
            continue
        freed += shelf.size_bytes(address_of(digest))
        removed.append(digest)
        if remove:
            shelf.remove(address_of(digest))
    return Collected(tuple(sorted(removed)), freed, kept)


def _digests(value: object) -> Iterator[bytes]:
    match value:
        case bytes() if len(value) == DIGEST_BYTES:
            yield value
        case tuple():
            for item in value:
                yield from _digests(item)
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from _digests(getattr(value, name))

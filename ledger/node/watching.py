"""A validator whose store was put back to an earlier time signs nothing it may have signed differently before. Rule SN7 of SPEC.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ledger.codec import decode, encode
from ledger.consensus.blocks import Tip
from ledger.errors import CorruptionError, MalformedError
from ledger.storage.base import BlockStore, Rows
from ledger.types import Record

_KEY: Final = b"w"
MARGIN: Final = 2


class Watch(Record, frozen=True):
    """Sign nothing below a block at height `until`; 0 as long as the others have not been heard."""

    until: int


def begin_watching(store: BlockStore) -> None:
    """Mark a store that was put back to an earlier time, or emptied."""
    store.write((Rows({_KEY: encode(Watch(0))}),))


def watch_of(store: BlockStore) -> Watch | None:
    """The mark, if there is one. Raises `CorruptionError`."""
    body = store.row(_KEY)
    try:
        return None if body is None else decode(body, Watch)
    except MalformedError as error:
        raise CorruptionError(f"{store.place}: the mark of a restored store does not decode ({error}): restore it again") from error


def end_watching(store: BlockStore) -> None:
    """It may sign again."""
    store.write((Rows({}, (_KEY,)),))


def required_power(tip: Tip) -> int:
    """Power of other validators of whom one at least was correct and precommitted whatever this one had."""
    validators = tip.validators
    return validators.total - validators.quorum + validators.tolerated_power + 1


def hear(store: BlockStore, watch: Watch, tip: Tip, heard: Mapping[str, int]) -> Watch:
    """Fix the height, durably, once enough others have said how far they are. heard: heights by name, all heard since the start."""
    members = {member.name: member.public_key for member in tip.validators.members}
    power = tip.validators.power(members[name] for name in heard if name in members)
    if watch.until or power < required_power(tip):
        return watch
    found = Watch(max(heard.values()) + MARGIN)
    store.write((Rows({_KEY: encode(found)}),))
    return found

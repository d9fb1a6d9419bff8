"""Records to bytes and back: exactly one byte string per record.

The encoding is MessagePack as msgspec writes it: each `Record` an array in field order, a tagged record's tag first, integers and
lengths in their shortest form. msgspec also *reads* longer forms, so `decode` accepts only bytes that re-encode to
themselves: two different byte strings never mean the same record. Rules E1-E5 of SPEC.md.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, lru_cache, wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

import msgspec

from ledger.errors import MalformedError

P = ParamSpec("P")
T = TypeVar("T")

_SMALL_BYTES: Final = 2048

_encoder = msgspec.msgpack.Encoder()


def encode(record: Any) -> bytes:
    """The canonical bytes of a record, or of a tuple of integers, bytes and text.

    Raises `MalformedError` for what has no encoding: an integer outside -2**63 .. 2**64 - 1, text that is no UTF-8, a foreign type.
    """
    try:
        return _encoder.encode(record)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        name = type(record).__name__
        raise MalformedError(f"{name} cannot be encoded: {error}; use integers of 64 bits, bytes, text and tuples") from error


def decode(data: bytes, type_: type[T]) -> T:
    """The record of type `type_` that encodes to `data`; a union of tagged records is a type too.

    Raises `MalformedError` when `data` is cut short, is followed by more bytes, has another shape, or is not canonical.
    """
    try:
        record: T = _decoder(cast(Hashable, type_)).decode(data)
        again = _encoder.encode(record)
    except (msgspec.MsgspecError, TypeError, OverflowError, ValueError, RecursionError) as error:
        raise MalformedError(f"{_name(type_)}: {len(data)} bytes do not decode: {error}; discard them, fetch the record again") from error
    if again != data:
        raise MalformedError(f"{_name(type_)}: {len(data)} bytes are not the canonical encoding; use ledger.codec.encode")
    return record


@cache
def _decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type_)


def remember(function: Callable[P, T]) -> Callable[P, T]:
    """A pure function that remembers its last 16,384 results until `forget`; what raises is not remembered."""
    remembered = lru_cache(maxsize=1 << 14)(function)
    _forgets.append(remembered.cache_clear)
    return cast(Callable[P, T], remembered)


def remember_small(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """`remember` for a function of bytes into something immutable, and inputs of at most 2 KiB: at most about 64 MiB are kept.

    A transaction is read when it arrives, proposed, checked, filed and told of: its bytes are decoded and hashed once.
    """
    remembered = remember(read)

    @wraps(read)
    def small(data: bytes) -> T:
        return remembered(data) if len(data) <= _SMALL_BYTES else read(data)

    return small


def forget() -> None:
    """Let go of all that `remember` keeps in this process. For whoever has nothing under way: the record grows, memory does not."""
    for clear in _forgets:
        clear()


_forgets: list[Callable[[], None]] = []


def _name(type_: Any) -> str:
    return getattr(type_, "__name__", str(type_))

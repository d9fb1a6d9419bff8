"""What passes over a connection: one canonical record per frame, a frame being its length in 4 bytes, big-endian, and its bytes.

Validators say `Hello`, consensus messages, `Transactions`, `AskBlocks`, `Blocks` and `Height` to each other. A client says `Hello`,
`Submit`, `Follow`, `AskBlocks`, `AskHeight` and `AskStatus`, and hears `Blocks`, `Height`, `Refusal` and `StatusAnswer`. Whoever is far
behind says `AskSnapshot` and `AskParts`, and hears `Snapshot` and `Parts`. Nothing a peer says is trusted: blocks and snapshots come with
certificates, messages and transactions with signatures. Rules W1 to W3 and SN1 to SN5 of SPEC.md.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ledger.codec import decode, encode
from ledger.consensus.messages import Proposal, Vote
from ledger.errors import MalformedError
from ledger.types import CommittedBlock, Item, Record, Snapshot

VERSION: Final = 1
LENGTH_BYTES: Final = 4
MOST_PEER_FRAME_BYTES: Final = 10 * 1024 * 1024
"""A block of 8 MiB with its certificate, and room."""
MOST_CLIENT_FRAME_BYTES: Final = 2 * 1024 * 1024
"""A transaction of 1 MiB, and room."""
MOST_REPLY_BYTES: Final = 4 * 1024 * 1024
"""Blocks are sent until a frame holds this much, and at least one."""


class FrameError(MalformedError):
    """A frame that is too long, or holds no known message: the connection is closed."""


class Hello(Record, frozen=True, tag="hello"):
    """The first message of either side: the protocol's version, the network, and the height of the last block."""

    version: int
    network: bytes
    height: int


class Transactions(Record, frozen=True, tag="transactions"):
    """Encoded `SignedTransaction`s that the sender admitted."""

    items: tuple[bytes, ...]


class AskBlocks(Record, frozen=True, tag="ask-blocks"):
    """Send the certified blocks from `height` on, as many as fit a frame."""

    height: int


class Blocks(Record, frozen=True, tag="blocks"):
    """Consecutive certified blocks in ascending order; none when the sender has none from there on yet."""

    items: tuple[CommittedBlock, ...]


class Height(Record, frozen=True, tag="height"):
    """The sender's last block is at `height`. `request` is that of the question, 0 when nobody asked."""

    height: int
    request: int


class GaveUp(Record, frozen=True, tag="gave-up"):
    """The blocks that were asked for are held no more here: those from `floor` on are."""

    floor: int


class AskSnapshot(Record, frozen=True, tag="ask-snapshot"):
    """Answer with a `Snapshot` of a height above `height`, if there is one."""

    height: int


class AskParts(Record, frozen=True, tag="ask-parts"):
    """Send the parts of the snapshot offered at `height` from `place` on, as many as fit a frame."""

    height: int
    place: int


class Parts(Record, frozen=True, tag="parts"):
    """The entries of consecutive parts of the snapshot at `height`, the first at `place`; none when it is offered no more."""

    height: int
    place: int
    items: tuple[tuple[Item, ...], ...]


class AskHeight(Record, frozen=True, tag="ask-height"):
    """Answer with `Height` of the same request number."""

    request: int


class Submit(Record, frozen=True, tag="submit"):
    """A client's transactions, encoded, in the order they are to be admitted in."""

    items: tuple[bytes, ...]


class Refusal(Record, frozen=True, tag="refusal"):
    """A transaction is not taken: `code` and `rule` name the refusal; code ``busy``: send it again after `retry_after_ms`."""

    transaction: bytes
    code: str
    rule: str
    message: str
    retry_after_ms: int


class Follow(Record, frozen=True, tag="follow"):
    """Send every certified block from `height` on, also those to come."""

    height: int


class AskStatus(Record, frozen=True, tag="ask-status"):
    """Answer with `StatusAnswer`."""


class StatusAnswer(Record, frozen=True, tag="status"):
    """How a validator is. `peers`: names of validators it hears. `waiting`: transactions in its pool."""

    name: str
    height: int
    block: bytes
    peers: tuple[str, ...]
    waiting: int


Wire = (
    Hello
    | Proposal
    | Vote
    | Transactions
    | AskBlocks
    | Blocks
    | GaveUp
    | AskSnapshot
    | Snapshot
    | AskParts
    | Parts
    | Height
    | AskHeight
    | Submit
    | Refusal
    | Follow
    | AskStatus
    | StatusAnswer
)


def frame(message: Wire) -> bytes:
    """A message as it goes over the wire."""
    body = encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


async def read_message(reader: asyncio.StreamReader, most_bytes: int) -> Wire:
    """The next message. Raises `FrameError` before it reads more than `most_bytes`, and ``asyncio.IncompleteReadError`` at the end."""
    length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
    if length > most_bytes:
        raise FrameError(f"a frame of {length} bytes; at most {most_bytes} are taken here: split it")
    return parse(await reader.readexactly(length))


def parse(body: bytes) -> Wire:
    """The message of a frame's bytes. Raises `FrameError`."""
    try:
        return decode(body, Wire)  # type: ignore[arg-type]
    except MalformedError as error:
        raise FrameError(f"a frame holds no message: {error}") from error

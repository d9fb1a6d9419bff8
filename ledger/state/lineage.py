"""What happened while a round ran: batches of OpenLineage events, checked against their count and digest. Rules A1-A4 of SPEC.md."""

from __future__ import annotations

import zlib
from hashlib import sha256

from ledger.errors import LineageError, RoundStateError
from ledger.state import checks
from ledger.state.entries import Identity, Lineage, LineageCount, Origin
from ledger.state.view import State
from ledger.types import AppendLineage

MOST_PLAIN_BYTES = 8 * 1024 * 1024


def append(state: State, author: Identity, origin: Origin, body: AppendLineage) -> State:
    """Add the next batch of a round; round 0 stands for the run as a whole. A closed run still takes events.

    Events of no run, under the empty name, are anybody's: what a site says of its consents, or another producer of its own jobs.
    """
    where = f"lineage of round {body.round} of run {body.run[:80]!r}"
    rounds = 0
    if body.run:
        run = checks.run_of(state, body.run)
        checks.coordinated(run, author)
        rounds = run.rounds_opened
    if not 0 <= body.round <= rounds:
        checks.refuse("A1", RoundStateError, f"{where}: rounds go to {rounds} so far, 0 is for what belongs to none; use these")
    plain = decompress(where, body.events)
    if sha256(plain).digest() != body.sha256:
        checks.refuse("A3", LineageError, f"{where}: the events are not those of digest {body.sha256.hex()[:16]}; send the plain digest")
    lines = count_lines(plain)
    if lines != body.count or lines == 0:
        checks.refuse("A4", LineageError, f"{where}: {body.count} events announced, {lines} sent; send one JSON document a line, no blanks")
    head = state.read(LineageCount, body.run, body.round)
    batch = 0 if head is None else head.batches
    return state.put(
        Lineage(body.run, body.round, batch, body.count, body.sha256, author.name, origin),
        LineageCount(body.run, body.round, batch + 1),
    )


def decompress(where: str, data: bytes) -> bytes:
    """The plain bytes of one complete zlib stream (RFC 1950) of at most 8 MiB. Raises `LineageError` otherwise: rule A2."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, MOST_PLAIN_BYTES + 1)
        whole = stream.eof and not stream.unused_data and len(plain) <= MOST_PLAIN_BYTES
    except zlib.error:
        plain, whole = b"", False
    if not whole:
        checks.refuse(
            "A2", LineageError, f"{where}: {len(data)} bytes are not one zlib stream of at most {MOST_PLAIN_BYTES} bytes; split it"
        )
    return plain


def count_lines(plain: bytes) -> int:
    """Lines of newline-delimited JSON, the last with or without its newline; 0 when one is blank."""
    if not plain or plain.startswith(b"\n") or b"\n\n" in plain:
        return 0
    return plain.count(b"\n") + (not plain.endswith(b"\n"))

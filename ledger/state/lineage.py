"""What happened while a round ran: batches of OpenLineage events, checked against their count and digest. Rules A1-A6 of SPEC.md."""

from __future__ import annotations

import zlib
from hashlib import sha256

from ledger.errors import LineageError, RoleError, RoundStateError
from ledger.state import checks
from ledger.state.entries import Entry, Identity, Lineage, LineageCount, Origin, Run, SiteLineage
from ledger.state.view import State
from ledger.types import AppendLineage

MOST_PLAIN_BYTES = 8 * 1024 * 1024
MOST_SITE_BYTES = 256 * 1024
"""Of plain events in one batch of a site's."""
MOST_SITE_BATCHES = 4
"""Of one site in one round: who audits a run reads all of them."""


def append(state: State, author: Identity, origin: Origin, body: AppendLineage) -> State:
    """Add the next batch of a round; round 0 stands for the run as a whole. A closed run still takes events.

    Its coordinator does, and its sites, each of what happened there. Events of no run, under the empty name, are anybody's: what a site
    says of its consents, or another producer of its own jobs.
    """
    where = f"lineage of round {body.round} of run {body.run[:80]!r}"
    run = checks.run_of(state, body.run) if body.run else None
    rounds = run.rounds_opened if run is not None else 0
    of_site = run is not None and _of_site(where, run, author)
    if not 0 <= body.round <= rounds:
        checks.refuse("A1", RoundStateError, f"{where}: rounds go to {rounds} so far, 0 is for what belongs to none; use these")
    plain = decompress(where, body.events)
    if sha256(plain).digest() != body.sha256:
        checks.refuse("A3", LineageError, f"{where}: the events are not those of digest {body.sha256.hex()[:16]}; send the plain digest")
    lines = count_lines(plain)
    if lines != body.count or lines == 0:
        checks.refuse("A4", LineageError, f"{where}: {body.count} events announced, {lines} sent; send one JSON document a line, no blanks")
    counted: list[Entry] = [_count(state, where, author, body, len(plain))] if of_site else []
    head = state.read(LineageCount, body.run, body.round)
    batch = 0 if head is None else head.batches
    return state.put(
        Lineage(body.run, body.round, batch, body.count, body.sha256, author.name, origin),
        LineageCount(body.run, body.round, batch + 1),
        *counted,
    )


def _of_site(where: str, run: Run, author: Identity) -> bool:
    """Whether a site of the run appends, and not its coordinator: rule A5."""
    if author.name == run.coordinator:
        return False
    if run.dataset_of(author.name) is None:
        checks.refuse("A5", RoleError, f"{where}: {author.name!r} is neither the run's coordinator nor one of its sites, who may append")
    return True


def _count(state: State, where: str, author: Identity, body: AppendLineage, size: int) -> SiteLineage:
    """One batch more of this site in this round: rule A6."""
    known = state.read(SiteLineage, body.run, body.round, author.name)
    batches = 0 if known is None else known.batches
    if size > MOST_SITE_BYTES or batches >= MOST_SITE_BATCHES:
        checks.refuse(
            "A6",
            LineageError,
            f"{where}: {author.name!r} sends {size} bytes after {batches} batches; a site has {MOST_SITE_BATCHES} batches of "
            f"{MOST_SITE_BYTES} bytes in a round: append the rest to the next",
        )
    return SiteLineage(body.run, body.round, author.name, batches + 1)


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

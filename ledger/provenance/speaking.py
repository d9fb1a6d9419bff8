"""What a site may say of a run in OpenLineage events: what it did itself. Rule A7 of SPEC.md, which readers ask and validators do not.

A run of a step carries in its identifier whose step it is (`step_id`), so no event of one site is about a step of another site, or of the
coordinator, whoever speaks first.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Final

import msgspec

TRANSACTIONS: Final = "ledger/transactions"
_MARK_BYTES: Final = 6
_IDENTIFIER: Final = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class _Named(msgspec.Struct):
    name: str


class _RunId(msgspec.Struct):
    runId: str  # noqa: N815 - the specification's name


class _Line(msgspec.Struct):
    run: _RunId
    inputs: list[_Named] = []
    outputs: list[_Named] = []


_decoder = msgspec.json.Decoder(_Line)


def step_id(run: str, site: str, identifier: str) -> str:
    """The identifier that a site's events give a step: a UUID of version 8 (RFC 9562, section 5.8).

    Its first 48 bits name run and site; the last 74 that it is free to choose are those of `identifier`, which orchestration gave the step.
    Raises ValueError when `identifier` is no UUID.
    """
    value = bytearray(_mark(run, site) + uuid.UUID(identifier).bytes[_MARK_BYTES:])
    value[6] = 0x80 | value[6] & 0x0F
    value[8] = 0x80 | value[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(value)))


def is_own(run: str, site: str, identifier: str, inputs: Iterable[str], outputs: Iterable[str]) -> bool:
    """Whether an event with this run identifier and these names of datasets is one that `site` may say of `run`."""
    found = _IDENTIFIER.fullmatch(identifier)
    own = f"site/{site}/"
    return (
        found is not None
        and "".join(found.groups()) == _mark(run, site).hex()
        and all(name.startswith(own) or not name.startswith("site/") for name in inputs)
        and all(name.startswith(own) or name == TRANSACTIONS for name in outputs)
    )


def count_foreign(run: str, site: str, plain: bytes) -> int:
    """How many lines of a batch that `site` appended to `run` are not its own."""
    return sum(not _is_own_line(run, site, line) for line in plain.removesuffix(b"\n").split(b"\n"))


def _is_own_line(run: str, site: str, line: bytes) -> bool:
    try:
        event = _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return is_own(run, site, event.run.runId, [item.name for item in event.inputs], [item.name for item in event.outputs])


@lru_cache(maxsize=1 << 12)
def _mark(run: str, site: str) -> bytes:
    return sha256(f"{run}/{site}".encode()).digest()[:_MARK_BYTES]

"""What a validator asks of the world around it."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.consensus.events import Timeout
from ledger.consensus.messages import Message
from ledger.errors import RejectedError
from ledger.types import CommittedBlock, SignedTransaction


@dataclass(frozen=True, slots=True)
class Send:
    """Deliver to every other validator."""

    message: Message


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call `on_timeout` after `duration_ms`."""

    timeout: Timeout
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Final:
    """A block is final and durable here."""

    committed: CommittedBlock


@dataclass(frozen=True, slots=True)
class Refused:
    """This validator, as leader, left a waiting transaction out for good, and why."""

    transaction: bytes
    error: RejectedError


@dataclass(frozen=True, slots=True)
class Ask:
    """Fetch the certified block of `height` from `validator`, or from anybody."""

    height: int
    validator: bytes | None


@dataclass(frozen=True, slots=True)
class Accuse:
    """A validator signed two different things: keep the pair as evidence."""

    first: Message
    second: Message


@dataclass(frozen=True, slots=True)
class Reported:
    """This validator made a transaction of evidence: tell the others of it."""

    transaction: SignedTransaction


Effect = Send | SetTimer | Final | Refused | Ask | Accuse | Reported

"""What goes into `ledger.consensus.core.step` and what comes out of it.

The host carries outputs out in the order given: a `Persist` is durable before the `Broadcast` behind it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.consensus.messages import Candidate, Lock, Message, SignedVote, Step
from ledger.consensus.validators import ValidatorSet
from ledger.types import CommittedBlock

# ---------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Start:
    """The replica starts, perhaps again: it repeats what it had signed at this height and arms its timers."""


@dataclass(frozen=True, slots=True)
class WorkAvailable:
    """There is something to agree on."""


@dataclass(frozen=True, slots=True)
class ProposalReady:
    """The answer to `RequestProposal`."""

    height: int
    round: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose signature and digests have been checked, from others or from this replica itself."""

    message: Message


@dataclass(frozen=True, slots=True)
class Validated:
    """The answer to `Validate`: whether the block may follow the committed chain."""

    height: int
    block: bytes
    valid: bool


@dataclass(frozen=True, slots=True)
class Timeout:
    """A timer that `ScheduleTimeout` armed has run out."""

    step: Step
    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Retransmit:
    """Say again what is known of this round: messages may have been lost."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """A certified block of this height came from a peer; the host has checked its certificate and applied it."""

    committed: CommittedBlock


@dataclass(frozen=True, slots=True)
class NextValidators:
    """Who decides the height behind `height`: known once the block below is final, since changes take effect two heights later."""

    height: int
    validators: ValidatorSet


Event = Start | WorkAvailable | ProposalReady | Received | Validated | Timeout | Retransmit | CaughtUp | NextValidators

# --------------------------------------------------------------------------------------------------- outputs


@dataclass(frozen=True, slots=True)
class RequestProposal:
    """This replica leads: give it a block, with `ProposalReady`, once there is one that is not empty."""

    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Validate:
    """Run the ledger's rules over this block and answer with `Validated`."""

    height: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Persist:
    """Make this durable before signing it. `locked` is given when the lock changes with it."""

    vote: SignedVote
    locked: Lock | None


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Sign this unsigned message, send it to all and hand it back to this replica as `Received`."""

    message: Message


@dataclass(frozen=True, slots=True)
class Resend:
    """Send this signed message, one's own or another's, once more."""

    message: Message


@dataclass(frozen=True, slots=True)
class ScheduleTimeout:
    """Come back with `timeout` after `duration_ms`."""

    timeout: Timeout
    duration_ms: int


@dataclass(frozen=True, slots=True)
class Commit:
    """This block is final: make it durable. The replica is at the next height already."""

    committed: CommittedBlock


@dataclass(frozen=True, slots=True)
class Evidence:
    """Proof that one validator signed two different things in one step: what a later rule jails it by."""

    first: Message
    second: Message


@dataclass(frozen=True, slots=True)
class NeedBlocks:
    """Ask for the certified block of `height`: `validator`, who must have it, or everybody when that is None."""

    height: int
    validator: bytes | None


Output = RequestProposal | Validate | Persist | Broadcast | Resend | ScheduleTimeout | Commit | Evidence | NeedBlocks

"""One validator: the consensus core, its store, its key, its waiting transactions, its copy of the state.

Fed from outside, it answers with effects. No signature leaves it before what it signs is durable (C6): what one event leads to is
written in one step, and its effects are handed out behind that. It lets nothing in whose signature it has not checked (C5).
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from ledger.codec import encode
from ledger.consensus.blocks import Tip, build_block, check_block, extend, follow, select_transactions
from ledger.consensus.core import step
from ledger.consensus.events import (
    Broadcast,
    CaughtUp,
    Commit,
    Event,
    Evidence,
    NeedBlocks,
    NextValidators,
    Output,
    Persist,
    ProposalReady,
    Received,
    RequestProposal,
    Resend,
    Retransmit,
    ScheduleTimeout,
    Start,
    Timeout,
    Validate,
    Validated,
    WorkAvailable,
)
from ledger.consensus.messages import Candidate, Message, Step
from ledger.consensus.replica import Replica
from ledger.consensus.signing import is_authentic, sign_message, statement_of
from ledger.consensus.timers import Timeouts
from ledger.crypto import Domain, SigningKey, Verify
from ledger.errors import BusyError, CorruptionError, RejectedError
from ledger.node.effects import Accuse, Ask, Effect, Final, Refused, Reported, Send, SetTimer
from ledger.node.mempool import Mempool
from ledger.node.runs import SharedRuns
from ledger.state.entries import Jail
from ledger.state.transition import run_transactions, transaction_ids
from ledger.state.view import State
from ledger.storage.base import BlockStore, VoteRecord, Write
from ledger.types import CommittedBlock, ReportEquivocation, SignedTransaction, Transaction, Validator


class ValidatorNode:
    """The host of one core. Not safe to share between threads: whoever owns it feeds it one thing at a time.

    durable_height: of the last block in `store`; behind `tip` between a decision and its `flush`.
    grouped: its methods answer with nothing, and `flush` writes and hands out what several of them led to: one durable step for all.
    """

    def __init__(
        self,
        key: SigningKey,
        store: BlockStore,
        tip: Tip,
        verify: Verify,
        timeouts: Timeouts | None = None,
        *,
        grouped: bool = False,
        watching: bool = False,
        runs: SharedRuns | None = None,
    ) -> None:
        """A validator whose chain ends in `tip`, which must be the end of `store` (see `ledger.node.replay`).

        runs: what it shares with other validators of this process; None: it runs every rule itself.
        watching: it follows the others and signs nothing, for it may have signed what `store` does not know (SN7).
        """
        self.grouped = grouped
        self.key = key
        self.store = store
        self.tip = tip
        self.durable_height = tip.height
        self.pool = Mempool(tip.state, verify)
        self._verify = verify
        self._runs = runs
        self._run = runs or run_transactions
        self._wanted: RequestProposal | None = None
        self._outcomes: dict[bytes, State] = {}
        self._writes: list[Write] = []
        self._effects: list[Effect] = []
        self._reported: set[bytes] = set()
        locked = store.locked()
        if locked is not None and locked.candidate.block.header.height == tip.height + 1:
            self._outcomes[locked.candidate.id] = self._outcome_of_lock(locked.candidate)
        self._replica = Replica.recover(
            tip.validators,
            b"" if watching else key.public,
            tip.height + 1,
            signed=store.votes(),
            locked=locked,
            timeouts=timeouts,
            next_validators=tip.next_validators,
        )

    @property
    def height(self) -> int:
        """The height being decided."""
        return self._replica.height

    @property
    def locked(self) -> bool:
        """Whether this validator holds a lock: a block of this height may be final already."""
        return self._replica.locked is not None

    @property
    def busy(self) -> bool:
        """Whether a block is being agreed on."""
        return self._replica.step is not Step.IDLE

    @property
    def awaited(self) -> Timeout | None:
        """The end of waiting for a proposal, while one is waited for."""
        replica = self._replica
        waits = replica.step is Step.PROPOSE and replica.round not in replica.proposals
        return Timeout(Step.PROPOSE, replica.height, replica.round) if waits else None

    @property
    def timeouts(self) -> Timeouts:
        """How long its core waits."""
        return self._replica.timeouts

    def leader_at(self, round_: int) -> Validator:
        """Who leads this round of the height being decided."""
        return self._replica.validators.leader(self.height, round_)

    @property
    def unflushed(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._writes or self._effects)

    def flush(self) -> list[Effect]:
        """Make durable what was signed and decided, then hand out the effects. When that fails nothing leaves: stop this validator."""
        if self._writes:
            self.store.write(tuple(self._writes))
            self.durable_height = self.tip.height
        self._writes.clear()
        effects, self._effects = self._effects, []
        return effects

    def start(self) -> list[Effect]:
        """Repeat what was signed before a stop, and go on."""
        return self._feed(Start())

    def submit(self, signed: SignedTransaction) -> bytes:
        """Admit a client's transaction; returns its identity. Raises the named `RejectedError` and `UnavailableError`."""
        return self.pool.admit(signed)

    def on_transaction(self, signed: SignedTransaction) -> None:
        """Take a transaction that another validator admitted. Raises `UnavailableError` when the pool is full."""
        self.pool.add(signed)

    def work(self) -> list[Effect]:
        """Begin to agree if transactions wait."""
        if not len(self.pool):
            return []
        self._take(WorkAvailable())
        if self._wanted is not None:
            for event in self._propose(self._wanted):
                self._take(event)
        return self._answer()

    def on_message(self, message: Message) -> list[Effect]:
        """Take a proposal or a vote of another validator; what is not authentic is dropped."""
        validators = self.tip.validators if message.height <= self.height else self.tip.next_validators
        if not is_authentic(self.tip.network, validators, message, self._verify):
            return []
        return self._feed(Received(message))

    def on_timeout(self, timeout: Timeout) -> list[Effect]:
        """A timer set by `SetTimer` has run out."""
        return self._feed(timeout)

    def retransmit(self) -> list[Effect]:
        """Say again what is known: for when messages may have been lost."""
        return self._feed(Retransmit())

    def on_block(self, committed: CommittedBlock) -> list[Effect]:
        """Take the next certified block from a peer. Raises `RejectedError` when it does not verify; ignores other heights."""
        if committed.block.header.height != self.height:
            return []
        after = follow(self.tip, committed, self._verify, self._run)
        self._outcomes[after.block] = after.state
        return self._feed(CaughtUp(committed))

    def _outcome_of_lock(self, locked: Candidate) -> State:
        try:
            return check_block(self.tip, locked.block, self._verify, self._run)
        except RejectedError as error:
            where = f"{self.store.place}: the block locked at height {locked.block.header.height}"
            raise CorruptionError(f"{where} does not hold: {error}: restore this file from a backup") from error

    def drop(self, transactions: list[bytes]) -> None:
        """Forget waiting transactions that will not be committed."""
        self.pool.discard(transactions)
        self.pool.rebase(self.tip.state)

    def _feed(self, event: Event) -> list[Effect]:
        self._take(event)
        return self._answer()

    def _answer(self) -> list[Effect]:
        return [] if self.grouped else self.flush()

    def _take(self, first: Event) -> None:
        events = deque([first])
        while events:
            self._replica, outputs = step(self._replica, events.popleft())
            for output in outputs:
                events.extend(self._carry_out(output))

    def _carry_out(self, output: Output) -> list[Event]:
        effects = self._effects
        match output:
            case Persist(vote, locked):
                self._writes.append(VoteRecord(vote, locked))
            case Broadcast(message):
                signed = sign_message(self.key, self.tip.network, message)
                effects.append(Send(signed))
                return [Received(signed)]
            case Validate(height, candidate):
                return [Validated(height, candidate.id, self._is_valid(candidate))]
            case RequestProposal():
                return self._propose(output)
            case Commit(committed):
                return self._commit(committed)
            case ScheduleTimeout(timeout, duration_ms):
                effects.append(SetTimer(timeout, duration_ms))
            case Resend(message):
                effects.append(Send(message))
            case NeedBlocks(height, validator):
                effects.append(Ask(height, validator))
            case Evidence(first, second):
                effects.append(Accuse(first, second))
                self._report(first, second)
        return []

    def _propose(self, wanted: RequestProposal) -> list[Event]:
        """C9: a block of the waiting transactions that the rules allow; none, no block."""
        self._wanted = None
        if wanted.height != self.height:
            return []
        taken, after, refused = select_transactions(self.tip, self.pool.offered(), self._verify)
        self._effects.extend(Refused(identity, error) for identity, error in refused)
        self.pool.discard(identity for identity, _ in refused)
        if not taken:
            self._wanted = wanted
            return []
        candidate = build_block(self.tip, taken, after, self.key.public)
        self._outcomes[candidate.id] = after
        if self._runs is not None:
            self._runs.note(self.tip.state, taken, after)
        return [ProposalReady(wanted.height, wanted.round, candidate)]

    def _is_valid(self, candidate: Candidate) -> bool:
        """C14, on this validator's own state."""
        if candidate.id not in self._outcomes:
            try:
                self._outcomes[candidate.id] = check_block(self.tip, candidate.block, self._verify, self._run)
            except RejectedError:
                return False
        return True

    def _commit(self, committed: CommittedBlock) -> list[Event]:
        block = committed.certificate.block
        after = self._outcomes.get(block)
        if after is None:
            raise CorruptionError(
                f"{self.store.place}: block {committed.block.header.height} is final but was never found valid here: stop, and report it"
            )
        self._writes.append(committed)
        self.tip = extend(self.tip, committed, after)
        self._outcomes.clear()
        self._wanted = None
        self.pool.commit(transaction_ids(committed.block.transactions), after)
        self._effects.append(Final(committed))
        following: list[Event] = [NextValidators(self._replica.height, self.tip.next_validators)]
        return [*following, WorkAvailable()] if len(self.pool) else following

    def _report(self, first: Message, second: Message) -> None:
        """C13: evidence becomes a transaction of this validator, once per offender."""
        offender, author = first.validator, self.key.public
        state = self.tip.state
        jailed = state.read(Jail, offender) is not None
        if offender in self._reported or jailed or offender == author or state.identity_of(author) is None:
            return
        self._reported.add(offender)
        body = ReportEquivocation(offender, statement_of(first), statement_of(second))
        payload = encode(Transaction(self.tip.network, author, self.pool.next_sequence(author), body))
        signed = SignedTransaction(payload, self.key.sign(Domain.TRANSACTION, payload))
        with suppress(RejectedError, BusyError):  # somebody else's report may be waiting already
            self.pool.admit(signed)
            self._effects.append(Reported(signed))

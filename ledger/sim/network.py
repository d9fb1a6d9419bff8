"""Plays a scenario on real consensus cores and checks what consensus promises.

- agreement: no two correct instances commit different blocks at one height (C10);
- forward signing: no correct validator signs two different things in one place, crashes or not (C6);
- just evidence: nobody but a twin is accused (C13);
- progress: once the network is whole, every correct instance comes to the last height (C11, C12).

Blocks are tokens: the ledger's rules are not run here, and signatures are taken as checked.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random

from ledger.consensus.core import step
from ledger.consensus.events import (
    Broadcast,
    CaughtUp,
    Commit,
    Event,
    Evidence,
    NeedBlocks,
    Output,
    Persist,
    ProposalReady,
    Received,
    RequestProposal,
    Resend,
    Retransmit,
    ScheduleTimeout,
    Start,
    Validate,
    Validated,
    WorkAvailable,
)
from ledger.consensus.messages import Candidate, Lock, Message, Proposal, SignedVote, Step
from ledger.consensus.replica import Replica
from ledger.consensus.timers import Timeouts
from ledger.consensus.validators import ValidatorSet
from ledger.sim.scenario import Crash, Scenario
from ledger.types import Block, CommittedBlock, Header, Validator

RETRANSMIT_MS = 300
LIMIT_MS = 60_000
TIMEOUTS = Timeouts(propose_ms=200, prevote_ms=100, precommit_ms=100, growth_ms=50, limit_ms=2_000)


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise: which one, and the facts. `seed` replays it: ``python -m ledger.sim SEED``."""

    promise: str
    seed: int
    facts: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run showed: the violation if there was one, the events it took, and how many accusations were made."""

    violation: Violation | None
    events: int
    evidence: int
    elapsed_ms: int


@dataclass(slots=True)
class _Instance:
    """A core and its disk. The disk outlives a crash; the core does not."""

    number: int
    validator: int
    key: bytes
    replica: Replica
    signed: list[SignedVote] = field(default_factory=list)
    locked: Lock | None = None
    chain: list[CommittedBlock] = field(default_factory=list)
    up: bool = True
    life: int = 0
    records: int = 0


class _Broken(Exception):  # noqa: N818 - carries a result out of nested calls; it is not an error
    def __init__(self, promise: str, facts: str) -> None:
        super().__init__(promise)
        self.promise, self.facts = promise, facts


def simulate(scenario: Scenario, *, durable: bool = True) -> Outcome:
    """Play one scenario to its end. `durable=False` is the mutant whose votes do not survive a crash."""
    network = _Network(scenario, durable)
    try:
        network.play()
    except _Broken as broken:
        return Outcome(Violation(broken.promise, scenario.seed, broken.facts), network.events, network.evidence, network.now_ms)
    return Outcome(None, network.events, network.evidence, network.now_ms)


class _Network:
    def __init__(self, scenario: Scenario, durable: bool) -> None:
        self.scenario, self.durable = scenario, durable
        self.random = Random(scenario.seed ^ 0x5EED)  # noqa: S311 - a reproducible schedule
        keys = [sha256(b"validator %d" % number).digest() for number in range(scenario.validators)]
        self.validators = ValidatorSet.of(tuple(Validator(f"v{number}", key, 1) for number, key in enumerate(keys)))
        self.instances = [
            _Instance(number, validator, keys[validator], Replica(self.validators, keys[validator], TIMEOUTS, 1))
            for number, validator in enumerate(scenario.instances)
        ]
        self.faulty = {keys[validator] for validator in scenario.faulty}
        self.correct = [one for one in self.instances if one.key not in self.faulty]
        self.crashes = {(crash.instance, crash.at_record): crash for crash in scenario.crashes}
        self.said: dict[tuple[bytes, int, int, int], bytes | None] = {}
        self.queue: list[tuple[int, int, int, int, Event]] = []
        self.now_ms = self.events = self.evidence = self.order = 0

    @property
    def calm(self) -> bool:
        return self.now_ms >= self.scenario.calm_ms

    def play(self) -> None:
        for instance in self.instances:
            self.later(instance, 0, WorkAvailable())
            self.later(instance, RETRANSMIT_MS, Retransmit())
        while not self.finished():
            if self.now_ms > LIMIT_MS or not self.queue:
                heights = [f"v{one.validator}: {len(one.chain)}, round {one.replica.round}" for one in self.instances]
                raise _Broken("progress", "; ".join(heights))
            self.now_ms, _, number, life, event = heapq.heappop(self.queue)
            instance = self.instances[number]
            if life != instance.life:
                continue
            if not instance.up:
                self.revive(instance)
            self.events += 1
            if isinstance(event, Retransmit):
                self.later(instance, RETRANSMIT_MS, event)
            self.feed(instance, event)

    def finished(self) -> bool:
        return all(one.up and len(one.chain) >= self.scenario.heights for one in self.correct)

    def later(self, instance: _Instance, delay_ms: int, event: Event) -> None:
        self.order += 1
        heapq.heappush(self.queue, (self.now_ms + delay_ms, self.order, instance.number, instance.life, event))

    def feed(self, instance: _Instance, event: Event) -> None:
        waiting = [event]
        while waiting and instance.up:
            instance.replica, outputs = step(instance.replica, waiting.pop(0))
            for output in outputs:
                waiting.extend(self.carry_out(instance, output))
                if not instance.up:
                    return

    def carry_out(self, instance: _Instance, output: Output) -> list[Event]:
        match output:
            case RequestProposal(height, round_):
                return [ProposalReady(height, round_, self.block(instance, height, round_))]
            case Validate(height, candidate):
                return [Validated(height, candidate.id, True)]
            case Persist(vote, locked):
                self.persist(instance, vote, locked)
            case Broadcast(message):
                self.send(instance, message)
                crash = self.crashes.pop((instance.number, instance.records), None)
                if crash is not None:
                    self.crash(instance, crash)
                return [Received(message)]
            case Resend(message):
                self.send(instance, message)
            case ScheduleTimeout(timeout, duration_ms):
                self.later(instance, duration_ms, timeout)
            case Commit(committed):
                self.commit(instance, committed)
                return [WorkAvailable()] if len(instance.chain) < self.scenario.heights else []
            case NeedBlocks(height, _):
                self.catch_up(instance, height)
            case Evidence(first, _):
                self.evidence += 1
                if first.validator not in self.faulty:
                    raise _Broken("just evidence", f"{first} and {output.second}")
        return []

    def block(self, instance: _Instance, height: int, round_: int) -> Candidate:
        identity = sha256(b"%d %d %d %d" % (instance.number, instance.life, height, round_)).digest()
        header = Header(b"", height, b"", b"", identity, 1, b"", b"", b"", instance.key)
        return Candidate(identity, Block(header, None, (identity,)))

    def persist(self, instance: _Instance, vote: SignedVote, locked: Lock | None) -> None:
        if self.durable:
            instance.signed.append(vote)
            instance.locked = locked or instance.locked
        instance.records += 1
        crash = self.crashes.get((instance.number, instance.records))
        if crash is not None and not crash.vote_leaves:
            del self.crashes[instance.number, instance.records]
            self.crash(instance, crash)

    def crash(self, instance: _Instance, crash: Crash) -> None:
        instance.up = False
        instance.life += 1
        self.later(instance, crash.down_ms, Start())

    def revive(self, instance: _Instance) -> None:
        """What a node does when it is started on its own disk."""
        instance.up = True
        height = len(instance.chain) + 1
        recovered = Replica.recover(
            self.validators, instance.key, height, signed=instance.signed, locked=instance.locked, timeouts=TIMEOUTS
        )
        instance.replica = recovered
        self.later(instance, 1, WorkAvailable())
        self.later(instance, RETRANSMIT_MS, Retransmit())

    def send(self, sender: _Instance, message: Message) -> None:
        if message.validator == sender.key and sender.key not in self.faulty:
            self.check_signed_forward(message)
        kind = Step.PROPOSE if isinstance(message, Proposal) else message.step
        cut = None if self.calm else self.scenario.cuts.get((message.height, message.round, kind))
        for receiver in self.instances:
            if receiver is sender or (cut is not None and sender.number not in cut.hears[receiver.number]):
                continue
            if not self.calm and self.random.randrange(1000) < self.scenario.loss:
                continue
            copies = 2 if not self.calm and self.random.randrange(1000) < self.scenario.duplication else 1
            for _ in range(copies):
                self.later(receiver, self.random.randint(1, self.scenario.delay_ms), Received(message))

    def check_signed_forward(self, message: Message) -> None:
        if isinstance(message, Proposal):
            kind: int = Step.PROPOSE
            block: bytes | None = message.candidate.id
        else:
            kind, block = message.step, message.block
        place = (message.validator, message.height, message.round, kind)
        if self.said.setdefault(place, block) != block:
            raise _Broken("forward signing", f"height {message.height}, round {message.round}, step {kind}: two different statements")

    def commit(self, instance: _Instance, committed: CommittedBlock) -> None:
        instance.chain.append(committed)
        instance.signed.clear()
        instance.locked = None
        height = len(instance.chain)
        if instance.key in self.faulty:
            return
        for other in self.instances:
            if other.key not in self.faulty and len(other.chain) >= height:
                theirs, ours = other.chain[height - 1].certificate, committed.certificate
                if theirs.block != ours.block:
                    raise _Broken("agreement", f"height {height}: {theirs.block.hex()[:8]} and {ours.block.hex()[:8]} are both final")

    def catch_up(self, instance: _Instance, height: int) -> None:
        if not self.calm:
            return
        known = next((one for one in self.instances if len(one.chain) >= height and one.key not in self.faulty), None)
        if known is not None:
            self.later(instance, self.random.randint(1, self.scenario.delay_ms), CaughtUp(known.chain[height - 1]))

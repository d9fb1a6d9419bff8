"""Several validators in one process: messages pass through a queue, time is a counter.

Messages are delivered in order until none is left; then every validator writes what it signed and decided, all at the same time, and
what they say leaves: one durable step a phase. Only when nothing is on the way does the clock jump to the next timer. So a stopped leader
costs no waiting: its turn is over as soon as nothing else can happen.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Protocol

from ledger.consensus.events import Timeout
from ledger.errors import BusyError, LedgerError, RejectedError, UnavailableError
from ledger.node.effects import Accuse, Ask, Effect, Final, Refused, Reported, Send, SetTimer
from ledger.node.validator import ValidatorNode
from ledger.types import CommittedBlock, SignedTransaction

TIMERS_WITHOUT_PROGRESS = 200
WRITERS = 4


class Observer(Protocol):
    """Who is told what the validators decide."""

    def on_final(self, committed: CommittedBlock) -> None:
        """A block is final and durable at one more validator: called once for each."""

    def on_refused(self, transaction: bytes, error: RejectedError) -> None:
        """A leader refused a waiting transaction."""

    def on_failed(self, name: str, error: LedgerError) -> None:
        """A validator stopped, because its store fails."""

    def on_accused(self, accusation: Accuse) -> None:
        """A validator signed two different things."""


class Cluster:
    """The validators that are up, by name, and what is on the way between them.

    `nodes` is replaced, never changed, so that other threads may look at it.
    """

    def __init__(self, observer: Observer) -> None:
        """A cluster in which nobody is up yet."""
        self.nodes: Mapping[str, ValidatorNode] = {}
        self._observer = observer
        self._queue: deque[tuple[str, Callable[[ValidatorNode], list[Effect]]]] = deque()
        self._timers: list[tuple[int, int, str, Timeout]] = []
        self._now_ms = self._order = self._idle_timers = 0
        self._disks = ThreadPoolExecutor(WRITERS, thread_name_prefix="cifer-disk")

    def add(self, name: str, node: ValidatorNode) -> None:
        """Bring a validator up: it catches up, and everybody repeats what may be news to it."""
        node.grouped = True
        self.nodes = {**self.nodes, name: node}
        self._catch_up(name)
        self._act(name, ValidatorNode.start)
        for other in tuple(self.nodes):
            self._act(other, ValidatorNode.retransmit)
        self.deliver()

    def remove(self, name: str) -> None:
        """Take a validator down: what was on the way to it is lost."""
        node = self.nodes.get(name)
        if node is not None:
            self.nodes = {other: kept for other, kept in self.nodes.items() if other != name}
            node.store.close()

    def run(self, unfinished: Callable[[], bool]) -> None:
        """Let the validators work until `unfinished` says no. Raises `UnavailableError` when they come no further."""
        self._idle_timers = 0
        for name in tuple(self.nodes):
            self._act(name, ValidatorNode.work)
        self.deliver()
        while unfinished():
            self._next_timer()
            self.deliver()
        self._timers = [entry for entry in self._timers if entry[2] in self.nodes and entry[3].height >= self.nodes[entry[2]].height]
        heapq.heapify(self._timers)

    def deliver(self) -> None:
        """Deliver what is on the way, and what that gives rise to."""
        self._flush()
        while self._queue:
            while self._queue:
                name, action = self._queue.popleft()
                self._act(name, action)
            self._flush()

    def close(self) -> None:
        """Take everybody down."""
        for name in tuple(self.nodes):
            self.remove(name)
        self._disks.shutdown()

    def best(self) -> ValidatorNode | None:
        """A validator that is up and whose stored chain is longest."""
        return max(self.nodes.values(), key=lambda node: node.durable_height, default=None)

    def _next_timer(self) -> None:
        while self._timers:
            self._now_ms, _, name, timeout = heapq.heappop(self._timers)
            node = self.nodes.get(name)
            if node is not None and node.height == timeout.height:
                self._idle_timers += 1
                if self._idle_timers > TIMERS_WITHOUT_PROGRESS * max(1, len(self.nodes)):
                    break
                self._act(name, partial(ValidatorNode.on_timeout, timeout=timeout))
                return
        up = ", ".join(self.nodes) or "nobody"
        raise UnavailableError(f"the validators that are up ({up}) come to no decision: start the others, then submit again")

    def _act(self, name: str, action: Callable[[ValidatorNode], list[Effect]]) -> None:
        node = self.nodes.get(name)
        if node is None:
            return
        try:
            action(node)
        except RejectedError:
            raise
        except LedgerError as error:
            self._fail(name, error)

    def _fail(self, name: str, error: LedgerError) -> None:
        self.remove(name)
        self._observer.on_failed(name, error)

    def _flush(self) -> None:
        """Every validator's durable step at the same time, then what they say, in the validators' order."""
        names = [name for name, node in self.nodes.items() if node.unflushed]
        nodes = [self.nodes[name] for name in names]
        results = self._disks.map(_flushed, nodes) if len(nodes) > 1 else map(_flushed, nodes)
        for name, result in list(zip(names, results, strict=True)):
            if isinstance(result, LedgerError):
                self._fail(name, result)
            else:
                self._carry_out(name, result)

    def _carry_out(self, name: str, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(message):
                    self._queue.extend((other, partial(ValidatorNode.on_message, message=message)) for other in self.nodes if other != name)
                case SetTimer(timeout, duration_ms):
                    self._order += 1
                    heapq.heappush(self._timers, (self._now_ms + duration_ms, self._order, name, timeout))
                case Final(committed):
                    self._idle_timers = 0
                    self._observer.on_final(committed)
                case Refused(transaction, error):
                    for node in self.nodes.values():
                        node.drop([transaction])
                    self._observer.on_refused(transaction, error)
                case Ask(height, _):
                    self._answer(name, height)
                case Accuse():
                    self._observer.on_accused(effect)
                case Reported(transaction):
                    self._queue.extend((other, partial(_pass_on, transaction=transaction)) for other in self.nodes if other != name)

    def _answer(self, name: str, height: int) -> None:
        donor = next((node for other, node in self.nodes.items() if other != name and node.height > height), None)
        committed = donor.store.block(height) if donor is not None else None
        if committed is not None:
            self._queue.append((name, partial(ValidatorNode.on_block, committed=committed)))

    def _catch_up(self, name: str) -> None:
        node = self.nodes[name]
        donor = self.best()
        while donor is not None and name in self.nodes and node.height < donor.height:
            committed = donor.store.block(node.height)
            if committed is None:
                return
            self._act(name, partial(ValidatorNode.on_block, committed=committed))


def _pass_on(node: ValidatorNode, transaction: SignedTransaction) -> list[Effect]:
    with suppress(RejectedError, BusyError):
        node.on_transaction(transaction)
    return []


def _flushed(node: ValidatorNode) -> list[Effect] | LedgerError:
    try:
        return node.flush()
    except LedgerError as error:
        return error

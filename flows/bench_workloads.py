"""What `cifer bench ledger` submits: opaque anchors, and the transactions of rounds as they really come. Signed before the clock starts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from random import Random
from typing import Final

from ledger import SigningKey, sign_transaction
from ledger.types import (
    Anchor,
    AppendLineage,
    Body,
    CommitRound,
    DatasetUse,
    GrantConsent,
    Metric,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    ReleaseOpening,
    SealRound,
    SignedTransaction,
    SubmitUpdate,
)

AUTHORS: Final = 64
ANCHOR_BYTES: Final = 146
"""With these the encoded transaction has 299 to 301 bytes, whatever its number up to 65,535."""
RUNS: Final = 8
EVENTS: Final = 8


Batch = tuple[SignedTransaction, ...]
"""Submitted in one call."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Signed transactions for a fresh network.

    founding: what the others rest on, not measured.  repetitions: the same amount of the same work, again and again.
    """

    name: str
    founding: tuple[Batch, ...]
    repetitions: tuple[tuple[Batch, ...], ...]

    @property
    def size(self) -> int:
        """Transactions that are measured."""
        return sum(map(size_of, self.repetitions))

    def sample(self, count: int) -> list[SignedTransaction]:
        """The first `count` that are measured."""
        return [signed for batches in self.repetitions for batch in batches for signed in batch][:count]


def size_of(batches: Sequence[Batch]) -> int:
    """Transactions in these batches."""
    return sum(map(len, batches))


class Script:
    """Signs bodies one after the other for one network, each author's from number 0 on."""

    def __init__(self, network: bytes, administrator: SigningKey) -> None:
        """Nobody has said anything yet."""
        self._network = network
        self._keys = {"administrator": administrator}
        self._said: dict[str, int] = {}

    def sign(self, who: str, body: Body) -> SignedTransaction:
        """`body` as `who` says it; a name that is new gets a key of its own."""
        number = self._said.get(who, 0)
        self._said[who] = number + 1
        return sign_transaction(self.key(who), self._network, number, body)

    def key(self, who: str) -> SigningKey:
        """The key of `who`."""
        return self._keys.setdefault(who, SigningKey.generate())

    def admit(self, names: Sequence[str], role: str) -> Batch:
        """Register identities."""
        return tuple(self.sign("administrator", RegisterIdentity(name, role, self.key(name).public)) for name in names)


def opaque(network: bytes, administrator: SigningKey, transactions: int, batch: int, callers: int = 1, each: int = 1) -> Workload:
    """Anchors of 64 authors in turn, 300 bytes each as they stand in a block.

    A repetition has `each` batches of every caller, who has authors of its own: number 0, `callers`, ... are those of the first.
    """
    script, random = Script(network, administrator), Random(7)  # noqa: S311 - filler
    names = [f"site-{number:03d}" for number in range(AUTHORS)]
    founding = script.admit(names, "site")
    said = []
    for caller in range(callers):
        own = names[caller::callers]
        share = range(transactions // callers)
        said.append(_batched([script.sign(own[number % len(own)], Anchor(random.randbytes(ANCHOR_BYTES))) for number in share], batch))
    turns = [tuple(batches) for batches in zip(*said, strict=True)]
    repetitions = tuple(tuple(chain.from_iterable(turns[start : start + each])) for start in range(0, len(turns), each))
    return Workload("opaque", (founding,), repetitions)


def rounds(network: bytes, administrator: SigningKey, transactions: int) -> Workload:
    """Rounds of eight runs side by side, each of 64 sites: openings, submissions, consents, seals, releases, outcomes and lineage.

    At least `transactions`, in whole rounds: a batch is what all runs can say without waiting for one another.
    """
    script = Script(network, administrator)
    sites = [f"site-{number:03d}" for number in range(AUTHORS)]
    leads = [f"lead-{number}" for number in range(RUNS)]
    founding = [script.admit(sites, "site") + script.admit(leads, "coordinator")]
    founding.append(tuple(script.sign(site, RegisterDataset("table", _digest(site), "md5:0", 100, _digest("schema"))) for site in sites))
    founding.append(tuple(script.sign(site, GrantConsent(_digest(site), "bench")) for site in sites))
    founding.append(tuple(script.sign(lead, _run(lead, sites)) for lead in leads))
    done: list[tuple[Batch, ...]] = []
    while sum(map(size_of, done)) < transactions:
        done.append(_round(script, leads, sites, len(done) + 1))
    return Workload("rounds", tuple(founding), tuple(done))


def _round(script: Script, leads: Sequence[str], sites: Sequence[str], number: int) -> tuple[Batch, ...]:
    openings: list[tuple[str, Body]] = [(lead, OpenRound(lead, number, _digest("model"), _digest("context"))) for lead in leads]
    submissions: list[tuple[str, Body]] = [
        (site, SubmitUpdate(lead, number, _digest(site), 100, _digest(lead, site, number), 4096)) for lead in leads for site in sites
    ]
    consents: list[tuple[str, Body]] = [(site, GrantConsent(_digest(site), f"study-{number}")) for site in sites]
    seals: list[tuple[str, Body]] = [(lead, SealRound(lead, number, tuple(sites))) for lead in leads]
    releases: list[tuple[str, Body]] = [
        (site, ReleaseOpening(lead, number, _digest("sum", lead, number), _digest("share", lead, site, number)))
        for lead in leads
        for site in sites
    ]
    outcomes: list[tuple[str, Body]] = [
        (lead, CommitRound(lead, number, _digest("sum"), _digest("mean"), _digest("model"), True, "", (Metric("accuracy", 950_000),)))
        for lead in leads
    ]
    lineage: list[tuple[str, Body]] = [(lead, _lineage(lead, number, part)) for lead in leads for part in range(EVENTS)]
    phases = (openings, submissions + consents, seals, releases, outcomes + lineage)
    return tuple(tuple(script.sign(who, body) for who, body in phase) for phase in phases)


def _run(name: str, sites: Sequence[str]) -> OpenRun:
    uses = tuple(DatasetUse(site, _digest(site)) for site in sites)
    return OpenRun(
        name, "bench", _digest("config"), "unversioned", _digest("lock"), "threshold", "{}", 1000, _digest("model"), 2, 2**31, uses
    )


def _lineage(run: str, number: int, part: int) -> AppendLineage:
    lines = [
        {"eventType": kind, "job": {"namespace": run, "name": f"step-{part}"}, "run": {"runId": f"{number}-{part}"}, "inputs": ["a"] * 8}
        for kind in ("START", "RUNNING", "COMPLETE")
    ]
    plain = "\n".join(json.dumps(line) for line in lines).encode()
    return AppendLineage(run, number, len(lines), sha256(plain).digest(), zlib.compress(plain))


def _batched(said: Sequence[SignedTransaction], size: int) -> list[Batch]:
    return [tuple(said[start : start + size]) for start in range(0, len(said), size)]


def _digest(*labels: object) -> bytes:
    return sha256(repr(labels).encode()).digest()

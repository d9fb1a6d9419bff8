"""A ledger's blocks as large as one likes, for measuring: what the provenance graph reads, with everything a committee would add left out.

The bodies and events are those of real trainings (`cifer_tasks.lineage.events` makes the events, once a step; their identifiers and
digests are replaced run by run), and the graph is derived from them by the same functions. Signatures, certificates and roots are
zeros: the graph does not read them. Which tables a run uses, and which model it starts from, follow from its number.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from cifer_tasks.lineage.datasets import Version
from cifer_tasks.lineage.events import RunKey, Scope, completed_lines
from ledger import encode, network_id
from ledger.types import (
    AppendLineage,
    Block,
    Body,
    Certificate,
    CloseRun,
    CommitRound,
    CommittedBlock,
    DatasetUse,
    Genesis,
    GrantConsent,
    Header,
    Metric,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    RegisterModel,
    ReleaseOpening,
    SealRound,
    SignedTransaction,
    SubmitUpdate,
    Transaction,
    Validator,
)

SITES = 16
ROUNDS = 10
CHAIN = 4
"""Every run but each fourth starts from the model of the run before it."""
STEPS = ("validate_data", "train", "protect", "encrypt", "submit")
Said = tuple[str, Body]


def digest(*parts: object) -> bytes:
    """A digest that stands for something named."""
    return sha256("/".join(map(str, parts)).encode()).digest()


def site_name(number: int) -> str:
    """Site `number`, from 0."""
    return f"site-{number:02}"


@dataclass(frozen=True, slots=True)
class SyntheticRecord:
    """Blocks with at least `least_events` OpenLineage events, in whole runs of 16 sites and 10 rounds. What an index is built from."""

    least_events: int

    @property
    def genesis(self) -> Genesis:
        """Four validators and an administrator, none of which anybody holds the key of."""
        members = tuple(Validator(f"validator-{number}", digest("validator", number), 1) for number in range(1, 5))
        return Genesis("synthetic", "libsodium", bytes(16), members, (_key("administrator-0"),))

    @property
    def runs(self) -> int:
        """How many trainings there are."""
        return -(-self.least_events // (ROUNDS * EVENTS_A_ROUND))

    @property
    def events(self) -> int:
        """How many events there are."""
        return self.runs * ROUNDS * EVENTS_A_ROUND

    def head(self) -> Header:
        """A header of the last height."""
        return _header(network_id(self.genesis), 1 + self.runs * (ROUNDS + 2))

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """The blocks from height `start` on: enrolment, then for every run its declaration, its rounds, its end."""
        network = network_id(self.genesis)
        said = self._said()
        for height, bodies in enumerate(said, 1):
            if stop is not None and height >= stop:
                return
            if height >= start:
                yield _block(network, height, bodies)

    def _said(self) -> Iterator[list[Said]]:
        yield list(_enrolment())
        current = digest("initial")
        for number in range(self.runs):
            if number % CHAIN == 0:
                current = digest("initial", number)
            run = f"run-{number:05}"
            uses = tuple(DatasetUse(site_name(site), _table(site)) for site in range(SITES))
            opening = OpenRun(
                run, "study", digest("config", number % 7), "c0ffee", digest("lock"), "threshold", "{}", 31, current, 8, ROUNDS, uses
            )
            yield [("coordinator", opening)]
            for round_ in range(1, ROUNDS + 1):
                accepted = round_ != ROUNDS // 2
                candidate = digest(run, round_, "model")
                yield list(_round(run, round_, current, candidate, accepted))
                current = candidate if accepted else current
            yield [
                ("coordinator", RegisterModel("study", number + 1, "champion", current, run, ROUNDS)),
                ("coordinator", CloseRun(run, "completed", "")),
            ]


def _enrolment() -> Iterator[Said]:
    yield "administrator-0", RegisterIdentity("coordinator", "coordinator", _key("coordinator"))
    for number in range(SITES):
        site = site_name(number)
        yield "administrator-0", RegisterIdentity(site, "site", _key(site))
        yield site, RegisterDataset(f"study.{site}", _table(number), "md5:0", 100, digest("schema"))
        yield site, GrantConsent(_table(number), "study")


def _round(run: str, number: int, base: bytes, candidate: bytes, accepted: bool) -> Iterator[Said]:
    yield "coordinator", OpenRound(run, number, base, digest("context"))
    for index in range(SITES):
        yield site_name(index), SubmitUpdate(run, number, _table(index), 100, digest(run, number, index), 65_536)
    yield "coordinator", SealRound(run, number, tuple(site_name(index) for index in range(SITES)))
    total = digest(run, number, "sum")
    for index in range(SITES * 2 // 3 + 1):
        yield site_name(index), ReleaseOpening(run, number, total, digest(run, number, index, "share"))
    reason = "" if accepted else "accuracy fell by 0.02"
    yield (
        "coordinator",
        CommitRound(run, number, total, digest(run, number, "mean"), candidate, accepted, reason, (Metric("accuracy", 900_000 + number),)),
    )
    plain = _events(run, number, candidate)
    yield "coordinator", AppendLineage(run, number, EVENTS_A_ROUND, sha256(plain).digest(), zlib.compress(plain, 1))


# ----------------------------------------------------------------------------------------------------- events of a round


@dataclass(frozen=True, slots=True)
class _Step:
    """The two events of one step of one site, with what differs between rounds as its place: (bytes of START, bytes of COMPLETE)."""

    name: str
    lines: bytes


def _steps() -> tuple[_Step, ...]:
    made = []
    for index in range(SITES):
        site, table = site_name(index), Version(f"site/{site_name(index)}/table", _table(index).hex())
        versions = [
            table,
            *(Version(f"site/{site}/{kind}", _mark(kind, index)) for kind in ("validated", "update", "encoded", "ciphertext")),
        ]
        ends = [*versions[1:], Version("ledger/transactions", _mark("transaction", index))]
        for step, source, target in zip(STEPS, versions, ends, strict=True):
            made.append(_step(f"{step}[{site}]", step, (source,), (target,)))
    model, total = Version("artifact/model", _mark("model", "")), Version("artifact/aggregate", _mark("aggregate", ""))
    updates = tuple(Version(f"site/{site_name(index)}/ciphertext", _mark("ciphertext", index)) for index in range(SITES))
    made.append(_step("aggregate", "aggregate", updates, (total,)))
    made.append(_step("open", "open", (total,), (model,)))
    made.append(_step("evaluate", "evaluate", (model,), ()))
    return tuple(made)


def _step(name: str, job: str, inputs: Sequence[Version], outputs: Sequence[Version]) -> _Step:
    return _Step(name, completed_lines(_scope(job), _TIMES, "3", inputs, outputs))


def _scope(job: str) -> Scope:
    around = RunKey(str(UUID(int=1)), "cifer/synthetic", "study.round", "FLOW", "run")
    return Scope(around, None, None).below(RunKey(_MARKED_RUN, "cifer/synthetic", f"study.{job}", "TASK", "run"))


def _mark(*parts: object) -> str:
    """A digest that stands in the events of one round, and is replaced in those of every other."""
    return digest("mark", *parts).hex()


_MARKED_RUN = str(UUID(int=0))
EVENTS_A_ROUND = 2 * (SITES * len(STEPS) + 3)
_TIMES = ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:01+00:00")
_templates: list[tuple[_Step, ...]] = []


def _events(run: str, number: int, candidate: bytes) -> bytes:
    """The events of one round: the same steps as in every other, other runs, other bytes."""
    if not _templates:
        _templates.append(_steps())
    plain = []
    for step in _templates[0]:
        identifier = str(UUID(bytes=digest(run, number, step.name)[:16]))
        plain.append(step.lines.replace(_MARKED_RUN.encode(), identifier.encode()))
    text = b"".join(plain)
    for kind in ("validated", "update", "encoded", "ciphertext", "transaction"):
        for index in range(SITES):
            text = text.replace(_mark(kind, index).encode(), digest(run, number, kind, index).hex().encode())
    text = text.replace(_mark("aggregate", "").encode(), digest(run, number, "sum").hex().encode())
    return text.replace(_mark("model", "").encode(), candidate.hex().encode())


# ------------------------------------------------------------------------------------------------------ blocks


def _key(name: str) -> bytes:
    return digest("key", name)


def _table(site: int) -> bytes:
    return digest("table", site)


def _header(network: bytes, height: int) -> Header:
    zero = bytes(32)
    return Header(network, height, zero, zero, zero, 0, zero, zero, zero, zero)


def _block(network: bytes, height: int, said: Sequence[Said]) -> CommittedBlock:
    transactions = tuple(
        encode(SignedTransaction(encode(Transaction(network, _key(name), height << 10 | index, body)), bytes(64)))
        for index, (name, body) in enumerate(said)
    )
    return CommittedBlock(Block(_header(network, height), None, transactions), Certificate(height, 0, bytes(32), ()))

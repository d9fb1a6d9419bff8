"""Whether the parts of a model's history fit together: the rules that an auditor asks about, asked again. Rules Z12 to Z18 of SPEC.md.

A quorum of validators has asked all rules before it certified the state. These follow from what is shown, so nobody has to take their word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any, NoReturn, TypeVar, cast

from ledger.errors import BundleError, RejectedError
from ledger.provenance.bundle import Artifact
from ledger.provenance.speaking import count_foreign
from ledger.state import lineage as lineage_rules
from ledger.state.approvals import DECIDERS
from ledger.state.entries import (
    Account,
    Alias,
    Approval,
    ApprovalRequired,
    Consent,
    Dataset,
    Entry,
    Exclusion,
    FormerKey,
    Identity,
    Joined,
    Lineage,
    Model,
    ModelName,
    Origin,
    Outcome,
    Partition,
    Release,
    Round,
    Run,
    Statistics,
    Submission,
    Weighing,
    path_of,
)
from ledger.types import AcceptInvitation, AppendLineage, GrantConsent, RotateIdentity, Transaction, WithdrawConsent

E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the chain."""

    height: int
    index: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A transaction that a bundle shows. identity: 32 bytes."""

    identity: bytes
    position: Position
    said: Transaction


@dataclass(frozen=True, slots=True)
class Told:
    """What `check_story` found, as sentences."""

    checked: tuple[str, ...]
    unchecked: tuple[str, ...]


class _Record:
    """The entries by kind and key, and the transactions by identity."""

    def __init__(self, entries: Iterable[Entry], shown: Sequence[Shown]) -> None:
        self._entries = {path_of(type(entry), *entry.key()): entry for entry in entries}
        self._places = {item.identity: item.position for item in shown}
        self._said = {item.identity: item.said for item in shown}
        self.shown = shown
        self.model = self._only(Model)
        self.run = self.get(Run, self.model.run)

    def find(self, kind: type[E], *key: Any) -> E | None:
        return cast("E | None", self._entries.get(path_of(kind, *key)))

    def get(self, kind: type[E], *key: Any) -> E:
        found = self.find(kind, *key)
        if found is None:
            _refuse("Z8", f"the state holds no {kind.__name__} {', '.join(str(value) for value in key)}")
        return found

    def all(self, kind: type[E]) -> list[E]:
        return [entry for entry in self._entries.values() if isinstance(entry, kind)]

    def place(self, origin: Origin) -> Position:
        return self._places[origin.transaction] if origin.height else Position(0, 0)

    def said(self, origin: Origin) -> Transaction | None:
        return self._said.get(origin.transaction)

    def _only(self, kind: type[E]) -> E:
        found = self.all(kind)
        if len(found) != 1:
            _refuse("Z8", f"it shows {len(found)} models")
        return found[0]


def check_story(entries: Sequence[Entry], shown: Sequence[Shown]) -> Told:
    """Check rules Z12 to Z15, Z17 and Z18. shown: in the order of the chain. Raises `BundleError`."""
    record = _Record(entries, shown)
    silent = _check_sequences(record)
    _check_rounds(record)
    _check_approval(record)
    _check_consents(record)
    events, foreign = _check_lineage(record)
    return Told(_checked(record, events), _unchecked(record, silent, foreign))


def check_artifacts(entries: Sequence[Entry], artifacts: Sequence[Artifact]) -> None:
    """Z16, but for the bytes: each artifact is one that an entry names, and a ciphertext has the size it was submitted with."""
    sizes = {entry.ciphertext: entry.size_bytes for entry in entries if isinstance(entry, Submission)}
    named = artifact_digests(entries)
    for item in artifacts:
        if item.sha256 not in named:
            _refuse("Z16", f"no entry names the artifact {item.sha256.hex()[:16]}")
        if sizes.get(item.sha256, item.size_bytes) != item.size_bytes:
            _refuse("Z16", f"the ciphertext {item.sha256.hex()[:16]} has {item.size_bytes} bytes, it was submitted with another size")


def artifact_digests(entries: Iterable[Entry]) -> dict[bytes, str]:
    """What a history names by the SHA-256 of its bytes, and what it is: ``model``, ``ciphertext``, ``opening`` and so on."""
    found: dict[bytes, str] = {}
    for entry in entries:
        match entry:
            case Run():
                found |= {entry.config_digest: "settings", entry.initial_model: "model"}
            case Round():
                found |= {entry.public_context: "public-context", entry.base_model: "model"}
                if entry.outcome is not None:
                    found |= {entry.outcome.aggregate: "aggregate", entry.outcome.opened: "opened", entry.outcome.candidate: "model"}
            case Submission():
                found[entry.ciphertext] = "ciphertext"
            case Release():
                found[entry.opening] = "opening"
            case Statistics():
                found |= {entry.reference: "reference", entry.measured: "measured"}
            case Model():
                found[entry.model] = "model"
    return found


# --------------------------------------------------------------------------------------------------------------- rules


def _check_sequences(record: _Record) -> Mapping[str, int]:
    """Z12, Z18, and Z13's first sentence. Returns how many of each author's transactions are not shown, by name, where some are not."""
    last: dict[bytes, int] = {}
    counts: dict[bytes, int] = defaultdict(int)
    for item in record.shown:
        author, sequence = item.said.author, item.said.sequence
        account = record.get(Account, author)
        identity = record.get(Identity, account.name)
        _check_key(record, item, identity)
        if sequence <= last.get(author, _first(record, account) - 1) or sequence >= account.next_sequence:
            _refuse("Z12", f"transaction {item.identity.hex()[:16]} has number {sequence} of {account.name}, which does not fit the others")
        if identity.public_key == author and identity.origin.height and record.place(identity.origin) >= item.position:
            _refuse("Z13", f"transaction {item.identity.hex()[:16]} comes before the registration of {account.name}")
        last[author] = sequence
        counts[author] += 1
    left: dict[str, int] = defaultdict(int)
    for account in record.all(Account):
        left[account.name] += account.next_sequence - _first(record, account) - counts[account.public_key]
    return {name: count for name, count in sorted(left.items()) if count}


def _check_key(record: _Record, item: Shown, identity: Identity) -> None:
    """Z18: what a key signs that is not the present one of its identity, it signed while it was."""
    body, former = item.said.body, record.find(FormerKey, item.said.author)
    where = f"transaction {item.identity.hex()[:16]} of {identity.name}"
    if former is None:
        if isinstance(body, RotateIdentity) or not (identity.public_key == item.said.author or isinstance(body, AcceptInvitation)):
            _refuse("Z18", f"{where} is signed by {item.said.author.hex()[:16]}, which the state does not show to be or have been its key")
    elif not record.place(former.since) < item.position <= record.place(former.until):
        _refuse("Z18", f"{where} is signed by {item.said.author.hex()[:16]} before or after that was its key")
    elif isinstance(body, RotateIdentity) and record.place(former.until) != item.position:
        _refuse("Z18", f"{where} names another key in place of one that went on")


def _first(record: _Record, account: Account) -> int:
    """The number with which a key begins: that behind the rotation that named it."""
    identity, former = record.get(Identity, account.name), record.find(FormerKey, account.public_key)
    since = former.since if former is not None else identity.origin
    said = record.said(since)
    named = said is not None and isinstance(said.body, RotateIdentity) and said.body.public_key == account.public_key
    return said.sequence + 1 if said is not None and named else 0


def _check_rounds(record: _Record) -> None:
    """Z13 and Z14: everything in its order, every round from the model before it, and the model from the last."""
    run, model = record.run, record.model
    place, current = record.place(run.origin), run.initial_model
    _check_places(record)
    for number in range(1, model.round + 1):
        found = record.get(Round, run.run, number)
        if found.base_model != current:
            _refuse("Z14", f"round {number} starts from {found.base_model.hex()[:16]}, the model before it is {current.hex()[:16]}")
        outcome, place = _check_round(record, found, place)
        current = outcome.candidate if outcome.accepted else current
        if number == model.round and not (outcome.accepted and outcome.candidate == model.model):
            _refuse("Z14", f"the model is not the accepted candidate of round {number}")
    for one in run.joined:
        _check_joined(record, one)
    if record.place(model.origin) <= place:
        _refuse("Z13", "the model was registered before its round was committed")
    if record.get(ModelName, model.name).latest_version < model.version:
        _refuse("Z14", f"the latest version of {model.name} is below {model.version}")


def _check_places(record: _Record) -> None:
    """Z14: every table is its site's own and registered before the run had a place for it; no more sites than the run has places for."""
    run = record.run
    for use in run.places:
        table = record.get(Dataset, use.dataset)
        if table.owner != use.site or record.place(table.origin) >= _given(record, use.site):
            _refuse("Z14", f"the table of {use.site} is not its own, or was registered after the run had a place for it")
    if len({use.site for use in run.places}) < len(run.places) or len(run.places) > max(run.maximum_sites, len(run.datasets)):
        _refuse("Z14", f"the run has places for {len(run.places)} sites, one of them twice or more than it was declared for")


def _given(record: _Record, site: str) -> Position:
    """Where a site got its place in the run: in its declaration, or later."""
    run = record.run
    return record.place(next((one.origin for one in run.joined if one.site == site), run.origin))


def _check_joined(record: _Record, one: Joined) -> None:
    """Z13: a site is admitted after the round before its first one was opened, and before its first one is."""
    run, at = record.run, record.place(one.origin)
    before = record.find(Round, run.run, one.since - 1)
    first = record.find(Round, run.run, one.since)
    after = record.place(run.origin if before is None else before.opened)
    if one.since < 1 or at <= after or (first is not None and at >= record.place(first.opened)):
        _refuse("Z13", f"{one.site} was not admitted between the openings of rounds {one.since - 1} and {one.since}, its first")


def _check_approval(record: _Record) -> None:
    """Z14: where approval was required before the model was registered, somebody who may had approved it by then."""
    run, model = record.run, record.model
    required = record.find(ApprovalRequired, run.run)
    registered = record.place(model.origin)
    if required is None or record.place(required.origin) > registered:
        return
    approval = record.find(Approval, run.run, model.model)
    if approval is None or not approval.approved or record.place(approval.origin) > registered:
        _refuse("Z14", "the run required approval, and the model was registered without")
    elif record.get(Identity, approval.by).role not in DECIDERS:
        _refuse("Z14", f"the model was approved by {approval.by}, who may not decide about models")


def _check_round(record: _Record, found: Round, after: Position) -> tuple[Outcome, Position]:
    """Returns the outcome and its place."""
    run, number = record.run, found.round
    if found.sealed is None or found.outcome is None:
        _refuse("Z14", f"round {number} is not committed")
    opened, sealed, committed = (record.place(origin) for origin in (found.opened, found.sealed, found.outcome.origin))
    within: list[tuple[str, Position, Position, Position]] = [("the seal", opened, sealed, committed)]
    submitted = set()
    for use in run.places_in(number):
        entry = record.find(Submission, run.run, number, use.site)
        left_out = record.find(Exclusion, run.run, number, use.site)
        if entry is not None:
            submitted.add(use.site)
            within.append((f"the submission of {use.site}", opened, record.place(entry.origin), sealed))
            if entry.dataset != use.dataset or entry.rows != record.get(Dataset, use.dataset).rows or left_out is not None:
                _refuse("Z14", f"round {number}: {use.site} submitted for another table or number of rows, or although it was left out")
            if not 0 <= entry.lag <= min(run.max_staleness, number - 1):
                _refuse("Z14", f"round {number}: {use.site} trained from a model of {entry.lag} rounds before, which the run does not take")
        if left_out is not None:
            within.append((f"the exclusion of {use.site}", opened, record.place(left_out.origin), sealed))
    within += _decided(record, number, sealed, committed)
    for what, before, at, end in within:
        if not after < before < at < end:
            _refuse("Z13", f"round {number}: {what} is not in its place between the steps around it")
    sites = found.sealed_sites
    ascending = all(left < right for left, right in pairwise(sites))
    if not ascending or not set(sites) <= submitted or len(sites) < run.minimum_sites:
        _refuse("Z14", f"round {number}: the sealed set is unordered, too small, or names a site that did not submit")
    return found.outcome, committed


def _decided(record: _Record, number: int, sealed: Position, committed: Position) -> list[tuple[str, Position, Position, Position]]:
    """Between which places the statistics, the weights or the partition of a round belong, and the releases behind these."""
    run, within = record.run, []
    decided = record.find(Weighing, run.run, number) or record.find(Partition, run.run, number)
    at = sealed if decided is None else record.place(decided.origin)
    if decided is not None:
        within.append(("the weights or the partition", sealed, at, committed))
    for use in run.places_in(number):
        measured, released = record.find(Statistics, run.run, number, use.site), record.find(Release, run.run, number, use.site)
        if measured is not None:
            within.append((f"the statistics by {use.site}", sealed, record.place(measured.origin), committed))
        if released is not None:
            within.append((f"the release of {use.site}", at, record.place(released.origin), committed))
    return within


def _check_consents(record: _Record) -> None:
    """Z15: what was granted and withdrawn, and that it stood when the site got its place, at each submission and at each seal."""
    run = record.run
    for use in run.places:
        changes = _changes_of(record, use.dataset)
        entry = record.get(Consent, use.dataset, run.purpose)
        where = f"the consent of {use.site} for {run.purpose}"
        grants = [identity for _, identity, granted in changes if granted]
        alternate = all(granted == (number % 2 == 0) for number, (_, _, granted) in enumerate(changes))
        last = changes[-1][1] if changes else b""
        ends = entry.granted.transaction if entry.withdrawn is None else entry.withdrawn.transaction
        if not alternate or not grants or grants[-1] != entry.granted.transaction or last != ends:
            _refuse("Z15", f"{where}: the grants and withdrawals shown do not alternate up to the last one")
        if not _standing(changes, _given(record, use.site)):
            _refuse("Z15", f"{where} did not stand when the site got its place in the run")
        for number in range(1, record.model.round + 1):
            found = record.get(Round, run.run, number)
            submission = record.find(Submission, run.run, number, use.site)
            if submission is not None and _standing(changes, record.place(submission.origin)) != submission.consent.transaction:
                _refuse("Z15", f"{where}: the submission to round {number} rests on another one than stood then")
            if found.sealed is not None and use.site in found.sealed_sites and not _standing(changes, record.place(found.sealed)):
                _refuse("Z15", f"{where} did not stand when round {number} was sealed")


def _changes_of(record: _Record, dataset: bytes) -> list[tuple[Position, bytes, bool]]:
    """Grants (True) and withdrawals of a table for the run's purpose, in order."""
    kinds = (GrantConsent, WithdrawConsent)
    return [
        (item.position, item.identity, isinstance(item.said.body, GrantConsent))
        for item in record.shown
        if isinstance(item.said.body, kinds) and (item.said.body.dataset, item.said.body.purpose) == (dataset, record.run.purpose)
    ]


def _standing(changes: Sequence[tuple[Position, bytes, bool]], at: Position) -> bytes:
    """The grant that stands at a place, empty when none does."""
    before = [(identity, granted) for position, identity, granted in changes if position < at]
    return before[-1][0] if before and before[-1][1] else b""


def _check_lineage(record: _Record) -> tuple[int, Mapping[str, int]]:
    """Z17: the events are those of the digest, by somebody who may append them.

    Returns how many there are, and by site how many lines of its batches are not its own by A7.
    """
    by_identity = {item.identity: item.said.body for item in record.shown}
    sites = {use.site for use in record.run.places}
    foreign: dict[str, int] = defaultdict(int)
    for entry in record.all(Lineage):
        where = f"lineage batch {entry.batch} of round {entry.round}"
        body = by_identity[entry.origin.transaction]
        try:
            plain = lineage_rules.decompress(where, body.events) if isinstance(body, AppendLineage) else b""
        except RejectedError as error:
            _refuse("Z17", str(error))
        if sha256(plain).digest() != entry.sha256 or lineage_rules.count_lines(plain) != entry.count:
            _refuse("Z17", f"{where}: the events are not those of its digest and count")
        if entry.author == record.run.coordinator:
            continue
        if entry.author not in sites:
            _refuse("Z17", f"{where} is by {entry.author}, who is neither the run's coordinator nor one of its sites")
        foreign[entry.author] += count_foreign(entry.run, entry.author, plain)
    return sum(entry.count for entry in record.all(Lineage)), {site: count for site, count in sorted(foreign.items()) if count}


# ----------------------------------------------------------------------------------------------------------- sentences


def _checked(record: _Record, events: int) -> tuple[str, ...]:
    run, model = record.run, record.model
    made = [len(record.all(kind)) for kind in (Submission, Exclusion, Release)]
    places = sum(len(run.places_in(number)) for number in range(1, model.round + 1))
    alias = [f"@{entry.alias} points to version {entry.version}" for entry in record.all(Alias)]
    return (
        f"{model.round} rounds of run {run.run} in unbroken order, each from the model before it, the last one's candidate is this model",
        f"of {places} places of {len(run.places)} sites in these rounds: {made[0]} submissions, {made[1]} exclusions, "
        f"{made[2]} releases; of all others the state shows that there is none",
        f"every consent stood when its site got its place in the run, at each submission and at each seal; now: {_consents(record)}",
        f"{events} lineage events, the bytes of their digests",
        _approval(record),
        *([f"as of this block, {', '.join(sorted(alias))}"] if alias else []),
    )


def _approval(record: _Record) -> str:
    found = record.find(Approval, record.run.run, record.model.model)
    if found is None:
        return "the run required nobody's approval of its model"
    return f"the model was {'approved' if found.approved else 'declined'} by {found.by} in block {found.origin.height}: {found.reason}"


def _consents(record: _Record) -> str:
    found = [(use.site, record.get(Consent, use.dataset, record.run.purpose)) for use in record.run.places]
    withdrawn = [f"{site} WITHDRAWN in block {entry.withdrawn.height}" for site, entry in found if entry.withdrawn is not None]
    return "; ".join(withdrawn) if withdrawn else f"all {len(found)} stand, none is withdrawn"


def _unchecked(record: _Record, silent: Mapping[str, int], foreign: Mapping[str, int]) -> tuple[str, ...]:
    run = record.run
    beyond = [f"{site} ({count})" for site, count in foreign.items()]
    sites = [f"{name} ({count})" for name, count in silent.items() if any(use.site == name for use in run.places)]
    strange = [
        f"{entry.site} in round {entry.round}"
        for entry in record.all(Release)
        if (found := record.find(Round, run.run, entry.round)) and found.outcome and found.outcome.aggregate != entry.aggregate
    ]
    return (
        "that a site trained honestly, on the table it registered and no other: the ledger holds what it signed",
        "that the tables, settings, code and dependencies are what their digests were taken of: compare them with your copies",
        "what happened after this block, and whether it is the newest: ask for a pin, --head or --not-before, from somebody you trust",
        *(
            [f"transactions on other matters, not shown: of {', '.join(sites)}; between two grants shown there may be more"]
            if sites
            else []
        ),
        *([f"lineage events in which sites say what they did not do, which count for nothing: {', '.join(beyond)}"] if beyond else []),
        *([f"releases for another sum than the committed one: {', '.join(strange)}"] if strange else []),
    )


def _refuse(rule: str, reason: str) -> NoReturn:
    raise BundleError(f"this bundle shows no history to rely on: {reason}", rule)

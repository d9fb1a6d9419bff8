"""What an entry of the state says in whose name, and which entries a model's history consists of. Rules Z8, Z10 and Z11 of SPEC.md.

The exporter and the verifier walk through this one description: what it asks for is what a bundle shows, no more and no less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from ledger.state.entries import (
    Account,
    Alias,
    Approval,
    ApprovalRequired,
    Consent,
    Dataset,
    EncryptionKey,
    Entry,
    Exclusion,
    FormerKey,
    Identity,
    Invitation,
    Lineage,
    LineageCount,
    Model,
    ModelName,
    Network,
    Origin,
    Partition,
    Release,
    Round,
    Run,
    Statistics,
    Submission,
    ValidatorSets,
    Weighing,
)
from ledger.types import (
    AcceptInvitation,
    AdmitSite,
    AppendLineage,
    ApproveModel,
    ChangeValidator,
    CloseRun,
    CommitRound,
    ExcludeSite,
    GrantConsent,
    InviteIdentity,
    MeasureRound,
    OpenRound,
    OpenRun,
    PartitionRound,
    RegisterDataset,
    RegisterIdentity,
    RegisterKey,
    RegisterModel,
    ReleaseOpening,
    RequireApproval,
    RevokeIdentity,
    RotateIdentity,
    SealRound,
    SubmitUpdate,
    Transaction,
    WeighRound,
    WithdrawConsent,
)

E = TypeVar("E", bound=Entry)

OF_A_SITE_IN_A_ROUND: Final[tuple[type[Entry], ...]] = (Submission, Exclusion, Statistics, Release)
"""What the state holds of a site in a round, or shows that there is not; keyed by run, round and site."""


OF_A_ROUND: Final[tuple[type[Entry], ...]] = (Round, Weighing, Partition)
"""What the state holds of a round as a whole; keyed by run and round."""


class Entries(Protocol):
    """Where entries are read: a whole state, or as much of one as a bundle shows."""

    def read(self, kind: type[E], *key: str | bytes | int) -> E | None:
        """The entry of this kind and key; None when there is none."""

    def transaction(self, origin: Origin) -> Transaction:
        """The transaction that an entry names."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry says that `author` said `fields` in a transaction of one of `kinds`.

    author: a name, None where any administrator may have said it.  fields: those of them that the kind has.
    """

    entry: Entry
    origin: Origin
    kinds: tuple[type, ...]
    author: str | None
    fields: dict[str, Any] = field(default_factory=dict)


def claims_of(entry: Entry, entries: Entries) -> Iterator[Claim]:
    """What an entry says; nothing for entries that only count, and for what genesis made."""
    match entry:
        case Identity() | FormerKey():
            yield from _identity_claims(entry, entries)
        case EncryptionKey():
            yield _claim(entry, entry.origin, entry.site, RegisterKey)
        case Dataset():
            yield _claim(entry, entry.origin, entry.owner, RegisterDataset)
        case Consent():
            dataset = entries.read(Dataset, entry.dataset)
            owner = dataset.owner if dataset else ""
            yield _claim(entry, entry.granted, owner, GrantConsent)
            if entry.withdrawn is not None:
                yield _claim(entry, entry.withdrawn, owner, WithdrawConsent)
        case Run():
            yield from _run_claims(entry)
        case Model() | Alias():
            head = entries.read(ModelName, entry.name)
            yield _claim(entry, entry.origin, head.owner if head else "", RegisterModel)
        case ApprovalRequired() | Approval():
            yield _claim(entry, entry.origin, entry.by, RequireApproval if isinstance(entry, ApprovalRequired) else ApproveModel)
        case Lineage():
            yield _claim(entry, entry.origin, entry.author, AppendLineage)
        case Round() | Weighing() | Partition():
            yield from _round_claims(entry, entries.read(Run, entry.run))

        case Submission() | Exclusion() | Statistics() | Release():
            yield from _site_claims(entry, entries.read(Run, entry.run))


def _identity_claims(entry: Identity | FormerKey, entries: Entries) -> Iterator[Claim]:
    """What gave it the entry's key; of a former one also that it named another, or was revoked."""
    whose = entry if isinstance(entry, Identity) else entries.read(Identity, entry.name)
    since = entry.origin if isinstance(entry, Identity) else entry.since
    if whose is not None and since.height:
        yield from _key_claims(entry, whose, since, entries)
    if not isinstance(entry, FormerKey):
        return
    if isinstance(entries.transaction(entry.until).body, RotateIdentity):
        yield Claim(entry, entry.until, (RotateIdentity,), entry.name)
    else:
        yield _revoked(entry, entry.until, entry.name, {"public_key": entry.public_key}, entries)


def _key_claims(entry: Identity | FormerKey, whose: Identity, since: Origin, entries: Entries) -> Iterator[Claim]:
    """What gave an identity the entry's key, or left it without one.

    An administrator admitted it; or invited it, and it named its own key, signing with the invitation's; or it named another in place
    of the one it had.
    """
    body = entries.transaction(since).body
    key = {"public_key": entry.public_key}
    if not entry.public_key:
        yield _revoked(entry, since, whose.name, {}, entries)
    elif isinstance(body, RotateIdentity):
        yield Claim(entry, since, (RotateIdentity,), whose.name, key)
    elif not isinstance(body, AcceptInvitation):
        yield Claim(entry, since, (RegisterIdentity, ChangeValidator), None, {"name": whose.name, "role": whose.role, **key})
    else:
        yield Claim(entry, since, (AcceptInvitation,), whose.name, key)
        invitation = entries.read(Invitation, whose.name)
        invited = invitation.origin if invitation is not None else Origin(bytes(32), 0)
        yield Claim(entry, invited, (InviteIdentity,), None, {"name": whose.name, "role": whose.role})


def _revoked(entry: Entry, origin: Origin, name: str, key: dict[str, Any], entries: Entries) -> Claim:
    """By its holder, or an administrator."""
    account = entries.read(Account, entries.transaction(origin).author)
    by = name if account is not None and account.name == name else None
    return Claim(entry, origin, (RevokeIdentity,), by, {"name": name, **key})


def _run_claims(entry: Run) -> Iterator[Claim]:
    yield _claim(entry, entry.origin, entry.coordinator, OpenRun, maximum_sites=entry.maximum_sites)
    if entry.closed is not None:
        yield _claim(entry, entry.closed, entry.coordinator, CloseRun, outcome=entry.status)
    for one in entry.joined:
        given = {"run": entry.run, "site": one.site, "dataset": one.dataset, "since": one.since}
        yield Claim(entry, one.origin, (AdmitSite,), entry.coordinator, given)


def _round_claims(entry: Round | Weighing | Partition, run: Run | None) -> Iterator[Claim]:
    coordinator = run.coordinator if run else ""
    match entry:
        case Weighing():
            yield _claim(entry, entry.origin, coordinator, WeighRound)
        case Partition():
            yield _claim(entry, entry.origin, coordinator, PartitionRound)
        case Round():
            yield _claim(entry, entry.opened, coordinator, OpenRound)
            if entry.sealed is not None:
                yield _claim(entry, entry.sealed, coordinator, SealRound, sites=entry.sealed_sites)
            if entry.outcome is not None:
                said = {name: getattr(entry.outcome, name) for name in _fields(CommitRound) if hasattr(entry.outcome, name)}
                yield _claim(entry, entry.outcome.origin, coordinator, CommitRound, **said)


def _site_claims(entry: Submission | Exclusion | Statistics | Release, run: Run | None) -> Iterator[Claim]:
    match entry:
        case Submission():
            yield _claim(entry, entry.origin, entry.site, SubmitUpdate)
            yield _claim(entry, entry.consent, entry.site, GrantConsent, purpose=run.purpose if run else "")
        case Exclusion():
            yield _claim(entry, entry.origin, entry.by, ExcludeSite)
        case Statistics():
            yield _claim(entry, entry.origin, entry.site, MeasureRound)
        case Release():
            yield _claim(entry, entry.origin, entry.site, ReleaseOpening)


def _claim(entry: Entry, origin: Origin, author: str | None, *kinds: type, **named: Any) -> Claim:
    """The fields that the entry and the transaction have in common, and those that have another name in the entry."""
    shared = {name: getattr(entry, name) for name in _fields(*kinds) if hasattr(entry, name)}
    return Claim(entry, origin, kinds, author, {**shared, **named})


def belongs(said: Transaction, run: Run) -> bool:
    """Whether a transaction that no entry names is part of the history: a consent of one of the run's tables, a key of one of its sites.

    Whose key it is, the caller compares.
    """
    body = said.body
    if isinstance(body, GrantConsent | WithdrawConsent):
        return body.purpose == run.purpose and any(use.dataset == body.dataset for use in run.places)
    return isinstance(body, RegisterKey)


def _fields(*kinds: type) -> set[str]:
    """The fields that transactions of `kinds` have."""
    return set.union(*(set(kind.__struct_fields__) for kind in kinds))  # type: ignore[attr-defined]


def walk_history(entries: Entries, name: str, version: int, further: Iterable[Transaction]) -> tuple[Entry, ...]:
    """Read every entry that the history of a model consists of, present or not, and return those that are there, each once.

    Z8: what the model, its run and its rounds name; then, for each transaction that one of these names, its author, and what that rests on.
    further: transactions that are shown although no entry names them.
    """
    walk = _Walk(entries)
    walk.model(name, version)
    for said in further:
        walk.author(said)
    walk.authors(name, version)
    return tuple(walk.found.values())


class _Walk:
    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self.found: dict[tuple[Any, ...], Entry] = {}

    def take(self, kind: type[E], *key: str | bytes | int) -> E | None:
        entry = self._entries.read(kind, *key)
        if entry is not None:
            self.found[(kind, *key)] = entry
        return entry

    def model(self, name: str, version: int) -> None:
        self.take(Network)
        self.take(ValidatorSets)
        self.take(ModelName, name)
        model = self.take(Model, name, version)
        run = self.take(Run, model.run) if model is not None else None
        if model is None or run is None:
            return
        self.take(Identity, run.coordinator)
        if self.take(ApprovalRequired, run.run) is not None:
            self.take(Approval, run.run, model.model)
        for use in run.places:
            self.take(Identity, use.site)
            self.take(EncryptionKey, use.site)
            self.take(Dataset, use.dataset)
            self.take(Consent, use.dataset, run.purpose)
        for number in range(model.round + 1):
            if number:
                for kind in OF_A_ROUND:
                    self.take(kind, run.run, number)
                for kind in OF_A_SITE_IN_A_ROUND:
                    for use in run.places_in(number):
                        self.take(kind, run.run, number, use.site)
            count = self.take(LineageCount, run.run, number)
            for batch in range(count.batches if count is not None else 0):
                self.take(Lineage, run.run, number, batch)

    def authors(self, name: str, version: int) -> None:
        """The authors of all transactions that the entries name, the entries of these, and so on; the alias that the version was given."""
        done: set[Origin] = set()
        while new := [origin for origin in self.origins() if origin not in done]:
            for origin in new:
                done.add(origin)
                said = self._entries.transaction(origin)
                body = said.body
                account = self.author(said)
                if isinstance(body, AcceptInvitation) and account is not None:
                    self.take(Invitation, account.name)
                if isinstance(body, RotateIdentity | RevokeIdentity):
                    self.key(body.public_key)
                if isinstance(body, RegisterModel) and (body.name, body.version) == (name, version) and body.alias:
                    self.take(Alias, name, body.alias)

    def origins(self) -> list[Origin]:
        """Of all transactions that the entries found so far name, each once."""
        claims = (claim for entry in self.found.values() for claim in claims_of(entry, self._entries))
        return list({claim.origin: None for claim in claims})

    def author(self, said: Transaction) -> Account | None:
        """Who signed it."""
        return self.key(said.author, guest=isinstance(said.body, AcceptInvitation))

    def key(self, public_key: bytes, *, guest: bool = False) -> Account | None:
        """Whose key it is, and if that one has another now, until when. guest: it is an invitation's, which is nobody's own."""
        account = self.take(Account, public_key)
        identity = self.take(Identity, account.name) if account is not None else None
        if identity is not None and identity.public_key != public_key and not guest:
            self.take(FormerKey, public_key)
        return account

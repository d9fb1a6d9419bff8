"""What the state remembers: one frozen record per leaf of the tree, each with the transaction that made it.

A leaf's value is its record's canonical bytes, tag first; its path is the tagged digest of the tag and the key fields. Rule T2 of SPEC.md.
"""

from __future__ import annotations

from typing import ClassVar

from ledger.codec import encode, remember
from ledger.crypto import Domain, tagged_digest
from ledger.types import DatasetUse, Metric, Record, SiteStatistics, SiteWeight, Validator, tag_of

ADMINISTRATOR = "administrator"
SITE = "site"
COORDINATOR = "coordinator"
AGGREGATOR = "aggregator"
AUDITOR = "auditor"
APPROVER = "approver"
VALIDATOR = "validator"
INVITED = "invited"


class Origin(Record, frozen=True):
    """The transaction that made an entry, and the height of its block; 32 zero bytes and 0 for what genesis made."""

    transaction: bytes
    height: int


class Entry(Record, frozen=True):
    """Base of what a leaf holds. `key_fields` names the fields that make its key, in order.

    grown_from: the kind in whose place one that has grown from it stands; None for all others.
    """

    key_fields: ClassVar[tuple[str, ...]]
    grown_from: ClassVar[type[Entry] | None] = None

    def key(self) -> tuple[str | bytes | int, ...]:
        """The values of its key fields."""
        names = self.key_fields
        return (getattr(self, names[0]),) if len(names) == 1 else tuple([getattr(self, name) for name in names])


@remember
def path_of(kind: type[Entry], *key: str | bytes | int) -> bytes:
    """The 32-byte path of an entry: a digest of its kind's tag and its key."""
    return tagged_digest(Domain.STATE_KEY, encode((tag_of(kind), *key)))


class Identity(Entry, frozen=True, tag="state.identity"):
    """Who is admitted, as what, and with which key. public_key: empty when it was revoked.  origin: what made this its key."""

    key_fields: ClassVar = ("name",)
    name: str
    role: str
    public_key: bytes
    origin: Origin


class Invitation(Entry, frozen=True, tag="state.invitation"):
    """The last invitation under a name: who accepts it gets `role`, up to the block at `last_height`."""

    key_fields: ClassVar = ("name",)
    name: str
    role: str
    invitation: bytes
    last_height: int
    origin: Origin


class Account(Entry, frozen=True, tag="state.account"):
    """A public key's owner and the sequence number its next transaction must carry."""

    key_fields: ClassVar = ("public_key",)
    public_key: bytes
    name: str
    next_sequence: int


class FormerKey(Entry, frozen=True, tag="state.former-key"):
    """A signing key that was replaced or revoked: whose it was, which transaction made it so, and which one ended it."""

    key_fields: ClassVar = ("public_key",)
    public_key: bytes
    name: str
    since: Origin
    until: Origin


class EncryptionKey(Entry, frozen=True, tag="state.encryption-key"):
    """The X25519 public key under which others encrypt to a site now."""

    key_fields: ClassVar = ("site",)
    site: str
    public_key: bytes
    origin: Origin


class EncryptionKeyOwner(Entry, frozen=True, tag="state.encryption-key-owner"):
    """Who registered an encryption key, now or earlier: none is ever taken twice."""

    key_fields: ClassVar = ("public_key",)
    public_key: bytes
    site: str


class FormerEncryptionKey(Entry, frozen=True, tag="state.former-encryption-key"):
    """The encryption key that a site had until it named `successor`, and the transaction that had made it so."""

    key_fields: ClassVar = ("successor",)
    successor: bytes
    public_key: bytes
    origin: Origin


class Dataset(Entry, frozen=True, tag="state.dataset"):
    """A site's registered table, found by the SHA-256 of its bytes."""

    key_fields: ClassVar = ("sha256",)
    sha256: bytes
    owner: str
    name: str
    dvc_hash: str
    rows: int
    schema_digest: bytes
    origin: Origin


class Consent(Entry, frozen=True, tag="state.consent"):
    """The last consent given for a dataset and a purpose, and its withdrawal if it was withdrawn."""

    key_fields: ClassVar = ("dataset", "purpose")
    dataset: bytes
    purpose: str
    granted: Origin
    withdrawn: Origin | None
    reason: str

    @property
    def live(self) -> bool:
        """Whether it stands."""
        return self.withdrawn is None


class Joined(Record, frozen=True):
    """A place in a run that a site was given after it was declared. since: the first round it is for."""

    site: str
    dataset: bytes
    since: int
    origin: Origin


class Run(Entry, frozen=True, tag="state.run"):
    """A declared run and how far it is. status: ``open``, ``completed`` or ``aborted``. rounds_opened, rounds_committed: counts.

    datasets: the places it was declared with.  joined: those given later; see `GrowingRun`.
    """

    key_fields: ClassVar = ("run",)
    run: str
    coordinator: str
    purpose: str
    config_digest: bytes
    code_commit: str
    lock_digest: bytes
    scheme: str
    encoding: str
    parameters: int
    initial_model: bytes
    minimum_sites: int
    rounds: int
    datasets: tuple[DatasetUse, ...]
    origin: Origin
    status: str
    current_model: bytes
    rounds_opened: int
    rounds_committed: int
    closed: Origin | None
    reason: str
    max_staleness: int = 0
    maximum_sites: ClassVar[int] = 0
    joined: ClassVar[tuple[Joined, ...]] = ()

    @property
    def places(self) -> tuple[DatasetUse, ...]:
        """Every site that has a place in the run, in some round at least: the declared ones, then those that joined."""
        return (*self.datasets, *(DatasetUse(one.site, one.dataset) for one in self.joined))

    def places_in(self, number: int) -> tuple[DatasetUse, ...]:
        """Every site that has a place in round `number`, in the order of `places`."""
        return (*self.datasets, *(DatasetUse(one.site, one.dataset) for one in self.joined if one.since <= number))

    def dataset_of(self, site: str) -> bytes | None:
        """The digest of the table `site` trains on in this run; None when it has no place in it."""
        return next((use.dataset for use in self.places if use.site == site), None)

    def dataset_in(self, number: int, site: str) -> bytes | None:
        """The same for round `number`."""
        return next((use.dataset for use in self.places_in(number) if use.site == site), None)


class GrowingRun(Run, frozen=True, tag="state.run+"):
    """A run that further sites may join. maximum_sites: of all places.  joined: those given later, in the order of admission."""

    grown_from: ClassVar = Run
    maximum_sites: int = 0  # type: ignore[misc]
    joined: tuple[Joined, ...] = ()  # type: ignore[misc]


class Outcome(Record, frozen=True):
    """What a committed round came to."""

    aggregate: bytes
    opened: bytes
    candidate: bytes
    accepted: bool
    reason: str
    metrics: tuple[Metric, ...]
    origin: Origin


class Round(Entry, frozen=True, tag="state.round"):
    """A round's own leaf. sealed_sites is empty until sealed; outcome is None until committed."""

    key_fields: ClassVar = ("run", "round")
    run: str
    round: int
    base_model: bytes
    public_context: bytes
    opened: Origin
    sealed_sites: tuple[str, ...]
    sealed: Origin | None
    outcome: Outcome | None

    @property
    def status(self) -> str:
        """``open``, ``sealed`` or ``committed``."""
        if self.outcome is not None:
            return "committed"
        return "open" if self.sealed is None else "sealed"


class Submission(Entry, frozen=True, tag="state.submission"):
    """One site's update to one round, and the consent that was live when it was submitted.

    lag: how many rounds before this one that round is from whose base model it was trained.
    """

    key_fields: ClassVar = ("run", "round", "site")
    run: str
    round: int
    site: str
    dataset: bytes
    rows: int
    ciphertext: bytes
    size_bytes: int
    consent: Origin
    origin: Origin
    lag: int = 0


class Exclusion(Entry, frozen=True, tag="state.exclusion"):
    """A site left out of one round: by whom, at which step, why."""

    key_fields: ClassVar = ("run", "round", "site")
    run: str
    round: int
    site: str
    by: str
    step: str
    reason: str
    origin: Origin


class Statistics(Entry, frozen=True, tag="state.statistics"):
    """What one key holder opened of each submission of a sealed round."""

    key_fields: ClassVar = ("run", "round", "site")
    run: str
    round: int
    site: str
    reference: bytes
    measured: bytes
    statistics: tuple[SiteStatistics, ...]
    origin: Origin


class Weighing(Entry, frozen=True, tag="state.weighing"):
    """What each submission of a sealed round counts in its sum, and what the sum is divided by."""

    key_fields: ClassVar = ("run", "round")
    run: str
    round: int
    rule: str
    weights: tuple[SiteWeight, ...]
    divisor: int
    origin: Origin


class Partition(Entry, frozen=True, tag="state.partition"):
    """The parts of a sealed round that are opened on their own."""

    key_fields: ClassVar = ("run", "round")
    run: str
    round: int
    parts: tuple[tuple[str, ...], ...]
    origin: Origin


class Release(Entry, frozen=True, tag="state.release"):
    """What one key holder released to open one sealed round: digests of the sum and of its contribution."""

    key_fields: ClassVar = ("run", "round", "site")
    run: str
    round: int
    site: str
    aggregate: bytes
    opening: bytes
    origin: Origin


class ModelName(Entry, frozen=True, tag="state.model-name"):
    """Who owns a model name, and its latest version."""

    key_fields: ClassVar = ("name",)
    name: str
    owner: str
    latest_version: int


class Model(Entry, frozen=True, tag="state.model"):
    """A registered version: the digest of its safetensors bytes and the round that made it."""

    key_fields: ClassVar = ("name", "version")
    name: str
    version: int
    model: bytes
    run: str
    round: int
    origin: Origin


class Alias(Entry, frozen=True, tag="state.alias"):
    """The version an alias of a model name points to now."""

    key_fields: ClassVar = ("name", "alias")
    name: str
    alias: str
    version: int
    origin: Origin


class ApprovalRequired(Entry, frozen=True, tag="state.approval-required"):
    """Models of the run are registered only when approved, and who said so."""

    key_fields: ClassVar = ("run",)
    run: str
    by: str
    origin: Origin


class Approval(Entry, frozen=True, tag="state.approval"):
    """What somebody decided about a model of a run, and why."""

    key_fields: ClassVar = ("run", "model")
    run: str
    model: bytes
    by: str
    approved: bool
    reason: str
    origin: Origin


class LineageCount(Entry, frozen=True, tag="state.lineage-count"):
    """How many batches a round has; round 0 stands for the run as a whole."""

    key_fields: ClassVar = ("run", "round")
    run: str
    round: int
    batches: int


class Lineage(Entry, frozen=True, tag="state.lineage"):
    """One batch of OpenLineage events; the events themselves are in the transaction."""

    key_fields: ClassVar = ("run", "round", "batch")
    run: str
    round: int
    batch: int
    count: int
    sha256: bytes
    author: str
    origin: Origin


class SiteLineage(Entry, frozen=True, tag="state.site-lineage"):
    """How many of a round's batches are one site's."""

    key_fields: ClassVar = ("run", "round", "site")
    run: str
    round: int
    site: str
    batches: int


class Network(Entry, frozen=True, tag="state.network"):
    """What genesis fixed: under the empty key."""

    key_fields: ClassVar = ()
    network: bytes
    name: str
    verifier: str
    validators_hash: bytes


class ScheduledSet(Record, frozen=True):
    """The validators from `height` on, in the order in which they lead, until the next scheduled set."""

    height: int
    members: tuple[Validator, ...]


class ValidatorSets(Entry, frozen=True, tag="state.validators"):
    """Every set there was, is, or is to be, in ascending order of height: under the empty key."""

    key_fields: ClassVar = ()
    scheduled: tuple[ScheduledSet, ...]


class Jail(Entry, frozen=True, tag="state.jail"):
    """A validator's key that signed two different things at (height, round, step), and who showed it."""

    key_fields: ClassVar = ("public_key",)
    public_key: bytes
    name: str
    height: int
    round: int
    step: int
    reporter: str
    origin: Origin


class Reputation(Entry, frozen=True, tag="state.reputation"):
    """What a site's or a validator's conduct has come to.

    score: 0 to 1000.  level: `new`, `initial`, `trusted`, `normal` or `unreliable`.  judgements: how many led here.  rounds: with a
    sealed submission.  out: rounds it has been kept out of since it became unreliable.
    """

    key_fields: ClassVar = ("name",)
    name: str
    score: int
    level: str
    judgements: int
    rounds: int
    out: int


class Judgement(Entry, frozen=True, tag="state.judgement"):
    """One step of a reputation, number 0, 1, ...: what happened, and the score and level after it.

    run, round: of the committed round that it is about, "" and 0 for none.  event: by rules Y7 to Y11 of SPEC.md.
    quality: 0 to 1000, what the round's statistics and weights say of the submission; -1 where they say nothing.
    """

    key_fields: ClassVar = ("name", "number")
    name: str
    number: int
    run: str
    round: int
    event: str
    quality: int
    score: int
    level: str
    origin: Origin


class Operator(Entry, frozen=True, tag="state.operator"):
    """The site that answers for a validator."""

    key_fields: ClassVar = ("validator",)
    validator: str
    site: str
    origin: Origin


StateEntry = (
    Identity
    | Invitation
    | Account
    | FormerKey
    | EncryptionKey
    | EncryptionKeyOwner
    | FormerEncryptionKey
    | Dataset
    | Consent
    | Run
    | GrowingRun
    | Round
    | Submission
    | Exclusion
    | Statistics
    | Weighing
    | Partition
    | Release
    | ModelName
    | Model
    | Alias
    | ApprovalRequired
    | Approval
    | LineageCount
    | Lineage
    | SiteLineage
    | Network
    | ValidatorSets
    | Jail
    | Reputation
    | Judgement
    | Operator
)
"""What a proved value decodes to."""

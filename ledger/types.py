"""The nouns of the ledger: what authors sign, what validators vote on, what is stored.

Everything here is a frozen msgspec struct holding integers, bytes, text and tuples of these: no floats, no clocks,
no dictionaries. `codec` turns each into exactly one byte string; `crypto` signs byte strings under one domain tag
per message type.

A *digest* is 32 raw bytes of SHA-256. A *public key* is a 32-byte Ed25519 key. Names are short ASCII identifiers.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of every struct that is hashed: encoded as a MessagePack array, in field order.

    It refers to nothing that refers back, so the garbage collector need not look at it.
    """


def tag_of(record: Record | type[Record]) -> str:
    """What a record is, in the words of SPEC.md: a record that has grown has the tag of the one it grew from, and ``+`` behind it.

    What was said before there was more to say reads, hashes and verifies as ever. Rule E5.
    """
    return str(record.__struct_config__.tag).rstrip("+")


# ------------------------------------------------------------------ what an author may say: one struct per rule


class RegisterIdentity(Record, frozen=True, tag="identity.register"):
    """An administrator admits `public_key` under a unique `name` with a role: site, coordinator, aggregator, auditor, approver."""

    name: str
    role: str
    public_key: bytes


class InviteIdentity(Record, frozen=True, tag="identity.invite"):
    """An administrator lets whoever holds the one-time `invitation` key (an Ed25519 public key) name the key of a new identity.

    last_height: of the last block in which it may be accepted. A name that is invited again has only the last invitation.
    """

    name: str
    role: str
    invitation: bytes
    last_height: int


class AcceptInvitation(Record, frozen=True, tag="identity.accept"):
    """The invited, signing with the invitation's key, names its own: from then on that one is the identity's.

    proof: `public_key`'s signature (domain ``cifer/joining/1``) over the network's identity and the name: it is held by who names it.
    """

    public_key: bytes
    proof: bytes


class RotateIdentity(Record, frozen=True, tag="identity.rotate"):
    """An author, signing with its present key, names the one that alone speaks for it from the next transaction on.

    proof: `public_key`'s signature (domain ``cifer/rotating/1``) over the network, the key it takes the place of, and the sequence number
    of this transaction: see `ledger.state.identities.rotating`.
    """

    public_key: bytes
    proof: bytes


class RevokeIdentity(Record, frozen=True, tag="identity.revoke"):
    """An administrator, or its holder, has a key that was stolen or lost speak for nobody any more.

    public_key: the present one of `name`. What it said before stays on record.
    """

    name: str
    public_key: bytes
    reason: str


class RegisterKey(Record, frozen=True, tag="key.register"):
    """A site names the X25519 public key (32 bytes) under which others encrypt to it, in place of the one before."""

    public_key: bytes


class RegisterDataset(Record, frozen=True, tag="dataset.register"):
    """A site states that it owns one table. The table itself never leaves the site.

    sha256: digest of the file's bytes.  dvc_hash: the address at which DVC stores it, e.g. ``md5:9e10...``.
    rows: training rows in it; later submissions may not claim another number.
    schema_digest: digest of the column names and types.
    """

    name: str
    sha256: bytes
    dvc_hash: str
    rows: int
    schema_digest: bytes


class GrantConsent(Record, frozen=True, tag="consent.grant"):
    """The owner of a dataset allows one purpose, the scenario's name, until it is withdrawn."""

    dataset: bytes
    purpose: str


class WithdrawConsent(Record, frozen=True, tag="consent.withdraw"):
    """The owner of a dataset takes a consent back: from the next block on, no submission may rest on it."""

    dataset: bytes
    purpose: str
    reason: str


class DatasetUse(Record, frozen=True):
    """One site's place in a run: which table it will train on."""

    site: str
    dataset: bytes


class OpenRun(Record, frozen=True, tag="run.open"):
    """The coordinator declares a training run and everything that fixes its outcome.

    purpose: the scenario's name; consents are looked up under it.  config_digest, code_commit, lock_digest: the
    resolved settings, the code (git commit, or ``unversioned``) and the dependency lock.
    scheme: encryption family.  encoding: canonical JSON of the integer encoding (bits, clip, total rows).
    parameters: number of model parameters.  initial_model: digest of the safetensors bytes.
    minimum_sites: a round with fewer submissions may not be sealed.
    max_staleness: how many rounds before the one it is submitted to the model of an update may be; 0: every update starts from the
    model of its own round.
    maximum_sites: 0, it stays with the sites of `datasets`; see `OpenGrowingRun`.
    """

    run: str
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
    max_staleness: int = 0
    maximum_sites: ClassVar[int] = 0


class OpenGrowingRun(OpenRun, frozen=True, tag="run.open+"):
    """`OpenRun` of a run that further sites may join.

    maximum_sites: how many sites it may come to have, those of `datasets` included.
    """

    maximum_sites: int = 0  # type: ignore[misc]  # of a run that does not grow it is a constant


class AdmitSite(Record, frozen=True, tag="run.admit"):
    """The coordinator gives one more site a place in an open run. since: the next round to be opened, the first that it is for."""

    run: str
    site: str
    dataset: bytes
    since: int


class OpenRound(Record, frozen=True, tag="round.open"):
    """The coordinator opens round `round` (1, 2, ...) of a run, from the run's current model.

    public_context: digest of the public encryption context every ciphertext of the round is made under.
    """

    run: str
    round: int
    base_model: bytes
    public_context: bytes


class SubmitUpdate(Record, frozen=True, tag="round.submit"):
    """A site's one submission to a round: the digest of its ciphertext, its rows, the dataset it trained on.

    lag: how many rounds before this one that round is from whose base model the update was trained: of a late update 1 or more.
    """

    run: str
    round: int
    dataset: bytes
    rows: int
    ciphertext: bytes
    size_bytes: int
    lag: int = 0


class ExcludeSite(Record, frozen=True, tag="round.exclude"):
    """A site is left out of a round, and why: said by the site itself or by the coordinator."""

    run: str
    round: int
    site: str
    step: str
    reason: str


class SealRound(Record, frozen=True, tag="round.seal"):
    """The coordinator fixes the set of submissions that will be aggregated, once: site names in ascending order."""

    run: str
    round: int
    sites: tuple[str, ...]


class SiteStatistics(Record, frozen=True):
    """What was opened of one submission: its squared length and its inner product with the reference, or why it cannot be used."""

    site: str
    square: int
    inner: int
    fault: str


class MeasureRound(Record, frozen=True, tag="round.measure"):
    """A key holder's opening of single numbers of each sealed submission, in order of site.

    reference: digest of the vector that inner products are with.  measured: digest of the encrypted statistics that it opened.
    """

    run: str
    round: int
    reference: bytes
    measured: bytes
    statistics: tuple[SiteStatistics, ...]


class SiteWeight(Record, frozen=True):
    """What one submission counts. weight: 0 to 1,024, which is all of it.  score: thousandths that the rule remembers.  reason: why."""

    site: str
    weight: int
    score: int
    reason: str


class WeighRound(Record, frozen=True, tag="round.weigh"):
    """The coordinator fixes, once, what each sealed submission counts in the sum that is opened, in order of site.

    rule: name of the aggregation rule.  divisor: of ``sum weight_i rows_i update_i``.
    """

    run: str
    round: int
    rule: str
    weights: tuple[SiteWeight, ...]
    divisor: int


class PartitionRound(Record, frozen=True, tag="round.partition"):
    """The coordinator divides a sealed set, once, into parts whose sums are opened on their own: sites ascending, parts by first site."""

    run: str
    round: int
    parts: tuple[tuple[str, ...], ...]


class ReleaseOpening(Record, frozen=True, tag="round.release"):
    """A key holder's one contribution to opening a sealed round, which it signs for here before it can be used.

    aggregate: digest of the sum it opens.  opening: digest of the artifact with what it releases: the sum itself, or a share of
    the key that opens it. Several holders may name one, in which each has its own part.
    """

    run: str
    round: int
    aggregate: bytes
    opening: bytes


class Metric(Record, frozen=True):
    """A measurement as an integer: `millionths` of its unit."""

    name: str
    millionths: int


class CommitRound(Record, frozen=True, tag="round.commit"):
    """The outcome of a sealed round.

    aggregate: digest of the aggregate ciphertext.  opened: digest of the opened mean update.
    candidate: digest of the model it gives.  accepted: whether the candidate becomes the run's current model;
    reason says why not.  metrics: of the candidate on the held-out set.
    """

    run: str
    round: int
    aggregate: bytes
    opened: bytes
    candidate: bytes
    accepted: bool
    reason: str
    metrics: tuple[Metric, ...]


class CloseRun(Record, frozen=True, tag="run.close"):
    """The coordinator ends a run: ``completed`` after its last round, or ``aborted`` with a reason."""

    run: str
    outcome: str
    reason: str


class RegisterModel(Record, frozen=True, tag="model.register"):
    """The coordinator publishes the model of an accepted round as the next version of `name`, optionally under an alias."""

    name: str
    version: int
    alias: str
    model: bytes
    run: str
    round: int


class RequireApproval(Record, frozen=True, tag="approval.require"):
    """A run's coordinator, or an administrator, has no model of the run registered before somebody approves it."""

    run: str


class ApproveModel(Record, frozen=True, tag="model.approve"):
    """An approver or an administrator decides about the current model of a run, and says why. approved: False declines it."""

    run: str
    model: bytes
    approved: bool
    reason: str


class AppendLineage(Record, frozen=True, tag="lineage.append"):
    """A batch of OpenLineage events: zlib-compressed newline-delimited JSON, with its count and plain digest.

    run: "" for events that belong to no run, which anybody registered may append; their round is 0.
    """

    run: str
    round: int
    count: int
    sha256: bytes
    events: bytes


class Anchor(Record, frozen=True, tag="anchor.put"):
    """Anybody registered fixes when something outside existed: `data` is its digest, Merkle root or signature, 1 to 256 bytes.

    The state keeps nothing of it: the transaction in its block is the record, and its proof the time-stamp.
    """

    data: bytes


class Statement(Record, frozen=True):
    """What a validator signed in consensus, in short: `step` 1 for a proposal, 2 for a prevote, 3 for a precommit.

    block: the digest of the block's header, None for nil.  valid_round: of a proposal; -1 otherwise.
    """

    step: int
    height: int
    round: int
    block: bytes | None
    valid_round: int
    signature: bytes


class RestoreReputation(Record, frozen=True, tag="reputation.restore"):
    """An administrator lets somebody whose reputation is gone take part again, on probation, and says why."""

    name: str
    reason: str


class OperateValidator(Record, frozen=True, tag="validator.operate"):
    """A site answers for a validator, once and for good: its reputation decides how often that validator leads.

    proof: the validator's key's signature (domain ``cifer/operating/1``) over the network's identity and the site's name.
    """

    validator: str
    proof: bytes


class ReportEquivocation(Record, frozen=True, tag="validator.report"):
    """Anybody registered shows that a validator signed two different things in one place: it is put out of the set for good."""

    validator: bytes
    first: Statement
    second: Statement


class ChangeValidator(Record, frozen=True, tag="validator.change"):
    """An administrator adds a validator, gives one another key or power, or removes it (power 0), from two heights later."""

    name: str
    public_key: bytes
    power: int


Body = (
    RegisterIdentity
    | InviteIdentity
    | AcceptInvitation
    | RotateIdentity
    | RevokeIdentity
    | RegisterKey
    | RegisterDataset
    | GrantConsent
    | WithdrawConsent
    | OpenRun
    | OpenGrowingRun
    | AdmitSite
    | OpenRound
    | SubmitUpdate
    | ExcludeSite
    | SealRound
    | MeasureRound
    | WeighRound
    | PartitionRound
    | ReleaseOpening
    | CommitRound
    | CloseRun
    | RegisterModel
    | RequireApproval
    | ApproveModel
    | AppendLineage
    | Anchor
    | RestoreReputation
    | OperateValidator
    | ReportEquivocation
    | ChangeValidator
)

# ------------------------------------------------------------------------------------ transactions and blocks


class Transaction(Record, frozen=True):
    """What an author signs: bound to one network, one author and one place in that author's sequence (0, 1, 2, ...)."""

    network: bytes
    author: bytes
    sequence: int
    body: Body


class SignedTransaction(Record, frozen=True):
    """The received bytes of a `Transaction`, never re-encoded, and the author's signature over their signing root."""

    payload: bytes
    signature: bytes


class Validator(Record, frozen=True):
    """A validator's name, Ed25519 public key and voting power (a positive integer)."""

    name: str
    public_key: bytes
    power: int


class Genesis(Record, frozen=True):
    """What everybody must agree on beforehand; its digest is the network's identity.

    verifier: the one Ed25519 verifier that consensus uses, e.g. ``libsodium``.  salt: 16 random bytes, so that two
    networks with the same members differ.
    """

    name: str
    verifier: str
    salt: bytes
    validators: tuple[Validator, ...]
    administrators: tuple[bytes, ...]


class Header(Record, frozen=True):
    """What a certificate certifies. `height` starts at 1.

    previous: digest of the header below; of the first block, the network's identity.  certificate: digest of the
    certificate of the block below, 32 zero bytes for the first.  transactions_root: RFC 6962 root over the encoded
    `SignedTransaction`s.  state_root: root of the authenticated state after these transactions.  validators_hash, next_validators_hash: the
    validators of this height and of the next, so that who trusts the one set learns of the other.
    """

    network: bytes
    height: int
    previous: bytes
    certificate: bytes
    transactions_root: bytes
    transactions_count: int
    state_root: bytes
    validators_hash: bytes
    next_validators_hash: bytes
    proposer: bytes


class Signature(Record, frozen=True):
    """One validator's precommit signature inside a certificate."""

    validator: bytes
    signature: bytes


class Certificate(Record, frozen=True):
    """A quorum certificate: precommits over one header's digest whose powers reach ``2 * total // 3 + 1``.

    Signatures are in ascending order of public key, at most one per validator.
    """

    height: int
    round: int
    block: bytes
    signatures: tuple[Signature, ...]


class Block(Record, frozen=True):
    """A header, the certificate of the block below (None at height 1), and the encoded `SignedTransaction`s."""

    header: Header
    parent: Certificate | None
    transactions: tuple[bytes, ...]


class CommittedBlock(Record, frozen=True):
    """A block and the certificate that makes it final."""

    block: Block
    certificate: Certificate


class Item(Record, frozen=True):
    """An entry of the state, encoded, and its 32-byte path."""

    path: bytes
    entry: bytes


class Snapshot(Record, frozen=True, tag="snapshot"):
    """The state behind one certified block, as it is checked: `parts` are what stands in its tree at one depth (rule T5)."""

    header: Header
    certificate: Certificate
    parts: tuple[bytes, ...]

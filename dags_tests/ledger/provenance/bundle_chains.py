"""Chains made in memory, block for block and bit for bit the same each time: histories to make bundles of, honest ones and others.

Whoever holds all the keys, as these tests do, can certify what no honest quorum would: so the rules that a quorum enforces are tested too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from bundle_run import COMMIT, EVENTS, GRANT, LABELS, LINEAGE, MODEL, OPEN, REGISTER, RELEASE, RUN, SEAL, SITE, SUBMIT, digest
from msgspec.structs import asdict, replace

from ledger.codec import encode
from ledger.consensus.blocks import build_block, extend, genesis_tip
from ledger.consensus.messages import VoteContent
from ledger.crypto import VERIFIER, Domain, SigningKey
from ledger.digests import network_id
from ledger.provenance.speaking import step_id
from ledger.state import checks
from ledger.state.identities import joining, rotating
from ledger.state.transition import apply_transaction
from ledger.state.view import State
from ledger.types import (
    AcceptInvitation,
    AdmitSite,
    AppendLineage,
    ApproveModel,
    Certificate,
    ChangeValidator,
    CloseRun,
    CommitRound,
    CommittedBlock,
    DatasetUse,
    ExcludeSite,
    Genesis,
    GrantConsent,
    Header,
    InviteIdentity,
    Metric,
    OpenGrowingRun,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    RegisterKey,
    RegisterModel,
    ReleaseOpening,
    RequireApproval,
    RevokeIdentity,
    RotateIdentity,
    SealRound,
    Signature,
    SignedTransaction,
    SubmitUpdate,
    Transaction,
    Validator,
    WithdrawConsent,
)

SITES = ("hospital-a", "hospital-b", "hospital-c")


def key(name: str) -> SigningKey:
    """The key of somebody."""
    return SigningKey.from_seed(digest(f"key of {name}"))


@dataclass
class Chain:
    """A ledger as far as an exporter asks. labels: the bytes of the artifacts, by digest."""

    name: str = "story"
    validators: int = 4
    genesis: Genesis = field(init=False)
    labels: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        members = tuple(Validator(f"validator-{n}", key(f"validator-{n}").public, 1) for n in range(1, self.validators + 1))
        self.genesis = Genesis(self.name, VERIFIER, digest(self.name)[:16], members, (key("administrator").public,))
        self.tip = genesis_tip(self.genesis)
        self.committed: list[CommittedBlock] = []

    def block(self, *said: tuple[str, Any], without: str = "", signer: str = "", number: int | None = None) -> None:
        """One more block of (author, body).

        without: a rule that nobody asks in it.  signer: who signs in the authors' names.  number: the sequence number, instead of the next.
        """
        state, data = self.tip.state, []
        for author, body in said:
            public = key(author).public
            following = state.next_sequence(public)
            payload = encode(Transaction(self.tip.network, public, following if number is None else number, body))
            signed = SignedTransaction(payload, key(signer or author).sign(Domain.TRANSACTION, payload))
            with _nobody_asks(without):
                state = apply_transaction(state, signed, self.tip.height + 1)
            data.append(encode(signed))
        after = state.at(self.tip.height + 1)
        proposer = self.tip.validators.leader(self.tip.height + 1, 0).public_key
        candidate = build_block(self.tip, tuple(data), after, proposer)
        vote = encode(VoteContent(self.tip.network, after.height, 0, candidate.id))
        keys = sorted((key(member.name) for member in self.tip.validators.members), key=lambda one: one.public)
        signatures = tuple(Signature(one.public, one.sign(Domain.PRECOMMIT, vote)) for one in keys)
        committed = CommittedBlock(candidate.block, Certificate(after.height, 0, candidate.id, signatures))
        self.committed.append(committed)
        self.tip = extend(self.tip, committed, after)

    def head(self) -> Header | None:
        """Of the last block."""
        return self.tip.header

    def state(self) -> State:
        """After the last block."""
        return self.tip.state

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        """As a ledger gives them."""
        return iter(self.committed[start - 1 : None if stop is None else stop - 1])

    # --------------------------------------------------------------------------------------------------------- a story

    def named(self, label: str) -> bytes:
        """The digest of an artifact that this chain can hand out."""
        self.labels[digest(label)] = label.encode()
        return digest(label)

    def enrol(self, sites: Sequence[str] = SITES) -> None:
        """Everybody, with a table, a consent and a key each; and a table that has nothing to do with it."""
        self.block(*(("administrator", RegisterIdentity(name, role, key(name).public)) for name, role in _people(sites)))
        for number, site in enumerate(sites):
            table, other = digest(f"table of {site}"), digest(f"other table of {site}")
            self.block(
                (site, RegisterDataset("table", table, f"md5:{site}", 100 + number, digest("schema"))),
                (site, RegisterDataset("other", other, f"md5:other-{site}", 7, digest("schema"))),
                (site, GrantConsent(other, "breast-cancer")),
                (site, GrantConsent(table, "breast-cancer")),
                (site, RegisterKey(x25519(f"{site} 1"))),
            )

    def open_run(self, sites: Sequence[str] = SITES, rounds: int = 3, minimum: int = 2) -> None:
        """Declare run-1."""
        uses = tuple(DatasetUse(site, digest(f"table of {site}")) for site in sites)
        config, initial = self.named("settings"), self.named("m0")
        opened = OpenRun("run-1", "breast-cancer", config, "abc123", digest("lock"), "plain", "{}", 31, initial, minimum, rounds, uses)
        self.block(("coordinator", opened))

    def round(self, number: int, base: str, *, sites: Sequence[str] = SITES, absent: Sequence[str] = (), accepted: bool = True) -> None:
        """Round `number`, one block a step, with a release of everybody who is there."""
        context, present = self.named("context"), [site for site in sites if site not in absent]
        self.block(("coordinator", OpenRound("run-1", number, digest(base), context)))
        steps: list[tuple[str, Any]] = []
        for site in present:
            label = f"ciphertext {number} {site}"
            rows = 100 + list(sites).index(site)
            steps.append((site, SubmitUpdate("run-1", number, digest(f"table of {site}"), rows, self.named(label), len(label))))
        steps += [(site, ExcludeSite("run-1", number, site, "validate", "column age has 4 missing values")) for site in absent]
        self.block(*steps)
        self.block(("coordinator", SealRound("run-1", number, tuple(present))))
        total, opened, model = (self.named(f"{what} {number}") for what in ("sum", "opened", "model"))
        self.block(*((site, ReleaseOpening("run-1", number, total, self.named(f"opening {number} {site}"))) for site in present))
        why = "" if accepted else "accuracy fell by 0.2"
        metrics = (Metric("accuracy", 960_000 + number),)
        outcome = CommitRound("run-1", number, total, opened, model, accepted, why, metrics)
        events = AppendLineage("run-1", number, 2, sha256(EVENTS).digest(), zlib.compress(EVENTS))
        self.block(("coordinator", outcome), ("coordinator", events))


@contextmanager
def _nobody_asks(rule: str) -> Iterator[None]:
    """The ledger without one of its rules: what a quorum of dishonest validators could certify."""
    asked = checks.refuse

    def refuse(named: str, error: Any, message: str) -> None:
        if named != rule:
            asked(named, error, message)

    checks.refuse = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        checks.refuse = asked


def _people(sites: Sequence[str]) -> list[tuple[str, str]]:
    return [("coordinator", "coordinator"), ("auditor", "auditor"), ("approver", "approver"), *((site, "site") for site in sites)]


def invitation(name: str) -> InviteIdentity:
    """Lets whoever holds the key of ``invitation`` join as this site."""
    return InviteIdentity(name, "site", key("invitation").public, 100)


def accepting(name: str) -> list[list[tuple[str, Any]]]:
    """The block in which a site that was invited to `tiny`'s network names its own key."""
    network = network_id(Chain("tiny", 1).genesis)
    proof = key(name).sign(Domain.JOINING, joining(network, name))
    return [[("invitation", AcceptInvitation(key(name).public, proof))]]


def invited() -> Chain:
    """`tiny`, whose one site was invited and named its own key."""
    people = [*registered(coordinator="coordinator"), ("administrator", invitation(SITE))]
    return tiny(people=[people, *accepting(SITE)])


def rotation(who: str, to: str, sequence: int) -> RotateIdentity:
    """On `tiny`'s network, `who` names the key of `to` in its transaction of this number."""
    proof = key(to).sign(Domain.ROTATING, rotating(network_id(Chain("tiny", 1).genesis), key(who).public, sequence))
    return RotateIdentity(key(to).public, proof)


def rotated() -> Chain:
    """`tiny`, with every way in which a key changes: rotated twice, by site and coordinator, revoked by either, registered again."""
    stolen = RevokeIdentity(SITE, key("hospital-a 3").public, "the laptop was stolen")
    return tiny(
        submit=[
            [(SITE, rotation(SITE, "hospital-a 2", 2)), ("hospital-a 2", SUBMIT)],
            [("hospital-a 2", rotation("hospital-a 2", "hospital-a 3", 4))],
        ],
        seal=[[("coordinator", SEAL), ("coordinator", rotation("coordinator", "coordinator 2", 3))]],
        release=[
            [("administrator", stolen)],
            [("administrator", RegisterIdentity(SITE, "site", key("hospital-a 4").public))],
            [("hospital-a 4", RELEASE)],
        ],
        commit=[[("coordinator 2", COMMIT)]],
        lineage=[[("coordinator 2", LINEAGE), ("hospital-a 4", said_by_site(SITE))]],
        register=[
            [("coordinator 2", MODEL)],
            [("coordinator 2", RevokeIdentity("coordinator", key("coordinator 2").public, "its project is over"))],
        ],
    )


def said_by_site(site: str) -> AppendLineage:
    """A batch of round 1 by a site: of its own step, and, which counts for nothing, of the coordinator's."""
    own = step_id("run-1", site, "3f9c0a17-0000-7000-8000-000000000001")
    lines = [{"run": {"runId": run}, "outputs": [{"name": f"site/{site}/update"}]} for run in (own, "3f9c0a17-0000-7000-8000-000000000002")]
    plain = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return AppendLineage("run-1", 1, len(lines), sha256(plain).digest(), zlib.compress(plain))


def x25519(label: str) -> bytes:
    """A public key for envelopes."""
    from nacl import bindings

    public: bytes = bindings.crypto_scalarmult_base(digest(f"exchange key of {label}"))
    return public


def registered(**roles: str) -> list[tuple[str, Any]]:
    """The administrator registers everybody named."""
    return [("administrator", RegisterIdentity(name, role, key(name).public)) for name, role in roles.items()]


def made(steps: dict[str, list[Any]]) -> Chain:
    """One validator, and these steps: each of blocks, lists of (author, body), or such a list and options of `Chain.block`."""
    chain = Chain("tiny", 1)
    for label in (*LABELS, "ciphertext b", "m2"):
        chain.named(label)
    for block in (block for blocks in steps.values() for block in blocks):
        said, options = block if isinstance(block, tuple) else (block, {})
        chain.block(*said, **options)
    return chain


def tiny(**changes: Any) -> Chain:
    """One validator, one site, one round: the least there is. changes: for a step, blocks in place of its own, as `made` takes them."""
    steps: dict[str, list[Any]] = {
        "people": [registered(**{"coordinator": "coordinator", SITE: "site"})],
        "table": [[(SITE, REGISTER), (SITE, GRANT)]],
        "run": [[("coordinator", RUN), ("coordinator", OPEN)]],
        "submit": [[(SITE, SUBMIT)]],
        "seal": [[("coordinator", SEAL)]],
        "release": [[(SITE, RELEASE)]],
        "commit": [[("coordinator", COMMIT)]],
        "lineage": [[("coordinator", LINEAGE)]],
        "register": [[("coordinator", MODEL)]],
    }
    return made(steps | changes)


def joining_steps() -> dict[str, list[Any]]:
    """The blocks of `joined`, by step: lists of (author, body)."""
    table, lead, site = digest("table of hospital-b"), "coordinator", "hospital-b"
    growing = OpenGrowingRun(**asdict(replace(RUN, rounds=2)), maximum_sites=2)
    other = replace(SUBMIT, round=2, dataset=table, rows=50, ciphertext=digest("ciphertext b"), size_bytes=12)
    return {
        "people": [registered(**{lead: "coordinator", SITE: "site", site: "site"})],
        "table": [[(SITE, REGISTER), (SITE, GRANT)]],
        "run": [[(lead, growing), (lead, OPEN)]],
        "other": [[(site, replace(REGISTER, sha256=table, dvc_hash="md5:b", rows=50)), (site, replace(GRANT, dataset=table))]],
        "admit": [[(lead, AdmitSite("run-1", site, table, 2))]],
        "submit": [[(SITE, SUBMIT)]],
        "seal": [[(lead, SEAL)]],
        "release": [[(SITE, RELEASE)]],
        "commit": [[(lead, COMMIT)]],
        "second": [
            [(lead, replace(OPEN, round=2, base_model=digest("m1")))],
            [(SITE, replace(SUBMIT, round=2)), (site, other)],
            [(lead, SealRound("run-1", 2, (SITE, site)))],
            [(site, replace(RELEASE, round=2))],
            [(lead, replace(COMMIT, round=2, candidate=digest("m2")))],
        ],
        "register": [[(lead, replace(MODEL, model=digest("m2"), round=2))]],
    }


def joined(**changes: Any) -> Chain:
    """One validator, a run of one site, to which another is admitted during the first round: the second is of both. changes: see `tiny`."""
    return made(joining_steps() | changes)


def story(until: str = "") -> Chain:
    """Three rounds: accepted without site c, rejected, accepted. Validators change twice, a consent three times.

    until: stop at the ``first version``, before the first withdrawal.
    """
    chain = Chain()
    chain.enrol()
    chain.block(("administrator", ChangeValidator("validator-5", key("validator-5").public, 1)))
    chain.open_run()
    chain.round(1, "m0", absent=SITES[2:])
    table = digest("table of hospital-a")
    chain.block(("coordinator", RegisterModel("breast-cancer", 1, "", digest("model 1"), "run-1", 1)))
    if until == "first version":
        return chain
    chain.block(("hospital-a", WithdrawConsent(table, "breast-cancer", "patient asked")))
    chain.block(("administrator", ChangeValidator("validator-2", key("validator-2").public, 0)))
    chain.block(("hospital-a", GrantConsent(table, "breast-cancer")), ("hospital-a", RegisterKey(x25519("hospital-a 2"))))
    chain.block(("administrator", RequireApproval("run-1")))
    chain.round(2, "model 1", accepted=False)
    chain.round(3, "model 1")
    chain.block(("approver", ApproveModel("run-1", digest("model 3"), True, "reviewed with the hospitals")))
    chain.block(
        ("coordinator", RegisterModel("breast-cancer", 2, "champion", digest("model 3"), "run-1", 3)),
        ("coordinator", CloseRun("run-1", "completed", "")),
    )
    chain.block(("hospital-a", WithdrawConsent(table, "breast-cancer", "patient asked again")))
    return chain

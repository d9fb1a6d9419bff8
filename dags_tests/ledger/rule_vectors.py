"""Makes dags_tests/vectors/ledger_rules.json: one scenario that uses every kind of transaction, and for each rule transactions it refuses.

    python dags_tests/ledger/rule_vectors.py      writes the file again

Keys come from fixed seeds and Ed25519 is deterministic, so the file is too. The tests read the file and never this module, except to see
that it still gives the same file: a difference means that the protocol changed.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from nacl import bindings

from ledger.author import sign_transaction
from ledger.codec import encode
from ledger.crypto import Domain, SigningKey
from ledger.digests import header_digest, network_id, transactions_root, validators_hash
from ledger.state import State, apply_transaction
from ledger.state.validators import operating
from ledger.types import (
    AcceptInvitation,
    AdmitSite,
    Anchor,
    AppendLineage,
    ApproveModel,
    Block,
    Body,
    ChangeValidator,
    CloseRun,
    CommitRound,
    DatasetUse,
    ExcludeSite,
    Genesis,
    GrantConsent,
    Header,
    InviteIdentity,
    MeasureRound,
    Metric,
    OpenGrowingRun,
    OpenRound,
    OpenRun,
    OperateValidator,
    PartitionRound,
    RegisterDataset,
    RegisterIdentity,
    RegisterKey,
    RegisterModel,
    ReleaseOpening,
    ReportEquivocation,
    RequireApproval,
    RestoreReputation,
    RevokeIdentity,
    RotateIdentity,
    SealRound,
    SignedTransaction,
    SiteStatistics,
    SiteWeight,
    Statement,
    SubmitUpdate,
    Validator,
    WeighRound,
    WithdrawConsent,
)

FILE = Path(__file__).parents[1] / "vectors" / "ledger_rules.json"


def digest(label: str) -> bytes:
    """A digest that stands for something named."""
    return sha256(label.encode()).digest()


def key(name: str) -> SigningKey:
    """Somebody's fixed key."""
    return SigningKey.from_seed(digest(f"key of {name}"))


GENESIS = Genesis(
    "vectors",
    "libsodium",
    digest("salt")[:16],
    tuple(Validator(f"validator-{n}", key(f"validator-{n}").public, 1) for n in range(4)),
    (key("administrator-0").public,),
)
NETWORK = network_id(GENESIS)


@dataclass(frozen=True)
class Chain:
    """A state, and what was said: immutable, so that cases branch off it."""

    state: State
    transactions: tuple[SignedTransaction, ...] = ()

    def sign(self, who: str, body: Body, skip: int = 0) -> SignedTransaction:
        return sign_transaction(key(who), NETWORK, self.state.next_sequence(key(who).public) + skip, body)

    def say(self, who: str, body: Body) -> Chain:
        signed = self.sign(who, body)
        state = apply_transaction(self.state, signed, len(self.transactions) + 1)
        return Chain(state, (*self.transactions, signed))


def dataset(site: str, **changes: Any) -> RegisterDataset:
    """A site's table."""
    made = RegisterDataset("table", digest(f"table of {site}"), "md5:9e107d9d372bb6826bd81d3542a419d6", 100, digest("schema"))
    return msgspec.structs.replace(made, **changes)


def run(name: str = "run-1", **changes: Any) -> OpenRun:
    """The run of the scenario, changed; one that further sites may join where `maximum_sites` is among the changes."""
    made = OpenRun(
        run=name,
        purpose="breast-cancer",
        config_digest=digest("config"),
        code_commit="unversioned",
        lock_digest=digest("lock"),
        scheme="ckks",
        encoding='{"bits":20}',
        parameters=31,
        initial_model=digest("model 0"),
        minimum_sites=2,
        rounds=2,
        datasets=tuple(DatasetUse(site, digest(f"table of {site}")) for site in ("site-a", "site-b", "site-c")),
    )
    whole = {**msgspec.structs.asdict(made), **changes}
    return OpenGrowingRun(**whole) if "maximum_sites" in changes else OpenRun(**whole)


def open_round(number: int, model: str, run_: str = "run-1", **changes: Any) -> OpenRound:
    """A round that starts from a named model."""
    return msgspec.structs.replace(OpenRound(run_, number, digest(model), digest("context")), **changes)


def submit(site: str, number: int = 1, run_: str = "run-1", **changes: Any) -> SubmitUpdate:
    """A site's update."""
    made = SubmitUpdate(run_, number, digest(f"table of {site}"), 100, digest(f"update {site} {number}"), 4096)
    return msgspec.structs.replace(made, **changes)


def commit(number: int = 1, **changes: Any) -> CommitRound:
    """An accepted outcome, changed."""
    metrics = (Metric("accuracy", 950_000), Metric("loss", -1))
    made = CommitRound("run-1", number, digest("sum"), digest("mean"), digest(f"model {number}"), True, "", metrics)
    return msgspec.structs.replace(made, **changes)


def lineage(plain: bytes, number: int = 1, **changes: Any) -> AppendLineage:
    """A batch of events."""
    # Stored, not deflated: another zlib may compress the same bytes into others.
    made = AppendLineage("run-1", number, plain.count(b"\n"), sha256(plain).digest(), zlib.compress(plain, 0))
    return msgspec.structs.replace(made, **changes)


def register(name: str, role: str, **changes: Any) -> RegisterIdentity:
    """An identity with its fixed key."""
    return msgspec.structs.replace(RegisterIdentity(name, role, key(name).public), **changes)


def invite(name: str, **changes: Any) -> InviteIdentity:
    """An invitation of a site with its fixed one-time key, good for a thousand blocks."""
    made = InviteIdentity(name, "site", key(f"invitation of {name}").public, 1000)
    return msgspec.structs.replace(made, **changes)


def accept(name: str, as_: str = "", **changes: Any) -> AcceptInvitation:
    """The invited `name` names its fixed key, having signed for `as_`."""
    proof = key(name).sign(b"cifer/joining/1", NETWORK + (as_ or name).encode())
    return msgspec.structs.replace(AcceptInvitation(key(name).public, proof), **changes)


def rotate(who: str, to: str, sequence: int, network: bytes = NETWORK, tag: bytes = b"cifer/rotating/1") -> RotateIdentity:
    """`who`, whose transaction this is number `sequence` of, names the fixed key of `to`."""
    return RotateIdentity(key(to).public, key(to).sign(tag, encode((network, key(who).public, sequence))))


def revoke(name: str, **changes: Any) -> RevokeIdentity:
    """Somebody's fixed key is to speak for nobody any more."""
    return msgspec.structs.replace(RevokeIdentity(name, key(name).public, "the laptop was stolen"), **changes)


def exchange_key(number: int) -> RegisterKey:
    """The X25519 public key of a fixed private one: the u-coordinate of `number` + 8 times the base point."""
    return RegisterKey(bindings.crypto_scalarmult_base(bytes((8 * (number + 1),)) + bytes(30) + b"\x40"))


ADMIT = AdmitSite("run-joined", "site-c", digest("table of site-c"), 2)
RELEASE = ReleaseOpening("run-1", 1, digest("sum"), digest("share of site-a"))
APPROVE = ApproveModel("run-1", digest("model 1"), True, "reviewed with the hospitals")
MEASURED = MeasureRound(
    "run-1",
    1,
    digest("reference"),
    digest("measured"),
    (SiteStatistics("site-a", 1_000_000, -30_000, ""), SiteStatistics("site-b", 0, 0, "it is longer than can be measured")),
)
WEIGHTS = WeighRound("run-1", 1, "norm_clip", (SiteWeight("site-a", 1024, 750, ""), SiteWeight("site-b", 31, -20, "clipped")), 204_800)
PARTS = PartitionRound("run-1", 2, (("site-a", "site-b", "site-c"),))
MODEL = RegisterModel("classifier", 1, "champion", digest("model 1"), "run-1", 1)
EVENTS = b'{"eventType":"START"}\n{"eventType":"COMPLETE"}\n'
SITES = ("site-a", "site-b", "site-c")


def validator(name: str, **changes: Any) -> ChangeValidator:
    """A validator with its fixed key and one vote, changed."""
    return msgspec.structs.replace(ChangeValidator(name, key(name).public, 1), **changes)


def statement(block: bytes | None, who: str = "validator-3", step: int = 2, height: int = 7, valid_round: int = -1) -> Statement:
    """What a validator signed in round 0 of a height."""
    kind = {1: "proposal", 2: "prevote", 3: "precommit"}.get(step, "prevote")
    content = (NETWORK, height, 0, block, valid_round) if step == 1 else (NETWORK, height, 0, block)
    return Statement(step, height, 0, block, valid_round, key(who).sign(f"cifer/{kind}/1".encode(), encode(content)))


def evidence(**changes: Any) -> ReportEquivocation:
    """Evidence against validator-3: a prevote for a block and one for nil."""
    made = ReportEquivocation(key("validator-3").public, statement(digest("a block")), statement(None))
    return msgspec.structs.replace(made, **changes)


def scenario() -> Iterator[tuple[str, str, Body]]:
    """Label, author and body of every transaction of the scenario that all cases branch off."""
    yield "coordinator", "administrator-0", register("coordinator-a", "coordinator")
    yield "coordinator-b", "administrator-0", register("coordinator-b", "coordinator")
    for site in (*SITES, "site-d"):
        yield f"identity-{site}", "administrator-0", register(site, "site")
    for number, site in enumerate(SITES):
        yield f"key-{site}", site, exchange_key(number)
    yield "key-again", "site-a", exchange_key(7)
    for site in (*SITES, "site-d"):
        yield f"dataset-{site}", site, dataset(site)
    for site in SITES:
        yield f"consent-{site}", site, GrantConsent(digest(f"table of {site}"), "breast-cancer")
    yield "run", "coordinator-a", run()
    yield "round-1", "coordinator-a", open_round(1, "model 0")
    yield "submitted-a", "site-a", submit("site-a")
    yield "submitted-b", "site-b", submit("site-b")
    yield "excluded-c", "site-c", ExcludeSite("run-1", 1, "site-c", "validate_data", "missing values in column area")
    yield "sealed-1", "coordinator-a", SealRound("run-1", 1, ("site-a", "site-b"))
    yield "measured-a", "site-a", MEASURED
    yield "weighed-1", "coordinator-a", WEIGHTS
    yield "released-a", "site-a", RELEASE
    yield "released-c", "site-c", msgspec.structs.replace(RELEASE, opening=digest("share of site-c"))
    yield "committed-1", "coordinator-a", commit()
    yield "approver", "administrator-0", register("approver-a", "approver")
    yield "required", "coordinator-a", RequireApproval("run-1")
    yield "approved", "approver-a", APPROVE
    yield "model", "coordinator-a", MODEL
    yield "lineage-0", "coordinator-a", lineage(EVENTS, 0)
    yield "lineage-1", "coordinator-a", lineage(EVENTS)
    yield "lineage-of-site-a", "site-a", lineage(EVENTS)
    yield "lineage-of-site-a-again", "site-a", lineage(EVENTS, 0)
    yield "round-2", "coordinator-a", open_round(2, "model 1")
    for site in SITES:
        yield f"submitted-2-{site}", site, submit(site, 2)
    yield "sealed-2", "coordinator-a", SealRound("run-1", 2, SITES)
    yield "partitioned-2", "coordinator-a", PARTS
    yield "committed-2", "coordinator-a", commit(2, accepted=False, reason="accuracy fell by 0.03")
    yield "closed", "coordinator-a", CloseRun("run-1", "completed", "")
    yield "withdrawn-a", "site-a", WithdrawConsent(digest("table of site-a"), "breast-cancer", "the study is over")
    yield "granted-a-again", "site-a", GrantConsent(digest("table of site-a"), "breast-cancer")
    yield "validator-added", "administrator-0", validator("validator-4")
    yield "validator-rotated", "administrator-0", validator("validator-1", power=2, public_key=key("validator-1b").public)
    yield "validator-removed", "administrator-0", validator("validator-0", power=0)
    yield "evidence", "validator-2", evidence()
    yield "invited", "administrator-0", invite("site-e", invitation=key("an earlier invitation").public)
    yield "invited-again", "administrator-0", invite("site-e")
    yield "joined", "invitation of site-e", accept("site-e")
    yield "operated", "site-b", operate("site-b", "validator-2")
    yield "restored", "administrator-0", RestoreReputation("validator-3", "its disk was cloned by mistake; it has another key now")
    yield "anchor", "coordinator-b", Anchor(digest("root of a log elsewhere"))
    yield "lineage-of-no-run", "site-b", lineage(EVENTS, 0, run="")
    for number, (who, body) in enumerate(late_rounds("run-late", 2, late=1)):
        yield f"late-{number}", who, body
    for number, (who, body) in enumerate(joined_rounds()):
        yield f"admitted-{number}", who, body
    yield "rotated", "site-d", rotate("site-d", "site-d 2", 1)
    yield "rotated-again", "site-d 2", rotate("site-d 2", "site-d 3", 2)
    yield "consent-site-d", "site-d 3", GrantConsent(digest("table of site-d"), "lung-cancer")
    yield "revoked", "administrator-0", revoke("site-c")
    yield "registered-again", "administrator-0", register("site-c", "site", public_key=key("site-c 2").public)
    yield "revoked-by-itself", "site-c 2", revoke("site-c", public_key=key("site-c 2").public)


ORDER_8 = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"
Case = tuple[str, str, str, list[tuple[str, Body]], str, Body]
"""name, rule, the scenario label it branches off, what is said before, author, the body refused."""

WITHDRAW_B = WithdrawConsent(digest("table of site-b"), "breast-cancer", "")
ABORT = CloseRun("run-1", "aborted", "enough")


def operate(site: str, name: str) -> OperateValidator:
    """What a site and a validator say of each other."""
    return OperateValidator(name, key(name).sign(Domain.OPERATING, operating(NETWORK, site)))


def poisoned_rounds(run_: str, poisoner: str, count: int) -> list[tuple[str, Body]]:
    """Who says what in a new run in which one site's submissions count for nothing in each of `count` rounds, up to an open round."""
    said: list[tuple[str, Body]] = [("coordinator-a", run(run_, rounds=count + 1))]
    for number in range(1, count + 1):
        said.append(("coordinator-a", open_round(number, f"model {number - 1}", run_)))
        said += [(site, submit(site, number, run_)) for site in SITES]
        said.append(("coordinator-a", SealRound(run_, number, SITES)))
        weights = tuple(SiteWeight(site, 0 if site == poisoner else 1024, 0, "") for site in SITES)
        said.append(("coordinator-a", WeighRound(run_, number, "norm_clip", weights, 3)))
        said.append(("site-a", msgspec.structs.replace(RELEASE, run=run_, round=number)))
        said.append(("coordinator-a", commit(number, run=run_, candidate=digest(f"model {number}"))))
    return [*said, ("coordinator-a", open_round(count + 1, f"model {count}", run_))]


def late_rounds(run_: str, count: int, late: int) -> list[tuple[str, Body]]:
    """Who says what in a new run that takes updates of `late` rounds before: site-c is late in all of `count` rounds but the last, open."""
    said: list[tuple[str, Body]] = [("coordinator-a", run(run_, rounds=count, max_staleness=late))]
    for number in range(1, count + 1):
        said.append(("coordinator-a", open_round(number, f"model {number - 1}", run_)))
        said += [(site, submit(site, number, run_)) for site in SITES[:2]]
        if number < count:
            said.append(("coordinator-a", ExcludeSite(run_, number, "site-c", "deadline", "it did not finish in time")))
            said.append(("coordinator-a", SealRound(run_, number, SITES[:2])))
            said.append(("coordinator-a", commit(number, run=run_)))
    if 0 < late < count:
        said.append(("site-c", submit("site-c", count, run_, lag=late)))
    return said


def joined_rounds() -> list[tuple[str, Body]]:
    """Who says what in a new run of two sites to which a third is admitted while the first round is open, and takes part in the second."""
    run_, lead, two = "run-joined", "coordinator-a", SITES[:2]
    return [
        (lead, run(run_, datasets=run().datasets[:2], maximum_sites=3)),
        (lead, open_round(1, "model 0", run_)),
        (lead, ADMIT),
        *((site, submit(site, 1, run_)) for site in two),
        (lead, SealRound(run_, 1, two)),
        (lead, commit(run=run_)),
        (lead, open_round(2, "model 1", run_)),
        *((site, submit(site, 2, run_)) for site in SITES),
        (lead, SealRound(run_, 2, SITES)),
        ("site-c", msgspec.structs.replace(RELEASE, run=run_, round=2)),
        (lead, commit(2, run=run_)),
    ]


def refused_admissions() -> Iterator[Case]:
    """Rules R14 to R17, and that a place counts from its first round on (U1, L2, S5, W1)."""
    lead, start, said = "coordinator-a", "consent-site-c", joined_rounds()
    replace = msgspec.structs.replace
    two, opened = run("run-joined", datasets=run().datasets[:2]), said[:2]
    yield "run_maximum_below_its_sites", "R14", start, [], lead, run(maximum_sites=2)
    yield "run_maximum_too_many", "F4", start, [], lead, run(maximum_sites=4097)
    yield "admit_unknown_run", "R8", start, [], lead, ADMIT
    yield "admit_by_another", "R9", start, opened, "coordinator-b", ADMIT
    yield "admit_by_the_site", "R9", start, opened, "site-c", ADMIT
    yield "admit_to_closed_run", "R10", start, [*opened, (lead, replace(ABORT, run="run-joined"))], lead, ADMIT
    yield "admit_a_declared_site", "R15", start, opened, lead, replace(ADMIT, site="site-a", dataset=digest("table of site-a"))
    yield "admit_twice", "R15", start, [*opened, (lead, ADMIT)], lead, ADMIT
    yield "admit_to_a_run_that_nobody_joins", "R16", start, [(lead, two), said[1]], lead, ADMIT
    taken = ADMIT, replace(ADMIT, site="site-d", dataset=digest("table of site-d"))
    yield "admit_beyond_the_maximum", "R16", start, [*opened, (lead, taken[0])], lead, taken[1]
    last = [(lead, run("run-joined", datasets=two.datasets, rounds=1, maximum_sites=3)), said[1]]
    yield "admit_after_the_last_round_opened", "R17", start, last, lead, ADMIT
    yield "admit_to_a_round_that_is_open", "R17", start, opened, lead, replace(ADMIT, since=1)
    yield "admit_to_a_later_round", "R17", start, said[:1], lead, ADMIT
    yield "admit_unknown_dataset", "R4", start, opened, lead, replace(ADMIT, dataset=digest("nothing"))
    yield "admit_dataset_of_another", "R5", start, opened, lead, replace(ADMIT, dataset=digest("table of site-b"))
    yield "admit_without_consent", "R6", "consent-site-b", opened, lead, ADMIT
    early = said[:3]
    yield "submit_before_its_first_round", "U1", start, early, "site-c", submit("site-c", 1, "run-joined")
    yield "exclude_before_its_first_round", "L2", start, early, lead, ExcludeSite("run-joined", 1, "site-c", "validate_data", "why")
    sealed = said[:6]
    yield "measure_before_its_first_round", "S5", start, sealed, "site-c", replace(MEASURED, run="run-joined")
    yield "release_before_its_first_round", "W1", start, sealed, "site-c", replace(RELEASE, run="run-joined")


def refused_reputation() -> Iterator[Case]:
    """Rules U7, Y2 to Y4, J10 to J13."""
    poisoned = poisoned_rounds("run-u", "site-c", 2)
    yield "submit_unreliable", "U7", "committed-2", poisoned, "site-c", submit("site-c", 3, "run-u")
    lost = RestoreReputation("validator-3", "its disk was cloned")
    yield "restore_by_site", "Y2", "evidence", [], "site-a", lost
    yield "restore_what_is_not_lost", "Y3", "evidence", [], "administrator-0", msgspec.structs.replace(lost, name="site-a")
    yield "restore_twice", "Y3", "restored", [], "administrator-0", lost
    yield "restore_without_reason", "Y4", "evidence", [], "administrator-0", msgspec.structs.replace(lost, reason="")
    yield "restore_reason_long", "F3", "evidence", [], "administrator-0", msgspec.structs.replace(lost, reason="x" * 501)
    yield "operate_by_coordinator", "J10", "evidence", [], "coordinator-a", operate("coordinator-a", "validator-2")
    yield "operate_no_validator", "J11", "evidence", [], "site-a", operate("site-a", "validator-9")
    yield "operate_taken", "J12", "operated", [], "site-a", operate("site-a", "validator-2")
    yield "operate_proof_for_another", "J13", "evidence", [], "site-b", operate("site-a", "validator-2")


def refused() -> Iterator[Case]:
    """Every case that a kind of rule refuses."""
    yield from refused_registrations()
    yield from refused_runs()
    yield from refused_updates()
    yield from refused_weighings()
    yield from refused_outcomes()
    yield from refused_validators()
    yield from refused_reputation()
    yield from refused_admissions()


def refused_validators() -> Iterator[Case]:
    """Rules J."""
    admin, start = "administrator-0", "coordinator"
    replace = msgspec.structs.replace
    yield "validator_by_coordinator", "J1", start, [], "coordinator-a", validator("validator-4")
    yield "validator_by_validator", "J1", start, [], "validator-0", validator("validator-4")
    yield "validator_name", "F1", start, [], admin, validator("Validator 4")
    yield "validator_power_negative", "F4", start, [], admin, validator("validator-4", power=-1)
    yield "validator_remove_stranger", "J2", start, [], admin, validator("validator-9", power=0)
    yield "validator_key_small_order", "J3", start, [], admin, validator("validator-4", public_key=b"\x01" + bytes(31))
    yield "validator_name_of_a_site", "J4", "identity-site-a", [], admin, validator("site-a", public_key=key("other").public)
    yield "validator_key_of_a_site", "J4", "identity-site-a", [], admin, validator("validator-4", public_key=key("site-a").public)
    yield "validator_key_of_another", "J4", start, [], admin, validator("validator-4", public_key=key("validator-0").public)
    yield "validator_jailed_returns", "J4", "evidence", [], admin, validator("validator-3")
    yield "evidence_again", "J5", "evidence", [], admin, evidence()
    strange = [statement(block, "coordinator-a") for block in (digest("a block"), None)]
    yield "evidence_against_a_stranger", "J6", start, [], admin, ReportEquivocation(key("coordinator-a").public, *strange)
    same = statement(digest("a block"))
    yield "evidence_same_statement", "J7", start, [], admin, evidence(second=same)
    yield "evidence_other_height", "J7", start, [], admin, evidence(second=statement(None, height=8))
    yield "evidence_other_step", "J7", start, [], admin, evidence(second=statement(None, step=3))
    yield "evidence_unknown_step", "J7", start, [], admin, evidence(first=replace(same, step=4), second=replace(statement(None), step=4))
    yield "evidence_of_another", "J8", start, [], admin, evidence(second=statement(None, "validator-2"))
    yield (
        "evidence_vote_as_proposal",
        "J8",
        start,
        [],
        admin,
        evidence(first=replace(same, step=1), second=replace(statement(None), step=1)),
    )
    last = [(admin, validator(f"validator-{number}", power=0)) for number in range(3)]
    yield "validator_last_removed", "J9", start, last, admin, validator("validator-3", power=0)
    yield "evidence_against_the_last", "J9", start, last, admin, evidence()
    yield "validator_too_much_power", "J9", start, [], admin, validator("validator-4", power=2**63 - 1)


def refused_registrations() -> Iterator[Case]:
    """Rules I, D, P and fields."""
    admin, table = "administrator-0", digest("table of site-d")
    yield "register_by_site", "I1", "identity-site-a", [], "site-a", register("site-x", "site")
    yield "register_by_coordinator", "I1", "coordinator", [], "coordinator-a", register("site-x", "site")
    yield "register_name_upper_case", "F1", "coordinator", [], admin, register("Site-X", "site")
    yield "register_name_empty", "F1", "coordinator", [], admin, register("", "site")
    yield "register_name_newline", "F1", "coordinator", [], admin, register("site-x\n", "site")
    yield "register_name_65_characters", "F1", "coordinator", [], admin, register("x" * 65, "site")
    yield "register_role_unknown", "I2", "coordinator", [], admin, register("site-x", "king")
    yield "register_role_administrator", "I2", "coordinator", [], admin, register("admin-x", "administrator")
    yield "register_name_twice", "I3", "identity-site-a", [], admin, register("site-a", "site", public_key=key("other").public)
    yield "register_key_twice", "I4", "identity-site-a", [], admin, register("site-x", "site", public_key=key("site-a").public)
    yield "register_key_31_bytes", "I5", "coordinator", [], admin, register("site-x", "site", public_key=bytes(31))
    yield "register_key_small_order", "I5", "coordinator", [], admin, register("site-x", "site", public_key=b"\x01" + bytes(31))
    yield from refused_invitations()
    yield from refused_rotations()
    yield from refused_revocations()
    key_ = exchange_key(9)
    yield "key_by_coordinator", "Q1", "key-again", [], "coordinator-a", key_
    yield "key_31_bytes", "Q2", "key-again", [], "site-a", RegisterKey(key_.public_key[:31])
    yield "key_small_order", "Q2", "key-again", [], "site-a", RegisterKey(bytes(32))
    yield "key_of_order_8", "Q2", "key-again", [], "site-a", RegisterKey(bytes.fromhex(ORDER_8))
    yield "key_not_canonical", "Q2", "key-again", [], "site-a", RegisterKey(key_.public_key[:31] + bytes((key_.public_key[31] | 128,)))
    yield "key_of_another", "Q3", "key-again", [], "site-b", exchange_key(0)
    yield "key_again", "Q3", "key-again", [], "site-a", exchange_key(7)
    yield "anchor_empty", "Y1", "identity-site-a", [], "site-a", Anchor(b"")
    yield "anchor_257_bytes", "Y1", "identity-site-a", [], "site-a", Anchor(bytes(257))
    yield "dataset_by_coordinator", "D1", "coordinator", [], "coordinator-a", dataset("site-x")
    yield "dataset_digest_short", "F2", "identity-site-d", [], "site-d", dataset("site-x", sha256=bytes(16))
    yield "dataset_without_rows", "F4", "identity-site-d", [], "site-d", dataset("site-x", rows=0)
    yield "dataset_rows_over_63_bits", "F4", "identity-site-d", [], "site-d", dataset("site-x", rows=2**63)
    yield "dataset_dvc_hash_long", "F3", "identity-site-d", [], "site-d", dataset("site-x", dvc_hash="x" * 201)
    yield "dataset_of_another_site", "D2", "dataset-site-d", [], "site-a", dataset("site-a")
    yield "dataset_twice", "D2", "dataset-site-d", [], "site-d", dataset("site-d", name="again")
    yield "consent_unknown_dataset", "P1", "dataset-site-d", [], "site-d", GrantConsent(digest("nothing"), "breast-cancer")
    yield "consent_of_another_site", "P2", "dataset-site-d", [], "site-a", GrantConsent(table, "breast-cancer")
    yield "consent_withdrawn_by_another", "P2", "consent-site-c", [], "site-a", WITHDRAW_B
    yield "consent_twice", "P3", "consent-site-c", [], "site-c", GrantConsent(digest("table of site-c"), "breast-cancer")
    yield "withdraw_never_granted", "P4", "consent-site-c", [], "site-d", WithdrawConsent(table, "breast-cancer", "")
    yield "withdraw_twice", "P4", "consent-site-c", [("site-b", WITHDRAW_B)], "site-b", WITHDRAW_B
    yield "withdraw_reason_long", "F3", "consent-site-c", [], "site-b", msgspec.structs.replace(WITHDRAW_B, reason="x" * 501)


def refused_invitations() -> Iterator[Case]:
    """Rules I of invitations, and the keys that they leave behind."""
    admin, guest = "administrator-0", "invitation of site-e"
    yield "invite_by_site", "I1", "identity-site-a", [], "site-a", invite("site-e")
    yield "invite_name", "F1", "coordinator", [], admin, invite("Site-E")
    yield "invite_role_administrator", "I2", "coordinator", [], admin, invite("site-e", role="administrator")
    yield "invite_role_invited", "I2", "coordinator", [], admin, invite("site-e", role="invited")
    yield "invite_registered", "I3", "identity-site-a", [], admin, invite("site-a")
    yield "invite_joined", "I3", "joined", [], admin, invite("site-e", invitation=key("other").public)
    yield "register_invited", "I3", "invited-again", [], admin, register("site-e", "site")
    yield "invite_key_twice", "I4", "identity-site-a", [], admin, invite("site-e", invitation=key("site-a").public)
    yield "invite_key_small_order", "I5", "coordinator", [], admin, invite("site-e", invitation=b"\x01" + bytes(31))
    yield "invite_ended", "I6", "invited", [], admin, invite("site-f", last_height=1)
    yield "accept_as_a_site", "I7", "identity-site-a", [], "site-a", accept("site-f", as_="site-a")
    short = [(admin, invite("site-f", last_height=55)), *((admin, register(f"site-x{n}", "site")) for n in range(12))]
    yield "accept_too_late", "I8", "joined", short, "invitation of site-f", accept("site-f")
    yield "accept_key_of_another", "I4", "invited-again", [], guest, accept("site-a", as_="site-e")
    yield "accept_key_of_the_invitation", "I4", "invited-again", [], guest, accept("site-e", public_key=key(guest).public)
    yield "accept_key_31_bytes", "I5", "invited-again", [], guest, accept("site-e", public_key=bytes(31))
    yield "accept_proof_for_another_name", "I9", "invited-again", [], guest, accept("site-e", as_="site-f")
    yield "accept_proof_by_another_key", "I9", "invited-again", [], guest, accept("site-e", public_key=key("site-f").public)
    yield "invited_does_nothing_else", "D1", "invited-again", [], guest, dataset("site-e")
    yield "accept_with_the_earlier_invitation", "X4", "invited-again", [], "an earlier invitation", accept("site-e")
    yield "accept_twice", "X4", "joined", [], guest, accept("site-f", as_="site-e")
    yield "signed_with_a_replaced_key", "X4", "validator-rotated", [], "validator-1", evidence()


def refused_rotations() -> Iterator[Case]:
    """Rules I of keys that take another's place, and what the one that is replaced may not do."""
    admin, start, replace = "administrator-0", "lineage-of-no-run", msgspec.structs.replace
    good = rotate("site-d", "site-d 2", 1)
    yield "rotate_administrator", "I10", "genesis", [], admin, rotate(admin, "another administrator", 0)
    yield "rotate_validator", "I10", "genesis", [], "validator-0", rotate("validator-0", "validator-0b", 0)
    guest = "invitation of site-e"
    yield "rotate_invitation", "I10", "invited-again", [], guest, rotate(guest, "site-e", 0)
    yield "rotate_to_key_of_another", "I4", start, [], "site-d", rotate("site-d", "site-a", 1)
    yield "rotate_to_key_of_a_validator", "I4", start, [], "site-d", rotate("site-d", "validator-2", 1)
    yield "rotate_to_its_own_key", "I4", start, [], "site-d", rotate("site-d", "site-d", 1)
    yield "rotate_back", "I4", "rotated-again", [], "site-d 3", rotate("site-d 3", "site-d", 3)
    yield "rotate_to_key_of_31_bytes", "I5", start, [], "site-d", replace(good, public_key=bytes(31))
    yield "rotate_to_key_of_small_order", "I5", start, [], "site-d", replace(good, public_key=b"\x01" + bytes(31))
    yield "rotate_to_key_that_did_not_sign", "I11", start, [], "site-d", replace(good, public_key=key("site-x").public)
    yield "rotate_proof_by_the_present_key", "I11", start, [], "site-d", replace(rotate("site-d", "site-d", 1), public_key=good.public_key)
    yield "rotate_proof_for_another_number", "I11", start, [], "site-d", rotate("site-d", "site-d 2", 0)
    yield "rotate_proof_for_another_author", "I11", start, [], "site-d", rotate("site-a", "site-d 2", 1)
    yield "rotate_proof_for_another_network", "I11", start, [], "site-d", rotate("site-d", "site-d 2", 1, digest("another network"))
    yield "rotate_proof_of_another_kind", "I11", start, [], "site-d", rotate("site-d", "site-d 2", 1, tag=b"cifer/joining/1")
    yield "former_key_signs", "X4", "rotated", [], "site-d", GrantConsent(digest("table of site-d"), "breast-cancer")
    yield "former_key_rotates", "X4", "rotated", [], "site-d", rotate("site-d", "site-d 9", 2)
    yield "former_key_registered", "I4", "rotated", [], admin, register("site-x", "site", public_key=key("site-d").public)
    yield "former_key_registered_for_its_own", "I3", "rotated", [], admin, register("site-d", "site")
    yield "former_key_invited", "I4", "rotated", [], admin, invite("site-x", invitation=key("site-d").public)
    yield "former_key_as_a_validator", "J4", "rotated", [], admin, validator("validator-9", public_key=key("site-d").public)


def refused_revocations() -> Iterator[Case]:
    """Rules I12 to I14, and what a revoked key may not do."""
    admin, start, table = "administrator-0", "lineage-of-no-run", digest("table of site-c")
    yield "revoke_by_another_site", "I12", start, [], "site-a", revoke("site-c")
    yield "revoke_by_coordinator", "I12", start, [], "coordinator-a", revoke("site-c")
    yield "revoke_nobody", "I13", start, [], admin, revoke("site-x")
    yield "revoke_key_of_another", "I13", start, [], admin, revoke("site-c", public_key=key("site-a").public)
    yield "revoke_former_key", "I13", "rotated", [], admin, revoke("site-d")
    yield "revoke_twice", "I13", "revoked", [], admin, revoke("site-c")
    yield "revoke_no_key", "I13", "revoked", [], admin, revoke("site-c", public_key=b"")
    yield "revoke_administrator", "I10", start, [], admin, revoke(admin)
    yield "revoke_validator", "I10", start, [], admin, revoke("validator-2")
    yield "revoke_invitation", "I10", "invited-again", [], admin, revoke("site-e", public_key=key("invitation of site-e").public)
    yield "revoke_without_reason", "I14", start, [], admin, revoke("site-c", reason="")
    yield "revoke_reason_long", "F3", start, [], admin, revoke("site-c", reason="x" * 501)
    yield "revoked_key_signs", "X4", "revoked", [], "site-c", WithdrawConsent(table, "breast-cancer", "")
    yield "revoked_key_rotates", "X4", "revoked", [], "site-c", rotate("site-c", "site-c 2", 9)
    yield "revoked_key_registered_again", "I4", "revoked", [], admin, register("site-c", "site")
    yield "revoked_registered_in_another_role", "I3", "revoked", [], admin, register("site-c", "auditor", public_key=key("site-c 2").public)
    yield "revoked_invited", "I3", "revoked", [], admin, invite("site-c")


def refused_runs() -> Iterator[Case]:
    """Rules R and N."""
    lead, uses = "coordinator-a", run().datasets
    stranger = DatasetUse("site-d", digest("table of site-d"))
    yield "run_by_site", "R1", "consent-site-c", [], "site-a", run()
    yield "run_name", "F1", "consent-site-c", [], lead, run("run 1")
    yield "run_purpose", "F1", "consent-site-c", [], lead, run(purpose="")
    yield "run_encoding_long", "F3", "consent-site-c", [], lead, run(encoding="x" * 16_385)
    yield "run_no_rounds", "F4", "consent-site-c", [], lead, run(rounds=0)
    yield "run_no_parameters", "F4", "consent-site-c", [], lead, run(parameters=0)
    yield "run_twice", "R2", "run", [], lead, run()
    yield "run_twice_by_another", "R2", "run", [], "coordinator-b", run()
    yield "run_without_datasets", "R3", "consent-site-c", [], lead, run(datasets=())
    yield "run_site_twice", "R3", "consent-site-c", [], lead, run(datasets=(uses[0], uses[1], uses[0]))
    nowhere = DatasetUse("site-a", digest("nothing"))
    yield "run_unknown_dataset", "R4", "consent-site-c", [], lead, run(datasets=(nowhere, uses[1]))
    yield "run_dataset_of_another", "R5", "consent-site-c", [], lead, run(datasets=(DatasetUse("site-a", uses[1].dataset), uses[2]))
    yield "run_without_consent", "R6", "consent-site-c", [], lead, run(datasets=(*uses, stranger))
    yield "run_other_purpose", "R6", "consent-site-c", [], lead, run(purpose="marketing")
    yield "run_consent_withdrawn", "R6", "consent-site-c", [("site-b", WITHDRAW_B)], lead, run()
    yield "run_minimum_zero", "R7", "consent-site-c", [], lead, run(minimum_sites=0)
    yield "run_max_staleness", "F4", "consent-site-c", [], lead, run(max_staleness=1001)
    yield "run_minimum_over_sites", "R7", "consent-site-c", [], lead, run(minimum_sites=4)
    yield "close_unknown_run", "R8", "run", [], lead, CloseRun("run-2", "aborted", "x")
    yield "close_by_another", "R9", "run", [], "coordinator-b", ABORT
    yield "close_twice", "R10", "closed", [], lead, ABORT
    yield "close_outcome", "R11", "run", [], lead, CloseRun("run-1", "finished", "")
    yield "close_completed_early", "R12", "committed-1", [], lead, CloseRun("run-1", "completed", "")
    yield "close_aborted_without_reason", "R13", "run", [], lead, CloseRun("run-1", "aborted", "")
    yield "open_round_unknown_run", "R8", "run", [], lead, open_round(1, "model 0", "run-2")
    yield "open_round_by_another", "R9", "run", [], "coordinator-b", open_round(1, "model 0")
    yield "open_round_of_closed_run", "R10", "run", [(lead, ABORT)], lead, open_round(1, "model 0")
    yield "open_round_2_first", "N3", "run", [], lead, open_round(2, "model 0")
    yield "open_round_0", "N3", "run", [], lead, open_round(0, "model 0")
    yield "open_round_twice", "N3", "round-1", [], lead, open_round(1, "model 0")
    yield "open_round_before_commit", "N4", "sealed-1", [], lead, open_round(2, "model 0")
    yield "open_round_beyond_last", "N5", "committed-2", [], lead, open_round(3, "model 1")
    yield "open_round_from_stale_model", "N6", "lineage-1", [], lead, open_round(2, "model 0")
    yield "open_round_context_short", "F2", "run", [], lead, open_round(1, "model 0", public_context=b"")


def refused_updates() -> Iterator[Case]:
    """Rules U, L and S."""
    lead, start = "coordinator-a", "submitted-b"
    yield "submit_unknown_run", "R8", start, [], "site-c", submit("site-c", 1, "run-2")
    yield "submit_to_closed_run", "R10", start, [(lead, ABORT)], "site-c", submit("site-c")
    yield "submit_by_stranger", "U1", start, [], "site-d", submit("site-d")
    yield "submit_by_coordinator", "U1", start, [], lead, submit("site-c")
    yield "submit_to_unopened_round", "N1", start, [], "site-c", submit("site-c", 2)
    seal = SealRound("run-1", 1, ("site-a", "site-b"))
    yield "submit_after_seal", "N2", start, [(lead, seal)], "site-c", submit("site-c")
    yield "submit_after_exclusion", "U2", "excluded-c", [], "site-c", submit("site-c")
    yield "submit_twice", "U3", start, [], "site-a", submit("site-a", ciphertext=digest("better"))
    yield "submit_other_dataset", "U4", start, [("site-c", dataset("site-e"))], "site-c", submit("site-e")
    withdraw = WithdrawConsent(digest("table of site-c"), "breast-cancer", "")
    yield "submit_consent_withdrawn", "U5", start, [("site-c", withdraw)], "site-c", submit("site-c")
    yield "submit_more_rows", "U6", start, [], "site-c", submit("site-c", rows=101)
    yield "submit_fewer_rows", "U6", start, [], "site-c", submit("site-c", rows=99)
    yield "submit_late_to_a_run_that_takes_none", "U8", start, [], "site-c", submit("site-c", lag=1)
    yield "submit_from_a_later_round", "U8", start, [], "site-c", submit("site-c", lag=-1)
    late = late_rounds("run-l", 3, late=1)[:-1]
    yield "submit_too_late", "U8", "closed", late, "site-c", submit("site-c", 3, "run-l", lag=2)
    late = late_rounds("run-l", 1, late=1)
    yield "submit_from_before_the_run", "U8", "closed", late, "site-c", submit("site-c", 1, "run-l", lag=1)
    yield "submit_ciphertext_short", "F2", start, [], "site-c", submit("site-c", ciphertext=bytes(31))
    yield "submit_empty_ciphertext", "F4", start, [], "site-c", submit("site-c", size_bytes=0)
    out = ExcludeSite("run-1", 1, "site-c", "train", "it raised")
    yield "exclude_by_another_site", "L1", start, [], "site-b", out
    yield "exclude_by_another_coordinator", "L1", start, [], "coordinator-b", out
    yield "exclude_stranger", "L2", start, [], lead, msgspec.structs.replace(out, site="site-d")
    yield "exclude_unopened_round", "N1", start, [], lead, msgspec.structs.replace(out, round=2)
    yield "exclude_after_seal", "N2", start, [(lead, seal)], lead, out
    yield "exclude_twice", "L3", "excluded-c", [], lead, out
    yield "exclude_submitted", "L4", start, [], "site-a", msgspec.structs.replace(out, site="site-a")
    yield "exclude_without_reason", "L5", start, [], lead, msgspec.structs.replace(out, reason="")
    yield "exclude_reason_long", "F3", start, [], lead, msgspec.structs.replace(out, reason="x" * 501)
    yield "exclude_step", "F1", start, [], lead, msgspec.structs.replace(out, step="a step")
    yield "seal_by_site", "R9", start, [], "site-a", seal
    yield "seal_unopened_round", "N1", start, [], lead, SealRound("run-1", 2, ("site-a",))
    yield "seal_twice", "N2", start, [(lead, seal)], lead, seal
    yield "seal_descending", "S1", start, [], lead, SealRound("run-1", 1, ("site-b", "site-a"))
    yield "seal_site_twice", "S1", start, [], lead, SealRound("run-1", 1, ("site-a", "site-a"))
    yield "seal_absent", "S2", start, [], lead, SealRound("run-1", 1, ("site-a", "site-b", "site-c"))
    yield "seal_unknown_site", "S2", start, [], lead, SealRound("run-1", 1, ("site-a", "site-z"))
    yield "seal_consent_withdrawn", "S3", start, [("site-b", WITHDRAW_B)], lead, seal
    yield "seal_too_few", "S4", start, [], lead, SealRound("run-1", 1, ("site-a",))
    yield "seal_nobody", "S4", start, [], lead, SealRound("run-1", 1, ())


def refused_weighings() -> Iterator[Case]:
    """Rules S5 to S12."""
    lead, start = "coordinator-a", "sealed-1"
    replace = msgspec.structs.replace
    first, second = WEIGHTS.weights
    yield "measure_by_stranger", "S5", start, [], "site-d", MEASURED
    yield "measure_by_coordinator", "S5", start, [], lead, MEASURED
    yield "measure_before_seal", "S6", "submitted-b", [], "site-a", MEASURED
    yield "measure_after_release", "S7", start, [("site-c", RELEASE)], "site-a", MEASURED
    yield "measure_twice", "S8", "measured-a", [], "site-a", MEASURED
    yield "measure_after_weights", "S9", "weighed-1", [], "site-b", MEASURED
    yield "measure_one_of_two", "S10", start, [], "site-a", replace(MEASURED, statistics=MEASURED.statistics[:1])
    yield "measure_out_of_order", "S10", start, [], "site-a", replace(MEASURED, statistics=MEASURED.statistics[::-1])
    negative = replace(MEASURED, statistics=(replace(MEASURED.statistics[0], square=-1), MEASURED.statistics[1]))
    yield "measure_negative_square", "F4", start, [], "site-a", negative
    yield "measure_reference_short", "F2", start, [], "site-a", replace(MEASURED, reference=b"")
    yield "weigh_by_site", "R9", start, [], "site-a", WEIGHTS
    yield "weigh_before_seal", "S6", "submitted-b", [], lead, WEIGHTS
    yield "weigh_after_release", "S7", start, [("site-a", RELEASE)], lead, WEIGHTS
    yield "weigh_after_outcome", "S7", start, [(lead, commit())], lead, WEIGHTS
    yield "weigh_twice", "S9", "weighed-1", [], lead, WEIGHTS
    yield "weigh_a_site_not_sealed", "S10", start, [], lead, replace(WEIGHTS, weights=(first, replace(second, site="site-c")))
    yield "weigh_one_alone", "S11", start, [], lead, replace(WEIGHTS, weights=(first, replace(second, weight=0)))
    yield "weigh_above_one", "F4", start, [], lead, replace(WEIGHTS, weights=(replace(first, weight=1025), second))
    yield "weigh_score_above_one", "F4", start, [], lead, replace(WEIGHTS, weights=(replace(first, score=1001), second))
    yield "weigh_without_divisor", "F4", start, [], lead, replace(WEIGHTS, divisor=0)
    yield "weigh_rule_name", "F1", start, [], lead, replace(WEIGHTS, rule="My Rule")
    parts = "sealed-2"
    yield "partition_by_site", "R9", parts, [], "site-a", PARTS
    yield "partition_before_seal", "S6", "submitted-2-site-c", [], lead, PARTS
    yield "partition_after_release", "S7", parts, [("site-a", replace(RELEASE, round=2))], lead, PARTS
    yield "partition_twice", "S9", "partitioned-2", [], lead, PARTS
    yield "partition_of_a_weighed_round", "S9", "weighed-1", [], lead, PartitionRound("run-1", 1, (("site-a", "site-b"),))
    for name, wrong in (
        ("overlaps", (("site-a", "site-b"), ("site-b", "site-c"))),
        ("leaves_one_out", (("site-a", "site-b"),)),
        ("of_one", (("site-a", "site-b"), ("site-c",))),
        ("with_a_stranger", (("site-a", "site-b"), ("site-c", "site-e"))),
        ("out_of_order", (("site-b", "site-a", "site-c"),)),
    ):
        yield f"partition_{name}", "S12", parts, [], lead, replace(PARTS, parts=wrong)


def refused_outcomes() -> Iterator[Case]:
    """Rules O, V and A."""
    lead, start = "coordinator-a", "sealed-1"
    metric = Metric("accuracy", 1)
    yield "release_by_stranger", "W1", start, [], "site-d", RELEASE
    yield "release_by_coordinator", "W1", start, [], lead, RELEASE
    yield "release_before_seal", "W2", "submitted-b", [], "site-a", RELEASE
    yield "release_unopened_round", "N1", start, [], "site-a", msgspec.structs.replace(RELEASE, round=2)
    yield "release_after_outcome", "W3", "committed-1", [], "site-b", RELEASE
    second = msgspec.structs.replace(RELEASE, aggregate=digest("sum of another set"))
    yield "release_of_a_second_set", "W4", "released-c", [], "site-a", second
    yield "release_of_closed_run", "R10", start, [(lead, ABORT)], "site-a", RELEASE
    yield "release_digest_short", "F2", start, [], "site-a", msgspec.structs.replace(RELEASE, opening=b"")
    yield "commit_before_seal", "O1", "submitted-b", [], lead, commit()
    yield "commit_twice", "O2", "committed-1", [], lead, commit()
    yield "commit_by_site", "R9", start, [], "site-a", commit()
    yield "commit_rejected_without_reason", "O3", start, [], lead, commit(accepted=False)
    many = tuple(Metric(f"m{number}", 1) for number in range(257))
    yield "commit_257_metrics", "O4", start, [], lead, commit(metrics=many)
    yield "commit_metric_twice", "O5", start, [], lead, commit(metrics=(metric, metric))
    yield "commit_metric_name", "F1", start, [], lead, commit(metrics=(Metric("AUC", 1),))
    yield "commit_metric_over_63_bits", "F4", start, [], lead, commit(metrics=(Metric("auc", 2**63),))
    yield "commit_candidate_short", "F2", start, [], lead, commit(candidate=b"")
    replace = msgspec.structs.replace
    yield "model_by_another", "R9", "committed-1", [], "coordinator-b", MODEL
    yield "model_of_sealed_round", "V1", "sealed-1", [], lead, MODEL
    rejected = replace(MODEL, model=digest("model 2"), round=2, version=2)
    yield "model_of_rejected_round", "V2", "committed-2", [], lead, rejected
    yield "model_other_digest", "V3", "committed-1", [], lead, replace(MODEL, model=digest("model 2"))
    uses = (DatasetUse("site-a", digest("table of site-a")),)
    other = [
        ("coordinator-b", run("run-b", datasets=uses, minimum_sites=1)),
        ("coordinator-b", open_round(1, "model 0", "run-b")),
        ("site-a", submit("site-a", 1, "run-b")),
        ("coordinator-b", SealRound("run-b", 1, ("site-a",))),
        ("coordinator-b", commit(run="run-b")),
    ]
    yield "model_name_of_another", "V4", "model", other, "coordinator-b", replace(MODEL, run="run-b", version=2)
    yield "model_version_again", "V5", "model", [], lead, MODEL
    yield "model_version_skipped", "V5", "committed-1", [], lead, replace(MODEL, version=2)
    yield "model_alias_number", "V6", "committed-1", [], lead, replace(MODEL, alias="7")
    yield "model_alias_name", "F1", "committed-1", [], lead, replace(MODEL, alias="Champion")
    yield "approval_required_by_a_site", "V7", "committed-1", [], "site-a", RequireApproval("run-1")
    yield "approval_required_by_another", "V7", "committed-1", [], "coordinator-b", RequireApproval("run-1")
    yield "approval_required_by_an_approver", "V7", "approver", [], "approver-a", RequireApproval("run-1")
    yield "approval_required_twice", "V8", "required", [], "administrator-0", RequireApproval("run-1")
    yield "approval_required_of_unknown_run", "R8", "committed-1", [], lead, RequireApproval("run-9")
    yield "approval_required_of_closed_run", "R10", "committed-1", [(lead, ABORT)], lead, RequireApproval("run-1")
    yield "approval_by_coordinator", "V9", "required", [], lead, APPROVE
    yield "approval_by_site", "V9", "required", [], "site-a", APPROVE
    yield "approval_of_another_model", "V10", "required", [], "approver-a", replace(APPROVE, model=digest("model 0"))
    yield "approval_twice", "V11", "approved", [], "administrator-0", APPROVE
    yield "approval_after_declining", "V11", "required", [("approver-a", replace(APPROVE, approved=False))], "approver-a", APPROVE
    yield "approval_without_reason", "V12", "required", [], "approver-a", replace(APPROVE, reason="")
    yield "approval_reason_long", "F3", "required", [], "approver-a", replace(APPROVE, reason="x" * 501)
    yield "approval_of_unknown_run", "R8", "required", [], "approver-a", replace(APPROVE, run="run-9")
    yield "model_without_approval", "V13", "required", [], lead, MODEL
    yield "model_declined", "V13", "required", [("administrator-0", replace(APPROVE, approved=False))], lead, MODEL
    yield "lineage_by_site_of_another_run", "A5", "committed-1", [], "site-d", lineage(EVENTS)
    yield "lineage_by_another_coordinator", "A5", "committed-1", [], "coordinator-b", lineage(EVENTS)
    yield "lineage_by_administrator", "A5", "committed-1", [], "administrator-0", lineage(EVENTS)
    yield "lineage_by_site_of_later_round", "A1", "committed-1", [], "site-a", lineage(EVENTS, 2)
    four = [("site-b", lineage(EVENTS))] * 4
    yield "lineage_by_site_five_times", "A6", "committed-1", [("site-a", lineage(EVENTS)), *four], "site-b", lineage(EVENTS)
    long = b"0" * (256 * 1024) + b"\n"
    yield "lineage_by_site_too_long", "A6", "committed-1", [], "site-a", lineage(long, events=zlib.compress(long, 9))
    yield "lineage_of_later_round", "A1", "committed-1", [], lead, lineage(EVENTS, 2)
    yield "lineage_of_negative_round", "A1", "committed-1", [], lead, lineage(EVENTS, -1)
    yield "lineage_of_no_run_in_a_round", "A1", "committed-1", [], "site-a", lineage(EVENTS, 1, run="")
    yield "lineage_of_unknown_run", "R8", "committed-1", [], "site-a", lineage(EVENTS, 0, run="run-9")
    whole = lineage(EVENTS)
    yield "lineage_not_zlib", "A2", "committed-1", [], lead, replace(whole, events=EVENTS)
    yield "lineage_cut", "A2", "committed-1", [], lead, replace(whole, events=whole.events[:-1])
    yield "lineage_trailing", "A2", "committed-1", [], lead, replace(whole, events=whole.events + b"\0")
    bomb = b"0" * (8 * 1024 * 1024) + b"\n"
    yield "lineage_bomb", "A2", "committed-1", [], lead, lineage(bomb, events=zlib.compress(bomb, 9))
    yield "lineage_other_digest", "A3", "committed-1", [], lead, replace(whole, sha256=digest("other"))
    yield "lineage_count", "A4", "committed-1", [], lead, replace(whole, count=3)
    yield "lineage_blank_line", "A4", "committed-1", [], lead, lineage(b"{}\n\n{}\n")
    yield "lineage_empty", "A4", "committed-1", [], lead, lineage(b"")


def tampered(chain: Chain) -> Iterator[tuple[str, str, SignedTransaction]]:
    """Name, rule and transaction of what is refused before any rule of its kind is asked."""
    body = register("site-x", "site")
    good = chain.sign("administrator-0", body)
    key_ = key("administrator-0")
    number = chain.state.next_sequence(key_.public)
    flipped = bytes((good.signature[0] ^ 1,)) + good.signature[1:]
    yield "payload_cut", "X2", SignedTransaction(good.payload[:-1], good.signature)
    yield "payload_trailing", "X2", SignedTransaction(good.payload + b"\0", good.signature)
    # 0xcd 0x00 n is a longer MessagePack form of the small integer n: msgspec reads it, the codec must not.
    at = good.payload.index(bytes((number,)) + b"\x94")
    longer = good.payload[:at] + bytes((0xCD, 0, number)) + good.payload[at + 1 :]
    yield "payload_not_canonical", "X2", SignedTransaction(longer, key_.sign(b"cifer/transaction/1", longer))
    yield "payload_unknown_kind", "X2", SignedTransaction(good.payload.replace(b"identity.register", b"identity.registes"), good.signature)
    yield "network", "X3", sign_transaction(key_, digest("another network"), number, body)
    yield "author", "X4", sign_transaction(key("stranger"), NETWORK, 0, body)
    yield "signature_flipped", "X5", SignedTransaction(good.payload, flipped)
    yield "signature_short", "X5", SignedTransaction(good.payload, good.signature[:-1])
    yield "signature_of_another_key", "X5", SignedTransaction(good.payload, key("site-a").sign(b"cifer/transaction/1", good.payload))
    yield "signature_of_another_domain", "X5", SignedTransaction(good.payload, key_.sign(b"cifer/precommit/1", good.payload))
    yield "sequence_replayed", "X6", chain.sign("administrator-0", body, -1)
    yield "sequence_gap", "X7", chain.sign("administrator-0", body, 1)


def vectors() -> dict[str, Any]:
    """The content of the file."""
    chain = Chain(State.genesis(GENESIS))
    chains, steps = {"genesis": chain}, []
    for label, who, body in scenario():
        chain = chains[label] = chain.say(who, body)
        steps.append({"label": label, "transaction": encode(chain.transactions[-1]).hex(), "state_root": chain.state.root().hex()})
    cases = []
    for name, rule, label, before, who, body in refused():
        branch = chains[label]
        for sayer, said in before:
            branch = branch.say(sayer, said)
        extra = [encode(signed).hex() for signed in branch.transactions[len(chains[label].transactions) :]]
        signed = branch.sign(who, body)
        cases.append({"name": f"invalid_{name}", "rule": rule, "after": label, "setup": extra, "transaction": encode(signed).hex()})
    for name, rule, signed in tampered(chains["coordinator"]):
        cases.append({"name": f"invalid_{name}", "rule": rule, "after": "coordinator", "setup": [], "transaction": encode(signed).hex()})
    return {"genesis": encode(GENESIS).hex(), "network": NETWORK.hex(), "steps": steps, "invalid": cases, "block": block(chain)}


def block(chain: Chain) -> dict[str, str]:
    """The whole scenario as the first block."""
    state = State.genesis(GENESIS)
    for signed in chain.transactions:
        state = apply_transaction(state, signed, 1)
    datas = tuple(encode(signed) for signed in chain.transactions)
    header = Header(
        network=NETWORK,
        height=1,
        previous=NETWORK,
        certificate=bytes(32),
        transactions_root=transactions_root(datas),
        transactions_count=len(datas),
        state_root=state.root(),
        validators_hash=validators_hash(GENESIS.validators),
        next_validators_hash=validators_hash(GENESIS.validators),
        proposer=key("validator-1").public,
    )
    return {"block": encode(Block(header, None, datas)).hex(), "header_digest": header_digest(header).hex()}


def text() -> str:
    """The file as it is written."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(FILE, len(FILE.read_text()))

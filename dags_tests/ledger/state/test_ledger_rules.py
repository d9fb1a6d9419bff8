"""Every rule of SPEC.md: a scenario it lets pass, transactions it refuses, and the proof that the rule is what refuses them."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger import errors
from ledger.codec import decode, encode, forget
from ledger.crypto import Domain, SigningKey
from ledger.digests import header_digest, network_id, transactions_root
from ledger.errors import InvalidBlockError, MalformedTransactionError, RejectedError, SizeError
from ledger.state import State, apply_block, apply_transaction, checks, decode_transaction
from ledger.types import Block, Body, Genesis, Header, RegisterIdentity, SignedTransaction, Transaction

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "dags_tests" / "vectors" / "ledger_rules.json").read_text())
GENESIS = decode(bytes.fromhex(VECTORS["genesis"]), Genesis)
INVALID = {case["name"]: case for case in VECTORS["invalid"]}
ERRORS = {
    "invalid_dataset_dvc_hash_long": "SizeError",
    "invalid_withdraw_reason_long": "SizeError",
    "invalid_run_site_twice": "DuplicateError",
}
NAMED = dict(
    X2="MalformedTransactionError", X3="WrongNetworkError", X4="UnknownAuthorError", X5="BadSignatureError", X6="SequenceError",
    X7="SequenceError", F1="FieldError", F2="FieldError", F3="SizeError", F4="FieldError", I1="RoleError", I2="FieldError",
    I3="DuplicateError", I4="DuplicateError", I5="FieldError", D1="RoleError", D2="DuplicateError", P1="UnknownDatasetError",
    P2="RoleError", P3="DuplicateError", P4="ConsentError", R1="RoleError", R2="DuplicateError", R3="SizeError",
    R4="UnknownDatasetError", R5="UnknownDatasetError", R6="ConsentError", R7="FieldError", R8="UnknownRunError", R9="RoleError",
    R10="RoundStateError", R11="FieldError", R12="RoundStateError", R13="FieldError", N1="RoundStateError", N2="RoundStateError",
    N3="RoundStateError", N4="RoundStateError", N5="RoundStateError", N6="ModelMismatchError", U1="UnknownSiteError",
    U2="ExcludedSiteError", U3="DuplicateSubmissionError", U4="UnknownDatasetError", U5="ConsentError", U6="RowsError",
    U7="SuspendedSiteError", U8="ModelMismatchError",
    L1="RoleError", L2="UnknownSiteError", L3="DuplicateError", L4="RoundStateError", L5="FieldError", S1="FieldError",
    S2="AbsentSubmissionError", S3="ConsentError", S4="QuorumOfSitesError", O1="RoundStateError", O2="RoundStateError",
    O3="FieldError", O4="SizeError", O5="DuplicateError", V1="RoundStateError", V2="RoundStateError", V3="ModelMismatchError",
    V4="RoleError", V5="ModelMismatchError", V6="FieldError", A1="RoundStateError", A2="LineageError", A3="LineageError",
    A4="LineageError", A5="RoleError", A6="LineageError",
    J1="RoleError", J2="FieldError", J3="FieldError", J4="DuplicateError", J5="DuplicateError", J6="EvidenceError",
    J7="EvidenceError", J8="EvidenceError", J9="FieldError", J10="RoleError", J11="FieldError", J12="DuplicateError",
    J13="BadSignatureError", Q1="RoleError", Q2="FieldError", Q3="DuplicateError",
    V7="RoleError", V8="DuplicateError", V9="RoleError", V10="ModelMismatchError", V11="DuplicateError", V12="FieldError",
    V13="ApprovalError",
    I6="FieldError", I7="RoleError", I8="RoleError", I9="BadSignatureError", I10="RoleError", I11="BadSignatureError",
    I12="RoleError", I13="FieldError", I14="FieldError",
    S5="UnknownSiteError", S6="RoundStateError", S7="RoundStateError", S8="DuplicateError", S9="DuplicateError", S10="FieldError",
    S11="QuorumOfSitesError", S12="FieldError", W1="UnknownSiteError", W2="RoundStateError", W3="RoundStateError",
    W4="DuplicateError", Y1="SizeError", Y2="RoleError", Y3="RoundStateError", Y4="FieldError",
    R14="FieldError", R15="DuplicateError", R16="SizeError", R17="RoundStateError",
)  # fmt: skip
# Steps after which the key that signed them speaks for nobody.
REPLACED = {"joined", "rotated", "rotated-again", "revoked-by-itself"}
BLOCK_RULES = {"B1", "B2", "B3", "B4", "B5", "B6", "B7"}
# Without these there is nothing to go on with: the look-up they guard came back empty, the bytes never decoded, or a run does not grow.
LOOK_UPS = {"X2", "X4", "P1", "P4", "R4", "R6", "R8", "R16", "I7", "I13", "N1", "S2", "U1", "V1", "J6", "J7", "J11"}
# Vectors that break two rules: without the first, the second speaks.
SECOND_LINE = {
    "invalid_admit_twice": "R16",
    "invalid_admit_beyond_the_maximum": "R6",
    "invalid_run_purpose": "R6",
    "invalid_run_without_datasets": "R7",
    "invalid_open_round_twice": "N4",
    "invalid_submit_other_dataset": "U5",
    "invalid_lineage_not_zlib": "A3",
    "invalid_evidence_again": "J6",
    "invalid_model_of_rejected_round": "V13",
    "invalid_accept_key_of_the_invitation": "I9",
    "invalid_accept_key_31_bytes": "I9",
    "invalid_accept_twice": "I7",
    "invalid_rotate_to_key_of_31_bytes": "I11",
    "invalid_rotate_to_key_of_small_order": "I11",
    "invalid_former_key_registered_for_its_own": "I4",
    "invalid_former_key_rotates": "I11",
    "invalid_revoked_key_rotates": "I11",
    "invalid_measure_before_seal": "S10",
    "invalid_weigh_before_seal": "S10",
    "invalid_partition_before_seal": "S12",
}


@cache
def states() -> dict[str, State]:
    """The state after each labelled step of the scenario, one block a step."""
    state = State.genesis(GENESIS)
    found = {"genesis": state}
    for height, step in enumerate(VECTORS["steps"], 1):
        state = found[step["label"]] = apply_transaction(state, signed(step["transaction"]), height)
    return found


def signed(text: str) -> SignedTransaction:
    """A transaction as a vector holds it."""
    return decode_transaction(bytes.fromhex(text))


def before(case: dict[str, Any]) -> State:
    """The state a case's transaction meets."""
    state = states()[case["after"]]
    for step in case["setup"]:
        state = apply_transaction(state, signed(step), state.height + 1)
    return state


def drop_rule(monkeypatch: pytest.MonkeyPatch, dropped: str) -> None:
    """The mutant: a ledger without one rule."""
    refuse = checks.refuse

    def forgetful(rule: str, error: type[RejectedError], message: str) -> None:
        if rule != dropped:
            refuse(rule, error, message)

    monkeypatch.setattr(checks, "refuse", forgetful)


@pytest.mark.parametrize("step", VECTORS["steps"], ids=lambda step: step["label"])
def test_the_scenario_leads_to_the_recorded_state_roots(step: dict[str, str]) -> None:
    """Every kind of transaction, in its place, is taken and leads to the golden state root."""
    assert states()[step["label"]].root().hex() == step["state_root"]


def test_the_scenario_uses_every_kind_of_transaction() -> None:
    """No kind of transaction goes without a valid vector."""
    kinds = {type(decode(signed(step["transaction"]).payload, Transaction).body) for step in VECTORS["steps"]}
    assert kinds == set(Body.__args__)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_transaction_is_refused_by_its_rule(name: str) -> None:
    """Each invalid vector raises the named error of the rule it breaks, and leaves the state as it was."""
    case = INVALID[name]
    state = before(case)
    root = state.root()
    with pytest.raises(RejectedError) as caught:
        apply_transaction(state, signed(case["transaction"]), state.height + 1)
    assert (caught.value.rule, type(caught.value).__name__) == (case["rule"], ERRORS.get(name, NAMED[case["rule"]]))
    assert len(str(caught.value)) > 30 and state.root() == root


@pytest.fixture
def nothing_remembered() -> Iterator[None]:
    """What a mutant has read is remembered neither before nor after it."""
    forget()
    yield
    forget()


@pytest.mark.usefixtures("nothing_remembered")
@pytest.mark.parametrize("name", INVALID)
def test_without_its_rule_the_invalid_transaction_gets_further(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant that lacks the rule no longer refuses the vector, so the vector is what notices that the rule is gone."""
    case = INVALID[name]
    state = before(case)
    if case["rule"] == "X2":
        monkeypatch.setattr("ledger.state.transition.decode", lambda data, kind: msgspec.msgpack.decode(data, type=kind))
    drop_rule(monkeypatch, case["rule"])
    try:
        apply_transaction(state, signed(case["transaction"]), state.height + 1)
    except RejectedError as error:
        assert error.rule != case["rule"]
        assert error.rule == SECOND_LINE.get(name), name
    except (AttributeError, TypeError, KeyError, msgspec.DecodeError):
        assert case["rule"] in LOOK_UPS


def test_every_rule_in_the_code_has_a_vector_and_a_line_in_the_specification() -> None:
    """The rules in the source, the invalid vectors and SPEC.md name the same rules."""
    sources = "".join(path.read_text() for path in (ROOT / "ledger" / "state").glob("*.py"))
    coded = set(re.findall(r'(?:refuse\(|require_live\(state,|\{error\}",)\s*"([A-Z]\d+)"', sources))
    assert coded - BLOCK_RULES - {"X1"} == {case["rule"] for case in VECTORS["invalid"]}
    assert coded > BLOCK_RULES
    specified = set(re.findall(r"^\| ([A-Z]\d+) \|", (ROOT / "ledger" / "SPEC.md").read_text(), re.MULTILINE))
    assert coded <= specified


def test_the_generator_still_gives_the_recorded_vectors() -> None:
    """Encodings, digests, signatures and roots are what they were: a change of protocol changes the file knowingly."""
    made = runpy.run_path(str(ROOT / "dags_tests" / "ledger" / "rule_vectors.py"))
    assert made["vectors"]() == VECTORS


# ---------------------------------------------------------------------------------------------------- blocks


def golden_block() -> Block:
    """The whole scenario as the first block."""
    return decode(bytes.fromhex(VECTORS["block"]["block"]), Block)


def with_header(block: Block, **changes: Any) -> Block:
    """The block with another header."""
    return msgspec.structs.replace(block, header=msgspec.structs.replace(block.header, **changes))


def wrong_blocks() -> dict[str, Block]:
    """For each header rule, a block that breaks it."""
    good = golden_block()
    cut = good.transactions[:-1]
    return {
        "B1": with_header(good, network=bytes(32)),
        "B2": with_header(good, height=2),
        "B3": with_header(good, validators_hash=bytes(32)),
        "B4": msgspec.structs.replace(good, transactions=cut),
        "B5": with_header(msgspec.structs.replace(good, transactions=cut), transactions_count=len(cut)),
        "B6": with_header(good, state_root=bytes(32)),
        "B7": with_header(good, next_validators_hash=bytes(32)),
    }


def test_the_golden_block_applies() -> None:
    """The whole scenario as one block gives the root its header names, and the header its recorded digest."""
    block = golden_block()
    start = State.genesis(GENESIS)
    root = start.root()
    state = apply_block(start, block)
    assert (state.height, state.root()) == (1, block.header.state_root)
    assert header_digest(block.header).hex() == VECTORS["block"]["header_digest"]
    assert (start.height, start.root()) == (0, root)


@pytest.mark.parametrize("rule", sorted(BLOCK_RULES))
def test_a_wrong_header_is_refused_and_the_mutant_takes_it(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each header rule refuses its block, and without that rule the block gets past it."""
    block, start = wrong_blocks()[rule], State.genesis(GENESIS)
    with pytest.raises(InvalidBlockError) as caught:
        apply_block(start, block)
    assert caught.value.rule == rule
    drop_rule(monkeypatch, rule)
    try:
        apply_block(start, block)
    except RejectedError as error:
        assert error.rule in {"X3", "B6", "B5"} - {rule}


def test_a_block_with_a_refused_transaction_raises_its_error() -> None:
    """The first bad transaction of a block is what `apply_block` reports."""
    block = golden_block()
    twice = (*block.transactions, block.transactions[0])
    block = with_header(
        msgspec.structs.replace(block, transactions=twice), transactions_count=len(twice), transactions_root=transactions_root(twice)
    )
    with pytest.raises(errors.SequenceError, match="replay"):
        apply_block(State.genesis(GENESIS), block)


def test_a_block_with_bytes_that_are_no_transaction_is_refused() -> None:
    """Junk in a block is a named refusal, not a crash of the validator."""
    block = golden_block()
    junk = (b"junk",)
    block = with_header(msgspec.structs.replace(block, transactions=junk), transactions_count=1, transactions_root=transactions_root(junk))
    with pytest.raises(MalformedTransactionError):
        apply_block(State.genesis(GENESIS), block)


def test_an_oversized_transaction_is_refused_before_it_is_decoded() -> None:
    """X1 holds for the bytes of a block and for a transaction handed over."""
    big = bytes(1024 * 1024 + 1)
    with pytest.raises(SizeError):
        decode_transaction(big)
    with pytest.raises(SizeError):
        apply_transaction(State.genesis(GENESIS), SignedTransaction(big, bytes(64)), 1)


def test_no_transaction_of_the_scenario_applies_twice() -> None:
    """Whatever was committed once is refused ever after; a key that named another, or revoked itself, is nobody's any more."""
    for label, text in ((step["label"], step["transaction"]) for step in VECTORS["steps"]):
        with pytest.raises(errors.UnknownAuthorError if label in REPLACED else errors.SequenceError):
            apply_transaction(states()[label], signed(text), 99)


def test_the_verify_argument_decides_about_signatures() -> None:
    """Embedded mode may share a cache: the rules ask the callable they are given, with the transaction's domain and exact bytes."""
    asked = []
    state = State.genesis(GENESIS)
    transaction = signed(VECTORS["steps"][0]["transaction"])

    def remember(public: bytes, domain: bytes, data: bytes, signature: bytes) -> bool:
        asked.append((public, domain, data, signature))
        return len(asked) == 1

    apply_transaction(state, transaction, 1, remember)
    with pytest.raises(errors.BadSignatureError):
        apply_transaction(state, transaction, 1, remember)
    assert asked[0] == (GENESIS.administrators[0], Domain.TRANSACTION, transaction.payload, transaction.signature)


def test_a_refusal_survives_pickling_and_the_wire() -> None:
    """Another process gets the same error class, message and rule."""
    import pickle

    error = errors.RowsError("site claims 3 rows", "U6")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again), again.rule) == (errors.RowsError, "site claims 3 rows", "U6")
    rebuilt = errors.rejection("rows", "site claims 3 rows")
    assert (type(rebuilt), str(rebuilt)) == (errors.RowsError, "site claims 3 rows")
    assert type(errors.rejection("new-code", "x")) is RejectedError


def test_names_of_refusals_are_distinct() -> None:
    """No two refusals share a code."""
    codes = [kind.code for kind in RejectedError.__subclasses__()]
    assert len(set(codes)) == len(codes) and "rejected" not in codes


def test_a_network_is_named_by_its_whole_genesis() -> None:
    """Changing any field of genesis, or the salt alone, gives another network."""
    changed = [
        msgspec.structs.replace(GENESIS, name="other"),
        msgspec.structs.replace(GENESIS, salt=bytes(16)),
        msgspec.structs.replace(GENESIS, validators=GENESIS.validators[:3]),
        msgspec.structs.replace(GENESIS, administrators=(SigningKey.generate().public,)),
    ]
    assert len({network_id(genesis) for genesis in [GENESIS, *changed]}) == 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verifier": "openssl"}, "verifier"),
        ({"salt": b""}, "salt"),
        ({"validators": ()}, "no validators"),
        ({"administrators": ()}, "no administrators"),
        ({"validators": (GENESIS.validators[0], GENESIS.validators[0])}, "twice"),
        ({"administrators": GENESIS.administrators * 2}, "twice"),
        ({"administrators": (bytes(32),)}, "no Ed25519 key"),
        ({"validators": (msgspec.structs.replace(GENESIS.validators[0], power=0),)}, "power"),
        ({"validators": (GENESIS.validators[0], msgspec.structs.replace(GENESIS.validators[1], name="validator-0"))}, "its own name"),
        ({"validators": (msgspec.structs.replace(GENESIS.validators[0], name="Validator"),)}, "is no name"),
        ({"validators": (msgspec.structs.replace(GENESIS.validators[0], name="administrator-0"),)}, "is no name"),
    ],
)
def test_a_genesis_that_cannot_start_a_network_is_refused(change: dict[str, Any], says: str) -> None:
    """Each G rule gives one clear line."""
    with pytest.raises(errors.GenesisError, match=says):
        State.genesis(msgspec.structs.replace(GENESIS, **change))


def test_header_fields_are_all_hashed() -> None:
    """No field of a header can change without changing its digest."""
    header = golden_block().header
    found = {header_digest(header)}
    for name in Header.__struct_fields__:
        value = getattr(header, name)
        changed = value + 1 if isinstance(value, int) else bytes(31) + b"\x07"
        found.add(header_digest(msgspec.structs.replace(header, **{name: changed})))
    assert len(found) == len(Header.__struct_fields__) + 1


def test_register_identity_encoding_is_spelled_out() -> None:
    """The example of SPEC.md, byte by byte: array of 4, tag first, fields in order."""
    body = RegisterIdentity("a", "site", b"\x01\x02")
    assert encode(body) == b"\x94\xb1identity.register\xa1a\xa4site\xc4\x02\x01\x02"

"""The state as others read it, and what they may rely on: purity, determinism, proofs, evidence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
import zlib
from hashlib import sha256
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.author import sign_transaction
from ledger.codec import decode, encode
from ledger.crypto import SigningKey
from ledger.digests import transaction_id
from ledger.errors import LedgerError, LineageError, RejectedError
from ledger.state import State, apply_transaction, decode_transaction, lineage, verify_entry, verify_no_entry
from ledger.state.entries import Consent, Entry, Identity, Run, StateEntry, Submission
from ledger.types import Body, Genesis, SignedTransaction

ROOT = Path(__file__).parents[3]
VECTORS = json.loads((ROOT / "dags_tests" / "vectors" / "ledger_rules.json").read_text())
GENESIS = decode(bytes.fromhex(VECTORS["genesis"]), Genesis)
STEPS = {step["label"]: decode_transaction(bytes.fromhex(step["transaction"])) for step in VECTORS["steps"]}


def replay(last: str) -> State:
    """The state after the step labelled `last`, one block a step."""
    state = State.genesis(GENESIS)
    for height, (label, signed) in enumerate(STEPS.items(), 1):
        state = apply_transaction(state, signed, height)
        if label == last:
            return state
    raise AssertionError(last)


def digest(label: str) -> bytes:
    """The digest that the vectors use for something named."""
    return sha256(label.encode()).digest()


@pytest.fixture(scope="module")
def final() -> State:
    """The state after the whole scenario."""
    return replay(VECTORS["steps"][-1]["label"])


def height_of(label: str) -> int:
    """The height of a labelled step."""
    return list(STEPS).index(label) + 1


def test_the_views_tell_the_scenario(final: State) -> None:
    """Each read names what happened, and the transaction and height that made it."""
    run = final.run("run-1")
    assert run is not None
    assert (run.status, run.coordinator, run.rounds_opened, run.rounds_committed) == ("completed", "coordinator-a", 2, 2)
    assert run.current_model == digest("model 1")
    first, second = final.round("run-1", 1), final.round("run-1", 2)
    assert first is not None and second is not None and final.round("run-1", 3) is None and final.round("run-2", 1) is None
    assert [submission.site for submission in first.submissions] == ["site-a", "site-b"]
    assert [(exclusion.site, exclusion.by, exclusion.step) for exclusion in first.exclusions] == [("site-c", "site-c", "validate_data")]
    assert (first.status, first.sealed_sites) == ("committed", ("site-a", "site-b"))
    assert first.outcome is not None and first.outcome.accepted and first.outcome.metrics[0].millionths == 950_000
    assert second.outcome is not None and not second.outcome.accepted and second.outcome.reason
    assert first.submissions[0].origin.transaction == transaction_id(STEPS["submitted-a"])
    assert first.submissions[0].origin.height == height_of("submitted-a")
    assert first.submissions[0].consent.height == height_of("consent-site-a")
    model, alias = final.model("classifier", 1), final.alias("classifier", "champion")
    assert model is not None and alias is not None
    assert (model.model, model.round, alias.version, final.latest_version("classifier")) == (digest("model 1"), 1, 1, 1)
    assert final.latest_version("nothing") == 0 and final.model("classifier", 2) is None and final.alias("classifier", "x") is None
    assert [batch.count for batch in final.lineage("run-1", 1)] == [2, 2] and final.lineage("run-1", 2) == ()
    site = final.identity("site-a")
    assert site is not None and final.identity_of(site.public_key) == site and final.next_sequence(site.public_key) == 16
    encryption_key = final.encryption_key("site-a")
    assert encryption_key is not None and encryption_key.origin.height == height_of("key-again")
    assert [found.site for found in first.statistics] == ["site-a"] and first.statistics[0].statistics[0].square == 1_000_000
    assert first.weighing is not None and [item.weight for item in first.weighing.weights] == [1024, 31] and first.partition is None
    assert second.partition is not None and second.partition.parts == (("site-a", "site-b", "site-c"),) and second.weighing is None
    assert [release.site for release in first.releases] == ["site-a", "site-c"] and second.releases == ()
    assert final.identity_of(bytes(32)) is None and final.next_sequence(bytes(32)) == 0
    assert [found.name for found in final.all(Identity)].count("administrator-0") == 1
    assert len(list(final.all(Submission))) == 15
    joined = final.run("run-joined")
    assert joined is not None and [len(joined.places_in(number)) for number in (1, 2)] == [2, 3]


def test_consent_is_live_between_grant_and_withdrawal() -> None:
    """A consent tells since when it stands, until when it stood, and may be given again."""
    table = digest("table of site-a")
    before, gone, again = replay("closed"), replay("withdrawn-a"), replay("granted-a-again")
    consents = [state.consent(table, "breast-cancer") for state in (before, gone, again)]
    assert [consent is not None and consent.live for consent in consents] == [True, False, True]
    assert consents[1] is not None and consents[1].withdrawn is not None
    assert consents[1].withdrawn.height == height_of("withdrawn-a") and consents[1].reason == "the study is over"
    assert consents[2] is not None and consents[2].granted.height == height_of("granted-a-again")
    assert before.consent(table, "marketing") is None


def test_rounds_show_their_status_as_they_go() -> None:
    """Open, sealed, committed: and a sealed set is there before its outcome."""
    seen = [replay(label).round("run-1", 1) for label in ("round-1", "sealed-1", "committed-1")]
    assert [view.status for view in seen if view] == ["open", "sealed", "committed"]
    assert seen[1] is not None and seen[1].sealed_sites == ("site-a", "site-b") and seen[1].outcome is None


def test_applying_leaves_the_old_state_as_it_was() -> None:
    """Purity: after every step all states before it still have their contents and roots."""
    state = State.genesis(GENESIS)
    history = []
    for height, signed in enumerate(STEPS.values(), 1):
        history.append((state, sorted(map(encode, state.tree.records()))))
        state = apply_transaction(state, signed, height)
    roots = [step["state_root"] for step in VECTORS["steps"]]
    for (old, contents), root in zip(history[1:], roots, strict=False):
        assert sorted(map(encode, old.tree.records())) == contents and old.root().hex() == root


def test_the_root_does_not_depend_on_the_process() -> None:
    """Other hash seeds, same root: nothing hashed rests on the order of a set or a dictionary."""
    code = (
        "import json,sys;from ledger.codec import decode;from ledger.types import Genesis;"
        "from ledger.state import State,apply_transaction,decode_transaction;"
        "v=json.load(open(sys.argv[1]));s=State.genesis(decode(bytes.fromhex(v['genesis']),Genesis))\n"
        "for n,t in enumerate(v['steps'],1): s=apply_transaction(s,decode_transaction(bytes.fromhex(t['transaction'])),n)\n"
        "print(s.root().hex(), hash('cifer'))"
    )
    answers = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(ROOT / "dags_tests" / "vectors" / "ledger_rules.json")]
        answers.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split())
    assert {root for root, _ in answers} == {VECTORS["steps"][-1]["state_root"]}
    assert len({seed_dependent for _, seed_dependent in answers}) == 3


def test_every_entry_is_proved_to_who_holds_only_the_root(final: State) -> None:
    """An auditor with a header's state root checks any entry, sees a forged one fail, and sees that something is not there."""
    root = final.root()
    for entry in final.tree.records():
        proof = final.prove(type(entry), *entry.key())
        assert verify_entry(root, decode(encode(entry), StateEntry), decode(encode(proof), type(proof)))
        assert not verify_no_entry(root, type(entry), entry.key(), proof)
    run = final.run("run-1")
    assert run is not None
    forged = msgspec.structs.replace(run, current_model=digest("other"))
    assert not verify_entry(root, forged, final.prove(Run, "run-1"))
    assert verify_no_entry(root, Run, ("run-2",), final.prove(Run, "run-2"))
    table = digest("table of site-d")
    assert verify_no_entry(root, Consent, (table, "breast-cancer"), final.prove(Consent, table, "breast-cancer"))


def test_every_kind_of_entry_occurs_and_is_in_the_union(final: State) -> None:
    """What a proof shows decodes: no kind of entry is missing from `StateEntry`, and the scenario makes each."""
    assert {type(entry) for entry in final.tree.records()} == set(get_args(StateEntry)) == {*Entry.__subclasses__(), *Run.__subclasses__()}


def has_float(value: object) -> bool:
    """Whether a float hides anywhere in a value."""
    if isinstance(value, msgspec.Struct):
        return any(has_float(getattr(value, name)) for name in value.__struct_fields__)
    return isinstance(value, float) or (isinstance(value, tuple) and any(map(has_float, value)))


def test_nothing_in_the_state_is_a_float(final: State) -> None:
    """Integers, bytes, text, truth values and tuples of these are all that is hashed."""
    assert not any(map(has_float, final.tree.records()))


# ------------------------------------------------------------------------------- arbitrary but well-signed bodies

KEYS = {name: SigningKey.from_seed(digest(f"key of {name}")) for name in ("administrator-0", "coordinator-a", "site-a", "site-c")}
STATES = {label: replay(label) for label in ("coordinator", "consent-site-c", "run", "submitted-b", "sealed-1", "committed-1", "closed")}
KNOWN_DIGESTS = [digest(label) for label in ("table of site-a", "table of site-c", "model 0", "model 1")]
KNOWN_NAMES = ["run-1", "site-a", "site-c", "site-x", "classifier", "breast-cancer", "completed", "aborted", "coordinator", "site", ""]
LEAVES = {
    str: st.sampled_from(KNOWN_NAMES) | st.text(max_size=70),
    bytes: st.sampled_from(KNOWN_DIGESTS) | st.binary(max_size=33),
    int: st.sampled_from([0, 1, 2, 100]) | st.integers(-(2**63), 2**64 - 1),
    bool: st.booleans(),
}


def arbitrary(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type: half of the leaves are values that the scenario knows, so that rules are passed, too."""
    if hint in LEAVES:
        return LEAVES[hint]
    if get_origin(hint) is tuple:
        return st.lists(arbitrary(get_args(hint)[0]), max_size=3).map(tuple)
    if isinstance(hint, UnionType):
        return st.one_of(*map(arbitrary, get_args(hint)))
    if hint is type(None):
        return st.none()
    return st.builds(hint, *(arbitrary(get_type_hints(hint)[name]) for name in hint.__struct_fields__))


@settings(max_examples=400)
@given(st.sampled_from(sorted(STATES)), st.sampled_from(sorted(KEYS)), st.one_of(*map(arbitrary, get_args(Body))))
def test_any_body_is_taken_or_refused_by_name(label: str, who: str, body: Any) -> None:
    """Whatever a registered author signs, the rules give a new state or a named refusal, never another exception."""
    state, key = STATES[label], KEYS[who]
    root, sequence = state.root(), state.next_sequence(key.public)
    signed = sign_transaction(key, state.network, sequence, body)
    try:
        after = apply_transaction(state, signed, state.height + 1)
    except RejectedError as error:
        assert error.rule and error.code != "rejected"
    else:
        assert after.next_sequence(key.public) == sequence + 1 and after.root() != root
        assert all(type(entry) in get_args(StateEntry) for entry in after.tree.records())
    assert state.root() == root


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_as_a_payload_are_refused_by_name(payload: bytes) -> None:
    """A peer may send anything: the answer is a named refusal."""
    state, key = STATES["run"], KEYS["site-a"]
    signed = SignedTransaction(payload, key.sign(b"cifer/transaction/1", payload))
    for offered in (signed.payload, encode(signed), payload + signed.payload):
        with pytest.raises(RejectedError):
            apply_transaction(state, msgspec.structs.replace(signed, payload=offered), state.height + 1)
    with pytest.raises(LedgerError):
        decode_transaction(payload)


# ------------------------------------------------------------------------------------------------------- lineage


@pytest.mark.parametrize(("plain", "lines"), [(b"{}", 1), (b"{}\n", 1), (b"{}\n{}", 2), (b"", 0), (b"\n", 0), (b"{}\n\n", 0), (b"\n{}", 0)])
def test_lines_are_counted_with_or_without_the_last_newline(plain: bytes, lines: int) -> None:
    """A blank line makes the batch worthless, a missing last newline does not."""
    assert lineage.count_lines(plain) == lines


def test_decompression_stops_at_its_bound() -> None:
    """Exactly 8 MiB passes; one byte more, or a thousandfold bomb, is refused without holding it in memory."""
    limit = lineage.MOST_PLAIN_BYTES
    assert len(lineage.decompress("x", zlib.compress(bytes(limit)))) == limit
    bomb = zlib.compress(bytes(64 * limit), 9)
    tracemalloc.start()
    for data in (zlib.compress(bytes(limit + 1)), bomb):
        with pytest.raises(LineageError):
            lineage.decompress("x", data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * limit

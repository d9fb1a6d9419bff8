"""What an auditor asks, and what an outsider can check alone: rules C10 and C16 of ledger/SPEC.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.author import Author
from ledger.backends.base import Receipt
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.backends.reader import open_readonly
from ledger.codec import decode, encode
from ledger.consensus.messages import VoteContent
from ledger.crypto import Domain, SigningKey
from ledger.digests import header_digest, validators_hash
from ledger.errors import CorruptionError, LedgerError, NotOnRecordError, ProofError
from ledger.provenance import TransactionProof, model_history, prove, run_history, to_plain, verify_ledger, verify_transaction
from ledger.provenance.proofs import SetChange
from ledger.types import Block, Certificate, ChangeValidator, CommittedBlock, RegisterIdentity, Signature, SubmitUpdate, Validator

SITES = ("hospital-a", "hospital-b", "hospital-c")


def test_where_a_model_came_from(story: Any) -> None:
    """Sites, datasets, consents, rounds, submissions, exclusions, outcomes, lineage and registration, each with its transaction."""
    at = story.receipts
    model = model_history(story.ledger, "breast-cancer", "champion")
    assert (model.version, model.aliases, model.round, model.registered.transaction) == (2, ("champion",), 3, at["v2"].transaction)
    run = model.run
    assert (run.code_commit, run.scheme, run.status, run.opened.height) == ("abc123", "ckks", "completed", at["run"].height)
    assert [site.site for site in run.sites] == list(SITES)
    for site in run.sites:
        assert (site.dvc_hash, site.rows) == (f"md5:{site.site}", 100)
        assert site.registered.transaction == at[f"dataset {site.site}"].transaction
        assert site.consented is not None
        assert site.consented.transaction == at[f"consent {site.site}"].transaction
    assert [site.withdrawal_reason for site in run.sites] == ["patient asked", "", ""]
    assert run.sites[0].withdrawn is not None
    assert run.sites[0].withdrawn.height == at["withdraw"].height
    assert [(entry.round, entry.status, entry.outcome.accepted) for entry in run.rounds if entry.outcome] == [
        (1, "committed", True),
        (2, "committed", False),
        (3, "committed", True),
    ]
    first, second, third = run.rounds
    assert [submission.site for submission in first.submissions] == list(first.sealed_sites) == list(SITES[:2])
    (left_out,) = first.exclusions
    assert (left_out.site, left_out.reason, left_out.origin.transaction) == (
        "hospital-c",
        "column age has 4 missing values",
        at["exclusion"].transaction,
    )
    assert second.outcome is not None
    assert second.outcome.reason == "accuracy fell by 0.2"
    for entry in run.rounds:
        (batch,) = entry.lineage
        assert (batch.count, batch.origin.transaction) == (2, at[f"lineage {entry.round}"].transaction)
        for submission in entry.submissions:
            assert submission.origin.transaction == at[f"submit {entry.round} {submission.site}"].transaction
            assert submission.consent.transaction == at[f"consent {submission.site}"].transaction
    assert third.outcome is not None
    assert third.outcome.candidate == model.model
    assert third.outcome.metrics[0].millionths == 960_003


def test_later_rounds_had_no_part_in_a_model(story: Any) -> None:
    """A version registered from round 1 shows round 1 alone; the run shows all."""
    assert [entry.round for entry in model_history(story.ledger, "breast-cancer", 1).run.rounds] == [1]
    assert [entry.round for entry in run_history(story.ledger, "run-1").rounds] == [1, 2, 3]


def test_every_transaction_that_a_history_names_has_a_proof(story: Any) -> None:
    """C16: a history is a list of claims, and each of its transaction identities proves against the genesis alone."""
    plain = to_plain(model_history(story.ledger, "breast-cancer", "champion"))

    def origins(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, dict):
            own = [value] if set(value) == {"transaction", "height"} else []
            return own + [found for item in value.values() for found in origins(item)]
        return [found for item in value for found in origins(item)] if isinstance(value, list) else []

    named = origins(plain)
    assert len(named) > 25
    for origin in named:
        proof = prove(story.ledger, bytes.fromhex(origin["transaction"]))
        assert proof.header.height == origin["height"]
        verify_transaction(proof, story.ledger.genesis)


def test_answers_are_plain_json(story: Any) -> None:
    """Digests come out as hex, nothing is lost or turned into a float, and the text is the same from a read-only copy."""
    answer = json.dumps(to_plain(model_history(story.ledger, "breast-cancer", "champion")), sort_keys=True)
    assert story.receipts["v2"].transaction.hex() in answer
    assert "960003" in answer
    reader = open_readonly(story.folder, story.ledger.genesis)
    assert json.dumps(to_plain(model_history(reader, "breast-cancer", "champion")), sort_keys=True) == answer
    assert to_plain(verify_ledger(reader)) == to_plain(verify_ledger(story.ledger))
    reader.close()
    with pytest.raises(TypeError, match="float has no plain form"):
        to_plain(0.5)


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("lung", 1, "it has breast-cancer"),
        ("breast-cancer", 3, "from 1 to 2"),
        ("breast-cancer", 0, "from 1 to 2"),
        ("breast-cancer", "best", "it has champion"),
    ],
)
def test_questions_about_what_is_not_there(story: Any, name: str, version: int | str, message: str) -> None:
    """An unknown model, version or alias is answered with what there is."""
    with pytest.raises(NotOnRecordError, match=message):
        model_history(story.ledger, name, version)
    with pytest.raises(NotOnRecordError, match="it has run-1"):
        run_history(story.ledger, "run-9")
    with pytest.raises(NotOnRecordError, match="not on this ledger"):
        prove(story.ledger, bytes(32))


def proof_of(story: Any, label: str) -> TransactionProof:
    """The proof of a transaction, by what was said; it survives being encoded."""
    proof = prove(story.ledger, story.receipts[label].transaction)
    assert decode(encode(proof), TransactionProof) == proof
    return proof


def test_a_proof_says_what_was_said_and_by_whom(story: Any) -> None:
    """C16: the transaction and its author come out of the verified bytes."""
    transaction = verify_transaction(proof_of(story, "submit 3 hospital-b"), story.ledger.genesis)
    assert isinstance(transaction.body, SubmitUpdate)
    assert (transaction.body.run, transaction.body.round, transaction.body.rows) == ("run-1", 3, 100)
    assert story.ledger.state().identity("hospital-b").public_key == transaction.author


replace = msgspec.structs.replace

FORGERIES: dict[str, Any] = {
    "another height": lambda p, _: replace(p, header=replace(p.header, height=p.header.height + 1)),
    "another state root": lambda p, _: replace(p, header=replace(p.header, state_root=bytes(32))),
    "another transactions root": lambda p, _: replace(p, header=replace(p.header, transactions_root=bytes(32))),
    "another place": lambda p, _: replace(p, index=p.index + 1),
    "a longer path": lambda p, _: replace(p, path=(*p.path, bytes(32))),
    "another transaction": lambda p, other: replace(p, transaction=other.transaction),
    "another header": lambda p, other: replace(p, header=other.header),
    "another certificate": lambda p, other: replace(p, certificate=other.certificate),
    "another block with its certificate": lambda p, other: replace(other, transaction=p.transaction, path=p.path, index=p.index),
    "no signatures": lambda p, _: replace(p, certificate=replace(p.certificate, signatures=())),
    "too few signatures": lambda p, _: replace(p, certificate=replace(p.certificate, signatures=p.certificate.signatures[:2])),
    "one signature thrice": lambda p, _: replace(p, certificate=replace(p.certificate, signatures=p.certificate.signatures[:1] * 3)),
    "another round": lambda p, _: replace(p, certificate=replace(p.certificate, round=p.certificate.round + 1)),
    "a stranger's signature": lambda p, _: replace(
        p, certificate=replace(p.certificate, signatures=(*p.certificate.signatures[:2], Signature(b"\xff" * 32, bytes(64))))
    ),
    "a certificate for the forged header": lambda p, _: replace(
        p,
        header=replace(p.header, state_root=bytes(32)),
        certificate=replace(p.certificate, block=header_digest(replace(p.header, state_root=bytes(32)))),
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_proofs_do_not_hold(story: Any, forgery: str) -> None:
    """C16: whatever part of a proof is changed or swapped, it is refused by name."""
    proof, other = proof_of(story, "commit 2"), proof_of(story, "commit 3")
    with pytest.raises(ProofError):
        verify_transaction(FORGERIES[forgery](proof, other), story.ledger.genesis)


def test_a_proof_of_another_network(story: Any) -> None:
    """C16: a genesis with other keys or another name does not vouch for it."""
    proof, genesis = proof_of(story, "run"), story.ledger.genesis
    for other in (create_network("other", genesis.administrators).genesis, replace(genesis, name="renamed")):
        with pytest.raises(ProofError, match="use its own genesis"):
            verify_transaction(proof, other)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_flipped_bit_anywhere_breaks_a_proof(story: Any, data: st.DataObject) -> None:
    """C16: of the encoded proof no single bit is free."""
    encoded = bytearray(encode(proof_of(story, "v2")))
    bit = data.draw(st.integers(0, 8 * len(encoded) - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    with pytest.raises(LedgerError):
        verify_transaction(decode(bytes(encoded), TransactionProof), story.ledger.genesis)


class Edited:
    """A host that shows other blocks than were committed."""

    def __init__(self, ledger: Any, blocks: list[CommittedBlock]) -> None:
        self.genesis, self._blocks = ledger.genesis, blocks

    def blocks(self) -> list[CommittedBlock]:
        return self._blocks


def test_the_whole_ledger_verifies(story: Any) -> None:
    """Everything is re-executed and counted; the end is the state the ledger answers from."""
    report = verify_ledger(story.ledger)
    assert (report.state_root, report.height) == (story.ledger.state().root(), story.ledger.status().height)
    assert report.transactions == sum(count for _, count in report.kinds) == story.ledger.status().transactions
    assert dict(report.kinds)["round.submit"] == 8
    assert report.signatures >= report.transactions + 3 * report.height


@pytest.mark.parametrize("edit", ["drop", "swap", "truncate transactions", "forge signatures", "few signatures", "rewrite"])
def test_an_edited_ledger_is_caught_at_its_height(story: Any, edit: str) -> None:
    """C14: the first height that does not hold is named, whatever the host changed."""
    blocks = list(story.ledger.blocks())
    at = 9
    block, certificate = blocks[at].block, blocks[at].certificate
    unsigned = Certificate(certificate.height, certificate.round, certificate.block, certificate.signatures[:2])
    forged = tuple(Signature(entry.validator, bytes(64)) for entry in certificate.signatures)
    other = blocks[at + 1].block.transactions
    edits: dict[str, list[CommittedBlock]] = {
        "drop": [*blocks[:at], *blocks[at + 1 :]],
        "swap": [*blocks[:at], blocks[at + 1], blocks[at], *blocks[at + 2 :]],
        "truncate transactions": [*blocks[:at], CommittedBlock(Block(block.header, block.parent, ()), certificate), *blocks[at + 1 :]],
        "forge signatures": [*blocks[:at], CommittedBlock(block, replace(certificate, signatures=forged)), *blocks[at + 1 :]],
        "few signatures": [*blocks[:at], CommittedBlock(block, unsigned), *blocks[at + 1 :]],
        "rewrite": [*blocks[:at], CommittedBlock(Block(block.header, block.parent, other), certificate), *blocks[at + 1 :]],
    }
    height = at + 2 if edit in ("drop", "swap") else at + 1
    with pytest.raises(CorruptionError, match=f"block {height} does not hold"):
        verify_ledger(Edited(story.ledger, edits[edit]))  # type: ignore[arg-type]


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[tuple[EmbeddedLedger, Receipt]]:
    """A ledger whose validators changed twice, and a receipt from behind the changes."""
    administrator = SigningKey.from_seed(bytes(32))
    setup = create_network("changing", [administrator.public])
    with EmbeddedLedger.create(tmp_path / "changing", setup.genesis, setup.keys) as ledger:
        author = Author(administrator, ledger)
        author.send(ChangeValidator("validator-4", setup.keys["validator-4"].public, 0))
        for number in range(2):
            author.send(RegisterIdentity(f"a{number}", "site", SigningKey.generate().public))
        author.send(ChangeValidator("validator-1", setup.keys["validator-1"].public, 2))
        for number in range(2):
            receipt = author.send(RegisterIdentity(f"b{number}", "site", SigningKey.generate().public))
        yield ledger, receipt


def test_a_proof_leads_through_changes_of_validators(changed: tuple[EmbeddedLedger, Receipt]) -> None:
    """C16: from the genesis alone, each set is learned from a header that the set before certified."""
    ledger, receipt = changed
    proof = prove(ledger, receipt.transaction)
    assert [len(change.members) for change in proof.changes] == [3, 3]
    assert verify_transaction(decode(encode(proof), TransactionProof), ledger.genesis).body.name == "b1"  # type: ignore[union-attr]
    assert verify_ledger(ledger).height == 6


@pytest.mark.parametrize("fault", ["none", "skipped", "other members", "order", "certified by the new set", "strangers"])
def test_a_proof_with_another_way_through_the_changes_is_refused(changed: tuple[EmbeddedLedger, Receipt], fault: str) -> None:
    """C16: changes left out, in another order, of other members, or certified by whoever they bring in prove nothing."""
    ledger, receipt = changed
    proof = prove(ledger, receipt.transaction)
    first, second = proof.changes
    strangers = [SigningKey.generate() for _ in range(3)]
    members = tuple(Validator(f"validator-{n}", key.public, 1) for n, key in enumerate(strangers))
    header = msgspec.structs.replace(first.header, next_validators_hash=validators_hash(members))
    content = encode(VoteContent(ledger.network, header.height, 0, header_digest(header)))
    votes = sorted((Signature(key.public, key.sign(Domain.PRECOMMIT, content)) for key in strangers), key=lambda vote: vote.validator)
    forged = SetChange(header, Certificate(header.height, 0, header_digest(header), tuple(votes)), members)
    changes = {
        "none": (),
        "skipped": (second,),
        "other members": (msgspec.structs.replace(first, members=members), second),
        "order": (second, first),
        "certified by the new set": (first, msgspec.structs.replace(second, certificate=proof.certificate)),
        "strangers": (forged,),
    }[fault]
    with pytest.raises(ProofError):
        verify_transaction(msgspec.structs.replace(proof, changes=changes), ledger.genesis)

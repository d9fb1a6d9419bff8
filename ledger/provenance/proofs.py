"""The light client: one committed transaction, shown to somebody who holds the genesis and nothing else.

The certificate shows that a quorum of the validators made the header final: those of the genesis, or those that a header of the set before
names, and so on from the genesis; the path shows that the transaction is
under the header's root (RFC 6962); the author's signature shows who said it. Rules C10 and C16 of ``SPEC.md``.
"""

from __future__ import annotations

from ledger import crypto
from ledger.backends.base import Ledger
from ledger.codec import decode
from ledger.consensus.blocks import check_certificate
from ledger.consensus.validators import ValidatorSet
from ledger.crypto import Domain, Verify
from ledger.digests import header_digest, network_id, validators_hash
from ledger.errors import InvalidBlockError, MalformedError, NotOnRecordError, ProofError
from ledger.merkle import inclusion_path, verify_inclusion
from ledger.types import Certificate, Genesis, Header, Record, SignedTransaction, Transaction, Validator


class SetChange(Record, frozen=True):
    """A change of validators: the last header of the set before, certified by it, names the digest of `members`, who decide then."""

    header: Header
    certificate: Certificate
    members: tuple[Validator, ...]


class TransactionProof(Record, frozen=True):
    """Encode it with `ledger.codec.encode` to hand it on. index: place in the block.  path: 32-byte siblings, leaf to root.

    transaction: the encoded `SignedTransaction` as it was committed.  changes: of the validators up to that block, in order.
    """

    changes: tuple[SetChange, ...]
    header: Header
    certificate: Certificate
    index: int
    path: tuple[bytes, ...]
    transaction: bytes


def prove(ledger: Ledger, transaction: bytes) -> TransactionProof:
    """The proof of a committed transaction, by its 32-byte identity. Raises `NotOnRecordError`."""
    receipt = ledger.find(transaction)
    committed = next(iter(ledger.blocks(receipt.height, receipt.height + 1)), None) if receipt is not None else None
    if receipt is None or committed is None:
        raise NotOnRecordError(f"transaction {transaction.hex()} is not on this ledger: check the identity")
    block = committed.block
    path = inclusion_path(block.transactions, receipt.index)
    changes, said = _changes(ledger, receipt.height), block.transactions[receipt.index]
    return TransactionProof(changes, block.header, committed.certificate, receipt.index, path, said)


def _changes(ledger: Ledger, height: int) -> tuple[SetChange, ...]:
    found: list[SetChange] = []
    for scheduled in ledger.state().validator_sets().scheduled[1:]:
        if scheduled.height <= height:
            (committed,) = ledger.blocks(scheduled.height - 1, scheduled.height)
            found.append(SetChange(committed.block.header, committed.certificate, scheduled.members))
    return tuple(found)


def _check_header(
    members: tuple[Validator, ...], network: bytes, header: Header, certificate: Certificate, where: str, verify: Verify
) -> None:
    if header.network != network or header.validators_hash != validators_hash(members):
        raise ProofError(f"{where} names other validators for block {header.height} than those it leads to: ask for another proof")
    try:
        validators = ValidatorSet.of(members)
        check_certificate(validators, network, certificate, height=header.height, block=header_digest(header), verify=verify)
    except (InvalidBlockError, ValueError) as error:
        raise ProofError(f"{where}: {error}") from error


def verify_transaction(proof: TransactionProof, genesis: Genesis, verify: Verify = crypto.verify) -> Transaction:
    """What was said, by whom (`.author`), if the proof holds. Raises `ProofError` saying what does not."""
    header, network = proof.header, network_id(genesis)
    where = f"the proof of a transaction in block {header.height}"
    if header.network != network:
        raise ProofError(f"{where} is of network {header.network.hex()[:16]}, the genesis is of {network.hex()[:16]}: use its own genesis")
    members = genesis.validators
    for change in proof.changes:
        _check_header(members, network, change.header, change.certificate, where, verify)
        if change.header.height >= header.height or change.header.next_validators_hash != validators_hash(change.members):
            raise ProofError(f"{where}: block {change.header.height} does not name the validators that follow it: ask for another proof")
        members = change.members
    _check_header(members, network, header, proof.certificate, where, verify)
    if not verify_inclusion(proof.transaction, proof.index, header.transactions_count, proof.path, header.transactions_root):
        raise ProofError(f"{where}: the transaction is not number {proof.index} of the block: ask for another proof")
    try:
        signed = decode(proof.transaction, SignedTransaction)
        transaction = decode(signed.payload, Transaction)
    except MalformedError as error:
        raise ProofError(f"{where}: {error}") from error
    if not verify(transaction.author, Domain.TRANSACTION, signed.payload, signed.signature):
        raise ProofError(f"{where}: the signature of {transaction.author.hex()[:16]} does not verify: ask for another proof")
    return transaction

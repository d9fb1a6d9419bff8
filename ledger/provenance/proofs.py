"""The light client: one committed transaction, shown to somebody who holds the genesis and nothing else.

The certificate shows that a quorum of the genesis' validators made the header final; the path shows that the transaction is
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
from ledger.types import Certificate, Genesis, Header, Record, SignedTransaction, Transaction


class TransactionProof(Record, frozen=True):
    """Encode it with `ledger.codec.encode` to hand it on. index: place in the block.  path: 32-byte siblings, leaf to root.

    transaction: the encoded `SignedTransaction` as it was committed.
    """

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
    return TransactionProof(block.header, committed.certificate, receipt.index, path, block.transactions[receipt.index])


def verify_transaction(proof: TransactionProof, genesis: Genesis, verify: Verify = crypto.verify) -> Transaction:
    """What was said, by whom (`.author`), if the proof holds. Raises `ProofError` saying what does not."""
    header, network = proof.header, network_id(genesis)
    where = f"the proof of a transaction in block {header.height}"
    if header.network != network:
        raise ProofError(f"{where} is of network {header.network.hex()[:16]}, the genesis is of {network.hex()[:16]}: use its own genesis")
    if header.validators_hash != validators_hash(genesis.validators):
        raise ProofError(f"{where} names other validators than the genesis: ask for another proof")
    validators = ValidatorSet.of(genesis.validators)
    try:
        check_certificate(validators, network, proof.certificate, height=header.height, block=header_digest(header), verify=verify)
    except InvalidBlockError as error:
        raise ProofError(f"{where}: {error}") from error
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

"""The digests by which records name each other: all 32 bytes, each under its own domain tag. Rules H1-H5 of SPEC.md."""

from __future__ import annotations

from functools import lru_cache

from ledger import merkle
from ledger.codec import encode, remember_small
from ledger.crypto import Domain, tagged_digest
from ledger.types import Certificate, Genesis, Header, SignedTransaction, Validator


def network_id(genesis: Genesis) -> bytes:
    """The network's identity: every transaction and header carries it."""
    return tagged_digest(Domain.GENESIS, encode(genesis))


def transaction_id(signed: SignedTransaction) -> bytes:
    """What the author signed: the signing root of the payload.

    The signature is left out: an author can make many signatures of one payload, and all of them are the same transaction.
    """
    return _payload_root(signed.payload)


def header_digest(header: Header) -> bytes:
    """A block's name, which certificates certify: every field of its header."""
    return tagged_digest(Domain.HEADER, encode(header))


def certificate_digest(certificate: Certificate | None) -> bytes:
    """What the next header commits to; 32 zero bytes where there is no block below."""
    return bytes(32) if certificate is None else tagged_digest(Domain.CERTIFICATE, encode(certificate))


@remember_small
def _payload_root(payload: bytes) -> bytes:
    return tagged_digest(Domain.TRANSACTION, payload)


@lru_cache(maxsize=64)
def validators_hash(validators: tuple[Validator, ...]) -> bytes:
    """The validator set, in the order of leading."""
    return tagged_digest(Domain.VALIDATORS, encode(validators))


@lru_cache(maxsize=8)
def transactions_root(transactions: tuple[bytes, ...]) -> bytes:
    """RFC 6962 root over the encoded `SignedTransaction`s of a block."""
    return merkle.root(transactions)

"""Who may connect: TLS 1.3 on both sides, with certificates that go back to keys of the genesis.

Every validator and every administrator of the genesis is a certificate authority of its own: a self-signed Ed25519 certificate of its
genesis key, named by the network's identity. A validator's connections use a fresh key, made when it starts and signed by its authority; a
client's key is signed by an administrator's. So a certificate shows who somebody is on which network, and one of another network does not
verify. Validity does not end: a clock that jumps must not stop a network; who may connect is decided by the validator set instead.

What is signed here never passes for a ledger signature: those cover 32-byte roots (K2); a certificate's body and TLS' transcript are
longer.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from ledger.crypto import SigningKey
from ledger.errors import LedgerError

VALIDATOR: Final = "validator"
ADMINISTRATOR: Final = "administrator"

_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, section 4.1.2.5: no well-defined end


class CertificateError(LedgerError):
    """A certificate that is not of this network, or does not parse."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: its own name, the authority that vouches for it, and that authority's role."""

    name: str
    authority: str
    role: str


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its key in PEM. The key is a secret: it is not shown."""

    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Credential(...)"


def authority(key: SigningKey, name: str, role: str, network: bytes) -> bytes:
    """The self-signed certificate (PEM) of a genesis key: the same bytes for the same arguments, since Ed25519 has no randomness."""
    subject = _name(name, role, network)
    return _certificate(subject, subject, Ed25519PublicKey.from_public_bytes(key.public), key, ca=True, serial=1)


def issue(key: SigningKey, name: str, role: str, network: bytes, subject: str) -> Credential:
    """A fresh key and its certificate for `subject`, signed by the authority `name` that owns the genesis key `key`."""
    fresh = Ed25519PrivateKey.generate()
    certificate = _certificate(
        _name(name, role, network), _name(subject, "member", network), fresh.public_key(), key, ca=False, serial=x509.random_serial_number()
    )
    pem = fresh.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credential(certificate, pem)


def context(credential: Credential, authorities: Iterable[bytes], *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 only, both sides shown, against these authorities. Raises `CertificateError` for PEM that does not parse."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # names are the certificates' own, not those of hosts
    made.verify_mode = ssl.CERT_REQUIRED
    if server:
        made.num_tickets = 0  # a resumed session would outlive a change of the validator set
    try:
        made.load_verify_locations(cadata="".join(pem.decode("ascii") for pem in authorities))
        with tempfile.NamedTemporaryFile(prefix="cifer-tls-") as file:  # ssl reads keys from files only; mode 0600, gone at once
            file.write(credential.key + credential.certificate)
            file.flush()
            made.load_cert_chain(file.name)
    except (ssl.SSLError, ValueError, UnicodeDecodeError) as error:
        raise CertificateError(f"the certificates of this folder do not load ({error}): restore peers.json from a backup") from error
    return made


def peer_of(connection: Any) -> Peer:
    """Who is at the other end of a finished handshake (``ssl.SSLObject`` or ``SSLSocket``)."""
    shown = connection.getpeercert()
    subject, issuer = _fields(shown["subject"]), _fields(shown["issuer"])
    return Peer(subject["commonName"], issuer["commonName"], issuer["organizationalUnitName"])


def public_key_of(pem: bytes, network: bytes) -> bytes:
    """The 32-byte key of an authority's certificate. Raises `CertificateError` when it is another network's, or no authority's at all."""
    try:
        found = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise CertificateError(f"an authority's certificate does not parse ({error}): restore peers.json from a backup") from error
    organisation = [str(item.value) for item in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if organisation != [network.hex()]:
        raise CertificateError(
            f"a certificate of peers.json is of network {(organisation or ['none'])[0][:16]}, genesis.bin is of {network.hex()[:16]}: "
            "put the files of one network together"
        )
    key = found.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError("an authority's certificate holds no Ed25519 key: restore peers.json from a backup")
    return key.public_bytes_raw()


def _fields(name: Any) -> dict[str, str]:
    return {key: value for part in name for key, value in part}


def _name(name: str, role: str, network: bytes) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, network.hex()),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _certificate(issuer: x509.Name, subject: x509.Name, public: Ed25519PublicKey, key: SigningKey, *, ca: bool, serial: int) -> bytes:
    usage = x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(_START)
        .not_valid_after(_NEVER)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    issuer_key = Ed25519PublicKey.from_public_bytes(key.public)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    signer = Ed25519PrivateKey.from_private_bytes(key.export_secret_seed())
    return builder.sign(signer, algorithm=None).public_bytes(serialization.Encoding.PEM)

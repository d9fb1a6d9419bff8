"""The folder of one validator, or of one client, of a network of processes: all it needs to run, here or on another machine.

genesis.bin      the encoded genesis
peers.json       every validator's address and authority certificate, and the administrators' authority certificates
validator.json   a validator's own name, where it listens, and its limits
validator.key    a validator's secret (PKCS 8, PEM, mode 0600; encrypted when CIFER_PASSPHRASE is set)
client.pem       a client's key and certificate (PEM, mode 0600)
validator.sqlite the chain, or validator.lmdb; a client keeps its checked copy in replica.sqlite
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger.backends.network import GENESIS_FILE, NetworkSetup, read_genesis
from ledger.codec import encode
from ledger.crypto import SigningKey
from ledger.digests import network_id
from ledger.errors import CorruptionError, FormatError, KeyMismatchError, LedgerError, StorageError
from ledger.files import write_file
from ledger.storage import DEFAULT, create_store, store_file
from ledger.transport import tls
from ledger.transport.limits import Rate
from ledger.transport.tls import ADMINISTRATOR, VALIDATOR, Credential
from ledger.types import Genesis

PEERS_FILE: Final = "peers.json"
VALIDATOR_FILE: Final = "validator.json"
KEY_FILE: Final = "validator.key"
CLIENT_FILE: Final = "client.pem"
STORE_NAME: Final = "validator"
FORMAT: Final = 1
"""Of peers.json and validator.json; files without one have this one."""
REPLICA_FILE: Final = "replica.sqlite"
PASSPHRASE_VARIABLE: Final = "CIFER_PASSPHRASE"  # noqa: S105 - the name of a variable

_CERTIFICATE_START: Final = b"-----BEGIN CERTIFICATE-----"


_CONNECTION: Final = Rate(20_000, 40_000)
_AUTHOR: Final = Rate(10_000, 20_000)


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a validator listens, and the certificate of its authority (PEM)."""

    name: str
    host: str
    port: int
    authority: bytes


@dataclass(frozen=True, slots=True)
class Members:
    """Everybody's addresses, and the administrators' authorities: they vouch for clients."""

    peers: tuple[PeerAddress, ...]
    administrators: tuple[bytes, ...]

    @property
    def authorities(self) -> tuple[bytes, ...]:
        """All certificates that connections are checked against."""
        return (*(peer.authority for peer in self.peers), *self.administrators)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one validator takes: transactions per connection and per author, client connections, waiting transactions.

    snapshot_blocks: it writes a snapshot at least every so many blocks.  snapshot_lag: further behind than that, it fetches one.
    """

    connection: Rate = _CONNECTION
    author: Rate = _AUTHOR
    clients: int = 64
    pool: int = 20_000
    pool_per_author: int = 8_000
    snapshot_blocks: int = 1_000
    snapshot_lag: int = 10_000


@dataclass(frozen=True, slots=True)
class ValidatorFolder:
    """A validator as its folder describes it. The key is a secret and is not shown."""

    path: Path
    genesis: Genesis
    members: Members
    name: str
    host: str
    port: int
    health_port: int
    limits: Limits
    key: SigningKey

    @property
    def network(self) -> bytes:
        """The network's identity."""
        return network_id(self.genesis)


@dataclass(frozen=True, slots=True)
class ClientFolder:
    """A client as its folder describes it."""

    path: Path
    genesis: Genesis
    members: Members
    credential: Credential

    @property
    def network(self) -> bytes:
        """The network's identity."""
        return network_id(self.genesis)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one validator listens. Port 0 is not taken: every folder names every port."""

    host: str
    port: int
    health_port: int


def create_folders(
    directory: Path, setup: NetworkSetup, administrator: SigningKey, places: Mapping[str, Place], store: str = DEFAULT
) -> None:
    """Write a folder per validator, and one for a client, below `directory`, which must hold no network yet.

    store: of which kind the validators' are, one of `ledger.storage.KINDS`.
    administrator: the key of the first administrator of the genesis; it signs the client's certificate. Raises `LedgerError`
    when there is a network already, `KeyMismatchError` when the key is not the first administrator's, `StorageError`.
    """
    network = network_id(setup.genesis)
    if administrator.public != setup.genesis.administrators[0]:
        raise KeyMismatchError("the administrator's key is not the first one of the genesis: hand in that one")
    authorities = [tls.authority(administrator, f"{ADMINISTRATOR}-0", ADMINISTRATOR, network)]
    peers = [
        {
            "name": name,
            "host": places[name].host,
            "port": places[name].port,
            "authority": tls.authority(key, name, VALIDATOR, network).decode(),
        }
        for name, key in setup.keys.items()
    ]
    members = json.dumps({"format": FORMAT, "peers": peers, "administrators": [pem.decode() for pem in authorities]}, indent=1).encode()
    try:
        for name in (*setup.keys, "client"):
            folder = directory / name
            if (folder / GENESIS_FILE).exists():
                raise LedgerError(f"{folder} already holds a part of a network: start it, or choose an empty folder")
        for name, key in setup.keys.items():
            folder = directory / name
            folder.mkdir(parents=True, mode=0o700, exist_ok=True)
            place = places[name]
            own = {"format": FORMAT, "name": name, "host": place.host, "port": place.port, "health_port": place.health_port, "limits": {}}
            write_file(folder / PEERS_FILE, members)
            write_file(folder / VALIDATOR_FILE, json.dumps(own, indent=1).encode())
            write_file(folder / KEY_FILE, _sealed(key), private=True)
            create_store(folder / f"{STORE_NAME}.{store}", setup.genesis).close()
            write_file(folder / GENESIS_FILE, encode(setup.genesis))
        folder = directory / "client"
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        credential = tls.issue(administrator, f"{ADMINISTRATOR}-0", ADMINISTRATOR, network, "client")
        write_file(folder / PEERS_FILE, members)
        write_file(folder / CLIENT_FILE, credential.key + credential.certificate, private=True)
        write_file(folder / GENESIS_FILE, encode(setup.genesis))
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be written ({error.strerror}): choose a folder that can be written") from error


def read_validator(path: Path) -> ValidatorFolder:
    """A validator's folder. Raises `LedgerError` when it is none, `KeyMismatchError`, `CorruptionError` and `StorageError`."""
    genesis = read_genesis(path)
    raw = _json(path / VALIDATOR_FILE)
    try:
        found = ValidatorFolder(
            path=path,
            genesis=genesis,
            members=_members(path, genesis),
            name=str(raw["name"]),
            host=str(raw["host"]),
            port=int(raw["port"]),
            health_port=int(raw["health_port"]),
            limits=_limits(raw.get("limits", {})),
            key=_open_key(path / KEY_FILE),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(
            f"{path / VALIDATOR_FILE} is damaged ({type(error).__name__}: {error}): restore it from a backup or write it again"
        ) from error
    if found.port == found.health_port or not all(0 < port < 65_536 for port in (found.port, found.health_port)):
        raise CorruptionError(
            f"{path / VALIDATOR_FILE} names ports {found.port} and {found.health_port}: use two different ones, 1 to 65535"
        )
    named = next((peer for peer in found.members.peers if peer.name == found.name), None)
    if named is None or tls.public_key_of(named.authority, found.network) != found.key.public:
        raise KeyMismatchError(f"{path / KEY_FILE} is not the key that {PEERS_FILE} gives for {found.name!r}: put the right file back")
    return found


def read_client(path: Path) -> ClientFolder:
    """A client's folder. Raises `LedgerError` when it is none, `CorruptionError` and `StorageError`."""
    genesis = read_genesis(path)
    data = _read(path / CLIENT_FILE)
    key, start, certificate = data.partition(_CERTIFICATE_START)
    if not key or not start:
        raise CorruptionError(f"{path / CLIENT_FILE} holds no key and certificate: restore it from a backup, or have it issued again")
    return ClientFolder(path, genesis, _members(path, genesis), Credential(start + certificate, key))


def validator_store(path: Path) -> Path:
    """The file of the chain in a validator's folder."""
    return store_file(path, STORE_NAME)


def is_client(path: Path) -> bool:
    """Whether the folder is a client's."""
    return (path / CLIENT_FILE).is_file()


def is_validator(path: Path) -> bool:
    """Whether the folder is a validator's."""
    return (path / VALIDATOR_FILE).is_file()


def _members(path: Path, genesis: Genesis) -> Members:
    raw = _json(path / PEERS_FILE)
    try:
        peers = tuple(PeerAddress(str(p["name"]), str(p["host"]), int(p["port"]), str(p["authority"]).encode()) for p in raw["peers"])
        administrators = tuple(str(pem).encode() for pem in raw["administrators"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"{path / PEERS_FILE} is damaged ({type(error).__name__}: {error}): restore it from a backup") from error
    network = network_id(genesis)
    for peer in peers:
        tls.public_key_of(peer.authority, network)
    keys = {tls.public_key_of(pem, network) for pem in administrators}
    if not keys <= set(genesis.administrators):
        raise CorruptionError(f"{path / PEERS_FILE} names an administrator that the genesis does not: restore it from a backup")
    if len({peer.name for peer in peers}) != len(peers):
        raise CorruptionError(f"{path / PEERS_FILE} names a validator twice: give each its own name")
    if len({tls.public_key_of(peer.authority, network) for peer in peers}) != len(peers):
        raise CorruptionError(f"{path / PEERS_FILE} gives two validators one key: put each one's own certificate there")
    if bad := [peer for peer in peers if not 0 < peer.port < 65_536]:
        raise CorruptionError(f"{path / PEERS_FILE}: {bad[0].name} is at port {bad[0].port}: use 1 to 65535")
    return Members(peers, administrators)


def _limits(raw: Mapping[str, Any]) -> Limits:
    default = Limits()
    counts = ("clients", "pool", "pool_per_author", "snapshot_blocks", "snapshot_lag")
    unknown = set(raw) - {"connection", "author", *counts}
    if unknown:
        raise ValueError(f"unknown limit {sorted(unknown)[0]!r}")
    found = Limits(
        connection=Rate(*map(int, raw["connection"])) if "connection" in raw else default.connection,
        author=Rate(*map(int, raw["author"])) if "author" in raw else default.author,
        **{name: int(raw[name]) for name in counts if name in raw},
    )
    if bad := [name for name in counts if getattr(found, name) < 1]:
        raise ValueError(f"limit {bad[0]!r} is {getattr(found, bad[0])}; use 1 or more")
    return found


def _sealed(key: SigningKey) -> bytes:
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    sealing: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    )
    secret = Ed25519PrivateKey.from_private_bytes(key.export_secret_seed())
    return secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing)


def _open_key(path: Path) -> SigningKey:
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    data = _read(path)
    try:
        sealed = b"ENCRYPTED" in data
        key = serialization.load_pem_private_key(data, passphrase.encode() if passphrase and sealed else None)
    except (TypeError, ValueError) as error:
        raise KeyMismatchError(
            f"{path} does not open: set {PASSPHRASE_VARIABLE} to the passphrase it was made with, or restore it from a backup"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyMismatchError(f"{path} holds no Ed25519 key: restore it from a backup")
    return SigningKey.from_seed(key.private_bytes_raw())


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise CorruptionError(f"{path} is damaged ({error}): restore it from a backup") from error
    if not isinstance(found, dict):
        raise CorruptionError(f"{path} is damaged (no JSON object): restore it from a backup")
    if found.get("format", FORMAT) != FORMAT:
        raise FormatError(f"{path} has format {found['format']!r}, this program knows {FORMAT}: run the version of Cifer that wrote it")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CorruptionError(f"{path} is missing: restore it from a backup, or name the right folder") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}): check its permissions") from error

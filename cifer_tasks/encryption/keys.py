"""Secrets at rest: one sealed file per secret, all under one passphrase.

Each file is a JSON line that says what the secret is, then ChaCha20-Poly1305 (RFC 8439) of the secret under a key that scrypt (RFC 7914)
derives from the passphrase. The JSON line is the cipher's associated data, so a file renamed, relabelled, cut or edited does not open. The
derivation runs once per keystore object and salt, not once per secret.

    <folder>/keystore.json          salt and scrypt cost for secrets made from now on
    <folder>/passphrase             only when neither a passphrase was given nor the keyring asked for: a random one
    <folder>/<name>.<kind>.secret   one secret

Of kind ``signing-next`` and ``encryption-next`` are secrets that are to take the place of the present ones (`advance`), of kind
``encryption-<16 hex>`` earlier ones that a round still needs.

Wrong passphrase, another network's secret and a damaged file are all `KeyMismatchError`, naming the file and what to do.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cifer_tasks.artifacts import NAME
from cifer_tasks.encryption.passphrase import CHOSEN_COST_LOG2, PASSPHRASE_VARIABLE, passphrase_of
from cifer_tasks.encryption.scheme import PublicContext, Scheme, SecretContext
from cifer_tasks.errors import KeyMismatchError, StorageError
from cifer_tasks.files import write_atomically, write_once
from ledger.crypto import SEED_BYTES, SigningKey

_FORMAT: Final = "cifer-keystore/1"
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_COST_LIMITS_LOG2: Final = range(10, 21)
_SIGNING: Final = "signing"
_ENCRYPTION: Final = "encryption"
_NEXT: Final = "-next"
NEXT_SIGNING: Final = _SIGNING + _NEXT
NEXT_ENCRYPTION: Final = _ENCRYPTION + _NEXT
"""Kinds of secrets that are made, and not in place yet."""


class Keystore:
    """The secrets of everyone who lives on one machine, in a folder of mode 0700 with files of mode 0600.

    A secret is named by (name, kind, network): whose it is, what it is for, and the hex identity of the ledger network it belongs to; the
    empty network means any. Existing secrets are never overwritten, but by `advance`. Safe between threads, and between processes that
    create the same secret at once: one wins, and both read the winner's. It holds the passphrase in memory and does not print or pickle it.
    """

    __slots__ = ("_cost_log2", "_derived", "_lock", "_passphrase", "folder")

    def __init__(self, folder: Path, passphrase: bytes, cost_log2: int = CHOSEN_COST_LOG2) -> None:
        if not passphrase:
            msg = f"{folder}: an empty passphrase protects nothing; set {PASSPHRASE_VARIABLE} to a long one or leave it unset"
            raise KeyMismatchError(msg)
        self.folder = folder
        self._passphrase = passphrase
        self._cost_log2 = cost_log2
        self._derived: dict[tuple[str, int], ChaCha20Poly1305] = {}
        self._lock = threading.Lock()
        _make_private(folder)

    @classmethod
    def open(cls, folder: Path) -> Keystore:
        """The keystore in `folder`, made on first use, under the passphrase that `passphrase_of` finds."""
        _make_private(folder)
        return cls(folder, *passphrase_of(folder))

    def __repr__(self) -> str:
        return f"Keystore({str(self.folder)!r})"

    def __reduce__(self) -> Any:
        msg = "a Keystore cannot be pickled or copied: open it from its folder where it is used"
        raise TypeError(msg)

    def put(self, name: str, kind: str, network: str, secret: bytes) -> None:
        """Seal a new secret. Putting the same secret again does nothing.

        Raises `KeyMismatchError` when another secret of this name and kind exists, `StorageError` when the folder cannot be written.
        """
        if not self._seal(name, kind, network, secret) and self.get(name, kind, network) != secret:
            path = self._path(name, kind)
            msg = f"{path}: holds another {kind} secret of {name} already; secrets are never overwritten: move it away first"
            raise KeyMismatchError(msg)

    def get(self, name: str, kind: str, network: str) -> bytes:
        """Open a secret. Raises `KeyMismatchError`, naming file and remedy: absent, foreign, damaged, or under another passphrase."""
        path = self._path(name, kind)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            msg = f"{path}: no {kind} secret of {name} here; set CIFER_HOME to the folder the run was started with"
            raise KeyMismatchError(msg) from None
        except OSError as error:
            msg = f"{path}: cannot be read: {error.strerror}"
            raise StorageError(msg) from None
        label, newline, sealed = content.partition(b"\n")
        header = _parse_label(label)
        if header is None or not newline:
            msg = f"{path}: damaged, it does not begin as a sealed secret; restore it from a backup"
            raise KeyMismatchError(msg)
        if (header["name"], header["kind"]) != (name, kind):
            msg = f"{path}: holds the {header['kind']} secret of {header['name']}, not the {kind} secret of {name}; restore the file names"
            raise KeyMismatchError(msg)
        if header["network"] != network:
            msg = (
                f"{path}: belongs to network {header['network'][:16] or 'any'}, this is network {network[:16] or 'any'}; "
                "set CIFER_HOME to the folder of this network"
            )
            raise KeyMismatchError(msg)
        try:
            cipher = self._cipher(header["salt"], header["scrypt_log2_n"], path)
            return cipher.decrypt(bytes.fromhex(header["nonce"]), sealed, label)
        except InvalidTag:
            msg = (
                f"{path}: does not open: the passphrase is another one, or the file was changed; set {PASSPHRASE_VARIABLE} as when it was "
                f"made (unset it to use {self.folder / 'passphrase'}), or restore the file from a backup"
            )
            raise KeyMismatchError(msg) from None

    def labels(self) -> tuple[tuple[str, str, str], ...]:
        """(name, kind, network) of every secret here, ascending, as their files say; nothing is opened. network: "" means any.

        Raises `KeyMismatchError` for a damaged file.
        """
        found = []
        for path in sorted(self.folder.glob("*.secret")):
            header = _parse_label(_read(path).partition(b"\n")[0])
            if header is None:
                msg = f"{path}: damaged, it does not begin as a sealed secret; restore it from a backup"
                raise KeyMismatchError(msg)
            found.append((header["name"], header["kind"], header["network"]))
        return tuple(found)

    def has(self, name: str, kind: str) -> bool:
        """Whether a secret of this name and kind is here; says nothing about its network or passphrase."""
        return self._path(name, kind).exists()

    # --------------------------------------------------------------------------------------- keys of known kinds

    def signing_key(self, name: str, network: str = "") -> SigningKey:
        """The Ed25519 key of `name`, made from the system's CSPRNG on first use."""
        self._create(name, _SIGNING, network, lambda: secrets.token_bytes(SEED_BYTES))
        return SigningKey.from_seed(self.get(name, _SIGNING, network))

    def encryption_contexts(self, name: str, network: str, scheme: Scheme) -> tuple[PublicContext, SecretContext]:
        """The public and secret context of `name` under `scheme`, made on first use. Raises `KeyMismatchError` for another scheme's."""
        self._create(name, _ENCRYPTION, network, lambda: _join_contexts(*scheme.generate()))
        return _split_contexts(self.get(name, _ENCRYPTION, network), scheme.name, self._path(name, _ENCRYPTION))

    def put_contexts(self, name: str, network: str, public: PublicContext, secret: SecretContext) -> None:
        """Seal contexts that another key holder made, as with one key shared by all sites."""
        self.put(name, _ENCRYPTION, network, _join_contexts(public, secret))

    def secret_context(self, name: str, network: str, scheme: Scheme) -> SecretContext:
        """The secret context of `name`, which has to exist. Raises `KeyMismatchError`."""
        return _split_contexts(self.get(name, _ENCRYPTION, network), scheme.name, self._path(name, _ENCRYPTION))[1]

    # -------------------------------------------------------------------------------- secrets that take another's place

    def next_signing_key(self, name: str, network: str) -> SigningKey:
        """The Ed25519 key that is to take the place of the present one, made on first use: see `advance`."""
        self._create(name, NEXT_SIGNING, network, lambda: secrets.token_bytes(SEED_BYTES))
        return SigningKey.from_seed(self.get(name, NEXT_SIGNING, network))

    def next_contexts(self, name: str, network: str, scheme: Scheme) -> tuple[PublicContext, SecretContext]:
        """The like of `next_signing_key`, for encryption."""
        self._create(name, NEXT_ENCRYPTION, network, lambda: _join_contexts(*scheme.generate()))
        return _split_contexts(self.get(name, NEXT_ENCRYPTION, network), scheme.name, self._path(name, NEXT_ENCRYPTION))

    def advance(self, name: str, following: str, network: str, keep: str = "") -> None:
        """Put the secret of kind `following` in the place of the present one, which is forgotten, or kept as of kind `keep`.

        Cut short anywhere and done again it comes to the same: one of the two is in place all the time.
        """
        kind, fresh = following.removesuffix(_NEXT), self.get(name, following, network)
        if self.has(name, kind) and (present := self.get(name, kind, network)) != fresh and keep:
            self.put(name, keep, network, present)
        write_atomically(self._path(name, kind), self._sealed(name, kind, network, fresh))
        self.forget(name, following)

    def forget(self, name: str, kind: str) -> None:
        """Delete a secret; nothing where there is none. Raises `StorageError`."""
        try:
            self._path(name, kind).unlink(missing_ok=True)
        except OSError as error:
            msg = f"{self._path(name, kind)}: cannot be deleted: {error.strerror}"
            raise StorageError(msg) from None

    def kinds(self, name: str) -> tuple[str, ...]:
        """Of which kinds there are secrets of `name`, ascending."""
        return tuple(kind for known, kind, _ in self.labels() if known == name)

    def secret_context_of(self, name: str, network: str, scheme: Scheme, public: bytes) -> SecretContext:
        """The secret behind one of the encryption keys that `name` has or had. Raises `KeyMismatchError` when it is not here (any more)."""
        others = (kind for kind in self.kinds(name) if kind.startswith(f"{_ENCRYPTION}-"))
        for kind in chain((_ENCRYPTION,), others):  # one file where it is the present key, which it nearly always is
            found, secret = _split_contexts(self.get(name, kind, network), scheme.name, self._path(name, kind))
            if found.data == public:
                return secret
        msg = f"{self.folder}: no encryption secret of {name} goes with the key {public.hex()[:16]}; restore the folder from a backup"
        raise KeyMismatchError(msg)

    def public_context(self, name: str, network: str, scheme: Scheme) -> PublicContext:
        """The public context of `name`, which has to exist. Raises `KeyMismatchError`."""
        return _split_contexts(self.get(name, _ENCRYPTION, network), scheme.name, self._path(name, _ENCRYPTION))[0]

    # ------------------------------------------------------------------------------------------------- internals

    def _create(self, name: str, kind: str, network: str, make: Callable[[], bytes]) -> None:
        if not self.has(name, kind):
            self._seal(name, kind, network, make())

    def _seal(self, name: str, kind: str, network: str, secret: bytes) -> bool:
        """Write a new secret's file; False when there is one."""
        return write_once(self._path(name, kind), self._sealed(name, kind, network, secret))

    def _sealed(self, name: str, kind: str, network: str, secret: bytes) -> bytes:
        salt, cost_log2 = self._parameters()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        fields = {"name": name, "kind": kind, "network": network, "salt": salt, "scrypt_log2_n": cost_log2, "nonce": nonce.hex()}
        label = json.dumps({"format": _FORMAT, **fields}, sort_keys=True, separators=(",", ":")).encode()
        return label + b"\n" + self._cipher(salt, cost_log2, self._path(name, kind)).encrypt(nonce, secret, label)

    def _path(self, name: str, kind: str) -> Path:
        for part in (name, kind):
            if not NAME.fullmatch(part) or "." in kind:
                msg = f"{part!r} cannot name a secret: use lower-case letters, digits, '.', '_' and '-', and no '.' in its kind"
                raise ValueError(msg)
        return self.folder / f"{name}.{kind}.secret"

    def _parameters(self) -> tuple[str, int]:
        """Salt (hex) and log2 of scrypt's N for new secrets: those of the folder, made on first use."""
        path = self.folder / "keystore.json"
        fresh = {"format": _FORMAT, "salt": secrets.token_hex(_SALT_BYTES), "scrypt_log2_n": self._cost_log2}
        write_once(path, json.dumps(fresh, sort_keys=True).encode())
        found = _parse_json(_read(path), {"format": str, "salt": str, "scrypt_log2_n": int})
        if found is None or not _acceptable(found):
            msg = f"{path}: damaged; delete it to have new secrets sealed under a new salt, existing ones stay readable"
            raise KeyMismatchError(msg)
        return found["salt"], found["scrypt_log2_n"]

    def _cipher(self, salt: str, cost_log2: int, path: Path) -> ChaCha20Poly1305:
        with self._lock:
            cipher = self._derived.get((salt, cost_log2))
            if cipher is None:
                try:
                    key = Scrypt(salt=bytes.fromhex(salt), length=32, n=1 << cost_log2, r=8, p=1).derive(self._passphrase)
                except MemoryError:
                    msg = f"{path}: deriving its key needs {(1 << cost_log2) >> 10} MiB of memory; free some and try again"
                    raise StorageError(msg) from None
                cipher = self._derived[salt, cost_log2] = ChaCha20Poly1305(key)
            return cipher


_LABEL_FIELDS: Final[dict[str, type]] = {
    "format": str,
    "name": str,
    "kind": str,
    "network": str,
    "salt": str,
    "scrypt_log2_n": int,
    "nonce": str,
}


def _parse_label(label: bytes) -> dict[str, Any] | None:
    header = _parse_json(label, _LABEL_FIELDS)
    if header is None or not _acceptable(header) or not _is_hex(header["nonce"], _NONCE_BYTES):
        return None
    return header


def _parse_json(data: bytes, fields: dict[str, type]) -> dict[str, Any] | None:
    """A JSON object with exactly these fields and types, or None."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or {name: type(value) for name, value in found.items()} != fields:
        return None
    return found


def _acceptable(header: dict[str, Any]) -> bool:
    """Whether a header asks for a derivation we are willing to run: an edited cost could otherwise ask for terabytes."""
    return header["format"] == _FORMAT and header["scrypt_log2_n"] in _COST_LIMITS_LOG2 and _is_hex(header["salt"], _SALT_BYTES)


def _is_hex(text: str, size_bytes: int) -> bool:
    try:
        return len(bytes.fromhex(text)) == size_bytes
    except ValueError:
        return False


def _join_contexts(public: PublicContext, secret: SecretContext) -> bytes:
    scheme = secret.scheme.encode()
    return b"".join((bytes((len(scheme),)), scheme, len(public.data).to_bytes(8, "little"), public.data, secret.reveal()))


def _split_contexts(data: bytes, scheme: str, path: Path) -> tuple[PublicContext, SecretContext]:
    """The contexts that `_join_contexts` wrote; they were authenticated when the file was opened."""
    end = 1 + data[0]
    found = data[1:end].decode()
    if found != scheme:
        msg = f"{path}: holds keys of encryption.scheme={found}, the run uses {scheme}; start a new run to change the scheme"
        raise KeyMismatchError(msg)
    size = int.from_bytes(data[end : end + 8], "little")
    return PublicContext(scheme, data[end + 8 : end + 8 + size]), SecretContext(scheme, data[end + 8 + size :])


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        msg = f"{folder}: keys cannot be kept there: {error.strerror}; set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise StorageError(msg) from None

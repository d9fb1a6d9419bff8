"""Starting a network: the genesis record, the validators' keys, and the files of a folder.

folder/genesis.bin            the encoded genesis: written last, so a folder without it holds no ledger
folder/validator-1.sqlite     one store per validator, or validator-1.lmdb
folder/writer.lock            who writes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from typing import Final

from ledger.codec import decode, encode
from ledger.crypto import VERIFIER, SigningKey
from ledger.errors import CorruptionError, GenesisError, KeyMismatchError, LedgerError, MalformedError, StorageError
from ledger.files import write_file
from ledger.state.view import SALT_BYTES, check_genesis
from ledger.storage import BESIDE, DEFAULT, FolderLock, create_store, move_aside, open_store, store_file
from ledger.storage.checks import REMEDY
from ledger.types import Genesis, Validator

GENESIS_FILE: Final = "genesis.bin"


@dataclass(frozen=True, slots=True)
class NetworkSetup:
    """A network that is about to start. `keys`: the validators' signing keys by name; they belong in an encrypted keystore."""

    genesis: Genesis
    keys: Mapping[str, SigningKey]


def create_network(name: str, administrators: Sequence[bytes], validators: int = 4) -> NetworkSetup:
    """A genesis with fresh validator keys, one vote each, and these administrators' public keys (32 bytes each).

    With N validators, ``(N - 1) // 3`` may be faulty: none of 1 to 3, one of 4. Writes nothing. Raises `GenesisError`.
    """
    if validators < 1:
        raise GenesisError(f"a network of {validators} validators cannot decide anything: use at least 1, and 4 to survive a fault")
    keys = {f"validator-{number}": SigningKey.generate() for number in range(1, validators + 1)}
    members = tuple(Validator(validator, key.public, 1) for validator, key in keys.items())
    genesis = Genesis(name, VERIFIER, token_bytes(SALT_BYTES), members, tuple(administrators))
    check_genesis(genesis)
    return NetworkSetup(genesis, keys)


def store_path(folder: Path, validator: str) -> Path:
    """The file of one validator."""
    return store_file(folder, validator)


def has_ledger(folder: Path) -> bool:
    """Whether a ledger was started in this folder."""
    return (folder / GENESIS_FILE).is_file()


def read_genesis(folder: Path) -> Genesis:
    """The genesis of the ledger in `folder`. Raises `LedgerError` when there is none, `CorruptionError` when it does not decode."""
    path = folder / GENESIS_FILE
    try:
        return decode(path.read_bytes(), Genesis)
    except FileNotFoundError:
        if any(folder.glob("validator-*.sqlite")) or any(folder.glob("validator-*.lmdb")):
            raise CorruptionError(f"{path} is missing although the folder holds stores: restore it from a backup") from None
        raise LedgerError(f"there is no ledger in {folder}: start one, or name the right folder") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except MalformedError as error:
        raise CorruptionError(f"{path} is damaged ({error}): restore it from a backup") from error


def start_folder(folder: Path, genesis: Genesis, store: str = DEFAULT) -> None:
    """Create an empty store per validator, then the genesis file. A start that was cut short is begun again.

    Raises `LedgerError` when the folder holds a ledger already, `StorageError` when it cannot be written.
    """
    check_genesis(genesis)
    if has_ledger(folder):
        raise LedgerError(f"{folder} already holds a ledger: open it, or choose an empty folder")
    for validator in genesis.validators:
        path = store_path(folder, validator.name)
        if path.exists():
            _remove_empty(path)
        create_store(folder / f"{validator.name}.{store}", genesis).close()
    target = folder / GENESIS_FILE
    try:
        write_file(target, encode(genesis))
    except OSError as error:
        raise StorageError(f"{target} cannot be written ({error.strerror}): free some space and make the folder writable") from error


def check_keys(genesis: Genesis, keys: Mapping[str, SigningKey]) -> None:
    """Raise `KeyMismatchError` unless there is the right signing key for every validator of the genesis."""
    for validator in genesis.validators:
        key = keys.get(validator.name)
        if key is None:
            raise KeyMismatchError(
                f"the signing key of {validator.name} of network {genesis.name!r} is missing: hand in the network's own keys"
            )
        if key.public != validator.public_key:
            have, needs = key.public.hex()[:16], validator.public_key.hex()[:16]
            raise KeyMismatchError(
                f"the key given for {validator.name} is {have}, network {genesis.name!r} has {needs}: hand in the network's own keys"
            )


def rebuild_validator(folder: Path, validator: str) -> Path | None:
    """Move one validator's store aside, as ``.damaged``, and put an empty one in its place: it catches up when the ledger is next opened.

    Only while nobody writes, and while the other stores are whole: they know what the lost one had voted for. Returns where
    the old file went, None when there was none. Raises `LockedError` when the ledger is in use.
    """
    genesis = read_genesis(folder)
    if validator not in {member.name for member in genesis.validators}:
        names = ", ".join(member.name for member in genesis.validators)
        raise LedgerError(f"network {genesis.name!r} has no validator {validator!r}: name one of {names}")
    lock = FolderLock(folder)
    try:
        path = store_path(folder, validator)
        moved = move_aside(path)
        create_store(path, genesis).close()
        return moved
    finally:
        lock.release()


def _remove_empty(path: Path) -> None:
    try:
        store = open_store(path)
        height = store.height()
        store.close()
    except CorruptionError:
        height = 0
    if height:
        raise CorruptionError(f"{path} holds {height} blocks but {GENESIS_FILE} is missing beside it: {REMEDY}")
    for suffix in ("", *BESIDE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

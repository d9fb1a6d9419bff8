"""Backups of a validator, or of an embedded ledger, made while it runs; and what a restored one may do.

A backup is one tar file of regular members: ``backup.json`` (format, what it is of, the height, and the SHA-256 of every other member) and
the files of a folder, its store among them as one consistent copy. A validator's backup holds its secret key as the folder does.

A restored validator does not know what it signed after the backup. It watches, and signs again when it cannot have signed there (SN7).
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from ledger.backends.network import GENESIS_FILE, read_genesis, store_path
from ledger.errors import CorruptionError, FormatError, LedgerError, StorageError
from ledger.files import flush
from ledger.node.folder import KEY_FILE, PEERS_FILE, STORE_NAME, VALIDATOR_FILE, is_validator, read_validator, validator_store
from ledger.node.watching import begin_watching
from ledger.storage import BlockStore, FolderLock, create_store, move_aside, open_reader, open_store, store_kind, transfer
from ledger.types import Genesis

FORMAT: Final = 1
MANIFEST: Final = "backup.json"
VALIDATOR: Final = "validator"
EMBEDDED: Final = "embedded"
_STORE: Final = "store"
_MEMBERS: Final = {VALIDATOR: (GENESIS_FILE, PEERS_FILE, VALIDATOR_FILE, KEY_FILE), EMBEDDED: (GENESIS_FILE,)}


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup file is of. kind: ``validator`` or ``embedded``.  store: ``sqlite`` or ``lmdb``.  network: 32 bytes, hex."""

    kind: str
    name: str
    network: str
    store: str
    height: int


def back_up(folder: Path, target: Path) -> Backup:
    """Write a backup of a validator's folder, or of an embedded ledger's, to the new file `target`, while it may be running.

    Raises `LedgerError` when the folder is neither or the file is there already, `StorageError`, `CorruptionError`.
    """
    from ledger.digests import network_id

    genesis = read_genesis(folder)
    kind = VALIDATOR if is_validator(folder) else EMBEDDED
    name = read_validator(folder).name if kind == VALIDATOR else genesis.name
    paths = [validator_store(folder)] if kind == VALIDATOR else [store_path(folder, member.name) for member in genesis.validators]
    try:
        with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".backup-") as scratch:
            best = Path(scratch) / f"{_STORE}{paths[0].suffix}"
            height = _copy_longest(paths, best)
            files = {member: (folder / member).read_bytes() for member in _MEMBERS[kind]}
            found = Backup(kind, name, network_id(genesis).hex(), store_kind(best), height)
            _write_tar(target, found, files, best)
    except FileExistsError:
        raise LedgerError(f"{target} exists: name a new file") from None
    except OSError as error:
        raise StorageError(f"{target} cannot be written ({error.strerror}): choose a place with space that can be written") from error
    return found


def restore(source: Path, folder: Path) -> Backup:
    """Put a backup's files into `folder`, which must be new or empty. A validator watches at first (SN7); of an embedded ledger, what came
    after the backup is gone.

    Raises `CorruptionError` for a file that is no whole backup, `FormatError` for one of a newer version, `LedgerError`, `StorageError`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise LedgerError(f"{folder} is not empty: restore into a new folder, and move it where it belongs")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as scratch:
            found = _read_tar(source, Path(scratch))
            genesis = read_genesis(Path(scratch))
            _restore_stores(found, genesis, Path(scratch) / f"{_STORE}.{found.store}", folder)
            for member in sorted(_MEMBERS[found.kind], key=lambda name: name == GENESIS_FILE):  # genesis last: until then it is no ledger
                (Path(scratch) / member).replace(folder / member)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror}): choose a place with space that can be written") from error
    return found


def rebuild(folder: Path) -> Path | None:
    """Put an empty store in place of a validator's lost or damaged one, which is moved aside.

    It fetches the chain from the others, and watches at first (SN7). Raises `LedgerError`, and `LockedError` when the validator runs.
    Returns where the old store went, None when there was none.
    """
    validator = read_validator(folder)
    lock = FolderLock(folder)
    try:
        path = validator_store(folder)
        moved = move_aside(path)
        store = create_store(path, validator.genesis)
        begin_watching(store)
        store.close()
        return moved
    finally:
        lock.release()


def _copy_longest(paths: list[Path], target: Path) -> int:
    """A consistent copy of the store with the longest chain of those that can be read; returns its height."""
    stores: list[BlockStore] = []
    damage: CorruptionError | None = None
    for path in paths:
        try:
            stores.append(open_reader(path))
        except CorruptionError as error:
            damage = error
    try:
        if not stores:
            raise damage or CorruptionError("there is no store to back up")
        best = max(stores, key=lambda store: store.height())
        best.copy(target)
    finally:
        for store in stores:
            store.close()
    copy = open_reader(target)
    try:
        return copy.height()
    finally:
        copy.close()


def _write_tar(target: Path, found: Backup, files: Mapping[str, bytes], store: Path) -> None:
    digests = {name: sha256(data).hexdigest() for name, data in files.items()}
    with store.open("rb") as file:
        digests[store.name] = _digest_of(file)
    manifest = {"format": FORMAT, "kind": found.kind, "name": found.name, "network": found.network, "store": found.store}
    said = json.dumps({**manifest, "height": found.height, "sha256": digests}, indent=1).encode()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for name, data in {MANIFEST: said, **files}.items():
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = len(data), 0o600
                    archive.addfile(member, io.BytesIO(data))
                archive.add(store, store.name, recursive=False)
            file.flush()
            os.fsync(file.fileno())
        flush(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _read_tar(source: Path, scratch: Path) -> Backup:
    try:
        with tarfile.open(source, "r:") as archive:
            said = archive.extractfile(MANIFEST)
            manifest = json.loads(said.read()) if said is not None else {}
            if int(manifest["format"]) > FORMAT:
                raise FormatError(
                    f"{source} has format {manifest['format']}, this program knows {FORMAT}: restore it with the version that wrote it"
                )
            kind, name, network, store = (str(manifest[field]) for field in ("kind", "name", "network", "store"))
            found = Backup(kind, name, network, store, int(manifest["height"]))
            for wanted in (*_MEMBERS[found.kind], f"{_STORE}.{found.store}"):
                member = archive.extractfile(wanted)
                if member is None:
                    raise KeyError(wanted)
                descriptor = os.open(scratch / wanted, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    while block := member.read(1 << 20):
                        file.write(block)
                    file.flush()
                    os.fsync(file.fileno())
                with (scratch / wanted).open("rb") as written:
                    if _digest_of(written) != manifest["sha256"][wanted]:
                        raise CorruptionError(f"{source}: {wanted} does not match its checksum: the backup is damaged, use another")
    except FileNotFoundError:
        raise LedgerError(f"{source} is missing: name the file that `cifer ledger backup` wrote") from None
    except (tarfile.TarError, EOFError, KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"{source} is no whole backup ({type(error).__name__}: {error}): use another") from error
    return found


def _restore_stores(found: Backup, genesis: Genesis, copy: Path, folder: Path) -> None:
    source = open_store(copy)
    try:
        if source.genesis != genesis:
            raise CorruptionError("the backup's store is of another network than its genesis: use another backup")
        if found.kind == VALIDATOR:
            begin_watching(source)
            source.copy(folder / f"{STORE_NAME}{copy.suffix}")
            return
        for member in genesis.validators:  # what was being voted on is left out: all of them begin anew behind the last block
            store = create_store(folder / f"{member.name}{copy.suffix}", genesis)
            transfer(source, store)
            store.close()
    finally:
        source.close()


def _digest_of(file: io.BufferedReader) -> str:
    digest = sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()

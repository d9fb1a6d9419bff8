"""Artifacts by content, and the private folder of a site.

`ArtifactStore` holds what a round shares: models, ciphertexts, aggregates, openings, public contexts. An artifact's address is the
SHA-256 of its bytes, so reading verifies and writing twice is harmless. `SiteFolder` holds what never leaves a site: its plaintext updates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

from cifer_tasks.artifact_client import SERVICE_SCHEME, Pass, ServiceShelf
from cifer_tasks.errors import IntegrityError, StorageError
from cifer_tasks.files import Body, FileBytes, digest_of, flush_files, pieces_of, write_pieces
from cifer_tasks.records import ArtifactRef, Kind, SiteFile
from cifer_tasks.shelves import LocalShelf, RemoteShelf, Shelf, address_of, sha256_of
from cifer_tasks.words import say_once

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
"""What may name a site, a file of a site or a secret: it becomes a file name, so no separators and no leading dot."""

HELD_BYTES: Final = 1 << 20
"""Up to this size a body is held in memory once it is verified; a larger one is read again from its file, piece by piece."""


class ArtifactStore:
    """Content-addressed bytes on a shelf that the URL picks: a local folder (the default), ``cifer+https://host:port`` for Cifer's own
    service, which asks for a `Pass`, or any other URL by fsspec, such as ``s3://bucket/cifer``.
    """

    def __init__(self, url_or_path: str | Path, access: Pass | None = None) -> None:
        """access: who asks Cifer's service, and whom it is to be recognised by."""
        self.shelf: Shelf = shelf_at(str(url_or_path), access)
        self.url = self.shelf.url

    def put(self, kind: Kind, data: bytes | Path | Iterable[bytes | memoryview], *, durable: bool = True) -> ArtifactRef:
        """Store bytes, a file's bytes or pieces in order, and return their reference. What is there already, undamaged, is left alone.

        durable: flushed to the disk; where it is not, `flush` has to follow before anybody relies on it.
        Raises `StorageError` naming the place and the cause when it cannot be written.
        """
        if isinstance(data, Path):
            data = pieces_of(_existing(data))
        if isinstance(self.shelf, LocalShelf) and not isinstance(data, bytes):
            root = self.shelf.folder
            return ArtifactRef(kind, *write_pieces(data, root, lambda digest: root / address_of(digest), mode=0o644, durable=durable))
        whole = data if isinstance(data, bytes) else b"".join(data)
        ref = ArtifactRef(kind, sha256_of(whole), len(whole))
        address = address_of(ref.digest)
        try:
            if not self.shelf.intact(address, ref.size_bytes):
                self.shelf.write(address, whole)
        except OSError as error:
            msg = f"{self._place(ref)}: cannot be written: {_cause(error)}"
            raise StorageError(msg) from None
        return ref

    def flush(self, *refs: ArtifactRef) -> None:
        """Have what `put` stored survive a power cut; several together take hardly longer than one. Raises `StorageError`."""
        if isinstance(self.shelf, LocalShelf):
            try:
                flush_files(self.shelf.folder / address_of(ref.digest) for ref in refs)
            except OSError as error:
                msg = f"{error.filename or self.url}: cannot be flushed: {_cause(error)}"
                raise StorageError(msg) from None

    def open(self, ref: ArtifactRef) -> Body:
        """The bytes of `ref`, verified, as `get`; large ones of a local store stay in their file, which must not change afterwards.

        A local store lies in this machine's own CIFER_HOME: whoever can write there has its keys. What comes from anywhere else is
        held in memory, so that the bytes that are used are those that were verified.
        """
        if not isinstance(self.shelf, LocalShelf) or ref.size_bytes <= HELD_BYTES:
            return self.get(ref)
        path = self.shelf.folder / address_of(ref.digest)
        try:
            digest, size_bytes = digest_of(path)
        except OSError:
            return self.get(ref)  # which says what is wrong
        self._check(ref, digest, size_bytes)
        return FileBytes(path, 0, size_bytes)

    def get(self, ref: ArtifactRef) -> bytes:
        """The bytes of `ref`, verified. Raises `IntegrityError` naming digest and place when they are missing or damaged."""
        try:
            content = self.shelf.read(address_of(ref.digest))
        except FileNotFoundError:
            msg = f"{self._place(ref)}: {ref.kind} {ref.digest[:16]} is missing; fetch it from whoever holds a copy and run again"
            raise IntegrityError(msg) from None
        except OSError as error:
            msg = f"{self._place(ref)}: cannot be read: {_cause(error)}"
            raise StorageError(msg) from None
        self._check(ref, sha256_of(content), len(content))
        return content

    def _check(self, ref: ArtifactRef, digest: str, size_bytes: int) -> None:
        if (digest, size_bytes) != (ref.digest, ref.size_bytes):
            msg = (
                f"{self._place(ref)}: damaged: {size_bytes} bytes with SHA-256 {digest[:16]} where {ref.kind} {ref.digest[:16]} has "
                f"{ref.size_bytes} bytes; delete the file and run again, or fetch it from whoever holds a copy"
            )
            raise IntegrityError(msg)

    def exists(self, ref: ArtifactRef) -> bool:
        """Whether something is stored at this address; `get` says whether it is intact."""
        try:
            self.shelf.size_bytes(address_of(ref.digest))
        except FileNotFoundError:
            return False
        return True

    def find(self, kind: Kind, digest: str) -> ArtifactRef:
        """The reference of bytes known by their hex digest alone, as the ledger knows them. Raises `IntegrityError` when missing."""
        address = address_of(digest)
        try:
            return ArtifactRef(kind, digest, self.shelf.size_bytes(address))
        except FileNotFoundError:
            msg = f"{self.url}/{address}: {kind} {digest[:16]} is missing; fetch it from whoever holds a copy and run again"
            raise IntegrityError(msg) from None
        except OSError as error:
            msg = f"{self.url}/{address}: cannot be read: {_cause(error)}"
            raise StorageError(msg) from None

    def path(self, ref: ArtifactRef) -> Path:
        """Where a local store keeps `ref`. Raises `StorageError` for a store that is not a local folder."""
        if not isinstance(self.shelf, LocalShelf):
            msg = f"{self.url}: not a local folder, so its artifacts have no path; read them with get"
            raise StorageError(msg)
        return self.shelf.folder / address_of(ref.digest)

    def _place(self, ref: ArtifactRef) -> str:
        return f"{self.url}/{address_of(ref.digest)}"


def shelf_at(url: str, access: Pass | None = None) -> Shelf:
    """The kind of shelf that a URL or path names. Raises `StorageError` for Cifer's service without a pass."""
    if url.startswith(SERVICE_SCHEME):
        if access is None:
            msg = f"{url}: the artifact service admits members of its network only; ask it as a site or as the coordinator"
            raise StorageError(msg)
        return ServiceShelf(url, access)
    return RemoteShelf(url) if "://" in url else LocalShelf(Path(url))


_in_memory: dict[tuple[Path, str], tuple[str, bytes]] = {}
"""What sites of this process hold, by folder and kind: its name, and its bytes."""


class SiteFolder:
    """A site's private folder, mode 0700, for files that must not leave it: `<root>/<site>/`."""

    def __init__(self, root: Path, site: str) -> None:
        self.site = _checked(site)
        self.folder = root / site

    def put(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> SiteFile:
        """Write bytes, or pieces in order, to a file of mode 0600, replacing an earlier one of this name whole. Raises `StorageError`."""
        path = self.folder / _checked(name)
        self._make()
        pieces = (data,) if isinstance(data, bytes) else data
        # Not flushed: what a power cut takes is made again from the table.
        return SiteFile(self.site, name, *write_pieces(pieces, self.folder, lambda _: path, durable=False))

    def hold(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> SiteFile:
        """`put`, for what the next step takes in this process and then discards: up to `HELD_BYTES` stay in memory, never on the disk.

        One of a kind is held, the last one: of ``round-7.update``, and all other `*.update`.
        """
        pieces, start = iter((data,) if isinstance(data, bytes) else data), bytearray()
        for piece in pieces:
            if len(start) + len(piece) > HELD_BYTES:
                _in_memory.pop((self.folder, Path(name).suffix), None)
                return self.put(name, chain((bytes(start), piece), pieces))
            start += piece
        content = bytes(start)
        _in_memory[self.folder, Path(_checked(name)).suffix] = name, content
        return SiteFile(self.site, name, sha256_of(content), len(content))

    def keep(self, name: str, data: bytes) -> SiteFile:
        """`put`, so that it survives a power cut, in place of all files whose names end alike: of ``round-7.update``, all `*.update`."""
        path = self.folder / _checked(name)
        self._make()
        kept = SiteFile(self.site, name, *write_pieces((data,), self.folder, lambda _: path))
        for other in self.folder.glob(f"*{path.suffix}"):
            if other.name != name:
                other.unlink(missing_ok=True)
        return kept

    def find(self, name: str) -> SiteFile | None:
        """A file that `keep` wrote, with the digest of what it holds now; None when there is none. Raises `StorageError`."""
        path = self.folder / _checked(name)
        try:
            return SiteFile(self.site, name, *digest_of(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            msg = f"{path}: cannot be read: {_cause(error)}"
            raise StorageError(msg) from None

    def once(self, name: str, said: bytes) -> bool:
        """`say_once` of this site."""
        return once_each([(self, name, said)])[0]

    def get(self, file: SiteFile) -> Body:
        """A file's bytes, verified; large ones stay in the file. Raises `IntegrityError` when it is another site's, missing or changed."""
        path = self._path(file)
        name, held = _in_memory.get((self.folder, path.suffix), ("", b""))
        try:
            if name == file.name:
                content: Body = held
            else:
                content = path.read_bytes() if file.size_bytes <= HELD_BYTES else FileBytes(path, 0, file.size_bytes)
            found = (sha256_of(content), len(content)) if isinstance(content, bytes) else digest_of(path)
        except FileNotFoundError:
            msg = f"{path}: missing; run the round again from its training step"
            raise IntegrityError(msg) from None
        except OSError as error:
            msg = f"{path}: cannot be read: {_cause(error)}"
            raise StorageError(msg) from None
        if found != (file.digest, file.size_bytes):
            msg = f"{path}: changed since {self.site} wrote it; delete it and run the round again from its training step"
            raise IntegrityError(msg)
        return content

    def latest(self, pattern: str, before: int) -> tuple[int, bytes] | None:
        """The largest number from 1 below `before` of which there is a file ``pattern.format(number)``, and what that holds; None without.

        Those with smaller numbers are removed. Raises `StorageError`.
        """
        paths = ((number, self.folder / _checked(pattern.format(number))) for number in range(before - 1, 0, -1))
        there = ((number, path) for number, path in paths if path.exists())
        newest = next(there, None)
        for _, path in there:
            path.unlink(missing_ok=True)
        return None if newest is None else (newest[0], _read_file(newest[1]))

    def discard(self, file: SiteFile) -> None:
        """Remove a file that is no longer needed; absent is fine.

        Unlinked, not overwritten: on SSDs, and on journaling and copy-on-write file systems, overwriting in place does not reach
        the old blocks, so it would promise what it cannot keep. Keep the folder on an encrypted disk.
        """
        path = self._path(file)
        if _in_memory.get((self.folder, path.suffix), ("", b""))[0] == file.name:
            del _in_memory[self.folder, path.suffix]
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            msg = f"{path}: cannot be removed: {_cause(error)}; remove it by hand, it holds {self.site}'s plaintext update"
            raise StorageError(msg) from None

    def _make(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.folder.stat().st_mode & 0o077:
                self.folder.chmod(0o700)
        except OSError as error:
            msg = f"{self.folder}: cannot be used: {_cause(error)}; set CIFER_HOME to a folder you can write to"
            raise StorageError(msg) from None

    def _path(self, file: SiteFile) -> Path:
        if file.site != self.site:
            msg = f"{file.name} is {file.site}'s file and stays there; this is {self.site}'s folder"
            raise IntegrityError(msg)
        return self.folder / _checked(file.name)


def once_each(words: Sequence[tuple[SiteFolder, str, bytes]]) -> list[bool]:
    """What sites say once, under a name: whether it is what they say for the first time, or said then. See `words.say_once`."""
    for site, _, _ in words:
        site._make()
    return say_once([(site.folder, _checked(name), said) for site, name, said in words])


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        msg = f"{name[:80]!r} cannot name a site's file: use lower-case letters, digits, '.', '_' and '-'"
        raise IntegrityError(msg)
    return name


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read: {_cause(error)}"
        raise StorageError(msg) from None


def _existing(path: Path) -> FileBytes:
    try:
        return FileBytes(path, 0, path.stat().st_size)
    except OSError as error:
        msg = f"{path}: cannot be read: {_cause(error)}"
        raise StorageError(msg) from None


def _cause(error: OSError) -> str:
    return error.strerror or str(error) or os.strerror(error.errno or 0)

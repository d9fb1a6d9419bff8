"""Where artifacts lie: a local folder, or any fsspec URL. `artifact_client` is a third kind, Cifer's own service.

A shelf keeps bytes under an address and knows nothing of digests' meaning; `artifacts.ArtifactStore` does. The address of an artifact is
the first two hex digits of its SHA-256, a slash, the other 62.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from cifer_tasks.errors import IntegrityError, StorageError
from cifer_tasks.files import write_atomically

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def address_of(digest: str) -> str:
    """Where an artifact of this hex digest lies on a shelf. Raises `IntegrityError` for text that is no digest."""
    if not _DIGEST.fullmatch(digest):
        msg = f"{digest[:80]!r} is no artifact digest: expected 64 lower-case hex digits"
        raise IntegrityError(msg)
    return f"{digest[:2]}/{digest[2:]}"


class Shelf(Protocol):
    """Bytes by address. Methods raise `FileNotFoundError` for an address that holds nothing, and `OSError` or `StorageError` otherwise."""

    url: str

    def read(self, address: str) -> bytes:
        """All bytes at an address."""

    def size_bytes(self, address: str) -> int:
        """How many bytes lie at an address."""

    def intact(self, address: str, size_bytes: int) -> bool:
        """Whether an address holds that many bytes and they have its digest."""

    def write(self, address: str, content: bytes) -> None:
        """Put bytes there, whole or not at all."""

    def held(self) -> Iterator[tuple[str, float]]:
        """Every digest on the shelf, and how many seconds ago it was written."""

    def remove(self, address: str) -> None:
        """Take an artifact off the shelf; absent is fine."""


def sha256_of(content: bytes) -> str:
    """The hex SHA-256 that addresses these bytes."""
    return hashlib.sha256(content).hexdigest()


def _intact(shelf: Shelf, address: str, size_bytes: int) -> bool:
    try:
        content = shelf.read(address)
    except (OSError, StorageError):
        return False
    return len(content) == size_bytes and address_of(sha256_of(content)) == address


class LocalShelf:
    """A folder on this machine. A write is a temporary file, flushed to disk, then renamed."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder)
        self.folder = folder

    def read(self, address: str) -> bytes:
        """See `Shelf`."""
        return (self.folder / address).read_bytes()

    def size_bytes(self, address: str) -> int:
        """See `Shelf`."""
        return (self.folder / address).stat().st_size

    def intact(self, address: str, size_bytes: int) -> bool:
        """See `Shelf`. Looking makes it young: who found it here relies on it, and names it on the ledger only later."""
        found = _intact(self, address, size_bytes)
        if found:
            os.utime(self.folder / address)
        return found

    def write(self, address: str, content: bytes) -> None:
        """See `Shelf`."""
        write_atomically(self.folder / address, content, mode=0o644)

    def held(self) -> Iterator[tuple[str, float]]:
        """See `Shelf`."""
        now = time.time()
        for path in sorted(self.folder.glob("[0-9a-f][0-9a-f]/*")):
            digest = path.parent.name + path.name
            if _DIGEST.fullmatch(digest):
                yield digest, now - path.stat().st_mtime

    def remove(self, address: str) -> None:
        """See `Shelf`."""
        (self.folder / address).unlink(missing_ok=True)


class RemoteShelf:
    """Any fsspec URL such as ``s3://bucket/cifer``. A write is an upload under a temporary name, then a move."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: tuple[Any, str] | None = None

    def read(self, address: str) -> bytes:
        """See `Shelf`."""
        files, root = self._filesystem()
        content: bytes = files.cat_file(f"{root}/{address}")
        return content

    def size_bytes(self, address: str) -> int:
        """See `Shelf`."""
        files, root = self._filesystem()
        return int(files.size(f"{root}/{address}"))

    def intact(self, address: str, size_bytes: int) -> bool:
        """See `Shelf`."""
        return _intact(self, address, size_bytes)

    def write(self, address: str, content: bytes) -> None:
        """See `Shelf`."""
        files, root = self._filesystem()
        target = f"{root}/{address}"
        temporary = f"{target}.{secrets.token_hex(8)}.part"
        files.makedirs(target.rpartition("/")[0], exist_ok=True)
        files.pipe_file(temporary, content)
        files.mv(temporary, target)

    def held(self) -> Iterator[tuple[str, float]]:
        """See `Shelf`."""
        files, root = self._filesystem()
        now = time.time()
        for path in sorted(files.find(root)):
            folder, _, name = path.rpartition("/")
            digest = folder.rpartition("/")[2] + name
            if _DIGEST.fullmatch(digest):
                yield digest, now - files.modified(path).timestamp()

    def remove(self, address: str) -> None:
        """See `Shelf`."""
        files, root = self._filesystem()
        if files.exists(f"{root}/{address}"):
            files.rm_file(f"{root}/{address}")

    def _filesystem(self) -> tuple[Any, str]:
        if self._opened is None:
            import fsspec

            try:
                files, root = fsspec.core.url_to_fs(self.url)
            except (ImportError, ValueError) as error:
                msg = f"{self.url}: no way to reach this kind of store: {error}; install its fsspec driver or use a folder"
                raise StorageError(msg) from None
            self._opened = files, root.rstrip("/")
        return self._opened

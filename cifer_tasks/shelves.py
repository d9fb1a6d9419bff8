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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from cifer_tasks.errors import CiferError, IntegrityError, StorageError, UsageError
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


def refuse_credentials(url: str) -> None:
    """Raise `UsageError` for a URL that holds a name or password: settings and invitations, which hold URLs, are published."""
    place, _, _ = url.partition("://")[2].partition("/")
    if "@" in place or "?" in url:
        msg = f"{url.partition('://')[0]}://: the URL of an artifact store holds no credentials or options; put them in the environment"
        raise UsageError(msg)


class RemoteShelf:
    """Any fsspec URL such as ``s3://bucket/cifer``. A write is an upload under a temporary name, then a move.

    How a store is reached and who asks it is in the environment, as its driver reads it: for S3 and what speaks its language
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, or an instance's role.
    """

    def __init__(self, url: str) -> None:
        """Nothing is asked before the first call. Raises `UsageError` for a URL with credentials."""
        refuse_credentials(url)
        self.url = url
        self._opened: tuple[Any, str] | None = None

    def read(self, address: str) -> bytes:
        """See `Shelf`."""
        with self._reached() as (files, root):
            content: bytes = files.cat_file(f"{root}/{address}")
            return content

    def size_bytes(self, address: str) -> int:
        """See `Shelf`."""
        with self._reached() as (files, root):
            return int(files.size(f"{root}/{address}"))

    def intact(self, address: str, size_bytes: int) -> bool:
        """See `Shelf`."""
        return _intact(self, address, size_bytes)

    def write(self, address: str, content: bytes) -> None:
        """See `Shelf`."""
        with self._reached() as (files, root):
            target = f"{root}/{address}"
            temporary = f"{target}.{secrets.token_hex(8)}.part"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            files.pipe_file(temporary, content)
            files.mv(temporary, target)

    def held(self) -> Iterator[tuple[str, float]]:
        """See `Shelf`."""
        with self._reached() as (files, root):
            now = time.time()
            for path in sorted(files.find(root)):
                folder, _, name = path.rpartition("/")
                digest = folder.rpartition("/")[2] + name
                if _DIGEST.fullmatch(digest):
                    yield digest, now - files.modified(path).timestamp()

    def remove(self, address: str) -> None:
        """See `Shelf`."""
        with self._reached() as (files, root):
            if files.exists(f"{root}/{address}"):
                files.rm_file(f"{root}/{address}")

    @contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """The driver and the folder below which artifacts lie; what a driver raises that is no `OSError` becomes a `StorageError`."""
        try:
            yield self._filesystem()
        except (OSError, CiferError):
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            msg = f"{self.url}: {type(error).__name__}: {reason[0] if reason else 'no message'}; check the store's address and credentials"
            raise StorageError(msg) from None

    def _filesystem(self) -> tuple[Any, str]:
        if self._opened is None:
            import fsspec

            try:
                # A listing that is kept would hide what others wrote since.
                files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                msg = f"{self.url}: no way to reach this kind of store: {error}; install its fsspec driver or use a folder"
                raise StorageError(msg) from None
            self._opened = files, root.rstrip("/")
        return self._opened

"""Writing files so that a reader sees the old bytes or the new ones, and nothing in between; reading large ones piece by piece."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cifer_tasks.errors import IntegrityError, StorageError
from ledger.files import flush

PIECE_BYTES: Final = 1 << 20
MOST_FLUSHES: Final = 8
"""So many flushes are under way at a time: more threads wait for each other's turn at the interpreter, not for the disk."""

_flushing = ThreadPoolExecutor(MOST_FLUSHES, thread_name_prefix="cifer-flush")


@dataclass(frozen=True, slots=True)
class FileBytes:
    """Bytes `start` to `stop` of a local file, read when they are asked for: `len` and slices as of `bytes`, and `part` without reading.

    Reading raises `IntegrityError` when the file has become shorter.
    """

    path: Path
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, where: slice) -> bytes:
        start, stop, _ = where.indices(len(self))
        with self.path.open("rb", buffering=0) as stream:
            found = os.pread(stream.fileno(), max(stop - start, 0), self.start + start)
        if len(found) != max(stop - start, 0):
            msg = f"{self.path}: became shorter while it was read; fetch it again"
            raise IntegrityError(msg)
        return found

    def part(self, start: int, stop: int) -> FileBytes:
        """The bytes of ``[start:stop]``, still unread."""
        return FileBytes(self.path, self.start + start, self.start + stop)


Body = bytes | memoryview | FileBytes
"""Bytes in memory, or in a file too large to hold."""

Piece = bytes | memoryview
"""Some of the bytes that are written or read one after the other."""


def pieces_of(body: Body) -> Iterator[Piece]:
    """A body from its first byte to its last, at most `PIECE_BYTES` of a file at a time."""
    if isinstance(body, FileBytes):
        yield from (body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES))
    else:
        yield body


def digest_of(path: Path) -> tuple[str, int]:
    """Hex SHA-256 and size of a file, read piece by piece. Raises `OSError`."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()


def write_atomically(path: Path, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Write `data` beside `path` and rename it into place; as `write_pieces`."""
    write_pieces((data,), path.parent, lambda _: path, mode, durable=durable)


def write_pieces(
    pieces: Iterable[Piece], folder: Path, place: Callable[[str], Path], mode: int = 0o600, *, durable: bool = True
) -> tuple[str, int]:
    """Write pieces to a temporary file in `folder`, rename it to what `place` makes of its hex SHA-256, and return digest and size.

    durable: flush file and folder too, so that it survives a power cut; without, it survives the death of this process only.
    Raises `StorageError` naming path and cause.
    """
    path, state, size_bytes = folder, hashlib.sha256(), 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".writing.")
        try:
            with os.fdopen(handle, "wb") as stream:
                for piece in pieces:
                    stream.write(piece)
                    state.update(piece)
                    size_bytes += len(piece)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            path = place(state.hexdigest())
            path.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(temporary, mode)
            os.replace(temporary, path)
            if durable:
                flush(path.parent)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror}; free space there, or set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None
    return state.hexdigest(), size_bytes


def write_once(path: Path, data: bytes) -> bool:
    """Create `path` with mode 0600 and these bytes, whole, durable, or not at all; False, and nothing written, when it exists.

    Raises `StorageError` naming it.
    """
    if path.exists():
        return False
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            flush(draft)
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        flush(path.parent)
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror}; free space there, or set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None
    return True


def flush_files(paths: Iterable[Path]) -> None:
    """Make the bytes and the names of files durable. Raises `OSError`."""
    files = list(paths)
    flush_all([*files, *dict.fromkeys(path.parent for path in files)])


def flush_all(paths: Iterable[Path]) -> None:
    """`ledger.files.flush` each, at the same time: a disk writes many down in hardly more time than one. Raises `OSError`."""
    waiting = list(paths)
    if len(waiting) < 2:
        for path in waiting:
            flush(path)
        return
    for _ in _flushing.map(flush, waiting):
        pass


def flush_tree(folder: Path) -> None:
    """Make durable what others wrote in `folder` and below: every file's bytes, every folder's names. Raises `OSError`."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(Path(parent, name))
        flush(Path(parent))

"""Writing files so that a reader sees the old bytes or the new ones, and nothing in between."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from cifer_tasks.errors import StorageError


def write_atomically(path: Path, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Write `data` beside `path` and rename it into place.

    durable: flush file and folder too, so that it survives a power cut; without, it survives the death of this process only.
    Raises `StorageError` naming path and cause.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.chmod(temporary, mode)
            os.replace(temporary, path)
            if durable:
                _flush_folder(path.parent)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror}; free space there, or set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None


def write_once(path: Path, data: bytes) -> bool:
    """Create `path` with mode 0600 and these bytes, whole or not at all; False, and nothing written, when it exists."""
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror}; free space there, or set CIFER_HOME to a folder you can write to"
        raise StorageError(msg) from None
    return True


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

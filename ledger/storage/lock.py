"""One writer per folder: an advisory lock that the operating system drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ledger.errors import LockedError, StorageError


class FolderLock:
    """Held from creation to `release`, by a process. Raises `LockedError` naming the process that holds it already."""

    def __init__(self, folder: Path) -> None:
        """Take ``folder/writer.lock``."""
        path = folder / "writer.lock"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"{path} cannot be opened for writing ({error.strerror}): make the folder writable") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise LockedError(
                f"the ledger in {folder} is in use by process {holder}: wait for it or stop it; reading is possible"
            ) from error
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode("ascii"), 0)
        except OSError as error:
            os.close(self._file)
            raise StorageError(f"{path} cannot be written ({error.strerror}): free some space") from error

    def release(self) -> None:
        """Let another process write. Releasing twice is harmless."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

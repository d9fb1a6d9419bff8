"""Disks whose power can be cut: an ext4 file system in an image file, on a loop device.

What a process writes lies in the kernel's page cache until it is flushed or the kernel writes it of its own accord, which ``commit=60`` and
the kernel's 30 s for dirty pages put off beyond a short run. The image file holds what was sent to the disk so far. A cut copies the image
and mounts the copy in its place, which replays its journal, as after a power cut.

Two kinds: one keeps what it was sent. The other loses its own cache too: its image lies on a second such file system, and the image of
that one is copied, so that only what was flushed to the inner disk has reached it. What a real disk keeps lies between the two.

Needs root, Linux, and a loop device for the first kind, two for the second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

DISK_BYTES = 256 << 20
OUTER_BYTES = 320 << 20
OPTIONS = "loop,data=ordered,commit=60"
COPIES = 20


class Disk:
    """A disk with one ext4 file system, mounted at ``folder/work``. forgets: whether a cut also takes the disk's own cache."""

    def __init__(self, folder: Path, *, forgets: bool) -> None:
        """Make and mount it."""
        self._image, self._work, self._shelf = folder / "disk", folder / "work", folder / "shelf" if forgets else None
        for mountpoint in filter(None, (self._work, self._shelf)):
            mountpoint.mkdir(parents=True)
        _format(self._image, OUTER_BYTES if forgets else DISK_BYTES)
        if self._shelf is not None:
            _mount(self._image, self._shelf)
            _format(self._shelf / "disk", DISK_BYTES)
        self._mount_inner()

    def _mount_inner(self) -> None:
        _mount(self._image if self._shelf is None else self._shelf / "disk", self._work)

    def cut(self, kill: Callable[[], None]) -> None:
        """Cut the power, once nothing runs that writes, and start again from what the disk holds. kill: ends whoever uses the disk."""
        held = self._image.with_name("held")
        _copy(self._image, held)
        kill()
        self.unmount()
        held.replace(self._image)
        if self._shelf is not None:
            _mount(self._image, self._shelf)
        self._mount_inner()

    def unmount(self) -> None:
        """Take it away."""
        for mountpoint in filter(None, (self._work, self._shelf)):
            _call("umount", str(mountpoint))


def _format(image: Path, size_bytes: int) -> None:
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _call("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))


def _mount(image: Path, at: Path) -> None:
    _call("mount", "-t", "ext4", "-o", OPTIONS, str(image), str(at))


def _copy(image: Path, to: Path) -> None:
    """What the image holds at one moment: nothing was being sent to its loop device before, after and in between."""
    for _ in range(COPIES):
        before = _sent(image)
        _call("cp", "--sparse=always", str(image), str(to))
        if before == _sent(image) and before[1] == 0:
            return
    msg = f"{image} was written to each of {COPIES} times that it was copied"
    raise AssertionError(msg)


def _sent(image: Path) -> tuple[int, int]:
    """How many writes an image's loop device has done, and how many requests it is at (Documentation/block/stat.rst of Linux)."""
    device = _call("losetup", "--noheadings", "--output", "NAME", "--associated", str(image)).strip()
    fields = Path("/sys/block", Path(device).name, "stat").read_text().split()
    return int(fields[4]), int(fields[8])


def _call(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        msg = f"{' '.join(words)}: {done.stderr.strip()}"
        raise AssertionError(msg)
    return done.stdout


def able() -> bool:
    """Whether disks can be made here."""
    tools = all(shutil.which(name) for name in ("mkfs.ext4", "mount", "umount", "losetup", "unshare", "cp"))
    return tools and os.geteuid() == 0 and subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode == 0


def control(root: Path) -> None:
    """A cut keeps what was flushed and takes what was not, on either kind of disk. Raises `AssertionError`."""
    for forgets in (False, True):
        folder = root / f"control-{forgets}"
        folder.mkdir()
        disk = Disk(folder, forgets=forgets)
        try:
            with (folder / "work" / "flushed").open("wb") as file:
                file.write(b"flushed")
                file.flush()
                os.fsync(file.fileno())
            (folder / "work" / "written").write_bytes(b"written")
            disk.cut(lambda: None)
            left = {path.name: path.read_bytes() for path in (folder / "work").iterdir() if path.is_file()}
        finally:
            disk.unmount()
            shutil.rmtree(folder)
        assert left.get("flushed") == b"flushed", f"a cut took what was flushed; forgets={forgets}: {left}"
        assert not left.get("written"), f"a cut left what was not flushed; forgets={forgets}: {left}"

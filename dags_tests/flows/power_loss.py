"""Runs whose machine loses power at random places and that are taken up again from what the disk held.

    python dags_tests/flows/power_loss.py --runs 20 [--seed 1] [--scheme threshold] [--first 7] [--unflushed]

As `chaos_runs`, with a blow that also takes what was written and not flushed. Everything a training writes, ``.cifer`` and ``mlruns``,
lies on an ext4 file system in an image file (a loop device; ``commit=60``, so that the kernel writes next to nothing of its own accord).
At the place that is drawn every process is stopped (SIGSTOP), the image is copied, the processes are killed, and the copy takes the
image's place: mounting it replays its journal, as after a power cut. What the run was promised has to be there; then it goes on. When it
is done the power fails once more: what a finished run left behind has to be on the disk.

Two kinds of disk take turns. One keeps what it was sent. The other loses its cache: its image lies on a second such file system, which
is what is copied, so that only what was flushed to the inner one has reached it. A control checks both before the runs: what was flushed
is there, what was not is missing.

--unflushed has the ledger's stores commit as SQLite does with ``synchronous = NORMAL``, a setting that many recommend: the loss has to be
noticed. Mounts are made in a mount namespace of this process, so they end with it. Needs root and four free loop devices, on Linux.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chaos_endings import Ending, broken_promises
from chaos_runs import PLACES, Chaos, fork, play, prepared, said, series

DISK_BYTES = 512 << 20
OUTER_BYTES = 640 << 20
OPTIONS = "loop,data=ordered,commit=60"
COPIES = 20
NAMESPACE = "CIFER_POWER_LOSS_NAMESPACE"


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
    """What the image holds at one moment: two copies made one after the other are alike, so nothing was written in between."""
    again = to.with_name(to.name + ".again")
    for _ in range(COPIES):
        for path in (to, again):
            _call("cp", "--sparse=always", str(image), str(path))
        if subprocess.run(["cmp", "-s", str(to), str(again)], check=False).returncode == 0:
            again.unlink()
            return
    msg = f"{image} was different each of {COPIES} times that it was copied"
    raise AssertionError(msg)


def _call(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        msg = f"{' '.join(words)}: {done.stderr.strip()}"
        raise AssertionError(msg)


class PowerLoss(Chaos):
    """Runs on disks of their own. A run's folder holds the notes taken of it, which no cut touches."""

    blow = signal.SIGSTOP

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed)
        (root / "calm").mkdir()
        self._calm, self._disks, self._broken = Chaos(root / "calm", seed), dict[Path, Disk](), list[str]()

    def undisturbed(self, scheme: str) -> tuple[Ending, dict[str, int]]:
        """As `Chaos.undisturbed`, on this machine's own disk."""
        return self._calm.undisturbed(scheme)

    def run(self, number: int, scheme: str) -> tuple[str, list[str]]:
        """As `Chaos.run`."""
        try:
            where, faults = super().run(number, scheme)
            kind = "forgetful disk" if _forgets(number) else "keeping disk"
            return f"{where} ({kind})", [*self._broken, *faults]
        finally:
            for folder, disk in self._disks.items():
                disk.unmount()
                shutil.rmtree(folder)
            self._disks.clear()
            self._broken.clear()

    def make(self, folder: Path) -> None:
        """A run's folder, with a disk in it."""
        folder.mkdir()
        self._disks[folder] = Disk(folder, forgets=_forgets(int(folder.name.partition("-")[0])))

    def fork(self, work: Callable[[], None], folder: Path) -> int:
        """`fork`, with the power cut where it is struck."""
        return fork(work, folder, lambda child: self._cut(folder, child))

    def faults(self, folder: Path, expected: Ending) -> list[str]:
        """As `Chaos.faults`, after another cut: who was told that a run is done believes it."""
        self._disks[folder].cut(lambda: None)
        return super().faults(folder, expected)

    def _cut(self, folder: Path, child: int) -> None:
        import psutil

        running = [psutil.Process(child), *psutil.Process(child).children(recursive=True)]
        _tell(running, signal.SIGSTOP)

        def kill() -> None:
            _tell(running, signal.SIGKILL)
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
            psutil.wait_procs(running[1:], timeout=60)

        self._disks[folder].cut(kill)
        # Looked at before the run goes on: what it sends again would hide that it was lost.
        if fork(lambda: _note_broken(folder), folder) != 0:
            self._broken.append(f"what the cut left cannot be read: {said(folder)}")
        else:
            self._broken += (folder / "broken").read_text().splitlines()


def _note_broken(folder: Path) -> None:
    (folder / "broken").write_text("\n".join(broken_promises(folder)))


def _forgets(number: int) -> bool:
    return number % 2 == 0


def _tell(processes: Sequence[Any], what: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, what)


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


def unflush() -> None:
    """Have the ledger's stores commit without flushing, in this process and those forked from it."""
    from ledger.storage import sqlite

    connect = sqlite._connect

    def hasty(uri: str, journal: str = "WAL") -> sqlite3.Connection:
        connection = connect(uri, journal)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    sqlite._connect = hasty


def main() -> int:
    """The command: 0 when every run ended as the undisturbed one."""
    parser = series()
    parser.description, parser.epilog = __doc__, PLACES
    parser.add_argument("--unflushed", action="store_true", help="the ledger commits without flushing: its loss has to be noticed")
    given = parser.parse_args()
    if os.environ.get(NAMESPACE) != "own":
        os.execvpe("unshare", ["unshare", "--mount", sys.executable, *sys.argv], {**os.environ, NAMESPACE: "own"})  # noqa: S606
    with prepared() as root:
        control(root)
        if given.unflushed:
            unflush()
        return play(PowerLoss(root, given.seed), range(given.first, given.runs + 1), given.scheme)


if __name__ == "__main__":
    raise SystemExit(main())

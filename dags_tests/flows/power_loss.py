"""Runs whose machine loses power at random places and that are taken up again from what the disk held.

    python dags_tests/flows/power_loss.py --runs 20 [--seed 1] [--scheme threshold] [--first 7] [--unflushed]

As `chaos_runs`, with a blow that also takes what was written and not flushed. Everything a training writes, ``.cifer`` and ``mlruns``,
lies on a `power_disk.Disk`. At the place that is drawn every process is stopped (SIGSTOP), the power is cut, and the processes are
killed. What the run was promised has to be on what the disk held; then it goes on there. When it is done the power fails once more: what
a finished run left behind has to be on the disk. Both kinds of disk take turns, and both are checked before the runs.

--unflushed has the ledger's stores commit as SQLite does with ``synchronous = NORMAL``, a setting that many recommend: the loss has to be
noticed. Mounts are made in a mount namespace of this process, so they end with it. Needs root and four free loop devices, on Linux.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from chaos_endings import Ending, broken_promises
from chaos_runs import PLACES, Chaos, fork, play, prepared, said, series
from power_disk import Disk, control

NAMESPACE = "CIFER_POWER_LOSS_NAMESPACE"


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


def hasty(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    """The ledger's `connect`, for stores that commit without flushing."""

    def connected(uri: str, journal: str = "WAL") -> sqlite3.Connection:
        connection = connect(uri, journal)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    return connected


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
            from ledger.storage import sqlite

            sqlite._connect = hasty(sqlite._connect)
        return play(PowerLoss(root, given.seed), range(given.first, given.runs + 1), given.scheme)


if __name__ == "__main__":
    raise SystemExit(main())

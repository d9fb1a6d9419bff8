"""Runs that are killed at random places and taken up again: nothing acknowledged is lost, nothing is done twice, the model is the same.

    python dags_tests/flows/chaos_runs.py --runs 200 [--seed 3] [--scheme threshold] [--first 71]

A place is one of the events of a training, in the order in which they happen: a step begins; just before and just after a transaction is
sent, a validator writes a block, a file is flushed, renamed or linked. An undisturbed run of every scheme lists them and says what the
end has to be. Each run then draws one or two kinds of place, and which of that kind, is killed there with SIGKILL, and goes on in a new
process until it is done. A run depends on its number and the seed alone, so a long series may be run in parts.
Every process is forked from this one, which has imported everything and started nothing but the Prefect server; every run begins with
an MLflow database that is there and empty.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMES = ("plain", "ckks", "threshold")
SITES = ("east", "north", "west")
ROUNDS = 2
MOST_ATTEMPTS = 3
PLACES = """
The places, of which each happens up to some hundred times in a run:
  step NAME                             a step of the round or of a site begins: prepare, enrol, open_run, train, encrypt, ...
  before and after sending KIND         a transaction of this kind goes to the ledger: OpenRun, SubmitUpdate, SealRound, AppendLineage, ...
  before and after block at VALIDATOR   a validator writes a block to its store
  before and after flushing a file      fsync
  before and after renaming into FOLDER a file takes its place: artifacts, keys, ledger, the run's folder, a site's folder, ...
  before and after linking SUFFIX       a file is published that must not be replaced
The end of a long run lists how often each was hit.
"""
RUN = "chaos"


@dataclass(frozen=True, slots=True)
class Ending:
    """What a run came to. transactions: how many of each kind are on record, but for lineage.  lost: acknowledged and not on record."""

    status: str
    model: str
    transactions: dict[str, int]
    lost: list[str]


def judge(found: Ending, expected: Ending) -> list[str]:
    """Everything that is not as in the undisturbed run; empty when all is well."""
    faults = [f"acknowledged and not on record: {identity}" for identity in found.lost]
    if found.status != "completed":
        faults.append(f"the run is {found.status}")
    if found.model != expected.model:
        faults.append(f"model {found.model[:16]}, undisturbed {expected.model[:16]}")
    for kind in sorted(found.transactions | expected.transactions):
        have, want = found.transactions.get(kind, 0), expected.transactions.get(kind, 0)
        if have != want:
            faults.append(f"{have} x {kind} on record, undisturbed {want}")
    return faults


Place = tuple[str, int]


class Events:
    """Counts what happens in a training by kind, and ends the process at one: the n-th of its kind. kill_at: None for none."""

    def __init__(self, kill_at: Place | None, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._kill_at, self._folder, self._guard = kill_at, folder, threading.Lock()

    def happen(self, name: str) -> None:
        """Another event."""
        with self._guard:
            self.counts[name] += 1
            if self._kill_at == (name, self.counts[name]):
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, name: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with an event before and one after."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            what = name(*args)
            self.happen(f"before {what}")
            result = function(*args, **kwargs)
            self.happen(f"after {what}")
            return result

        return watched

    def acknowledging(self, send: Callable[..., Any]) -> Callable[..., Any]:
        """`Author.send_all`, which also notes what was acknowledged before anything else can happen."""

        def noted(*args: Any) -> Any:
            receipts = send(*args)
            with (self._folder / "acknowledged").open("a") as log:
                log.writelines(f"{receipt.transaction.hex()}\n" for receipt in receipts)
            return receipts

        return self.around(lambda _, bodies: f"sending {type(bodies[0]).__name__ if bodies else 'nothing'}", noted)

    def watch(self) -> None:
        """Have this process's steps, sends and writes be events. It is never undone: the process ends with the run."""
        from ledger.author import Author
        from ledger.storage.sqlite import SqliteStore

        os.fsync = self.around(lambda _: "flushing a file", os.fsync)
        os.replace = self.around(lambda _, to: f"renaming into {_kind(Path(to).parent)}", os.replace)
        os.link = self.around(lambda _, to: f"linking {Path(to).suffix}", os.link)
        SqliteStore.write = self.around(lambda store, _: f"block at {Path(store.place).stem}", SqliteStore.write)  # type: ignore[method-assign]
        Author.send_all = self.acknowledging(Author.send_all)  # type: ignore[method-assign]

    def listen(self, progress: Any) -> None:
        """A step begins."""
        from cifer_tasks.workspace import StepStarted

        if isinstance(progress, StepStarted):
            self.happen(f"step {progress.step}")


class Chaos:
    """A folder of runs. Used inside `flows.launch.engine`."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed, self.places = root, seed, Counter[str]()
        self._expected: dict[str, tuple[Ending, dict[str, int]]] = {}

    def run(self, number: int, scheme: str) -> tuple[str, list[str]]:
        """One disturbed run: where it was killed, and what is wrong with how it ended."""
        expected, events = self._undisturbed(scheme)
        chosen = random.Random(f"{self.seed}/{number}")
        kinds = [chosen.choice(sorted(events)) for _ in range(chosen.randint(1, 2))]
        kills: list[Place | None] = [(kind, chosen.randint(1, events[kind])) for kind in kinds]
        folder, told = self._begin(f"{number}-{scheme}", scheme), list[str]()
        for place in [*kills, *[None] * MOST_ATTEMPTS]:
            ended = _fork(lambda place=place: _train(folder, place), folder)  # type: ignore[misc]
            if ended == 0:
                return "; ".join(told) or "no place that it came to again", judge(_ending(folder), expected)
            if place is None or ended != -signal.SIGKILL:
                return "; ".join(told), [f"it ended with {ended}: {_said(folder)}"]
            self.places[place[0]] += 1
            told.append(f"{place[0]} {place[1]} of {events[place[0]]}")
        return "; ".join(told), ["never done"]

    def _undisturbed(self, scheme: str) -> tuple[Ending, dict[str, int]]:
        if scheme not in self._expected:
            folder = self._begin(f"undisturbed-{scheme}", scheme)
            if (ended := _fork(lambda: _train(folder, None), folder)) != 0:
                raise AssertionError(f"the undisturbed run ended with {ended}: {_said(folder)}")
            self._expected[scheme] = _ending(folder), json.loads((folder / "events").read_text())
        return self._expected[scheme]

    def _empty(self) -> Path:
        """A folder with an MLflow database of no runs: to make one takes as long as a training here."""
        folder = self.root / "empty"
        if not folder.exists():
            folder.mkdir()
            if _fork(lambda: _connect(folder), folder) != 0:
                raise AssertionError(_said(folder))
        return folder

    def _begin(self, name: str, scheme: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        shutil.copytree(self._empty() / "mlruns", folder / "mlruns")
        _tables(folder)
        if _fork(lambda: _create(folder, scheme), folder) != 0:
            raise AssertionError(_said(folder))
        return folder


def _connect(folder: Path) -> None:
    from cifer_tasks.tracking._store import connect

    connect(folder)


def _kind(folder: Path) -> str:
    """A folder's name, where it is not one of many that are called by digests."""
    return "artifacts" if folder.parent.name == "artifacts" else folder.name


def _tables(folder: Path) -> None:
    for number, site in enumerate(SITES):
        rows = [(30 + 20 * (i % 2) + (i * 7 + number * 11) % 13 / 2, 60 + (i * 5 + number) % 17, i % 2) for i in range(24)]
        (folder / f"{site}.csv").write_text("\n".join(["age,pulse,ill", *(",".join(map(str, row)) for row in rows)]) + "\n")


def _create(folder: Path, scheme: str) -> None:
    from cifer_tasks import data
    from cifer_tasks.config import parse
    from cifer_tasks.workspace import create_run

    raw = {
        "name": "chaos",
        "data": {"files": {site: f"{site}.csv" for site in SITES}, "target": "ill"},
        "training": {"rounds": ROUNDS},
        "encryption": {"scheme": scheme},
        "gate": {"margin": 1.0},
    }
    settings = parse(raw, where="chaos")
    data.prepare(settings, folder, folder / "home")
    create_run(settings, folder, folder / "home", RUN)


def _train(folder: Path, kill_at: Place | None) -> None:
    """What a process does: train on from where the run is, with the events counted."""
    from cifer_tasks.records import RunRef
    from cifer_tasks.workspace import Workspace
    from flows.launch import train

    events = Events(kill_at, folder)
    events.watch()
    train(RunRef(str(folder / "home"), RUN), [events.listen])
    Workspace.close_all()
    (folder / "events").write_text(json.dumps(events.counts))


def _look(folder: Path) -> None:
    """Read the ending from the ledger's files, every block executed again."""
    from ledger.backends.reader import open_readonly
    from ledger.codec import decode
    from ledger.state.transition import decode_transaction
    from ledger.types import AppendLineage, Transaction

    with closing(open_readonly(folder / "home" / "ledger")) as ledger:
        found = ledger.state().run(RUN)
        acknowledged = set((folder / "acknowledged").read_text().split())
        lost = sorted(identity for identity in acknowledged if ledger.find(bytes.fromhex(identity)) is None)
        kinds: Counter[str] = Counter()
        for committed in ledger.blocks():
            for raw in committed.block.transactions:
                body = decode(decode_transaction(raw).payload, Transaction).body
                if not isinstance(body, AppendLineage):
                    kinds[type(body).__name__] += 1
        ending = {"status": found.status if found else "absent", "model": found.current_model.hex() if found else ""}
    (folder / "ending").write_text(json.dumps({**ending, "transactions": kinds, "lost": lost}))


def _ending(folder: Path) -> Ending:
    if _fork(lambda: _look(folder), folder) != 0:
        raise AssertionError(_said(folder))
    return Ending(**json.loads((folder / "ending").read_text()))


def _said(folder: Path) -> str:
    return (folder / "said").read_text(errors="replace")[-2000:]


def _fork(work: Callable[[], None], folder: Path) -> int:
    """Do `work` in a process of its own, in `folder`; its exit code, or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            os.chdir(folder)
            os.environ["CIFER_HOME"] = str(folder / "home")
            said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(said, 1)
            os.dup2(said, 2)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """The command: 0 when every run ended as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=PLACES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="number of the first run, the last is --runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scheme", choices=SCHEMES, help="of all runs; else they take turns")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="cifer-chaos-") as root:
        os.environ["CIFER_HOME"] = str(Path(root) / "server")
        import great_expectations  # noqa: F401 - imported once, here, and not in every process
        import mlflow.pytorch  # noqa: F401
        from mlflow.utils.requirements_utils import _init_modules_to_packages_map

        _init_modules_to_packages_map()  # a walk through everything installed, which MLflow makes once in a process

        import flows.training
        from flows.launch import engine

        assert flows.training
        with engine(Path(root) / "server"):
            from flows.launch import _engines

            _engines[-1]()
            return _all(Chaos(Path(root), given.seed), range(given.first, given.runs + 1), given.scheme)


def _all(chaos: Chaos, numbers: range, scheme: str | None) -> int:
    began, failed, killed = time.monotonic(), 0, 0
    for number in numbers:
        chosen = scheme or SCHEMES[number % len(SCHEMES)]
        where, faults = chaos.run(number, chosen)
        failed, killed = failed + bool(faults), killed + (" of " in where)
        sys.stdout.write(f"{number:>4} {chosen:<9} {'FAILED' if faults else 'same'}  killed at {where}\n")
        for fault in faults:
            sys.stdout.write(f"     {fault}\n")
        sys.stdout.flush()
    for place, count in chaos.places.most_common():
        sys.stdout.write(f"{count:>5} x {place}\n")
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{len(numbers)} runs, {killed} of them killed, {sum(chaos.places.values())} kills at {len(chaos.places)} places; "
        f"{len(numbers) - failed} ended as the undisturbed run, {failed} did not; seed {chaos.seed}; {seconds:.0f} s\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

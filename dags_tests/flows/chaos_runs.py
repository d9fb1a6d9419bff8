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
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos_endings import RUN, Ending, judge, look

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


Place = tuple[str, int]


class Events:
    """Counts what happens in a training by kind, and sends the process `blow` at one: the n-th of its kind. kill_at: None for none.

    What the training was promised is noted in `folder`, which no blow touches.
    """

    def __init__(self, kill_at: Place | None, folder: Path, blow: signal.Signals = signal.SIGKILL) -> None:
        self.counts: Counter[str] = Counter()
        self._kill_at, self._folder, self._blow, self._guard = kill_at, folder, blow, threading.Lock()

    def happen(self, name: str) -> None:
        """Another event."""
        with self._guard:
            self.counts[name] += 1
            if self._kill_at == (name, self.counts[name]):
                os.kill(os.getpid(), self._blow)

    def around(self, name: Callable[..., str], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, with an event before and one after."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            what = name(*args)
            self.happen(f"before {what}")
            result = function(*args, **kwargs)
            self.happen(f"after {what}")
            return result

        return watched

    def noting(self, what: str, lines: Callable[[Any, Any], Iterable[str]], function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which also notes what it promised, before anything else can happen."""

        def noted(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            with self._guard, (self._folder / what).open("a") as notes:
                notes.writelines(f"{line}\n" for line in lines(args[0], result))
            return result

        return noted

    def watch(self) -> None:
        """Have this process's steps, sends and writes be events. It is never undone: the process ends with the run."""
        from cifer_tasks import saying
        from cifer_tasks.artifacts import ArtifactStore
        from ledger.author import Author
        from ledger.node.validator import ValidatorNode
        from ledger.storage.lmdb import LmdbStore
        from ledger.storage.sqlite import SqliteStore

        os.fsync = self.around(lambda _: "flushing a file", os.fsync)
        os.replace = self.around(lambda _, to: f"renaming into {_kind(Path(to).parent)}", os.replace)
        os.link = self.around(lambda _, to: f"linking {Path(to).suffix}", os.link)
        for kind in (SqliteStore, LmdbStore):
            kind.write = self.around(lambda store, _: f"block at {Path(store.place).stem}", kind.write)  # type: ignore[method-assign]
        ValidatorNode.flush = self.noting("signed", _signed, ValidatorNode.flush)  # type: ignore[method-assign]
        ArtifactStore.put = self.noting("stored", lambda _, ref: [ref.digest], ArtifactStore.put)  # type: ignore[method-assign]
        send = self.noting("acknowledged", _acknowledged, Author.send_all)
        Author.send_all = self.around(_sending, send)  # type: ignore[method-assign]
        together = self.noting("acknowledged", _acknowledged, saying.send_together)
        saying.send_together = self.around(lambda said: _sending(None, [body for _, body in said]), together)

    def listen(self, progress: Any) -> None:
        """A step begins."""
        from cifer_tasks.workspace import StepStarted

        if isinstance(progress, StepStarted):
            self.happen(f"step {progress.step}")


class Chaos:
    """A folder of runs. Used inside `flows.launch.engine`.

    A run's folder holds the notes taken of it, and in ``work`` what the training writes.
    """

    blow = signal.SIGKILL

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed, self.places = root, seed, Counter[str]()
        self._expected: dict[str, tuple[Ending, dict[str, int]]] = {}

    def run(self, number: int, scheme: str) -> tuple[str, list[str]]:
        """One disturbed run: where it was killed, and what is wrong with how it ended."""
        expected, events = self.undisturbed(scheme)
        chosen = random.Random(f"{self.seed}/{number}")
        kinds = [chosen.choice(sorted(events)) for _ in range(chosen.randint(1, 2))]
        kills: list[Place | None] = [(kind, chosen.randint(1, events[kind])) for kind in kinds]
        folder, told = self._begin(f"{number}-{scheme}", scheme), list[str]()
        for place in [*kills, *[None] * MOST_ATTEMPTS]:
            ended = self.fork(lambda place=place: train(folder, place, self.blow), folder)  # type: ignore[misc]
            if ended == 0:
                return "; ".join(told) or "no place that it came to again", self.faults(folder, expected)
            if place is None or ended != -signal.SIGKILL:
                return "; ".join(told), [f"it ended with {ended}: {said(folder)}"]
            self.places[place[0]] += 1
            told.append(f"{place[0]} {place[1]} of {events[place[0]]}")
        return "; ".join(told), ["never done"]

    def undisturbed(self, scheme: str) -> tuple[Ending, dict[str, int]]:
        """What a run comes to that nobody disturbs, and how many events there are of each kind."""
        if scheme not in self._expected:
            folder = self._begin(f"undisturbed-{scheme}", scheme)
            if (ended := self.fork(lambda: train(folder, None), folder)) != 0:
                raise AssertionError(f"the undisturbed run ended with {ended}: {said(folder)}")
            if (ended := fork(lambda: look(folder), folder)) != 0:
                raise AssertionError(f"the undisturbed run cannot be read: {said(folder)}")
            expected = _ending(folder)
            if faults := judge(expected, expected):
                raise AssertionError(f"the undisturbed run: {'; '.join(faults)}")
            events = json.loads((folder / "events").read_text())
            sys.stdout.write(f"     {scheme}, undisturbed: {sum(events.values())} places of {len(events)} kinds\n")
            self._expected[scheme] = expected, events
        return self._expected[scheme]

    def _empty(self) -> Path:
        """A folder with an MLflow database of no runs: to make one takes as long as a training here."""
        folder = self.root / "empty"
        if not folder.exists():
            (folder / "work").mkdir(parents=True)
            if fork(lambda: _connect(folder / "work"), folder) != 0:
                raise AssertionError(said(folder))
        return folder / "work"

    def _begin(self, name: str, scheme: str) -> Path:
        folder = self.root / name
        self.make(folder)
        shutil.copytree(self._empty() / "mlruns", folder / "work" / "mlruns")
        _tables(folder / "work")
        subprocess.run(["sync", "--file-system", str(folder / "work")], check=True)
        if self.fork(lambda: _create(folder / "work", scheme), folder) != 0:
            raise AssertionError(said(folder))
        return folder

    def make(self, folder: Path) -> None:
        """Make a run's folder, and an empty ``work`` in it."""
        (folder / "work").mkdir(parents=True)

    def fork(self, work: Callable[[], None], folder: Path) -> int:
        """`fork`, for whoever has more to do when a process is struck."""
        return fork(work, folder)

    def faults(self, folder: Path, expected: Ending) -> list[str]:
        """What is wrong with the run in `folder`, which has ended."""
        if fork(lambda: look(folder), folder) != 0:
            return [f"what it left cannot be read: {said(folder)}"]
        return judge(_ending(folder), expected)


def _ending(folder: Path) -> Ending:
    return Ending(**json.loads((folder / "ending").read_text()))


def _sending(_: Any, bodies: Any) -> str:
    return f"sending {type(bodies[0]).__name__ if bodies else 'nothing'}"


def _acknowledged(_: Any, receipts: Any) -> list[str]:
    return [receipt.transaction.hex() for receipt in receipts]


def _signed(_: Any, effects: Any) -> Iterator[str]:
    """What leaves a validator, its own or passed on: who signed it, where in the consensus, and for which block."""
    from ledger.consensus.messages import Proposal, Vote
    from ledger.node.effects import Send

    for effect in effects:
        match effect:
            case Send(Proposal(height, round_, candidate) as proposal):
                yield f"{proposal.validator.hex()} {height}/{round_}/proposal {candidate.id.hex()}"
            case Send(Vote(step, height, round_, block) as vote):
                yield f"{vote.validator.hex()} {height}/{round_}/{step} {block.hex() if block else 'nothing'}"


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


def train(folder: Path, kill_at: Place | None, blow: signal.Signals = signal.SIGKILL) -> None:
    """What a process does: train on from where the run is, with the events counted."""
    from cifer_tasks.records import RunRef
    from flows import launch

    events, home = Events(kill_at, folder, blow), folder / "work" / "home"
    events.watch()
    with launch.engine(home):
        launch.train(RunRef(str(home), RUN), [events.listen])
    (folder / "events").write_text(json.dumps(events.counts))


def said(folder: Path) -> str:
    """The end of what the last process of the run in `folder` wrote."""
    return (folder / "said").read_text(errors="replace")[-2000:]


def fork(work: Callable[[], None], folder: Path, struck: Callable[[int], None] | None = None) -> int:
    """Do `work` in a process of its own, in `folder`/work; its exit code, or minus the signal that ended it.

    struck: what to do, given the process, when it has stopped (SIGSTOP); it has to end it.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setsid()
            os.chdir(folder / "work")
            os.environ["CIFER_HOME"] = str(folder / "work" / "home")
            output = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, os.WUNTRACED)[1]
    if struck is not None and os.WIFSTOPPED(status):
        struck(child)
        status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


@contextmanager
def prepared() -> Iterator[Path]:
    """A folder for runs, with everything imported that a forked process needs, and a Prefect server for all of them."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="cifer-chaos-") as root:
        os.environ["CIFER_HOME"] = str(Path(root) / "server")
        import great_expectations  # noqa: F401 - imported once, here, and not in every process
        import mlflow.pytorch  # noqa: F401
        from mlflow.utils.requirements_utils import _init_modules_to_packages_map

        _init_modules_to_packages_map()  # type: ignore[no-untyped-call]  # a walk through everything installed, which MLflow makes once in a process

        import flows.training
        from flows.launch import engine

        assert flows.training
        with engine(Path(root) / "server"):
            from flows.launch import _engines

            _engines[-1]()
            yield Path(root)


def series() -> argparse.ArgumentParser:
    """The words of a command that does a series of runs."""
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="number of the first run, the last is --runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scheme", choices=SCHEMES, help="of all runs; else they take turns")
    return parser


def main() -> int:
    """The command: 0 when every run ended as the undisturbed one."""
    parser = series()
    parser.description, parser.epilog = __doc__, PLACES
    given = parser.parse_args()
    with prepared() as root:
        return play(Chaos(root, given.seed), range(given.first, given.runs + 1), given.scheme)


def play(chaos: Chaos, numbers: range, scheme: str | None) -> int:
    """Do these runs and print how each ended, and where runs were killed how often: 0 when all ended as undisturbed."""
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

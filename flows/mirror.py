"""A site's lineage on its way to the ledger: beside the rounds, so that none waits for it, and signed by the site.

A site's events of a round go as one batch when the site has released, or when it sees that the round is over without it. What a site that
was killed had not mirrored goes when it is back: the ledger says how many of its events it holds, and the next batch begins behind them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cifer_tasks.errors import CiferError
from cifer_tasks.lineage import close_log
from cifer_tasks.records import RunRef
from cifer_tasks.run_record import RunRecord
from cifer_tasks.tasks import record_lineage
from cifer_tasks.workspace import Workspace
from flows.station import Station
from ledger import LedgerError, UnavailableError

LOOK_SECONDS: Final = 1.0
"""How often the site's copy of the ledger is asked whether a round is over; only while there are events of it to mirror."""
LAST_SECONDS: Final = 10.0

_logger = logging.getLogger("cifer.lineage")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Events of a run that belong to round `number`. over: whether the site has done all of its part in it."""

    number: int
    over: bool


class Mirror:
    """Mirrors the lineage of one site's runs, in a thread of its own. Begin it with `start`, end it with `close`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Of the site of this process' home. `say` is told what is on the ledger."""
        self._say = say
        self._waiting: dict[str, _Waiting] = {}
        self._changed = threading.Condition()
        self._closing = False
        self.busy = threading.Lock()
        """Held while a flow of the site's runs: its log stays open."""
        self._thread = threading.Thread(target=self._work, name="cifer-lineage", daemon=True)

    def start(self) -> None:
        """Look for what an earlier process left, and go on from there."""
        self._thread.start()

    def expect(self, run: str, number: int, *, over: bool) -> None:
        """There are events of a round of a run now. over: whether there will be no more of them."""
        with self._changed:
            self._waiting[run] = _Waiting(number, over)
            self._changed.notify()

    def close(self) -> None:
        """Mirror what can be mirrored now, and end; what takes longer than 10 s is left to the next start."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(LAST_SECONDS)

    def _work(self) -> None:
        station = Station.open()
        with self._changed:
            self._waiting = left_over(station) | self._waiting
        while True:
            with self._changed:
                looked, closing = dict(self._waiting), self._closing
            for run, waiting in looked.items():
                if self._mirror(station, run, waiting):
                    self._forget(run, waiting)
            if closing:
                return
            with self._changed:
                if self._waiting == looked and not self._closing:
                    self._changed.wait(LOOK_SECONDS if self._waiting else None)

    def _mirror(self, station: Station, run: str, waiting: _Waiting) -> bool:
        """Whether there is nothing more to do for now: the events are on the ledger, or it refuses them."""
        ref = RunRef(str(station.home), run)
        try:
            if not (waiting.over or _is_over(Workspace.of(ref).record, waiting.number)):
                return False
            if count := record_lineage(ref, waiting.number):
                self._say(f"{count} lineage events of round {waiting.number} of {run} are on the ledger")
        except UnavailableError:
            return False
        except (CiferError, LedgerError) as error:
            _logger.warning("lineage of run %s stays in this site's folder for now: %s", run, error)
        if self.busy.acquire(blocking=False):
            close_log(ref)
            self.busy.release()
        return True

    def _forget(self, run: str, waiting: _Waiting) -> None:
        """Unless there are more events by now."""
        with self._changed:
            if self._waiting.get(run) == waiting:
                del self._waiting[run]


def left_over(station: Station) -> dict[str, _Waiting]:
    """The runs of which this site's folder holds more events than the ledger has of it, with the round they were in last."""
    found, state = {}, station.ledger.state()
    for path in sorted((station.home / "runs").glob("*/lineage.ndjson")):
        record = RunRecord(path.parent.name, "", state, station.store)
        if record.exists and path.read_bytes().count(b"\n") > record.lineage_events(station.site.name):
            found[record.run] = _Waiting(record.declared.rounds_opened, over=False)
    return found


def _is_over(record: RunRecord, number: int) -> bool:
    return record.closed or 0 < number <= record.declared.rounds_committed

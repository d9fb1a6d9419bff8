"""`cifer site start`: the site's Prefect worker. It takes the runs of the site's deployments from its own work pool and runs them here.

One process, one run at a time: a Prefect process worker would start Python, Torch and the ledger's client anew for every run, which takes
longer than a small round. To Prefect it is a worker of a work pool of type ``process``: it beats, and it shows in the page.

A site that died in the middle of a run takes that run up again when it is back, unless the coordinator has given it up: every step is
idempotent, and the ledger says what is done.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectAlreadyExists
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Pending, Scheduled
from prefect.utilities.callables import parameter_schema

from cifer_tasks import logs
from cifer_tasks.site_home import SiteHome
from flows.away import RELEASE, ROUND
from flows.mirror import Mirror
from flows.station import FLOWS, Station, missed

LOOK_SECONDS: Final = 0.25
BEAT_SECONDS: Final = 10.0
LONGEST_WAIT_SECONDS: Final = 30.0
MOST_RUNS: Final = 200

_logger = logging.getLogger("cifer.site")


class Runner:
    """The worker of one site. `say` is told in short sentences what happens."""

    def __init__(self, site: SiteHome, say: Callable[[str], None]) -> None:
        """site: whose pool it serves."""
        self.site, self.say = site, say
        self.stopping = threading.Event()
        self.flows: dict[Any, str] = {}
        self.mirror = Mirror(say)

    def run(self) -> None:
        """Serve until `stop`, or SIGTERM or Ctrl-C: then finish the run that is under way. A server that is away is waited for."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        state = Station.open().ledger.state()  # a damaged or foreign folder is named before anybody asks
        for sentence in missed(state, self.site):
            self.say(sentence)
        threading.Thread(target=self._beat, daemon=True).start()
        self.mirror.start()
        waited = LOOK_SECONDS
        while not self.stopping.is_set():
            try:
                with get_client(sync_client=True) as client:
                    self._register(client)
                    self._take_up_again(client)
                    self.say(f"{self.site.name} is ready, in work pool {self.site.pool}")
                    waited = LOOK_SECONDS
                    self._serve(client)
            except httpx.HTTPError as error:
                what = str(error).partition("\n")[0][:200] or type(error).__name__
                self.say(f"Prefect at {self.site.prefect}: {what}; trying again in {waited:g} s")
                self.stopping.wait(waited)
                waited = min(LONGEST_WAIT_SECONDS, waited * 2)
        self.mirror.close()

    def stop(self) -> None:
        """End after the run that is under way."""
        self.stopping.set()

    def _register(self, client: SyncPrefectClient) -> None:
        """The site's work pool, and its deployments there."""
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=self.site.pool, type="process", description=f"{self.site.name}: beside its data"))
        client.send_worker_heartbeat(self.site.pool, self.site.name, heartbeat_interval_seconds=BEAT_SECONDS)
        for flow in FLOWS.values():
            identity = client.create_flow(flow)
            self.flows[identity] = flow.name
            client.create_deployment(
                flow_id=identity,
                name=self.site.name,
                work_pool_name=self.site.pool,
                entrypoint=f"flows/station.py:{flow.fn.__name__}",
                parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
                enforce_parameter_schema=True,
            )

    def _take_up_again(self, client: SyncPrefectClient) -> None:
        """What an earlier process of this site began and did not end is scheduled again."""
        for found in self._asked(client, StateType.PENDING, StateType.RUNNING):
            self.say(f"taking up {found.name} again")
            client.set_flow_run_state(found.id, Scheduled(message=f"{self.site.name} came back"), force=True)

    def _serve(self, client: SyncPrefectClient) -> None:
        """Run what is due, one after the other, until asked to stop."""
        while not self.stopping.is_set():
            for due in self._asked(client, StateType.SCHEDULED):
                if not self.stopping.is_set():
                    self._run(client, due)
            self.stopping.wait(LOOK_SECONDS)

    def _asked(self, client: SyncPrefectClient, *states: StateType) -> list[FlowRun]:
        """The pool's runs in these states, the oldest first. Reads only: a worker's own way to ask is a write for every look, and on SQLite
        the looks of a few sites get in the way of the round.
        """
        chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))))
        pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[self.site.pool]))
        order = FlowRunSort.EXPECTED_START_TIME_ASC
        return client.read_flow_runs(flow_run_filter=chosen, work_pool_filter=pool, sort=order, limit=MOST_RUNS)

    def _run(self, client: SyncPrefectClient, due: FlowRun) -> None:
        """One run, unless Prefect says it is no longer wanted. Its failure is the run's state, and no matter for the worker."""
        name = self.flows.get(due.flow_id)
        if name is None or not client.set_flow_run_state(due.id, Pending()).state.is_pending():  # type: ignore[union-attr]
            return
        try:
            asked = due.parameters
            place = logs.within(run=str(asked.get("run", "")), round=int(asked.get("number", 0)), site=self.site.name)
            with self.mirror.busy, place, temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
                # Read again: its state is what the engine begins from.
                state: Any = run_flow(FLOWS[name], flow_run=client.read_flow_run(due.id), parameters=due.parameters, return_type="state")
            if name in (ROUND, RELEASE):
                self.mirror.expect(due.parameters["run"], due.parameters["number"], over=name == RELEASE and state.is_completed())
            self.say(f"{name} of {due.parameters.get('run', '')}: {state.message or state.name}")
        except httpx.HTTPError:
            raise
        except Exception:
            _logger.exception("%s could not be run", name)

    def _beat(self) -> None:
        """Tell Prefect that this worker is there, until it stops."""
        while not self.stopping.is_set():
            with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
                client.send_worker_heartbeat(self.site.pool, self.site.name, heartbeat_interval_seconds=BEAT_SECONDS)
            self.stopping.wait(BEAT_SECONDS)

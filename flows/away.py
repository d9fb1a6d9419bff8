"""The coordinator's side of `execution: sites`: it asks each site through the site's own Prefect work pool, and believes the ledger.

Asking is scheduling a run of one of the site's deployments (`flows.station`), with names and digests as parameters; the site's process
takes it from its pool. What comes back is a line of text for people. What counts is on record: submissions, exclusions and releases on
the ledger, surveys as statements that the site signed. So a Prefect server that lies can delay a round and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from cifer_tasks import data, joining, statements, tasks
from cifer_tasks.data import federated
from cifer_tasks.data.federated import Preparation, Spread, Survey
from cifer_tasks.errors import IntegrityError, SiteStepError
from cifer_tasks.lineage import flows_around
from cifer_tasks.network import COORDINATOR, SITE, admit_coordinator, key_of, require_minimum
from cifer_tasks.records import (
    ArtifactRef,
    Dataset,
    Enrolment,
    Exclusion,
    Opening,
    Record,
    Release,
    RunRef,
    Scenario,
    SealedSet,
    Submission,
)
from cifer_tasks.sampling import LATE
from cifer_tasks.selecting import stays_closed
from cifer_tasks.site_home import pool_of
from cifer_tasks.statements import Order
from cifer_tasks.workspace import SiteFailed, StepStarted, Workspace
from ledger import RoundStateError

PREPARE: Final = "site-prepare"
ROUND: Final = "site-round"
RELEASE: Final = "site-release"
"""The step at which a site is left out of a round that has not submitted in time."""
LOOK_SECONDS: Final = 0.2
MOST_RUNS: Final = 200
WORKING: Final = "ONLINE"
WELCOME_SECONDS: Final = 15.0
"""How long a round that is to be opened waits for sites that could join."""
GRACE_SECONDS: Final = 2.0
"""How much longer than for enough releases a round waits for the rest: they are what a wrong one among the first is told by."""
_PREFIX: Final = "Flow run encountered an exception: "

T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True)
class Reply:
    """How a site's run of a deployment ended. text: what it said; when not done, why."""

    site: str
    done: bool
    text: str


class Away:
    """Every site in a process of its own, wherever that is."""

    def enrol(self, run: RunRef) -> tuple[Scenario, Enrolment]:
        """See `flows.places.Places`. A run that is declared has been through this."""
        workspace = Workspace.of(run)
        if workspace.record.exists:
            return workspace.scenario, Enrolment(workspace.record.sites, ())
        admit_coordinator(workspace)
        preparing = _Preparing(run, workspace)
        scenario = preparing.bundled() if workspace.settings.data.table else preparing.federated()
        enrolment = Enrolment(tuple(sorted(preparing.ready)), tuple(sorted(preparing.left_out.items())))
        workspace.announce(enrolment)
        require_minimum(workspace.settings, enrolment)
        return scenario, enrolment

    def admit(self, run: RunRef, number: int) -> None:
        """See `flows.places.Places`. While the run has room, sites at work without a place in it are asked to prepare a table as the run's
        were, if they offer one, within `WELCOME_SECONDS`; before the next round again.
        """
        workspace = Workspace.of(run)
        if workspace.record.has_round(number) or not joining.has_room(workspace):
            return
        if newcomers := _newcomers(workspace):
            preparing = _Preparing(run, workspace, number)
            if tables := preparing.joining(newcomers):
                joining.admit(run, number, tables)
            for site, reason in preparing.left_out.items():
                joining.turn_away(workspace, number, site, reason)

    def contribute(self, run: RunRef, number: int, opening: Opening) -> list[Submission | Exclusion]:
        """See `flows.places.Places`. Who has not submitted when the round closes is left out, and the ledger says why; of a buffered round,
        that it sealed without it. What the ledger holds of the round already counts, whoever was in when it was asked before.
        """
        workspace = Workspace.of(run)
        rounds, record = workspace.settings.rounds, workspace.record
        if record.round(number).sealed is not None:
            return record.outcomes(number)
        waiting = [site for site in opening.sites if _outcome(workspace, number, site) is None]
        enough = rounds.buffer - sum(record.submission(number, site) is not None for site in opening.sites) if rounds.buffer else None
        given = {"run": run.run, "number": number, "flows": list(flows_around())}
        replies = _ask(workspace, ROUND, waiting, given, number, enough=enough, grace=0.0, leave=rounds.late == "carry")
        for site in waiting:
            if not rounds.buffer and _outcome(workspace, number, site) is None:
                _leave_out(run, number, replies[site])
        inside = [found for site in opening.sites if (found := _outcome(workspace, number, site)) is not None]
        return sorted([*workspace.record.gone(opening), *inside], key=lambda item: item.site)

    def release(self, run: RunRef, number: int, sealed: SealedSet, aggregate: ArtifactRef, openers: Sequence[str]) -> tuple[Release, ...]:
        """See `flows.places.Places`. Waits for enough holders, and a little longer for the others; for all where these open nothing."""
        workspace = Workspace.of(run)
        given = {"run": run.run, "number": number, "aggregate": aggregate.digest, "flows": list(flows_around())}
        waiting = [site for site in openers if workspace.record.release(number, site) is None]
        enough = workspace.scheme.enough(workspace.round_context(number)) - (len(openers) - len(waiting))
        replies = _ask(workspace, RELEASE, waiting, given, number, enough=enough)
        if stays_closed(workspace, number, aggregate, _released(workspace, number, openers)):
            silent = [site for site in openers if workspace.record.release(number, site) is None]
            replies |= _ask(workspace, RELEASE, silent, given, number)
        for reply in replies.values():
            if not reply.done:
                workspace.announce(SiteFailed(number, reply.site, reply.text))
        return _released(workspace, number, openers)


def _released(workspace: Workspace, number: int, openers: Sequence[str]) -> tuple[Release, ...]:
    record = workspace.record
    return tuple(found for site in openers if (found := record.release(number, site)) is not None)


class _Preparing:
    """The stages of preparing one run; who fails at one is left out of the rest, with the reason."""

    def __init__(self, run: RunRef, workspace: Workspace, number: int = 0) -> None:
        """number: the round before which sites are to join; 0: the run itself is prepared."""
        self.run, self.workspace, self.settings, self.number = run, workspace, workspace.settings, number
        self.store, self.left_out = workspace.store, dict[str, str]()
        self.ready: list[str] = []
        self.published = self.store.put("settings", self.settings.canonical())

    def bundled(self) -> Scenario:
        """A bundled table is in every installation: each place deals it out for itself, to the same tables."""
        scenario = data.prepare(self.settings, self.workspace.base, self.workspace.home)
        kept = self.ask("settle", [item.site for item in scenario.datasets], None)
        known = {item.site: item for item in scenario.datasets}
        self.ready = [site for site in kept if self.registered(site, kept[site], known[site].sha256)]
        return scenario

    def federated(self) -> Scenario:
        """Tables that only their sites have: survey, spread, settle."""
        workspace, settings = self.workspace, self.settings
        surveys = self.heard(self.ask("survey", sorted(settings.data.files), None), Survey)
        while True:
            require_minimum(settings, Enrolment(tuple(sorted(surveys)), tuple(self.left_out.items())))
            common = federated.layout(surveys)
            if not settings.data.standardize:
                spreads: dict[str, Spread] = {}
                break
            spreads = self.heard(self.ask("spread", sorted(surveys), self.say(common)), Spread)
            if spreads.keys() == surveys.keys():
                break
            surveys = {site: surveys[site] for site in spreads}  # the means were those of more sites: once more without the lost
        given = federated.conclude(settings, workspace.base, workspace.home, surveys, common, spreads)
        kept = self.ask("settle", given.sites, self.say(given))
        tables = [table for site, sha256 in sorted(kept.items()) if (table := self.told(site, sha256, given)) is not None]
        self.ready = [table.site for table in tables]
        return federated.write_scenario(settings, workspace.home, given, tuple(tables))

    def joining(self, newcomers: Sequence[str]) -> tuple[Dataset, ...]:
        """The tables of those newcomers that prepare one as the run's were; they are part of the scenario from then on."""
        scenario = self.workspace.scenario
        if self.settings.data.table:
            known = {item.site: item for item in scenario.datasets}
            kept = self.ask("settle", [site for site in newcomers if site in known], None)
            return tuple(known[site] for site in sorted(kept) if self.registered(site, kept[site], known[site].sha256))
        given = federated.prepared(self.settings, self.workspace.home, scenario)
        kept = self.ask("settle", newcomers, self.say(given))
        tables = tuple(table for site, sha256 in sorted(kept.items()) if (table := self.told(site, sha256, given)) is not None)
        others = tuple(table for table in scenario.datasets if table.site not in kept)
        merged = tuple(sorted((*others, *tables), key=lambda table: table.site))
        self.workspace.scenario = federated.write_scenario(self.settings, self.workspace.home, given, merged)
        return tables

    def ask(self, stage: str, sites: Iterable[str], given: ArtifactRef | None) -> dict[str, str]:
        """Order one stage of these sites; what each that did it says. The others are left out."""
        order = self.say(Order(self.run.run, stage, self.published, given))
        given_ = {"run": self.run.run, "order": order.digest}
        seconds = min(WELCOME_SECONDS, self.settings.sites.deadline_seconds) if self.number else None
        replies = _ask(self.workspace, PREPARE, list(sites), given_, self.number, seconds=seconds)
        self.left_out |= {site: reply.text for site, reply in replies.items() if not reply.done}
        return {site: reply.text for site, reply in replies.items() if reply.done}

    def say(self, record: Record) -> ArtifactRef:
        """Sign something for the sites to read."""
        key = key_of(COORDINATOR, self.workspace.ledger, self.workspace.keys)
        return self.store.put("statement", statements.sign(key, self.workspace.ledger.network, self.run.run, record))

    def heard(self, answers: Mapping[str, str], kind: type[T]) -> dict[str, T]:
        """What sites signed, by site."""
        state, found = self.workspace.ledger.state(), {}
        for site, digest in answers.items():
            try:
                content = self.store.get(self.store.find("statement", digest))
                found[site] = statements.read(content, state, site, self.run.run, kind)
            except IntegrityError as error:
                self.left_out[site] = str(error)
        return found

    def told(self, site: str, sha256: str, given: Preparation) -> Dataset | None:
        """A site's table as the ledger has it."""
        if not self.registered(site, sha256, ""):
            return None
        entry = self.workspace.ledger.state().dataset(bytes.fromhex(sha256))
        assert entry is not None  # noqa: S101 - `registered` saw it
        return federated.table_at(site, sha256, entry.dvc_hash, entry.rows, self.workspace.home, self.settings, given)

    def registered(self, site: str, sha256: str, expected: str) -> bool:
        """Whether the ledger has this table as the site's, under live consent; else the site is left out."""
        state = self.workspace.ledger.state()
        try:
            digest = bytes.fromhex(sha256)
        except ValueError:
            digest = b""
        entry, consent = state.dataset(digest), state.consent(digest, self.settings.name)
        if entry is None or entry.owner != site or consent is None or not consent.live:
            self.left_out[site] = f"{site} has no table {sha256[:16]} with a live consent for {self.settings.name} on the ledger"
        elif expected and sha256 != expected:
            self.left_out[site] = f"{site} prepared another table, {sha256[:16]} and not {expected[:16]}; install the same version there"
        return site not in self.left_out


def _outcome(workspace: Workspace, number: int, site: str) -> Submission | Exclusion | None:
    return workspace.record.submission(number, site) or workspace.record.exclusion(number, site)


def _leave_out(run: RunRef, number: int, reply: Reply) -> Submission | Exclusion:
    """Record that a site did not submit, unless it does so at this very moment: then its submission counts."""
    workspace = Workspace.of(run)
    workspace.announce(SiteFailed(number, reply.site, reply.text))
    if workspace.settings.sites.on_error == "abort":
        raise SiteStepError(reply.text, step=ROUND, detail=reply.text)
    try:
        return tasks.exclude(run, number, reply.site, LATE, reply.text)
    except RoundStateError:
        found = workspace.record.submission(number, reply.site)
        if found is None:
            raise
        return found


def _ask(
    workspace: Workspace,
    flow: str,
    sites: list[str],
    given: Mapping[str, object],
    number: int,
    *,
    enough: int | None = None,
    grace: float = GRACE_SECONDS,
    leave: bool = False,
    seconds: float | None = None,
) -> dict[str, Reply]:
    """Have every site run one of its deployments at the same time; how each ended, by site.

    Waits for all of them up to the deadline, or for so many `seconds`, or, with `enough`, for that many and `grace` seconds longer. A run
    that did not end is cancelled, unless it is to `leave` going. Called in a flow, it shows each site's run as a part of it.
    """
    from prefect.client.orchestration import get_client

    replies: dict[str, Reply] = {}
    started: dict[UUID, str] = {}
    if enough is not None and enough <= 0:
        return replies
    for site in sites:
        workspace.announce(StepStarted(flow, number, site))
        identity = _start(flow, site, given)
        if identity is None:
            replies[site] = Reply(site, False, f"{site} has never been here: start it there with `cifer site start`")
        else:
            started[identity] = site
    with get_client(sync_client=True) as client:
        deadline = workspace.settings.sites.deadline_seconds if seconds is None else seconds
        late = _wait(client, started, replies, deadline, len(sites) if enough is None else enough, grace)
        for identity, site in late.items():
            replies[site] = Reply(site, False, f"{site} did not finish {flow} within {deadline:g} s")
            if not leave:
                _cancel(client, identity)
    return replies


def _newcomers(workspace: Workspace) -> list[str]:
    """The sites of the network that are at work in places of their own and have no place in the run, ascending."""
    from prefect.client.orchestration import get_client

    found = []
    with get_client(sync_client=True) as client:
        for site in sorted(set(_served(client)) - set(workspace.record.sites)):
            identity = workspace.record.state.identity(site)
            if identity is None or identity.role != SITE:
                continue
            if any(worker.status == WORKING for worker in client.read_workers_for_work_pool(pool_of(site), limit=MOST_RUNS, offset=0)):
                found.append(site)
    return found


def _served(client: Any) -> Iterator[str]:
    """The sites that have ever had a work pool."""
    for start in range(0, MOST_RUNS * MOST_RUNS, MOST_RUNS):
        pools = client.read_work_pools(limit=MOST_RUNS, offset=start)
        yield from (pool.name.removeprefix(pool_of("")) for pool in pools if pool.name.startswith(pool_of("")))
        if len(pools) < MOST_RUNS:
            return


def _start(flow: str, site: str, given: Mapping[str, object]) -> UUID | None:
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    try:
        made: Any = run_deployment(f"{flow}/{site}", parameters=dict(given), timeout=0)
    except ObjectNotFound:
        return None
    identity: UUID = made.id
    return identity


def _wait(
    client: Any, started: Mapping[UUID, str], replies: dict[str, Reply], seconds: float, enough: int, grace: float
) -> dict[UUID, str]:
    """Collect replies until all have ended, enough have and the others had their grace, or time is up. Returns those that have not."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    waiting, deadline = dict(started), time.monotonic() + seconds
    while waiting:
        asked = list(waiting)[:MOST_RUNS]
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=asked))
        for found in client.read_flow_runs(flow_run_filter=chosen, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=MOST_RUNS):
            if found.state is not None and found.state.is_final():
                site = waiting.pop(found.id)
                text = (found.state.message or found.state.name).removeprefix(_PREFIX)
                replies[site] = Reply(site, found.state.is_completed(), text)
        if len(started) > enough <= sum(reply.done for reply in replies.values()):
            deadline = min(deadline, time.monotonic() + grace)
            enough = len(started)
        if waiting and time.monotonic() >= deadline:
            break
        if waiting:
            time.sleep(LOOK_SECONDS)
    return waiting


def _cancel(client: Any, identity: UUID) -> None:
    """A site that comes back does not begin what nobody waits for; one that is at it finds its submission refused."""
    from prefect.states import Cancelled

    client.set_flow_run_state(identity, Cancelled(message="nobody waits for it any more"), force=True)

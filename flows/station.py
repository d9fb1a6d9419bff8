"""What a site does when it is asked, as flows on its own work pool: each runs in the site's process, beside its data and keys.

    site-prepare(run, order)                      one stage of preparing a run: survey, spread or settle
    site-round(run, number, flows)                validate -> train -> protect -> encrypt -> submit
    site-release(run, number, aggregate, flows)   its part in opening a sealed set

`flows` are the coordinator's, which the site's lineage says its steps are part of; the site mirrors that itself (`flows.mirror`).

A site takes nobody's word. It looks at its own checked copy of the ledger for the run, the round and the settings' digest; before a
run is declared, it wants the coordinator's signature; and it trains only for a purpose that it offers. What returns is a short text
without data.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import prefect
from prefect.states import Completed

from cifer_tasks import data, statements
from cifer_tasks.artifacts import NAME, ArtifactStore
from cifer_tasks.config import LedgerSettings, Settings, parse
from cifer_tasks.data import federated
from cifer_tasks.data.federated import Layout, Preparation
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import CiferError, DataError, FailureError, IntegrityError
from cifer_tasks.lineage import site_steps
from cifer_tasks.network import COORDINATOR, enrol_table, key_of, store_at
from cifer_tasks.records import ArtifactRef, Dataset, Exclusion, Record, RunRef
from cifer_tasks.site_home import Offer, SiteHome, the_site
from cifer_tasks.statements import Order
from cifer_tasks.tasks import lineage_of
from cifer_tasks.workspace import Workspace, create_run, home_folder
from flows.away import PREPARE, RELEASE, ROUND
from flows.site import site_releases, site_rounds
from ledger import Ledger, LedgerError, State
from ledger.backends.network import read_genesis
from ledger.state.entries import Run

P = ParamSpec("P")
T = TypeVar("T")

ARRIVAL_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.1

_logger = logging.getLogger("cifer.site")


@dataclass(frozen=True, slots=True)
class Station:
    """A site at work: its folder, who it is, its keys, its copy of the ledger, and the store it shares with others."""

    home: Path
    site: SiteHome
    keys: Keystore
    ledger: Ledger
    store: ArtifactStore

    @classmethod
    def open(cls) -> Station:
        """The site of this process' CIFER_HOME. Raises `UsageError` when it has not joined a network."""
        home = home_folder()
        site, keys = the_site(home), Keystore.open(home / "keys")
        settings = LedgerSettings(backend="processes", validators=len(read_genesis(home / "ledger").validators))
        ledger = Workspace.ledger_of(home, settings, keys)
        return cls(home, site, keys, ledger, store_at(site.artifacts, home, site.name))

    def run(self, name: str, settings: ArtifactRef) -> Workspace:
        """The run's folder here, made on first sight. Raises `FailureError` for settings that this site does not train under."""
        if not NAME.fullmatch(name):
            msg = f"{name[:80]!r} is no name of a run"
            raise FailureError(msg)
        ref, site = RunRef(str(self.home), name), self.site
        if not (self.home / "runs" / name).exists():
            create_run(self.read_settings(settings), Path(site.base), self.home, name, site=site.name, artifacts=site.artifacts)
        workspace = Workspace.of(ref)
        if workspace.settings.digest().hex() != settings.digest:
            begun = workspace.settings.digest().hex()
            msg = f"run {name} began under settings {begun[:16]}, and is now asked for under {settings.digest[:16]}"
            raise IntegrityError(msg)
        return workspace

    def declared(self, name: str) -> Workspace:
        """The run as the ledger declares it. Raises `FailureError` when it does not, or this site has no place in it."""
        run = self.seen(lambda state: state.run(name))
        if run is None or run.dataset_of(self.site.name) is None:
            msg = f"run {name[:80]!r} is not on the ledger, or {self.site.name} has no place in it"
            raise FailureError(msg)
        return self.run(name, self.store.find("settings", run.config_digest.hex()))

    def seen(self, look: Callable[[State], T | None]) -> T | None:
        """What `look` finds on the ledger, waiting a little for it: who asks may be a block ahead of this copy."""
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while (found := look(self.ledger.state())) is None and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return found

    def read_settings(self, ref: ArtifactRef) -> Settings:
        """A run's settings: their bytes are those of the digest, and the site offers a table for their purpose."""
        found = parse(json.loads(self.store.get(ref)), where=f"settings {ref.digest[:16]}")
        if found.digest().hex() != ref.digest:
            msg = f"settings {ref.digest[:16]} do not read back to their own digest; install the coordinator's version of Cifer"
            raise IntegrityError(msg)
        self.offer(found)
        return found

    def offer(self, settings: Settings) -> Offer:
        """What this site offers for the settings' purpose. Raises `DataError` when that is nothing."""
        found = self.site.offered(settings.name)
        if found is None or bool(found.table) == bool(settings.data.table):
            what = "the bundled table" if settings.data.table else "a table"
            msg = f"{self.site.name} does not offer {what} for {settings.name}: there, `cifer site offer {settings.name}` decides"
            raise DataError(msg)
        return found

    def say(self, run: str, record: Record) -> str:
        """Sign a statement, and leave it in the store; its digest."""
        key = key_of(self.site.name, self.ledger, self.keys)
        return self.store.put("statement", statements.sign(key, self.ledger.network, run, record)).digest

    def hear(self, run: str, digest: str, kind: type[Any]) -> Any:
        """A statement of the coordinator's. Raises `IntegrityError`."""
        identity = self.seen(lambda state: state.identity(COORDINATOR))
        if identity is None or identity.role != COORDINATOR:
            msg = "the ledger knows no coordinator"
            raise IntegrityError(msg)
        content = self.store.get(self.store.find("statement", digest))
        return statements.read(content, self.ledger.state(), COORDINATOR, run, kind)


def missed(state: State, site: SiteHome) -> tuple[str, ...]:
    """Of each run under way for a purpose that `site` offers and that has no place left for it, a sentence that says so."""
    return tuple(
        f"run {run.run} for {run.purpose} is under way without {site.name}, with places for {max(run.maximum_sites, len(run.places))} "
        f"sites, all taken (rounds.max_sites={run.maximum_sites}); {site.name} may take part in the next run"
        for run in sorted(state.all(Run), key=lambda run: run.run)
        if run.status == "open"
        and site.offered(run.purpose) is not None
        and run.dataset_of(site.name) is None
        and len(run.places) >= run.maximum_sites
    )


def discreet(function: Callable[P, str]) -> Callable[P, Any]:
    """The text that a flow returns as its state's message; of a foreign exception, whose message may quote data, only the kind."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return Completed(message=function(*args, **kwargs))
        except (CiferError, LedgerError):
            raise
        except Exception as error:
            _logger.exception("%s failed", function.__name__)
            msg = f"{type(error).__name__} in {function.__name__}; its message may quote data and stays in the site's log"
            raise FailureError(msg) from None

    return guarded


@discreet
def prepare(run: str, order: str) -> str:
    """Carry out the coordinator's `Order` of this digest; the digest of what came of it."""
    station = Station.open()
    asked: Order = station.hear(run, order, Order)
    workspace = station.run(run, asked.settings)
    settings, name = workspace.settings, station.site.name
    table = Path(station.offer(settings).table)
    if asked.stage == "survey":
        return station.say(run, federated.survey(settings, name, table))
    if asked.stage == "spread" and asked.given is not None:
        return station.say(run, federated.spread(settings, name, table, station.hear(run, asked.given.digest, Layout)))
    if asked.stage == "settle":
        return _settle(station, workspace, table, asked.given)
    msg = f"this version of Cifer knows no stage {asked.stage!r}; install the coordinator's"
    raise FailureError(msg)


def _settle(station: Station, workspace: Workspace, table: Path, given: ArtifactRef | None) -> str:
    """Write the table, and sign it and the consent onto the ledger; the table's digest."""
    settings, name = workspace.settings, station.site.name
    if given is None:
        scenario = data.prepare(settings, workspace.base, station.home)
    else:
        scenario = federated.settle(settings, name, table, station.home, station.hear(workspace.ref.run, given.digest, Preparation))
    own: Dataset | None = next((item for item in scenario.datasets if item.site == name), None)
    if own is None:
        msg = f"{name} has no table in scenario {scenario.name}"
        raise DataError(msg)
    if reason := enrol_table(workspace, own, scenario.name):
        raise FailureError(reason)
    return own.sha256


@discreet
def contribute(run: str, number: int, flows: tuple[str, str]) -> str:
    """The site's part in an open round, as far as it is not on the ledger yet."""
    station = Station.open()
    workspace = station.declared(run)
    opened = station.seen(lambda state: state.round(run, number))
    if opened is not None and opened.sealed is not None:
        return "the round is sealed already"
    name = station.site.name
    began = _began(workspace, number, name)
    with site_steps(lineage_of(workspace), *flows):
        found = next(iter(site_rounds(workspace.ref, number, workspace.opening(number), {name: began})), None)
    if found is None:
        return f"late for round {number}: {'kept for the next' if workspace.settings.rounds.staleness else 'refused'}"
    if isinstance(found, Exclusion):
        return f"left out at {found.step}: {found.reason}"
    return f"submitted {found.ciphertext.digest} of {found.rows} rows, block {found.committed.height}"


def _began(workspace: Workspace, number: int, site: str) -> int:
    """The round of the update that this site has kept and that no sealed set holds, if round `number` takes that; else `number`."""
    record, folder = workspace.record, workspace.site_folder(site)
    for began in range(number - 1, max(0, number - 1 - record.declared.max_staleness), -1):
        if site in record.round(began).sealed_sites:
            break
        if folder.find(f"round-{began}.update") is not None:
            return began
    return number


@discreet
def release(run: str, number: int, aggregate: str, flows: tuple[str, str]) -> str:
    """The site's part in opening the set that the ledger has sealed; it adds the submissions itself, and compares with `aggregate`."""
    station = Station.open()
    workspace = station.declared(run)
    station.seen(lambda state: (opened := state.round(run, number)) and opened.sealed)
    total = station.store.find("aggregate", aggregate)
    with site_steps(lineage_of(workspace), *flows):
        released = site_releases(workspace.ref, number, workspace.record.sealed_set(number), total, [station.site.name])
    if not released:
        msg = f"{station.site.name} did not release in round {number}; its log says why"
        raise FailureError(msg)
    return f"released {released[0].opening.digest}, block {released[0].committed.height}"


def _flow(name: str, run_name: str, function: Callable[..., Any]) -> prefect.Flow[..., Any]:
    made: prefect.Flow[..., Any] = prefect.flow(name=name, flow_run_name=run_name, persist_result=False, log_prints=False)(function)
    return made


FLOWS: Final = {
    flow.name: flow
    for flow in (
        _flow(PREPARE, "prepare-{run}", prepare),
        _flow(ROUND, "round-{number}", contribute),
        _flow(RELEASE, "release-{number}", release),
    )
}
"""Every flow that a site deploys, by name."""

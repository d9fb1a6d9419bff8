"""From a settings file to a finished run in this process: check everything first, start what is missing, train, stop what was started."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from cifer_tasks import logs
from cifer_tasks.config import Settings
from cifer_tasks.errors import CiferError, ConfigError, RuleError, UsageError
from cifer_tasks.records import Awaiting, RegisteredModel, RunRef
from cifer_tasks.workspace import Progress, Workspace, create_run, home_folder, make_importable
from flows.engines import dismiss, require
from flows.notify import notify, webhook_of
from flows.services import lone_authority, prefect_server
from ledger import LedgerError

Listener = Callable[[Progress], None]

QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the run's own view speaks to the terminal; the page keeps the logs
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "WARNING",  # a page of "Finished in state Completed()" says nothing
    "PREFECT_CLIENT_MAX_RETRIES": "30",  # of a request that SQLite was too busy for; one is over in some hundredths of a second
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
}


def new_run(settings: Settings, base: Path) -> RunRef:
    """Check a scenario as far as that is possible before anything is recorded, and write its run folder.

    base: the folder that relative data paths start from. Raises the `UsageError` of whatever is wrong with tables or model.
    """
    home = home_folder()
    require(settings.compute)
    if settings.execution == "sites":
        preflight_sites(settings, base, home)
    if settings.execution == "local" or settings.data.table:
        preflight(settings, base, home)
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    names = (f"{settings.name}-{moment}{suffix}" for suffix in ("", *(f"-{count}" for count in range(2, 100))))
    run = next(name for name in names if not (home / "runs" / name).exists())
    return create_run(settings, base, home, run)


def preflight(settings: Settings, base: Path, home: Path) -> None:
    """Prepare the tables and build the model once, so that a user's mistake shows before the first step. Raises `UsageError`."""
    from cifer_tasks import data
    from cifer_tasks.aggregation import rule_for
    from cifer_tasks.encryption import scheme_for
    from cifer_tasks.learning.building import initial_model
    from cifer_tasks.learning.evaluation import evaluate

    webhook_of(settings)
    make_importable(base)
    scenario = data.prepare(settings, base, home)
    if len(scenario.datasets) < settings.sites.minimum:
        msg = f"sites.minimum is {settings.sites.minimum}, and the scenario has {len(scenario.datasets)} sites; lower it or add sites"
        raise ConfigError(msg)
    if (fewest := scheme_for(settings.encryption).smallest_set(len(scenario.datasets))) > len(scenario.datasets):
        msg = (
            f"encryption.scheme={settings.encryption.scheme} needs at least {fewest} sites, and the scenario has {len(scenario.datasets)}: "
            "the sum over one site is its update; add sites"
        )
        raise ConfigError(msg)
    try:
        rule_for(settings).check_updates(settings.sites.minimum // (settings.aggregation.bucket_size or 1))
    except RuleError as error:
        raise ConfigError(str(error)) from None
    evaluate(settings, initial_model(settings, scenario), scenario)


def preflight_sites(settings: Settings, base: Path, home: Path) -> None:
    """What can be known here of a run whose sites are elsewhere: that they can reach what they need. Raises `UsageError`."""
    from cifer_tasks.data.prepare import HOLDOUT
    from cifer_tasks.data.sources import read_file, require_target
    from cifer_tasks.encryption import scheme_for
    from flows.services import status

    if not scheme_for(settings.encryption).key_per_site:
        msg = f"encryption.scheme={settings.encryption.scheme} has one key for all sites, made here; under execution: sites use threshold"
        raise ConfigError(msg)
    wanted = ["prefect", *(() if settings.artifacts else ("artifacts",))]
    missing = [service.title for service in status(home) if service.name in wanted and service.state != "running"]
    if missing:
        msg = f"execution: sites needs {' and '.join(missing)}, which sites reach over the network; start them with `cifer up`"
        raise UsageError(msg)
    if settings.data.files:
        require_target(read_file(HOLDOUT, base / settings.data.holdout_file), settings.data.target)
    make_importable(base)


@contextmanager
def engine(home: Path) -> Iterator[None]:
    """Prefect for this process: `cifer up`'s server when it runs, else a private one that ends with the block.

    Entering returns before the server is ready, so that imports and checks overlap with its start; `train` waits for it.
    Entered again inside itself, it uses the server of the block around.
    """
    if _engines:
        try:
            yield
        finally:
            Workspace.close_all()
        return
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    _rest_the_collector()
    with prefect_server(home) as server:
        os.environ.update(server.environment)
        _engines.append(server.wait_ready)
        try:
            yield
        finally:
            gc.enable()
            _engines.pop()
            Workspace.close_all()


_engines: list[Callable[[], None]] = []


COLLECT_AFTER = 2_000, 10, 30
"""The young after 2,000 new objects, as in later Pythons, the old far less often: of a round of 64 sites that is 30 ms instead of 70."""

_collecting: list[None] = []
"""Holds an item once this process has woken its collector; `gc.get_freeze_count` would walk through all that is frozen to say so."""


def _rest_the_collector() -> None:
    """Collect no garbage until `_wake_the_collector`, unless that has been before.

    What is imported stays: a million objects, which the collector would walk through a dozen times while they become more (2 s in all),
    and once again in the middle of a round (0.5 s).
    """
    if not _collecting:
        gc.disable()


def _wake_the_collector() -> None:
    """Collect garbage again, but not among what is there by now. Only once in a process: garbage that is there stays for good."""
    if not _collecting:
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        _collecting.append(None)
    gc.enable()


def train(run: RunRef, listeners: Sequence[Listener]) -> RegisteredModel | Awaiting | None:
    """Run the training flow of `run` in this process, inside `engine`. Returns the published model.

    None when the gate accepted no candidate, `Awaiting` when somebody has to approve it first.
    """
    with logs.within(run=run.run):
        return _train(run, listeners)


def _train(run: RunRef, listeners: Sequence[Listener]) -> RegisteredModel | Awaiting | None:
    workspace = Workspace.of(run)
    workspace.listeners.extend(listeners)
    if logs.wanted():
        from flows.console import log_progress

        workspace.listeners.append(log_progress)
    _warm_up(workspace)
    _engines[-1]()

    from prefect.settings import PREFECT_API_SSL_CERT_FILE, PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from cifer_tasks.lineage import close_log
    from cifer_tasks.tasks import lineage_of, record_lineage
    from flows.training import training

    _wake_the_collector()
    lineage_of(workspace)
    try:
        # Prefect joins a heartbeat thread after every flow run: one second per round, for runs that outlive their process.
        # It reads its environment once, at import, which in a long-lived process may lie before `engine`.
        # Its clients speak plain HTTP to this machine, and each would load the web's authorities first, 30 ms of a round every time.
        settings = {
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            PREFECT_API_URL: os.environ["PREFECT_API_URL"],
            PREFECT_API_SSL_CERT_FILE: str(lone_authority(workspace.home)),
        }
        with temporary_settings(settings):
            outcome = training(run)
        if isinstance(outcome, Awaiting):
            notify(workspace.settings, run.run, "awaiting-approval", f"model {outcome.model.digest}; cifer approve {run.run} --reason ...")
        return outcome
    except (CiferError, LedgerError) as error:
        notify(workspace.settings, run.run, "failed", str(error))
        raise
    except Exception as error:
        notify(workspace.settings, run.run, "failed", type(error).__name__)  # its message may quote data
        raise
    finally:
        dismiss(run)
        if workspace.record.closed:
            record_lineage(run, 0)  # how the training itself ended
        close_log(run)


def _warm_up(workspace: Workspace) -> None:
    """Open what the run needs while the Prefect server starts.

    Opening the ledger names a damaged file or a second writer before Prefect has a run to fail; MLflow and Great Expectations take
    seconds to import.
    """
    _ = workspace.ledger
    workspace.tracker.open()
    import_module("great_expectations")

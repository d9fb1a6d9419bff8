"""What makes a function a step of a training: a Prefect task with a readable name, a line of progress, and errors that are safe to record.

A step that raises at a site becomes one `SiteStepError`: the message of a foreign exception may quote data, so it stays in the site's own
folder.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from cifer_tasks.config import Settings
from cifer_tasks.errors import CiferError, SiteStepError
from cifer_tasks.lineage import instrument
from cifer_tasks.workspace import StepStarted, Workspace
from ledger import LedgerError

P = ParamSpec("P")
R = TypeVar("R")

RETRY_SECONDS = 0.2


def step(name: str, *, retries: int = 0, recorded: bool = True) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A Prefect task whose runs are called `name`, formatted with its parameters.

    Never cached or persisted by Prefect: the ledger says what is done. `retries` only where repeating is harmless and could help;
    `recorded` reports its runs to OpenLineage.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def announced(*args: P.args, **kwargs: P.kwargs) -> R:
            arguments = signature.bind(*args, **kwargs).arguments
            progress = StepStarted(function.__name__, arguments.get("number", 0), arguments.get("site", ""))
            Workspace.of(arguments["run"]).announce(progress)
            return function(*args, **kwargs)

        made = task(
            task_run_name=name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=retries,
            retry_delay_seconds=RETRY_SECONDS,
            log_prints=False,
        )(announced)
        return cast(Callable[P, R], instrument(made) if recorded else made)

    return decorate


def at_site(function: Callable[P, R]) -> Callable[P, R]:
    """Turn whatever a site's step raises into one `SiteStepError` line that names site, round, step, file, line and cause."""

    signature = inspect.signature(function)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            arguments = signature.bind(*args, **kwargs).arguments
            workspace = Workspace.of(arguments["run"])
            raise _site_error(workspace, arguments["number"], arguments["site"], function.__name__, error) from None

    return guarded


def _site_error(workspace: Workspace, number: int, site: str, step_name: str, error: Exception) -> SiteStepError:
    """The one line; the full traceback goes to `round-N.error.txt` in the site's own folder."""
    where = f"{site}, round {number}, {step_name}"
    if isinstance(error, CiferError | LedgerError):
        return SiteStepError(f"{where}: {error}", step=step_name, detail=f"{where}: {error}")
    folder = workspace.site_folder(site)
    log = folder.folder / folder.put(f"round-{number}.error.txt", "".join(traceback.format_exception(error)).encode()).name
    frame = _users_frame(error, workspace.settings)
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    kind = type(error).__name__
    detail = f"{where}, {place}: {kind}: {str(error).splitlines()[0] if str(error) else 'no message'} (traceback: {log})"
    recorded = f"{where}, {place}: {kind} (its message may quote data and stays at the site)"
    return SiteStepError(recorded, step=step_name, detail=detail)


def _users_frame(error: Exception, settings: Settings) -> traceback.FrameSummary:
    """The deepest frame in the user's own model module, else the deepest frame outside installed packages, else the last one."""
    frames = traceback.extract_tb(error.__traceback__)
    module = sys.modules.get(settings.model.path.rpartition(".")[0])
    own = [frame for frame in frames if module is not None and frame.filename == module.__file__]
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "lib/python" not in frame.filename]
    return (own or ours or list(frames))[-1]


def bare(made: Callable[P, R]) -> Callable[P, R]:
    """What a step does, with its retries, without being a task: for a task that consists of several."""
    unit = cast(Task[P, R], made)

    def attempts(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(unit.retries):
            try:
                return unit.fn(*args, **kwargs)
            except Exception:
                time.sleep(RETRY_SECONDS)
        return unit.fn(*args, **kwargs)

    return attempts

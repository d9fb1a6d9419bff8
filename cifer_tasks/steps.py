"""What makes a function a step of a training: a Prefect task with a readable name, a line of progress, and errors that are safe to record.

A step that raises at a site becomes one `SiteStepError`: the message of a foreign exception may quote data, so it stays in the site's own
folder. A ledger that does not answer is nobody's failure: the step waits for it, and after `ledger.patience_seconds` the run ends, to be
resumed.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun

from cifer_tasks import logs
from cifer_tasks.config import Settings
from cifer_tasks.errors import CiferError, SiteStepError, UnreachableError
from cifer_tasks.lineage import instrument
from cifer_tasks.workspace import LedgerAway, StepStarted, Workspace
from ledger import LedgerError, UnavailableError

P = ParamSpec("P")
R = TypeVar("R")

RETRY_SECONDS = 0.2
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 15.0


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
            workspace = Workspace.of(arguments["run"])
            workspace.announce(progress)
            with logs.step(arguments["run"].run, progress.round, progress.site, progress.step):
                return patiently(workspace, function.__name__, lambda: function(*args, **kwargs))

        announced.__signature__ = signature  # type: ignore[attr-defined]  # Prefect asks for it several times a call
        made = task(
            task_run_name=name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=retries,
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=_worth_repeating,
            log_prints=False,
        )(announced)
        return cast(Callable[P, R], instrument(made) if recorded else made)

    return decorate


def _worth_repeating(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whoever has waited for the ledger as long as is asked waits no second time."""
    return not isinstance(state.data, UnreachableError)


def patiently(workspace: Workspace, name: str, attempt: Callable[[], R]) -> R:
    """Repeat an attempt that finds no quorum of validators, with growing pauses, for `ledger.patience_seconds`.

    Repeating is harmless: the attempt looks first at what is on record, and what it signs anew while nothing was added is the very same
    transaction. An embedded ledger is not waited for: nobody else can bring it back. Raises `UnreachableError`.
    """
    settings, pause = workspace.settings.ledger, FIRST_PAUSE_SECONDS
    if settings.backend == "embedded":
        return attempt()
    deadline = time.monotonic() + settings.patience_seconds
    while True:
        try:
            return attempt()
        except UnavailableError as error:
            left = deadline - time.monotonic()
            if left <= 0:
                msg = (
                    f"{name}: the ledger did not answer for {settings.patience_seconds:g} s (ledger.patience_seconds); "
                    f"nothing that it acknowledged is lost: {error}"
                )
                raise UnreachableError(msg) from None
            workspace.announce(LedgerAway(name, left))
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def at_site(function: Callable[P, R]) -> Callable[P, R]:
    """Turn whatever a site's step raises into one `SiteStepError` line that names site, round, step, file, line and cause.

    A ledger that does not answer is no failure of the site's: that goes to whoever waits for it.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UnavailableError:
            raise
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
            except UnreachableError:
                raise
            except Exception:
                time.sleep(RETRY_SECONDS)
        return unit.fn(*args, **kwargs)

    return attempts

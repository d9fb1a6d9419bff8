"""A Ray cluster as a task runner of Prefect's: one of this machine's own, that ends with the run, or one that runs already.

Its own listens on the inner address alone, and does nothing for whoever has not the token made for it: who reaches a cluster has code run.
Ray reads most of its settings from the environment, in every process of its own, and once: when `ray` is imported.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from cifer_tasks.errors import FailureError

if TYPE_CHECKING:
    from prefect_ray import RayTaskRunner

TRIES: Final = 3
"""How often a cluster's start is tried. Ray's raylet ends when its agents are not up 15 s after it, which no setting changes
(ray-project/ray#65983): a busy machine needs longer the first time, when nothing of Ray is in its memory yet."""

LAST_WORDS_SECONDS: Final = 10
"""How long the processes of a start that failed are waited for, once they have been killed."""

OBJECT_STORE_BYTES: Final = 96 * 1024**2
"""Of shared memory. What passes through is references; Ray takes 75 MiB at least, and 30 % of the machine's memory unless told."""

_QUIET: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
_INWARD: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""The former is what makes 127.0.0.1 the address of everything, as it is by default on those two systems."""

_logger = logging.getLogger("cifer")


@contextmanager
def joined(address: str) -> Iterator[RayTaskRunner]:
    """The cluster at `address`, e.g. host:6379, or ray://host:10001 from a machine that is no part of it; let go of at the end.

    Its token is whatever Ray finds for itself: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token. Raises what Ray raises.
    """
    os.environ.update(_QUIET)
    from prefect_ray import RayTaskRunner

    runner = RayTaskRunner(address=address, init_kwargs={"log_to_driver": False, "logging_level": "ERROR"})
    with _handler_kept():
        runner.__enter__()
    with ExitStack() as stack:
        stack.push(runner)
        yield runner


@contextmanager
def started(workers: int) -> Iterator[RayTaskRunner]:
    """A cluster of this machine's own of so many processes, ended at the end. Raises `FailureError` when it does not start."""
    os.environ.update(_QUIET | _INWARD)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Not below CIFER_HOME: the path of a socket may have 107 bytes. Ray lets everybody into the folder it is given; nobody gets into ours.
    with TemporaryDirectory(prefix="cifer-ray-", ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        with _handler_kept():
            runner = _tried(workers, str(Path(folder, "r")))
        stack.push(runner)
        yield runner


def _tried(workers: int, folder: str) -> RayTaskRunner:
    import psutil
    from prefect_ray import RayTaskRunner

    given = {
        "address": "local",  # never one that happens to run here
        "num_cpus": workers,
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": folder,
    }
    for number in range(1, TRIES + 1):
        before = set(psutil.Process().children(recursive=True))
        runner = RayTaskRunner(init_kwargs=given)
        try:
            runner.__enter__()
        except Exception as error:
            last, said = error, str(error).partition("\n")[0]
            _logger.warning("Ray did not start, try %d of %d: %s", number, TRIES, said)
            left = set(psutil.Process().children(recursive=True)) - before
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=LAST_WORDS_SECONDS)
        else:
            return runner
    msg = (
        f"compute.engine=ray cannot be started on this machine, {TRIES} times over: {said} A busy machine needs longer than the 15 s "
        "that Ray gives its own processes: try again later, name a cluster that runs already in compute.address, or set compute.engine=dask"
    )
    raise FailureError(msg) from last


@contextmanager
def _handler_kept() -> Iterator[None]:
    """What this process does on SIGTERM stays, which `ray.init` would replace."""
    here = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, handler)

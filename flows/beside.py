"""What a training does beside its rounds, in a thread of its own: nothing that a round or the record waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

from cifer_tasks.records import RunRef

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cifer-beside")
_under_way: defaultdict[RunRef, list[Future[object]]] = defaultdict(list)


def beside(run: RunRef, work: Callable[[], object]) -> None:
    """Have `work` done for a run, in the context of the caller. Raises what earlier work of the run has raised by now."""
    while (waiting := _under_way[run]) and waiting[0].done():
        waiting.pop(0).result()
    waiting.append(_thread.submit(copy_context().run, work))


def settle(run: RunRef) -> None:
    """Wait for everything that is under way for a run. Raises what it raised, the first of several."""
    found = [future.exception() for future in _under_way.pop(run, [])]
    for error in found:
        if error is not None:
            raise error


def forget(run: RunRef) -> None:
    """Wait for what is under way for a run, whatever comes of it."""
    for future in _under_way.pop(run, []):
        future.exception()

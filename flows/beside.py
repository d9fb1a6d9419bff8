"""What Prefect's server is asked beside a round rather than before or after it: it has time then, and nobody waits for it.

hold(run, work)        make ready what may be done beside the next round
begin_held(run)        do it, in a thread of its own, beside what comes next: a round says when
settle(run)            wait until it is done
forget(run)            let go of what an attempt at the run left behind
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from cifer_tasks.records import RunRef

_aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cifer-beside")
_held: defaultdict[RunRef, list[Callable[[], None]]] = defaultdict(list)
_under_way: defaultdict[RunRef, list[Future[None]]] = defaultdict(list)


def hold(run: RunRef, work: Callable[[], None]) -> None:
    """Make `work` ready; it belongs to the flow run that holds it, wherever it is done."""
    _held[run].append(partial(copy_context().run, work))


def begin_held(run: RunRef) -> None:
    """Do what is ready beside what comes next. Raises what went wrong with what was done before."""
    settle(run)
    _under_way[run] = [_aside.submit(work) for work in _held.pop(run, [])]


def settle(run: RunRef) -> None:
    """Wait until all is done that was begun. Raises what went wrong with it."""
    for work in _under_way.pop(run, []):
        work.result()


def forget(run: RunRef) -> None:
    """Let go of what an attempt at the run left behind when it was cut short: the flow run it belongs to is over."""
    _held.pop(run, None)
    for work in _under_way.pop(run, []):
        work.exception()

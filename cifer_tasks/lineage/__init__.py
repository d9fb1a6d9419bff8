"""OpenLineage events from Prefect's state changes: which task, in which flow, made which bytes out of which.

instrument(task), instrument(flow)          once, where they are defined
report_elsewhere(task, id, parameters)       where a task is handed to a process elsewhere, which reports nothing
flows_around(), site_steps(log, ...)        where a site's steps run in a process of their own
log_of(run).drain(recorded)                 in the task that mirrors events to the ledger
close_log(run)                              when the process is done with the run
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifer_tasks.lineage.hooks import close_log, flows_around, instrument, log_of, open_log, report_elsewhere, site_steps
    from cifer_tasks.lineage.log import LineageBatch, LineageLog

__all__ = [
    "LineageBatch",
    "LineageLog",
    "close_log",
    "flows_around",
    "instrument",
    "log_of",
    "open_log",
    "report_elsewhere",
    "site_steps",
]


def __getattr__(name: str) -> Any:
    """A public name, from the module that has it (PEP 562): what only writes events does not import Prefect."""
    if name in __all__:
        return getattr(import_module(f"cifer_tasks.lineage.{'log' if name.startswith('Lineage') else 'hooks'}"), name)
    raise AttributeError(f"module 'cifer_tasks.lineage' has no attribute {name!r}")

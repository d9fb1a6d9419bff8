"""OpenLineage events from Prefect's state changes: which task, in which flow, made which bytes out of which.

instrument(task), instrument(flow)          once, where they are defined
log = log_of(run); batch = log.drain()      in the task that mirrors events to the ledger,
log.acknowledge(batch)                      once the ledger holds them
close_log(run)                              when the process is done with the run
"""

from __future__ import annotations

from cifer_tasks.lineage.hooks import close_log, instrument, log_of, open_log
from cifer_tasks.lineage.log import LineageBatch, LineageLog

__all__ = ["LineageBatch", "LineageLog", "close_log", "instrument", "log_of", "open_log"]

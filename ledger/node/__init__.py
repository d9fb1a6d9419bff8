"""One validator around the consensus core: `mempool`, `validator` (the host of one core), `cluster` (several, on a virtual clock).

Neither threads nor sockets nor clocks are here: a validator is fed and answers with effects, so that the embedded network and a
networked one run the same code.
"""

from __future__ import annotations

from ledger.node.cluster import Cluster
from ledger.node.mempool import Mempool
from ledger.node.validator import ValidatorNode

__all__ = ["Cluster", "Mempool", "ValidatorNode"]

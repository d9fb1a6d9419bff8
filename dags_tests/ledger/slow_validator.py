"""A validator on a slow disk, for `chaos.py`: every durable step takes a while longer than it would.

    python dags_tests/ledger/slow_validator.py FOLDER

The delay is in the store's `write`, before it returns: as when `fsync` waits for a disk. Nothing in the package has such a switch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from random import Random

from ledger.node.__main__ import main
from ledger.storage import SqliteStore, Write

SECONDS = (0.05, 0.4)


def slow_down(random: Random) -> None:
    """From now on, writing to any SQLite store of this process takes so much longer."""
    write = SqliteStore.write

    def slowly(store: SqliteStore, entries: Sequence[Write]) -> None:
        write(store, entries)
        time.sleep(random.uniform(*SECONDS))

    SqliteStore.write = slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    slow_down(Random(1))
    raise SystemExit(main(sys.argv[1:]))

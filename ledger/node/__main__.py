"""Run one validator in the foreground: ``python -m ledger.node FOLDER``. SIGTERM and SIGINT stop it. Exit status 1 when it cannot go on."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import signal
import sys
from pathlib import Path

from ledger.errors import LedgerError
from ledger.node.folder import read_validator
from ledger.node.server import ValidatorServer

SELDOM = (50_000, 20, 20)
"""For `gc.set_threshold`."""


async def run(folder: Path) -> None:
    """Serve until a signal comes. Raises `LedgerError`."""
    # Nearly all that a validator makes is records without cycles, which reference counting frees: look for cycles seldom.
    gc.set_threshold(*SELDOM)
    server = ValidatorServer(read_validator(folder))
    gc.freeze()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve()


def main(arguments: list[str]) -> int:
    """The command."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ledger.node FOLDER\n")
        return 2
    faulthandler.register(signal.SIGUSR1)  # where it is, on standard error: for one that does not answer
    try:
        asyncio.run(run(Path(arguments[0])))
    except LedgerError as error:
        sys.stderr.write(f"cifer: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

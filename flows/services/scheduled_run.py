"""The process of one scheduled training, as the worker starts it: ``python -P -m flows.services.scheduled_run``.

It is Prefect's own engine for the flow run in its environment, and ends with the service that started it, however that one ends: a
training whose service is gone would be in the way of the next service, which takes the same training up again.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading

import psutil


def main() -> None:
    """Run the flow run; returns when it has ended."""
    threading.Thread(target=_end_with, args=(psutil.Process(os.getppid()),), daemon=True).start()
    runpy.run_module("prefect.engine", run_name="__main__")


def _end_with(service: psutil.Process) -> None:
    """Wait for the service's end; then end at once, so that nothing is reported of a run that will go on."""
    service.wait()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

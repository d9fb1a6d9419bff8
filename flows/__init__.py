"""What happens in which order: the flows, and the `cifer` command that starts them.

`run` is the way in from Python; everything else is behind the `cifer` command.
"""

from __future__ import annotations

from typing import Any


def run(**settings: Any) -> None:
    """Train a scenario given as keyword arguments, one per top-level key of a settings file, and report as `cifer run` does.

    Relative data paths start at the current folder. Exits like the command: 2 for a mistake in the settings, tables or model, 1 when
    the run failed or no candidate passed the gate.
    """
    import sys
    from pathlib import Path

    from cifer_tasks.config import parse
    from flows.cli import plain_errors
    from flows.commands import start

    with plain_errors():
        code = start(parse(settings, where="run()"), Path.cwd())
        if code:
            sys.exit(code)

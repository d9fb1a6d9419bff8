"""`cifer doctor`: what an operator asks before and while runs run."""

from __future__ import annotations

import sys

from flows.cli.base import as_json, cli, command, print_report


@command(cli, "doctor", "cifer doctor\ncifer doctor --json")
@as_json
def doctor_command(as_json: bool) -> None:
    """Check versions, ports, disk, clock, keys, ledger, databases and telemetry. Exit code 1 when something is wrong, and what to do."""
    from flows.doctor import doctor_report

    found, healthy = doctor_report()
    print_report(found, as_json)
    if not healthy:
        sys.exit(1)

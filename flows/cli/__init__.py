"""The `cifer` command: a module per topic. Heavy imports happen inside the commands, so that help appears at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import click

from flows.cli.base import Examples, cli

__all__ = ["Examples", "cli", "main", "plain_errors"]

TOPICS = (
    "access",
    "artifacts",
    "audit",
    "bench",
    "deployments",
    "exports",
    "keys",
    "ledger",
    "lineage",
    "reputation",
    "operations",
    "predict",
    "robustness",
    "services",
    "site",
    "statistics",
    "training",
    "upkeep",
)
"""The modules of this package; importing one adds its commands to `cli`."""

for topic in TOPICS:
    import_module(f"flows.cli.{topic}")


def main() -> None:
    """Entry point: errors meant for a person become one line and an exit code, 2 for usage and 1 for failure."""
    with plain_errors():
        try:
            cli(standalone_mode=False)
        except click.exceptions.Exit as leaving:
            sys.exit(leaving.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            command_path = context.command_path if context else "cifer"
            _fail(f"{error.format_message().rstrip('.')}; see: {command_path} --help", error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", 130)
        except BrokenPipeError:
            sys.exit(0)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn our own errors into lines on standard error and an exit code; anything else is a defect and keeps its traceback."""
    from cifer_tasks.errors import CiferError

    try:
        yield
    except CiferError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        from ledger import LedgerError

        if not isinstance(error, LedgerError):
            raise
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    from cifer_tasks.logs import complain

    complain(message)
    sys.exit(code)

"""What every command is made with: examples in its help, `--json`, one way to print a report, and the group they all belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flows.documents import Report

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
report = click.option("--report", type=click.Path(path_type=Path), metavar="FILE", help="Write the JSON document to FILE as well.")


class Examples(click.Command):
    """A command whose help ends with examples, printed as they are typed."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples below the options."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples.strip().splitlines():
                    formatter.write(f"  {line.strip()}\n")


def command(group: click.Group, name: str, examples: str) -> Callable[[Callable[..., None]], click.Command]:
    """Register a function as `group`'s command `name`."""
    return group.command(name, cls=Examples, examples=examples, context_settings=CONTEXT)


def print_report(found: Report, as_json: bool, report: Path | None = None) -> None:
    """Show a report as text or JSON, and write the JSON to a file when one is named."""
    if report is not None:
        found.write(report)
    click.echo(found.json() if as_json else "\n".join(found.text))


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="cifer")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="CIFER_LOG_FORMAT",
    show_envvar=True,
    help="Logs on standard error as text, or as one JSON object a line.",
)
def cli(log_format: str) -> None:
    """Train one model across sites that may not share data, and leave a record that verifies.

    Start with `cifer run configs/quickstart.yaml`, or `cifer init FOLDER` for a scenario of your own.
    Everything generated is in .cifer/ and mlruns/ below the current folder; CIFER_HOME moves the former.
    """
    if log_format == "json":
        from cifer_tasks import logs

        logs.configure()

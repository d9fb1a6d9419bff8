"""The `cifer` command. Heavy imports happen inside the commands, so that help appears at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="cifer")
def cli() -> None:
    """Train one model across sites that may not share data, and leave a record that verifies.

    Start with `cifer run configs/quickstart.yaml`, or `cifer init FOLDER` for a scenario of your own.
    Everything generated is in .cifer/ and mlruns/ below the current folder; CIFER_HOME moves the former.
    """


@command(
    cli,
    "run",
    """cifer run configs/quickstart.yaml
    cifer run configs/quickstart.yaml --set training.rounds=10 --set encryption.scheme=plain
    cifer run --resume breast-cancer-20260131-120000""",
)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@click.option("--resume", metavar="RUN", help="Take an interrupted run up again at the first step not on the ledger.")
@report
@as_json
def run_command(config: Path | None, overrides: tuple[str, ...], resume: str | None, report: Path | None, as_json: bool) -> None:
    """Train the scenario in CONFIG across its sites, in this process."""
    if (config is None) == (resume is None):
        raise click.UsageError("give either CONFIG or --resume RUN")
    if resume is not None and overrides:
        raise click.UsageError("--set cannot change a run that has begun; start a new one with CONFIG")
    from cifer_tasks.config import load
    from flows import commands

    if config is None:
        sys.exit(commands.resume(str(resume), report=report, as_json=as_json))
    sys.exit(commands.start(load(config, overrides), config.resolve().parent, report=report, as_json=as_json))


@command(cli, "runs", "cifer runs\ncifer runs --json")
@as_json
def runs_command(as_json: bool) -> None:
    """List the runs of this folder and how far each is."""
    from flows.commands import runs

    runs(as_json=as_json)


@command(cli, "prepare", "cifer prepare configs/quickstart.yaml")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one setting; may be repeated.")
@as_json
def prepare_command(config: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Write one table per site and the held-out table, as `cifer run` does first."""
    from flows.commands import prepare

    prepare(config, overrides, as_json=as_json)


@command(cli, "init", "cifer init my-study && cd my-study && cifer run scenario.yaml")
@click.argument("folder", type=click.Path(path_type=Path))
def init_command(folder: Path) -> None:
    """Write a runnable scenario with data and a model to start from. Nothing is downloaded."""
    from flows.scaffold import scaffold

    for line in scaffold(folder):
        click.echo(line)


@command(cli, "up", "cifer up\ncifer up --prefect-port 4300 --mlflow-port 5100")
@click.option("--prefect-port", default=4200, show_default=True, help="Port of the Prefect server and its page.")
@click.option("--mlflow-port", default=5000, show_default=True, help="Port of the MLflow page.")
@as_json
def up_command(prefect_port: int, mlflow_port: int, as_json: bool) -> None:
    """Start the Prefect server and the MLflow page as supervised local processes."""
    from flows.commands import up

    up({"prefect": prefect_port, "mlflow": mlflow_port}, as_json=as_json)


@command(cli, "down", "cifer down")
def down_command() -> None:
    """Stop what `cifer up` started."""
    from flows.commands import down

    down()


@command(cli, "status", "cifer status --json")
@as_json
def status_command(as_json: bool) -> None:
    """Say which services run, where, and since when. Exit code 1 when one of them is unhealthy."""
    from flows.commands import status

    sys.exit(status(as_json=as_json))


@cli.group(context_settings=CONTEXT)
def audit() -> None:
    """Ask the ledger where a model came from, or what a run did."""


@command(audit, "model", "cifer audit model breast-cancer@champion\ncifer audit model breast-cancer@2 --json")
@click.argument("model", metavar="NAME@ALIAS|NAME@VERSION")
@report
@as_json
def audit_model(model: str, report: Path | None, as_json: bool) -> None:
    """Sites, datasets, consents, rounds, code and blocks behind a model; every block cited is verified first."""
    from flows.audit import model_report

    _print(model_report(model), as_json, report)


@command(audit, "run", "cifer audit run breast-cancer-20260131-120000")
@click.argument("run")
@report
@as_json
def audit_run(run: str, report: Path | None, as_json: bool) -> None:
    """Everything the ledger holds about a run."""
    from flows.audit import run_report

    _print(run_report(run), as_json, report)


@cli.group(context_settings=CONTEXT)
def consent() -> None:
    """See and change which tables may be used for what."""


@command(consent, "list", "cifer consent list --json")
@as_json
def consent_list(as_json: bool) -> None:
    """Every consent on the ledger: live, or withdrawn with the reason."""
    from flows.consents import list_consents

    _print(list_consents(), as_json)


@command(consent, "withdraw", 'cifer consent withdraw hospital-b breast-cancer --reason "patient request 17"')
@click.argument("site")
@click.argument("purpose")
@click.option("--reason", required=True, help="Why; it goes on the ledger, so it must not name a person.")
@as_json
def consent_withdraw(site: str, purpose: str, reason: str, as_json: bool) -> None:
    """Take back SITE's consent for PURPOSE, a scenario's name: its tables may not be submitted on again."""
    from flows.consents import withdraw

    _print(withdraw(site, purpose, reason), as_json)


@command(consent, "grant", "cifer consent grant hospital-b breast-cancer")
@click.argument("site")
@click.argument("purpose")
@as_json
def consent_grant(site: str, purpose: str, as_json: bool) -> None:
    """Give again a consent that SITE had withdrawn for PURPOSE."""
    from flows.consents import grant

    _print(grant(site, purpose), as_json)


@cli.group(context_settings=CONTEXT)
def ledger() -> None:
    """Look at the ledger itself."""


@command(ledger, "init", "cifer ledger init network --validators 4\ncifer ledger init network --host 10.0.0.5 --port 7400")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--validators", default=4, show_default=True, type=click.IntRange(1, 100), help="How many; (N - 1) // 3 of them may fail.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address they listen on and are reached at.")
@click.option("--port", default=7400, show_default=True, help="The first of 2 N consecutive ports.")
@as_json
def ledger_init(directory: Path, validators: int, host: str, port: int, as_json: bool) -> None:
    """Found a network of validators that are processes: a folder for each below DIRECTORY, and make this folder a client of it."""
    from flows.validators import init_network

    _print(init_network(directory, validators, host, port), as_json)


@command(ledger, "join", "cifer ledger join network/client")
@click.argument("client", type=click.Path(path_type=Path))
@as_json
def ledger_join(client: Path, as_json: bool) -> None:
    """Make this folder a client of the network whose CLIENT folder was handed over."""
    from flows.validators import join

    _print(join(client), as_json)


@command(ledger, "start", "cifer ledger start network\ncifer ledger start network/validator-2")
@click.argument("directory", type=click.Path(path_type=Path))
@as_json
def ledger_start(directory: Path, as_json: bool) -> None:
    """Start the validators in DIRECTORY, or the one whose folder it is."""
    from flows.validators import start

    _print(start(directory), as_json)


@command(ledger, "stop", "cifer ledger stop network")
@click.argument("directory", type=click.Path(path_type=Path))
@as_json
def ledger_stop(directory: Path, as_json: bool) -> None:
    """Stop the validators in DIRECTORY, or the one whose folder it is."""
    from flows.validators import stop

    _print(stop(directory), as_json)


@command(ledger, "restart", "cifer ledger restart network")
@click.argument("directory", type=click.Path(path_type=Path))
@as_json
def ledger_restart(directory: Path, as_json: bool) -> None:
    """Restart the validators in DIRECTORY one after the other; with four or more the network goes on deciding."""
    from flows.validators import restart

    _print(restart(directory), as_json)


@command(ledger, "status", "cifer ledger status --json\ncifer ledger status network")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@as_json
def ledger_status(directory: Path | None, as_json: bool) -> None:
    """Height, state root, validators, and how many may fail; with DIRECTORY, how each validator process in it is."""
    if directory is not None:
        from flows.validators import status

        _print(status(directory), as_json)
        return
    from flows.audit import ledger_status_report

    _print(ledger_status_report(), as_json)


@command(ledger, "blocks", "cifer ledger blocks --last 20")
@click.option("--last", default=10, show_default=True, type=click.IntRange(min=1), help="How many blocks, the newest last.")
@as_json
def ledger_blocks(last: int, as_json: bool) -> None:
    """The newest blocks: height, digest, proposer, transactions."""
    from flows.audit import blocks_report

    _print(blocks_report(last), as_json)


@command(ledger, "tx", "cifer ledger tx 3f9c0a17")
@click.argument("transaction", metavar="ID")
@as_json
def ledger_tx(transaction: str, as_json: bool) -> None:
    """One transaction, its author, its block, and a proof that verifies. ID may be shortened to 8 digits or more."""
    from flows.audit import transaction_report

    _print(transaction_report(transaction), as_json)


@command(ledger, "verify", "cifer ledger verify")
@as_json
def ledger_verify(as_json: bool) -> None:
    """Execute every block again from genesis: signatures, rules, certificates, state roots."""
    from flows.audit import verify_report

    _print(verify_report(), as_json)


@cli.group(context_settings=CONTEXT)
def bench() -> None:
    """Measure what Cifer costs, as ratios within one run."""


@command(bench, "round", "cifer bench round\ncifer bench round --sites 4,16 --json")
@click.option("--sites", default="4,16", show_default=True, metavar="N,N", help="Numbers of sites to measure.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=2), help="Rounds per measurement.")
@click.option(
    "--scheme", default="threshold", show_default=True, type=click.Choice(["threshold", "ckks", "plain"]), help="Encryption of both."
)
@as_json
def bench_round(sites: str, rounds: int, scheme: str, as_json: bool) -> None:
    """What a round costs beside the bare loop with the same training and encryption."""
    from flows.bench import round_costs

    try:
        counts = [int(part) for part in sites.split(",")]
    except ValueError:
        raise click.BadParameter(f"{sites!r} is not a list of numbers such as 4,16", param_hint="--sites") from None
    _print(round_costs(counts, rounds, scheme), as_json)


@command(bench, "encryption", "cifer bench encryption\ncifer bench encryption --params 25e6 --family threshold-16 --json")
@click.option("--params", default="1e6", show_default=True, metavar="N", help="Parameters of the model, e.g. 1e6.")
@click.option("--clients", default=16, show_default=True, type=click.IntRange(2, 1000), help="Sites in the sum.")
@click.option(
    "--family", "families", multiple=True, metavar="NAME", help="Measure only this family; may be repeated. CKKS needs 1 GB a site at 25e6."
)
@as_json
def bench_encryption(params: str, clients: int, families: tuple[str, ...], as_json: bool) -> None:
    """Encrypt, add and open with every scheme and with NVFlare's default preset: speed, bytes, memory, error."""
    from flows.bench_encryption import FAMILIES, encryption_costs

    try:
        parameters = int(float(params))
    except (ValueError, OverflowError):
        parameters = 0
    if parameters < 1:
        raise click.BadParameter(f"{params!r} is not a number of parameters such as 1e6", param_hint="--params")
    if unknown := set(families) - set(FAMILIES):
        raise click.BadParameter(f"{sorted(unknown)[0]!r} is not one of {', '.join(FAMILIES)}", param_hint="--family")
    _print(encryption_costs(parameters, clients, families or FAMILIES), as_json)


def _print(found: Report, as_json: bool, report: Path | None = None) -> None:
    """Show a report as text or JSON, and write the JSON to a file when one is named."""
    if report is not None:
        found.write(report)
    click.echo(found.json() if as_json else "\n".join(found.text))


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
            click.echo("cifer: interrupted", err=True)
            sys.exit(130)
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
    for line in message.splitlines():
        click.echo(f"cifer: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()

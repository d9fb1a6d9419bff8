"""The bodies of `cifer run`, `runs`, `prepare`, `up`, `down` and `status`: what is printed, and which exit code."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cifer_tasks import logs
from cifer_tasks.config import Settings, load
from cifer_tasks.errors import FailureError
from cifer_tasks.records import RegisteredModel, RunRef, to_plain
from cifer_tasks.workspace import Workspace, home_folder
from flows.documents import Report
from ledger import LedgerError, State
from ledger.backends.network import GENESIS_FILE
from ledger.state.entries import Run

AWAITS = "for approval"
"""How a run stands whose model somebody has to approve."""


def start(settings: Settings, base: Path, *, report: Path | None = None, as_json: bool = False) -> int:
    """Train a new run of a scenario whose relative data paths start at `base`, and report. Returns the exit code, as `follow` does."""
    from flows.launch import new_run

    return follow(lambda: new_run(settings, base), report=report, as_json=as_json)


def resume(run: str, *, report: Path | None = None, as_json: bool = False) -> int:
    """Take an interrupted run up again, and report. Returns the exit code, as `follow` does. Raises `UsageError` when there is none."""
    ref = RunRef(str(home_folder()), run)
    _ = Workspace.of(ref)  # an unknown run is refused before anything is started
    standing = _standing(ref)
    if standing is not None and standing.status == "aborted":
        msg = f"{run} was aborted: {standing.reason or 'no reason given'}; start a new run with: cifer run CONFIG"
        raise FailureError(msg)
    return follow(lambda: ref, report=report, as_json=as_json)


def follow(choose: Callable[[], RunRef], *, report: Path | None, as_json: bool) -> int:
    """Train the run that `choose` gives, showing its rounds. Returns 0, 1 when it failed or published no model, 130 on Ctrl-C.

    Raises what `main` knows to show: mistakes in what was asked for.
    """
    from flows.console import RunView, closing_lines
    from flows.launch import engine, train

    ref: RunRef | None = None
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with RunView(quiet=as_json or logs.wanted()) as view:
            view.note("starting")
            with engine(home_folder()):
                ref = choose()
                workspace = Workspace.of(ref)
                settings = workspace.settings
                view.begin(settings.training.rounds)
                view.say(f"Run {ref.run}: {_sites(workspace)} sites, {settings.encryption.scheme} encryption")
                model = train(ref, [view])
                lines = closing_lines(workspace, view)
                found = Report(_document(workspace, view), ())
        if report is not None:
            found.write(report)
        if as_json:
            click.echo(found.json())
        view.say(*lines)
        return 0 if isinstance(model, RegisteredModel) else 1
    except KeyboardInterrupt:
        if not logs.wanted():
            click.echo("", err=True)  # ends the line on which the terminal shows ^C
        logs.complain(_interrupted(ref))
        return 130
    except (FailureError, LedgerError) as error:
        logs.complain(str(error))
        if ref is not None and _resumable(ref):
            logs.complain(f"take it up again with: cifer run --resume {ref.run}")
        return 1


def _sites(workspace: Workspace) -> int:
    """How many sites are asked to take part; tables that only sites have are prepared in the run itself."""
    settings = workspace.settings
    asked = settings.data.files if settings.execution == "sites" and settings.data.files else workspace.scenario.datasets
    return len(asked)


def _interrupted(ref: RunRef | None) -> str:
    if ref is None:
        return "interrupted before anything was recorded"
    return f"interrupted; everything it started is stopped. Take it up again with: cifer run --resume {ref.run}"


def _resumable(ref: RunRef) -> bool:
    """Whether taking the run up again can help: its end is not on the ledger, and the ledger can be read."""
    try:
        standing = _standing(ref)
    except LedgerError:
        return False
    return standing is None or standing.status == "open"


def _standing(ref: RunRef) -> Run | None:
    """The run as the ledger knows it; None before it is declared. Raises the ledger's own errors."""
    from flows.audit import open_record

    if not (Path(ref.home) / "ledger" / GENESIS_FILE).exists():
        return None
    with open_record() as ledger:
        return ledger.state().run(ref.run)


def _document(workspace: Workspace, view: Any) -> dict[str, Any]:
    """The machine-readable result of a run."""
    return {
        "run": workspace.ref.run,
        "rounds": to_plain(view.results),
        "comparison": to_plain(view.comparison),
        "model": to_plain(view.model),
        "awaiting": to_plain(view.awaiting),
        "holdout_rows": workspace.scenario.holdout.rows,
    }


def runs(*, as_json: bool) -> None:
    """List run folders and their standing on the ledger."""
    from flows.audit import open_record

    home = home_folder()
    names = sorted(folder.name for folder in (home / "runs").glob("*") if (folder / "run.json").exists())
    rows: list[dict[str, Any]] = []
    if (home / "ledger").exists():
        with open_record() as ledger:
            state = ledger.state()
            for name in names:
                found = state.run(name)
                status = standing_of(state, found) if found else "not declared"
                rows.append(
                    {"run": name, "status": status, "rounds": found.rounds_committed if found else 0, "of": found.rounds if found else 0}
                )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo(f"No runs under {home}. Start one with: cifer run configs/quickstart.yaml")
    for row in () if as_json else rows:
        hint = f"   cifer run --resume {row['run']}" if row["status"] in {"open", "not declared"} else ""
        hint = f"   cifer approve {row['run']}" if row["status"] == AWAITS else hint
        click.echo(f"{row['run']:<44} {row['status']:<13} round {row['rounds']} of {row['of']}{hint}")


def standing_of(state: State, run: Run) -> str:
    """``open``, ``completed`` or ``aborted`` as the ledger says, or that an open run only lacks somebody's approval."""
    trained = run.status == "open" and run.rounds_committed == run.rounds
    awaits = trained and state.approval_required(run.run) is not None and state.approval(run.run, run.current_model) is None
    return AWAITS if awaits else run.status


def prepare(config: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Write the tables of a scenario and list them."""
    from cifer_tasks import data

    settings = load(config, overrides)
    scenario = data.prepare(settings, config.resolve().parent, home_folder())
    if as_json:
        click.echo(json.dumps(to_plain(scenario), indent=2, sort_keys=True))
        return
    for dataset in (*scenario.datasets, scenario.holdout):
        click.echo(f"{dataset.site:<20} {dataset.rows:>7} rows  sha256 {dataset.sha256[:16]}  {dataset.dvc_hash}  {dataset.path}")


def up(ports: Mapping[str, int], *, open_artifacts: bool, as_json: bool) -> None:
    """Start the services and say where they are."""
    from flows import services

    everywhere = {"artifacts"} if open_artifacts else set[str]()
    started = services.up(home_folder(), ports, everywhere=everywhere, progress=lambda text: click.echo(text, err=True))
    _show_services(started, as_json=as_json)


def down() -> None:
    """Stop the services."""
    from flows import services

    stopped = services.down(home_folder())
    click.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def status(*, as_json: bool) -> int:
    """Show the services; returns 1 when one that should run does not answer."""
    from flows import services

    found = services.status(home_folder())
    _show_services(found, as_json=as_json)
    return 1 if any(service.state == "unhealthy" for service in found) else 0


def _show_services(found: Sequence[Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(service) for service in found], indent=2, default=str))
        return
    for service in found:
        click.echo(f"{service.name:<10} {service.state:<10} {service.url}")
    sys.stdout.flush()

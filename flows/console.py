"""What a person sees of a run: a row per round as it ends, the step under way, and ten lines at the end."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from cifer_tasks import logs
from cifer_tasks.records import Awaiting, Comparison, Enrolment, Measured, RegisteredModel, RoundResult
from cifer_tasks.sampling import SUSPENDED
from cifer_tasks.workspace import LedgerAway, Progress, SiteFailed, SiteJoined, StepStarted, Workspace

COLUMNS = (("round", 5), ("accuracy", 9), ("loss", 8), ("sites", 6), ("update bytes", 13), ("block", 7), ("seconds", 8))


class RunView:
    """Follows one run on the terminal. Use as a context manager; call it with each `Progress`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr if quiet else sys.stdout, quiet=quiet, highlight=False, soft_wrap=True)
        self.rounds = 0
        self.results: list[RoundResult] = []
        self.comparison: Comparison | None = None
        self.model: RegisteredModel | None = None
        self.awaiting: Awaiting | None = None
        self._status = self.console.status("starting")
        self._since: float | None = None
        self._header_shown = False
        self._told: set[tuple[int, str]] = set()

    def __enter__(self) -> RunView:
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._status.stop()

    def begin(self, rounds: int) -> None:
        """Learn how many rounds there will be."""
        self.rounds = rounds

    def say(self, *lines: str) -> None:
        """Print lines of rich markup."""
        for line in lines:
            self.console.print(line)

    def note(self, text: str) -> None:
        """Say what is going on outside the rounds."""
        self._status.update(text)

    def __call__(self, progress: Progress) -> None:
        """Show one piece of progress."""
        match progress:
            case StepStarted(step, number, site):
                if step == "open_round":
                    self._since = time.monotonic()
                place = f" {site}" if site else ""
                self.note(f"round {number} of {self.rounds}: {step}{place}" if number else step)
            case LedgerAway(step, left):
                self.note(f"{step}: waiting for the ledger, for {left:.0f} s more")
            case Enrolment(_, left_out):
                for site, reason in left_out:
                    self.console.print(f"[yellow]left out of the run[/]  {site}: {escape(reason)}")
            case SiteFailed(number, site, detail):
                self._told.add((number, site))
                self.console.print(f"[yellow]left out[/]  {escape(detail)}")
            case SiteJoined(number, site):
                self.console.print(f"joins  {site}, from round {number} on")
            case RoundResult():
                self._row(progress)
            case Comparison():
                self.comparison = progress
            case Awaiting():
                self.awaiting = progress
            case RegisteredModel():
                self.model = progress

    def _row(self, result: RoundResult) -> None:
        if not self._header_shown:
            self._header_shown = True
            self.console.print("[bold]" + " ".join(f"{name:>{width}}" for name, width in COLUMNS) + "[/]")
        seconds = "-" if self._since is None else f"{time.monotonic() - self._since:.2f}"  # of a round that ended before a resume
        asked = len(result.sites) + len(result.excluded)
        cells = (
            str(result.round),
            _number(result.evaluation.metrics, "accuracy"),
            _number(result.evaluation.metrics, "loss"),
            f"{len(result.sites)}/{asked}",
            f"{result.update_bytes:,}",
            str(result.committed.height),
            seconds,
        )
        verdict = "" if result.accepted else f"  [yellow]rejected: {escape(result.reason)}[/]"
        self.console.print(" ".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True)) + verdict)
        for item in result.excluded:
            if (result.round, item.site) in self._told:
                continue
            verb = "skipped" if item.step == SUSPENDED else "left out"
            self.console.print(f"      [yellow]{verb}[/]  {item.site}, {item.step}: {escape(item.reason)}")
        self.results.append(result)


def log_progress(progress: Progress) -> None:
    """What `RunView` shows, as lines of a log; steps log themselves. What is for the person at the terminal alone stays out."""
    match progress:
        case LedgerAway(step, left):
            logs.said(logging.WARNING, "waiting for the ledger", step=step, seconds_left=round(left))
        case Enrolment(sites, left_out):
            logs.said(logging.INFO, "sites enrolled", sites=list(sites), left_out=dict(left_out))
        case SiteFailed(number, site, _):
            logs.said(logging.WARNING, "site failed", round=number, site=site)
        case SiteJoined(number, site):
            logs.said(logging.INFO, "site joined", round=number, site=site)
        case RoundResult():
            fields = {
                "round": progress.round,
                "accepted": progress.accepted,
                "reason": progress.reason,
                "sites": list(progress.sites),
                "left_out": {item.site: f"{item.step}: {item.reason}" for item in progress.excluded},
                "update_bytes": progress.update_bytes,
                "block": progress.committed.height,
                **{item.name: item.value for item in progress.evaluation.metrics},
            }
            logs.said(logging.INFO, "round committed", **fields)
        case Awaiting():
            logs.said(logging.INFO, "model waits for approval", model=progress.model.digest)
        case RegisteredModel():
            said = f"{progress.name}@{progress.version}"
            logs.said(logging.INFO, "model registered", name=said, model=progress.model.digest, block=progress.committed.height)


def closing_lines(workspace: Workspace, view: RunView) -> list[str]:
    """Scores, where the model is, what to do next, and what this mode does not protect against; rich markup."""
    from flows.services import DEFAULT_PORTS

    lines = [""]
    if view.results:
        last = view.results[-1].evaluation
        scores = [f"accuracy [bold]{_number(last.metrics, 'accuracy')}[/]"]
        if view.comparison is not None:
            scores.append(f"central training {_number(view.comparison.central, 'accuracy')}")
            scores.append(f"plain FedAvg {_number(view.comparison.fedavg, 'accuracy')}")
        lines.append(f"Score    {'   '.join(scores)}   on {workspace.scenario.holdout.rows} held-out rows no site trained on")
    model = view.model
    if view.awaiting is not None:
        lines.append(f"Model    sha256 {view.awaiting.model.digest}")
        lines.append(
            f"Waiting  for approval: cifer approve {workspace.ref.run} --reason '...', then cifer run --resume {workspace.ref.run}"
        )
    elif model is None:
        lines.append("Model    none: the gate accepted no candidate, and the initial model stays")
    else:
        lines.append(f"Model    {model.name} version {model.version} @{model.alias}, block {model.committed.height}")
        lines.append(f"         sha256 {model.model.digest}")
        lines.append(f"Audit    cifer audit model {model.name}@{model.alias}")
    lines.append(f"         cifer audit run {workspace.ref.run}   |   cifer ledger verify")
    lines.append(
        f"Look     cifer up, then rounds at http://127.0.0.1:{DEFAULT_PORTS['prefect']} (Prefect)"
        f" and models at http://127.0.0.1:{DEFAULT_PORTS['mlflow']} (MLflow)"
    )
    lines += [f"[yellow]Not protected[/]  {escape(text)}" for text in weaknesses(workspace)]
    return lines


def weaknesses(workspace: Workspace) -> list[str]:
    """What the chosen modes do not protect against, one sentence each."""
    found = [workspace.scheme.warning] if workspace.scheme.warning else []
    if workspace.settings.execution == "local":
        found.append("execution: local: all sites, their tables and their keys are on this machine")
    if workspace.settings.ledger.backend == "embedded":
        found.append("embedded ledger: all validators run in this process: it withstands crashes and bad files, not this machine's owner")
    return found


def _number(metrics: tuple[Measured, ...], name: str) -> str:
    return next((f"{item.value:.4f}" for item in metrics if item.name == name), "-")

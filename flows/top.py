"""`cifer top`: how the runs of this folder stand, from the ledger alone: rounds, sites, height, throughput."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from flows.audit import open_record
from flows.commands import standing_of
from flows.documents import Report
from ledger import RoundView, State
from ledger.state.entries import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

BUSY_SHARE: Final = 0.2
"""Most of the time that looking may take: each look executes the chain again, so on a long chain frames come more slowly."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What one look found. rows: a dictionary per run, open ones first, each the newest first.

    seconds: when, on the monotonic clock.  took_seconds: how long looking took.
    """

    height: int
    transactions: int
    validators: int
    rows: tuple[dict[str, Any], ...]
    seconds: float
    took_seconds: float


def look(most_runs: int) -> Frame:
    """The ledger as it is now. Raises the ledger's own errors."""
    started = time.monotonic()
    with open_record() as ledger:
        state, status = ledger.state(), ledger.status()
    runs = sorted(state.all(Run), key=lambda run: (run.status == "open", run.origin.height), reverse=True)
    rows = tuple(_row(state, run) for run in runs[:most_runs])
    ended = time.monotonic()
    return Frame(status.height, status.transactions, len(status.validators), rows, ended, ended - started)


def rate(before: Frame | None, now: Frame) -> float | None:
    """Transactions committed a second between two looks; None for the first."""
    if before is None or now.seconds <= before.seconds:
        return None
    return (now.transactions - before.transactions) / (now.seconds - before.seconds)


def report(now: Frame, before: Frame | None = None) -> Report:
    """One frame as a document and as lines."""
    speed = rate(before, now)
    document = {"height": now.height, "transactions": now.transactions, "validators": now.validators, "runs": list(now.rows)}
    head = f"height {now.height}   transactions {now.transactions}   validators {now.validators}"
    lines = [head if speed is None else f"{head}   {speed:.1f} transactions/s", ""]
    lines.append(f"{'run':<44} {'status':<13} {'round':>7}  {'step':<24} {'accuracy':>8}  left out")
    for row in now.rows:
        place = f"{row['round']}/{row['rounds']}"
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.4f}"
        left = ", ".join(row["left_out"])
        lines.append(f"{row['run']:<44} {row['status']:<13} {place:>7}  {row['step']:<24} {accuracy:>8}  {left}".rstrip())
        if row["waiting_for"]:
            lines.append(f"{'':<44} waiting for {', '.join(row['waiting_for'])}")
    return Report(document, tuple(lines if now.rows else [*lines[:1], "no runs yet"]))


def follow(interval_seconds: float, most_runs: int) -> None:
    """Show frame after frame until interrupted."""
    from rich.live import Live

    before: Frame | None = None
    with Live(screen=True, auto_refresh=False) as live:
        while True:
            now = look(most_runs)
            live.update(_shown(report(now, before)), refresh=True)
            before = now
            time.sleep(max(interval_seconds, now.took_seconds * (1 / BUSY_SHARE - 1)))


def _shown(found: Report) -> RenderableType:
    from rich.text import Text

    return Text("\n".join((*found.text, "", "Ctrl-C leaves")), no_wrap=True, overflow="ellipsis")


def _row(state: State, run: Run) -> dict[str, Any]:
    view = state.round(run.run, run.rounds_opened) if run.rounds_opened else None
    sites = sorted(use.site for use in run.places_in(run.rounds_opened))
    done = set() if view is None else {item.site for item in view.submissions} | {item.site for item in view.exclusions}
    gathering = run.status == "open" and view is not None and view.status == "open"
    return {
        "run": run.run,
        "status": standing_of(state, run),
        "round": run.rounds_opened,
        "rounds": run.rounds,
        "step": _step(run, view),
        "accuracy": _accuracy(state, run),
        "left_out": [] if view is None else [item.site for item in view.exclusions],
        "waiting_for": [site for site in sites if site not in done] if gathering else [],
    }


def _step(run: Run, view: RoundView | None) -> str:
    if run.status != "open":
        return "-"
    if view is None:
        return "declared"
    match view.status:
        case "open":
            return f"{len(view.submissions)} of {len(run.places_in(view.round))} submitted"
        case "sealed":
            return f"{len(view.releases)} of {len(view.sealed_sites)} released"
        case _:
            return "committed"


def _accuracy(state: State, run: Run) -> float | None:
    """Of the last committed round's candidate; None when there is none, or it was not measured."""
    last = state.round(run.run, run.rounds_committed) if run.rounds_committed else None
    if last is None or last.outcome is None:
        return None
    return next((item.millionths / 1_000_000 for item in last.outcome.metrics if item.name == "accuracy"), None)

"""What an operator finds in the Prefect UI: how healthy a round is at a glance, tables of sites and rounds, validation results, and where
ledger and MLflow say the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from cifer_tasks.aggregation.rules import WEIGHT_ONE
from cifer_tasks.data.validation import report_markdown
from cifer_tasks.records import Awaiting, Exclusion, RegisteredModel, RoundResult, RunRef, Submission
from cifer_tasks.sampling import SUSPENDED
from cifer_tasks.workspace import Workspace
from flows.beside import begin_held, hold, settle
from flows.health import health_markdown
from flows.reputation import markdown
from flows.services import DEFAULT_PORTS

MLFLOW = f"http://127.0.0.1:{DEFAULT_PORTS['mlflow']}"
PORTAL = f"http://127.0.0.1:{DEFAULT_PORTS['portal']}"


def hold_round(run: RunRef, result: RoundResult, outcomes: Sequence[Submission | Exclusion]) -> None:
    """Make the page of a round ready to be published: its sites as a table, and their reputations, each with its history under one key.

    It waits until the next round has begun: the server has that to do first, and the round would wait for it.
    """
    hold(run, lambda: _publish_round(run, result, outcomes))


def publish_rest(run: RunRef) -> None:
    """Publish what is ready, and wait until it is there. Raises what went wrong with it."""
    begin_held(run)
    settle(run)


def _publish_round(run: RunRef, result: RoundResult, outcomes: Sequence[Submission | Exclusion]) -> None:
    create_table_artifact(
        [{**_site_row(outcome, result.sites), **_weight_row(outcome, result)} for outcome in outcomes],
        key=_key(run, "sites"),
        description=f"Round {result.round}: {_verdict(result)}. {_where(run, result)}",
    )
    if result.round == 1:
        _publish_validation(run)
    record = Workspace.of(run).record
    create_markdown_artifact(
        health_markdown(record.results()[: result.round], len(record.sites_in(result.round))),
        key=_key(run, "health"),
        description=f"Round {result.round}: {_verdict(result)}. {_where(run, result)}",
    )
    create_markdown_artifact(
        markdown(record.state, record.sites), key=_key(run, "reputation"), description=f"Reputations after round {result.round}"
    )


def _publish_validation(run: RunRef) -> None:
    """What each site's Great Expectations suite found, rendered here: the library's own page loads scripts from elsewhere."""
    found = Workspace.of(run).validations()
    create_markdown_artifact(report_markdown(found), key=_key(run, "validation"))


def publish_training(run: RunRef, results: Sequence[RoundResult], model: RegisteredModel | Awaiting | None) -> None:
    """The metrics over rounds, and where the model is."""
    create_table_artifact([_round_row(result) for result in results], key=_key(run, "rounds"), description=_model_text(run, model))


def _site_row(outcome: Submission | Exclusion, sealed: Sequence[str]) -> dict[str, str | int]:
    match outcome:
        case Submission(site, ciphertext, rows, committed):
            return {
                "site": site,
                "outcome": "submitted" if site in sealed else "submitted, left out at the seal",
                "rows": rows,
                "bytes": ciphertext.size_bytes,
                "block": committed.height,
                "reason": "",
            }
        case Exclusion(site, step, reason, committed):
            said = f"skipped: {step}" if step == SUSPENDED else f"left out at {step}"
            return {"site": site, "outcome": said, "rows": 0, "bytes": 0, "block": committed.height, "reason": reason}


def _weight_row(outcome: Submission | Exclusion, result: RoundResult) -> dict[str, str | float]:
    """What the round's rule made of a site's submission, where it weighs them."""
    found = next((item for item in result.weights if item.site == outcome.site), None)
    return {} if found is None else {"weight": found.weight / WEIGHT_ONE, "score": found.score / 1000, "reason": found.reason}


def _round_row(result: RoundResult) -> dict[str, str | int | float]:
    metrics = {item.name: round(item.value, 6) for item in result.evaluation.metrics}
    return {
        "round": result.round,
        **metrics,
        "sites": len(result.sites),
        "left out": len(result.excluded),
        "update bytes": result.update_bytes,
        "block": result.committed.height,
        "verdict": _verdict(result),
    }


def _verdict(result: RoundResult) -> str:
    return "accepted" if result.accepted else f"rejected: {result.reason}"


def _where(run: RunRef, result: RoundResult) -> str:
    workspace = Workspace.of(run)
    return (
        f"Block {result.committed.height}: `cifer ledger tx {result.committed.transaction[:16]}`. "
        f"[Portal]({PORTAL}/runs/{run.run}/rounds/{result.round}), [MLflow]({workspace.tracker.run_url(MLFLOW)}) (`cifer up` serves both)."
    )


def _model_text(run: RunRef, model: RegisteredModel | Awaiting | None) -> str:
    workspace = Workspace.of(run)
    if model is None:
        return "The gate accepted no candidate."
    if isinstance(model, Awaiting):
        return f"Model sha256 `{model.model.digest}` waits for approval: `cifer approve {run.run} --reason ...`."
    return (
        f"{model.name} version {model.version} @{model.alias}, sha256 `{model.model.digest}`, block {model.committed.height}. "
        f"`cifer audit model {model.name}@{model.alias}`. [Portal]({PORTAL}/models/{model.name}/{model.version}), "
        f"[MLflow]({workspace.tracker.run_url(MLFLOW)}) (`cifer up` serves both)."
    )


def _key(run: RunRef, what: str) -> str:
    """Prefect allows lower-case letters, digits and dashes in artifact keys."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run.run}-{what}")

"""The pages of a run and of a round: numbers, plots, who took part."""

from __future__ import annotations

from typing import Any

from flows.access import Right
from flows.portal import charts
from flows.portal.asked import Asked
from ledger import NotOnRecordError, State
from ledger.provenance import RoundHistory, RunHistory, run_history, to_plain
from ledger.state.entries import Judgement, Run
from ledger.state.reputation import NORMAL_FROM, ONE, TRUSTED_FROM

Context = dict[str, Any]


def runs_of(state: State) -> list[Context]:
    """Every run, the latest first."""
    found = sorted(state.all(Run), key=lambda run: -run.origin.height)
    return [
        {
            "run": run.run,
            "purpose": run.purpose,
            "status": run.status,
            "committed": run.rounds_committed,
            "rounds": run.rounds,
            "sites": len(run.places),
            "scheme": run.scheme,
            "height": run.origin.height,
        }
        for run in found
    ]


def run_page(asked: Asked) -> Context:
    """A run: what was declared, its rounds and their plots, and which site took part in which."""
    history = run_history(asked.ledger, asked.words["run"])
    rounds = [_row(asked, item) for item in history.rounds]
    declared = {key: value for key, value in to_plain(history).items() if isinstance(value, str | int) or key in {"opened", "closed"}}
    return {
        "run": declared,
        "sites_count": len(history.sites),
        "rounds": rounds,
        "metrics": sorted({name for row in rounds for name in row["metrics"]}),
        "charts": [*_charts(history), *_reputations(asked, history)],
        "participation": _participation(asked, history),
    }


def round_page(asked: Asked) -> Context:
    """A round: submissions, who was left out and why, the sealed set, the outcome."""
    history = run_history(asked.ledger, asked.words["run"])
    number = asked.number("round", 0)
    if not 1 <= number <= len(history.rounds):
        raise NotOnRecordError(f"run {history.run} has rounds 1 to {len(history.rounds)}, and no round {number}")
    found = history.rounds[number - 1]
    row = _row(asked, found)
    return {
        "run": history.run,
        "round": row,
        "rounds": len(history.rounds),
        "base_model": found.base_model.hex(),
        "public_context": found.public_context.hex(),
        "opened": to_plain(found.opened),
        "sealed": to_plain(found.sealed),
        "outcome": to_plain(found.outcome),
        "submissions": [
            {**to_plain(item), "sealed": item.site in found.sealed_sites} for item in found.submissions if asked.sees(item.site)
        ],
        "exclusions": [to_plain(item) for item in found.exclusions if asked.sees(item.site)],
        "releases": [to_plain(item) for item in found.releases if asked.sees(item.site)],
        "lineage": [to_plain(item) for item in found.lineage],
        "node": f"run/{history.run}/round/{number}",
        "may_open": asked.may(Right.SITES),
    }


def _row(asked: Asked, item: RoundHistory) -> Context:
    outcome = item.outcome
    reason = outcome.reason if outcome else ""
    return {
        "round": item.round,
        "status": item.status if outcome is None else ("accepted" if outcome.accepted else "rejected"),
        "reason": reason if asked.may(Right.SITES) else "",
        "metrics": {metric.name: f"{metric.millionths / 1e6:.4f}" for metric in outcome.metrics} if outcome else {},
        "submitted": len(item.submissions),
        "sealed": len(item.sealed_sites),
        "left_out": len(item.exclusions),
        "update_bytes": sum(submission.size_bytes for submission in item.submissions),
        "height": (outcome.origin if outcome else item.sealed or item.opened).height,
    }


def _charts(history: RunHistory) -> list[Context]:
    """Each metric of the committed rounds, the sites in each sealed set, the bytes of each round's updates."""
    done = [(item, item.outcome) for item in history.rounds if item.outcome is not None]
    names = sorted({metric.name for _, outcome in done for metric in outcome.metrics}, key=lambda name: (name != "accuracy", name))
    made = []
    for name in names:
        points = [(item.round, metric.millionths / 1e6) for item, outcome in done for metric in outcome.metrics if metric.name == name]
        made.append(charts.line(name.replace("_", " ").capitalize(), points))
    if history.rounds:
        sealed = [(item.round, len(item.sealed_sites)) for item in history.rounds]
        size = [(item.round, sum(one.size_bytes for one in item.submissions)) for item in history.rounds]
        made.append(charts.bars(f"Sites in the sealed set, of {len(history.sites)}", sealed, len(history.sites)))
        made.append(charts.bars("Bytes of the updates", size, max(value for _, value in size)))
    return made


def _scores(asked: Asked, run: str) -> dict[str, dict[int, Judgement]]:
    """What each site that may be shown was judged in each round of a run, by name and round."""
    found: dict[str, dict[int, Judgement]] = {}
    for judged in asked.state.all(Judgement):
        if judged.run == run and asked.sees(judged.name):
            found.setdefault(judged.name, {})[judged.round] = judged
    return found


def _reputations(asked: Asked, history: RunHistory) -> list[Context]:
    """Each site's score after every round, between the levels' limits."""
    found = _scores(asked, history.run)
    rounds = sorted({at for judged in found.values() for at in judged})
    if not rounds:
        return []
    series = [(name, [(at, judged[at].score) for at in sorted(judged)]) for name, judged in sorted(found.items())]
    return [charts.scores("Reputation", series, rounds, (0, NORMAL_FROM, TRUSTED_FROM, ONE))]


def _participation(asked: Asked, history: RunHistory) -> list[Context]:
    """A row for each site that may be shown: sealed, submitted only, left out, or nothing, in every round, and its score after it."""
    rows, scores = [], _scores(asked, history.run)
    for site in history.sites:
        if asked.sees(site.site):
            marks, judged = [], scores.get(site.site, {})
            for item in history.rounds:
                left_out = next((one for one in item.exclusions if one.site == site.site), None)
                sent = any(one.site == site.site for one in item.submissions)
                said = "sealed" if site.site in item.sealed_sites else "submitted" if sent else "left out" if left_out else "none"
                marks.append({"round": item.round, "said": said, "reason": left_out.reason if left_out else ""})
                if item.round in judged:
                    marks[-1]["score"] = f"{judged[item.round].score} {judged[item.round].level}"
            rows.append({"site": site.site, "table": site.dataset_name, "rows": site.rows, "marks": marks})
    return rows

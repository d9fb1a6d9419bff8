"""`cifer reputation`: what the ledger makes of each site's conduct, and why; to restore it; to let a validator lead by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import UsageError
from cifer_tasks.network import ADMINISTRATOR, author
from cifer_tasks.workspace import home_folder
from flows.audit import open_record
from flows.consents import writing
from flows.documents import Report
from ledger import SigningKey, State
from ledger.crypto import Domain
from ledger.node.folder import is_validator, read_validator
from ledger.state.entries import SITE, Identity, Judgement, Operator, Reputation
from ledger.state.reputation import ABSENT, GOOD, PROBATION_AFTER, UNMEASURED
from ledger.state.validators import operating
from ledger.state.view import NEW, NEW_SCORE
from ledger.types import OperateValidator, RestoreReputation

CAUSES: Final = {
    "absent": f"submitted nothing and did not say why: {ABSENT} less",
    "left": "was not drawn, was one of several suspects, left itself out or has left the run: nothing changes",
    "late": "its update may still come, in a run that takes late ones: nothing changes",
    "unsealed": "submitted and was not sealed: nothing changes",
    "sealed": "took part in a round that says nothing about single submissions",
    "good": f"submitted what the round's rule took for good: {GOOD} more if the candidate was accepted",
    "poor": "submitted what the round's rule took for poor",
    "suspended": "kept out while unreliable",
    "probation": f"may submit again after {PROBATION_AFTER} rounds out",
    "equivocated": "signed two different things in one place as a validator",
    "restored": "was restored by an administrator",
}
"""What an event of SPEC.md's rules Y7 to Y11 means."""

_BARS: Final = "▁▂▃▄▅▆▇█"


def show(name: str | None) -> Report:
    """Every site's and validator's reputation, or one with all that led to it. Raises `UsageError` for a name without any."""
    with open_record() as ledger:
        state = ledger.state()
    if name is None:
        everybody = rows(state, names(state))
        lines = [_line(item) for item in everybody] or ["no sites yet; the first run of a scenario registers them"]
        return Report(everybody, tuple(lines))
    if name not in names(state):
        msg = f"{name[:80]!r} has no reputation: it is no site, and nothing was judged; `cifer reputation` lists those that have"
        raise UsageError(msg)
    (own,) = rows(state, [name])
    found = {**own, "history": [_step(item) for item in state.judgements(name)]}
    return Report(found, (_line(found), *(_explained(item) for item in found["history"])))


def restore(name: str, reason: str) -> Report:
    """Put somebody unreliable on probation, signed by this machine's administrator. Raises the ledger's refusals, rules Y2 to Y4."""
    with writing(home_folder()) as (ledger, keys):
        receipt = author(ADMINISTRATOR, ledger, keys).send(RestoreReputation(name, reason))
        (found,) = rows(ledger.state(), [name])
    return Report({**found, "height": receipt.height}, (f"{_line(found)}   restored in block {receipt.height}",))


def answer_for(site: str, validator: str) -> Report:
    """Let a site's reputation decide how often a validator leads, by the word of both: rules J10 to J13.

    validator: the name of one whose key is in this folder, or the path of a validator's folder.
    Raises `UsageError` where a key is not here.
    """
    with writing(home_folder()) as (ledger, keys):
        if not keys.has(site, "signing"):
            msg = f"the signing key of {site[:80]!r} is not in {keys.folder}: run this where the site's key is"
            raise UsageError(msg)
        name, key = _validator_key(validator, keys)
        receipt = author(site, ledger, keys).send(OperateValidator(name, key.sign(Domain.OPERATING, operating(ledger.network, site))))
        (found,) = rows(ledger.state(), [site])
    return Report({**found, "height": receipt.height}, (f"{_line(found)}   from block {receipt.height + 2}",))


def _validator_key(validator: str, keys: Keystore) -> tuple[str, SigningKey]:
    if is_validator(Path(validator)):
        folder = read_validator(Path(validator))
        return folder.name, folder.key
    if not keys.has(validator, "signing"):
        msg = f"{validator[:200]!r} is neither a validator's folder nor a validator whose key is in {keys.folder}"
        raise UsageError(msg)
    return validator, keys.signing_key(validator)


def names(state: State) -> tuple[str, ...]:
    """Who has a reputation: every site, and whoever was judged."""
    sites = {identity.name for identity in state.all(Identity) if identity.role == SITE}
    return tuple(sorted(sites | {item.name for item in state.all(Reputation)}))


def rows(state: State, sites: Iterable[str]) -> list[dict[str, Any]]:
    """Reputations, each with its scores over time and its changes of level with their causes."""
    answering: dict[str, list[str]] = {}
    for item in state.all(Operator):  # walks over the whole state: once for all sites
        answering.setdefault(item.site, []).append(item.validator)
    return [_row(state, site, sorted(answering.get(site, ()))) for site in sites]


def _row(state: State, name: str, answers_for: Sequence[str]) -> dict[str, Any]:
    found, steps = state.reputation(name), state.judgements(name)
    before = [NEW, *(step.level for step in steps)]
    return {
        "name": name,
        "score": found.score,
        "level": found.level,
        "rounds": found.rounds,
        "rounds_out": found.out,
        "scores": [NEW_SCORE, *(step.score for step in steps)],
        "answers_for": list(answers_for),
        "transitions": [{"from": level, **_step(step)} for level, step in zip(before, steps, strict=False) if level != step.level],
    }


def chart(scores: Sequence[int], width: int = 40) -> str:
    """The last `width` scores, one bar each, from 0 to 1000."""
    return "".join(_BARS[min(len(_BARS) - 1, score * len(_BARS) // 1000)] for score in scores[-width:])


def markdown(state: State, sites: Iterable[str]) -> str:
    """The reputations of `sites` over their rounds, and how their levels changed, as Prefect renders it."""
    found = rows(state, sites)
    lines = ["| site | score | level | over its rounds |", "|---|---:|---|---|"]
    lines += [f"| {item['name']} | {item['score']} | {item['level']} | `{chart(item['scores'])}` |" for item in found]
    changes = [f"- {item['name']}: {step['from']} → {' '.join(_explained(step).split())}" for item in found for step in item["transitions"]]
    return "\n".join([*lines, "", *changes])


def _step(step: Judgement) -> dict[str, Any]:
    return {
        "run": step.run,
        "round": step.round,
        "event": step.event,
        "cause": CAUSES[step.event],
        "quality": None if step.quality == UNMEASURED else step.quality,
        "score": step.score,
        "level": step.level,
        "height": step.origin.height,
        "transaction": step.origin.transaction.hex(),
    }


def _line(item: dict[str, Any]) -> str:
    validators = f"  answers for {', '.join(item['answers_for'])}" if item["answers_for"] else ""
    return f"{item['name']:<20} {item['score']:>4}  {item['level']:<10} {item['rounds']:>4} rounds  {chart(item['scores'])}{validators}"


def _explained(step: dict[str, Any]) -> str:
    about = f"round {step['round']} of {step['run']}: " if step["run"] else ""
    quality = "" if step["quality"] is None else f" (quality {step['quality']})"
    where = f"block {step['height']}, transaction {step['transaction'][:16]}"
    return f"  {step['score']:>4} {step['level']:<10} {about}{step['cause']}{quality}, {where}"

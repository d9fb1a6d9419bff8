"""Whether a round is healthy, at a glance: a few lines and a picture, as a page that the Prefect UI shows of every round."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cifer_tasks.records import RoundResult
from cifer_tasks.sampling import LATE
from flows.plots import data_uri, rounds_svg


def health_markdown(results: Sequence[RoundResult], sites: int) -> str:
    """The last of these rounds as a table, and all of them as a picture. results: ascending, at least one.  sites: of the run."""
    last = results[-1]
    late = [item.site for item in last.excluded if item.step == LATE]
    failed = [f"{item.site} at {item.step}" for item in last.excluded if item.step != LATE]
    rows = {
        "verdict": "accepted" if last.accepted else f"rejected: {last.reason}",
        "scores": ", ".join(f"{item.name} {item.value:.4f}" for item in last.evaluation.metrics),
        "in the sum": f"{len(last.sites)} of {sites} sites",
        "late": ", ".join(late) or "nobody",
        "left out": ", ".join(failed) or "nobody",
        "update bytes": f"{last.update_bytes:,}",
        "block": str(last.committed.height),
    }
    table = "\n".join(f"| {name} | {_cell(value)} |" for name, value in rows.items())
    return f"| round | {last.round} |\n|---|---|\n{table}\n\n![every round]({data_uri(rounds_svg(results, sites))})\n"


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table: a reason is not markup."""
    return re.sub(r"([\\`*_\[\]<>|&!])", r"\\\1", " ".join(text.split()))

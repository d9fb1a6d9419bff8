"""A run's rounds as one picture: its metrics, the sites in each sum, the bytes they sent. An SVG without script or anything to load."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from cifer_tasks.records import RoundResult
from flows.portal import charts

MOST_POINTS: Final = 200
"""Of more rounds than this so many are drawn, the first and the last among them: every round has a picture of its own in Prefect."""
SHOWN_METRICS: Final = ("accuracy", "loss")
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#333}.t{font-weight:600}.g{stroke:#ddd}.l{fill:none;stroke:#2563eb;stroke-width:2}"
    ".p{fill:#2563eb}.n{fill:#dc2626}"
)


def data_uri(svg: str) -> str:
    """The picture as an address (RFC 2397): it needs no server, and lasts as long as what shows it."""
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"


def rounds_svg(results: Sequence[RoundResult], sites: int) -> str:
    """The picture of these rounds, ascending, at least one. sites: of the run. A round whose candidate was rejected is red."""
    drawn = thinned(results)
    rejected = {result.round for result in drawn if not result.accepted}
    panels = []
    for name in SHOWN_METRICS:
        points = [(result.round, item.value) for result in drawn for item in result.evaluation.metrics if item.name == name]
        if points:
            panels.append(charts.line(f"{name}: {points[-1][1]:.4f}", points))
    in_sum, size = [(result.round, len(result.sites)) for result in drawn], [(result.round, result.update_bytes) for result in drawn]
    panels.append(charts.bars(f"sites in the sum: {in_sum[-1][1]} of {sites}", in_sum, sites))
    panels.append(charts.bars(f"update bytes: {size[-1][1]:,}", size, max(count for _, count in size)))
    wide, high = charts.WIDTH, charts.HEIGHT + 20
    placed = [
        f'<g transform="translate({index % 2 * wide},{index // 2 * high})">{_panel(panel, rejected)}</g>'
        for index, panel in enumerate(panels)
    ]
    box = f"0 0 {2 * wide} {(len(panels) + 1) // 2 * high}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{2 * wide}" role="img">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(placed)}</svg>'
    )


def thinned(results: Sequence[RoundResult]) -> list[RoundResult]:
    """At most `MOST_POINTS` of them, evenly, with the first and the last."""
    if len(results) <= MOST_POINTS:
        return list(results)
    last = len(results) - 1
    return [results[last * step // (MOST_POINTS - 1)] for step in range(MOST_POINTS)]


def _panel(panel: dict[str, Any], rejected: set[int]) -> str:
    parts = [f'<text class="t" x="{panel["left"]}" y="12">{escape(panel["title"])}</text><g transform="translate(0,16)">']
    for tick in panel["ticks"]:
        parts.append(f'<line class="g" x1="{panel["left"]}" x2="{panel["right"]}" y1="{tick["y"]}" y2="{tick["y"]}"/>')
        parts.append(f'<text x="{panel["left"] - 6}" y="{tick["y"] + 4}" text-anchor="end">{tick["label"]}</text>')
    for label in panel["labels"]:
        parts.append(f'<text x="{label["x"]}" y="{panel["bottom"] + 18}" text-anchor="middle">{label["label"]}</text>')
    if panel["kind"] == "line":
        parts.append(f'<polyline class="l" points="{panel["path"]}"/>')
        shown = [mark for mark in panel["marks"] if mark["round"] in rejected or mark is panel["marks"][-1]]
        parts += [f'<circle class="{_kind(mark, rejected)}" cx="{mark["x"]}" cy="{mark["y"]}" r="4"/>' for mark in shown]
    else:
        wide = panel["bar_width"]
        for mark in panel["marks"]:
            parts.append(
                f'<rect class="{_kind(mark, rejected)}" x="{mark["x"]}" y="{mark["y"]}" width="{wide}" height="{mark["height"]}"/>'
            )
    return "".join([*parts, "</g>"])


def _kind(mark: dict[str, Any], rejected: set[int]) -> str:
    return "n" if mark["round"] in rejected else "p"

"""Small plots as SVG values for a template to draw: no script, no style of their own, so that they print and follow the page's colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

WIDTH: Final = 520
HEIGHT: Final = 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 26
_TICKS: Final = 3
_DASHES: Final = 4


def line(title: str, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """A line through (round, value); the vertical axis spans the values, and is widened when they are all the same."""
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    marks = [
        {"x": _x(index, len(points)), "y": _y(value, low, high), "round": at, "value": _short(value)}
        for index, (at, value) in enumerate(points)
    ]
    path = " ".join(f"{mark['x']},{mark['y']}" for mark in marks)
    return {"kind": "line", "title": title, "marks": marks, "path": path, **_axes(low, high, [at for at, _ in points])}


def bars(title: str, points: Sequence[tuple[int, int]], most: int) -> dict[str, Any]:
    """A bar for each (round, count), on an axis from 0 to `most`."""
    top = max(most, 1)
    width = round(min(36.0, (WIDTH - _LEFT - _RIGHT) / len(points) * 0.6), 1)
    marks = []
    for index, (at, value) in enumerate(points):
        y = _y(value, 0, top)
        height = round(HEIGHT - _BOTTOM - y, 1)
        marks.append({"x": round(_x(index, len(points)) - width / 2, 1), "y": y, "height": height, "round": at, "value": _short(value)})
    return {"kind": "bars", "title": title, "marks": marks, "bar_width": width, **_axes(0, top, [at for at, _ in points], whole=True)}


def scores(
    title: str, series: Sequence[tuple[str, Sequence[tuple[int, int]]]], rounds: Sequence[int], levels: Sequence[int]
) -> dict[str, Any]:
    """A line through (round, score from 0 to the highest of `levels`) for each name, drawn apart by dashes and named at their ends.

    rounds: the horizontal axis.  levels: what the vertical axis marks, ascending from 0.
    """
    top, place = levels[-1], {at: index for index, at in enumerate(rounds)}
    drawn = []
    for number, (name, points) in enumerate(series):
        marks = [{"x": _x(place[at], len(rounds)), "y": _y(value, 0, top), "round": at, "value": str(value)} for at, value in points]
        path = " ".join(f"{mark['x']},{mark['y']}" for mark in marks)
        drawn.append({"name": name, "marks": marks, "path": path, "dash": number % _DASHES})
    ticks = [{"y": _y(value, 0, top), "label": str(value)} for value in levels]
    return {"kind": "scores", "title": title, "series": drawn, **_axes(0, top, rounds), "ticks": ticks}


def _axes(low: float, high: float, rounds: Sequence[int], *, whole: bool = False) -> dict[str, Any]:
    step = -(-len(rounds) // 12)
    steps = [low + (high - low) * tick / (_TICKS - 1) for tick in range(_TICKS)]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "right": WIDTH - _RIGHT,
        "bottom": HEIGHT - _BOTTOM,
        "ticks": [{"y": _y(value, low, high), "label": _short(value)} for value in steps if not whole or value == int(value)],
        "labels": [{"x": _x(index, len(rounds)), "label": str(at)} for index, at in enumerate(rounds) if index % step == 0],
    }


def _x(index: int, count: int) -> float:
    return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (index + 0.5) / count, 1)


def _y(value: float, low: float, high: float) -> float:
    return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - (value - low) / (high - low)), 1)


def _short(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:.4f}"

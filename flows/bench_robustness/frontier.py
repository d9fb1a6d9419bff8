"""Attack success against accuracy, where a rule cannot have both: over the clip bound, and in the clear over FLAME's noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from flows.bench_robustness.defences import defences, noisy
from flows.bench_robustness.report import save, success
from flows.bench_robustness.simulation import Outcome
from flows.bench_robustness.worlds import World
from flows.documents import Report

CLIPPED: Final = ("norm_clip", "score_gate", "bygars", "fltrust", "flame")
"""The rules whose clip bound is varied."""
SHARES: Final = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Clip bounds, in those of the data set."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A point of the frontier: a rule, and the norm that every honest site clips to and the rule enforces."""

    rule: str
    clip_norm: float


def settings_of(world: World) -> dict[float, tuple[str, ...]]:
    """The rules that are trained under each clip bound: FLAME's noise is varied at the data set's own."""
    return {world.clip_norm * share: (*CLIPPED, *(noisy() if share == 1.0 else ())) for share in SHARES}


def frontier_report(
    world: World,
    attack: str,
    fraction: float,
    seeds: Sequence[int],
    found: Mapping[Setting, Mapping[bool, Sequence[Outcome]]],
    cpu_seconds: float,
) -> Report:
    """The report on finished trainings. found: of each setting the outcomes under attack and without, one a seed."""
    schemes = {rule.name: rule.scheme for rule in (defences(world) | noisy()).values()}
    points: list[dict[str, Any]] = [
        {
            "rule": setting.rule,
            "scheme": schemes[setting.rule],
            "clip_norm": setting.clip_norm,
            "accuracy_without_attack": (free := fmean(item.accuracy for item in outcomes[False])),
            "accuracy": fmean(item.accuracy for item in outcomes[True]),
            "attack_success": success(attack, outcomes[True], free),
            "success_without_attack": success(attack, outcomes[False], free),
        }
        for setting, outcomes in sorted(found.items(), key=lambda item: (item[0].rule, -item[0].clip_norm))
    ]
    document = {
        "data": world.name,
        "description": world.describe,
        "attack": attack,
        "fraction": fraction,
        "rounds": world.rounds,
        "seeds": list(seeds),
        "cpu_seconds": round(cpu_seconds, 1),
        "points": points,
    }
    return Report(document, tuple(_lines(document)))


def _lines(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{document['description']}; {document['attack']}, {document['fraction']:.0%} of the sites; {document['rounds']} rounds, "
        f"seeds {document['seeds']}; {document['cpu_seconds']:,.0f} CPU seconds",
        f"{'%':<14} {'scheme':<7} {'clip':>8} {'no attack':>10} {'accuracy':>9} {'success':>8}",
    ]
    lines += [
        f"{point['rule']:<14} {point['scheme']:<7} {point['clip_norm']:>8.4g} {100 * point['accuracy_without_attack']:>10.1f} "
        f"{100 * point['accuracy']:>9.1f} {100 * point['attack_success']:>8.1f}"
        for point in document["points"]
    ]
    return lines


def draw_frontier(document: Mapping[str, Any], path: Path) -> None:
    """Success over the accuracy without attack, a line a rule over its clip bounds, and one over FLAME's noise, as SVG or PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.8), layout="constrained")
    axes = figure.subplots()
    own = max(point["clip_norm"] for point in document["points"])
    noise = [point for point in document["points"] if point["rule"].startswith("flame") and point["clip_norm"] == own]
    lines = {rule: [point for point in document["points"] if point["rule"] == rule] for rule in CLIPPED}
    lines = {f"{rule} ({points[0]['scheme']}), clip": points for rule, points in lines.items()} | {"flame (plain), noise": noise}
    for marker, (label, points) in zip("osv^DX", lines.items(), strict=True):
        x, y = ([100 * point[name] for point in points] for name in ("accuracy_without_attack", "attack_success"))
        axes.plot(x, y, marker=marker, markersize=4, linewidth=1, label=label)
        for point, at_x, at_y in zip(points, x, y, strict=True):
            said = f"{point['clip_norm']:.2g}" if label.endswith("clip") else point["rule"].removeprefix("flame").strip() or "0"
            axes.annotate(said, (at_x, at_y), textcoords="offset points", xytext=(3, 3), fontsize=6)
    axes.set_xlabel("accuracy without attack, %", fontsize=8)
    axes.set_ylabel(f"{document['attack']} success, {document['fraction']:.0%} of the sites malicious, %", fontsize=8)
    axes.set_ylim(0, 102)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    axes.set_title(document["description"], fontsize=8)
    save(figure, path)

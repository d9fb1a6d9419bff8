"""What the benchmark found, as one JSON-ready document, as text, and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Final

from cifer_tasks.aggregation.attacks import ATTACKS
from flows.bench_robustness.defences import Defence
from flows.bench_robustness.displacement import Displacement
from flows.bench_robustness.simulation import Outcome
from flows.bench_robustness.worlds import World
from flows.documents import Report

NO_ATTACK: Final = "none"
BASELINE: Final = "mean"
TARGETS: Final = {"without_attack": 0.003, "label_flip_accuracy": 0.01, "label_flip_success": 0.02, "small_site": 0.05, "colluders": 1.0}
"""Points below the attack-free mean; the same at 20% label-flippers, and their success; and how far scaled updates may move the step."""
TARGET_FRACTION: Final = 0.2

Key = tuple[str, str, float]
"""Rule, attack, fraction of the sites."""


def reported(
    world: World,
    seeds: Sequence[int],
    rules: Sequence[Defence],
    outcomes: Mapping[Key, Sequence[Outcome]],
    moved: Sequence[Displacement],
    cpu_seconds: float,
) -> Report:
    """The report on finished trainings: `outcomes` has one `Outcome` per seed.  cpu_seconds: what they took, whenever they ran."""
    honest = outcomes[BASELINE, NO_ATTACK, 0.0]
    free = fmean(item.accuracy for item in honest)
    cells = [_cell(key, found, free) for key, found in outcomes.items()]
    document = {
        "data": world.name,
        "description": world.describe,
        "sites": len(world.sites),
        "sites_per_round": world.asked,
        "rows": sum(len(site) for site in world.sites),
        "held_out_rows": len(world.held_out),
        "parameters": world.parameters,
        "rounds": world.rounds,
        "seeds": list(seeds),
        "schemes": {rule.name: rule.scheme for rule in rules},
        "trainings": sum(map(len, outcomes.values())),
        "cpu_seconds": round(cpu_seconds, 1),
        "attack_free_mean": {
            "accuracy": free,
            "flipped": fmean(item.flipped for item in honest),
            "triggered": fmean(item.triggered for item in honest),
        },
        "cells": cells,
        "displacements": [asdict(item) for item in moved],
        "targets": [_targets(rule, cells, moved, free) for rule in rules],
    }
    return Report(document, tuple(_lines(document)))


def success(attack: str, found: Sequence[Outcome], free: float) -> float:
    """Rows given the flipped label, or triggered; for an attack of no such aim, accuracy lost to `free`, that without attack."""
    match ATTACKS[attack].poison if attack in ATTACKS else "":
        case "flip":
            return fmean(item.flipped for item in found)
        case "trigger":
            return fmean(item.triggered for item in found)
        case _:
            return max(0.0, free - fmean(item.accuracy for item in found))


def _cell(key: Key, found: Sequence[Outcome], free: float) -> dict[str, Any]:
    rule, attack, fraction = key
    accuracy = fmean(item.accuracy for item in found)
    return {
        "rule": rule,
        "attack": attack,
        "fraction": fraction,
        "accuracy": accuracy,
        "accuracy_deviation": pstdev(item.accuracy for item in found),
        "attack_success": success(attack, found, free),
        "refused_rounds": fmean(item.refused for item in found),
        "suspended_malicious": fmean(item.suspended for item in found),
        "suspended_honest": fmean(item.wronged for item in found),
    }


def _targets(rule: Defence, cells: Sequence[Mapping[str, Any]], moved: Sequence[Displacement], free: float) -> dict[str, Any]:
    """What the rule reaches of `TARGETS`; None where this benchmark did not run what the target is about."""

    def found(attack: str, fraction: float) -> Mapping[str, Any] | None:
        return next((cell for cell in cells if (cell["rule"], cell["attack"], cell["fraction"]) == (rule.name, attack, fraction)), None)

    honest, flipped = found(NO_ATTACK, 0.0), found("label_flip", TARGET_FRACTION)
    scaled = next(item for item in moved if item.rule == rule.name)
    values = {
        "without_attack": free - honest["accuracy"] if honest else None,
        "label_flip_accuracy": free - flipped["accuracy"] if flipped else None,
        "label_flip_success": flipped["attack_success"] if flipped else None,
        "small_site": scaled.small_site,
        "colluders": scaled.colluders,
    }
    reached = {name: None if value is None else value <= TARGETS[name] for name, value in values.items()}
    return {"rule": rule.name, "scheme": rule.scheme, "values": values, "reached": reached}


def _lines(document: Mapping[str, Any]) -> list[str]:
    width, free = max(map(len, document["schemes"])) + 1, document["attack_free_mean"]
    cells = {(cell["rule"], cell["attack"], cell["fraction"]): cell for cell in document["cells"]}
    lines = [
        f"{document['description']}; {document['parameters']:,} parameters, {document['rounds']} rounds, seeds {document['seeds']}",
        f"accuracy/attack success, %. Without attack the mean has {100 * free['accuracy']:.1f}, gives {100 * free['flipped']:.1f} of the "
        f"rows the flipped label and {100 * free['triggered']:.1f} of those with a trigger its label",
    ]
    lines.append(f"{document['trainings']:,} trainings, {document['cpu_seconds']:,.0f} CPU seconds")
    attacks = list(dict.fromkeys(attack for _, attack, _ in cells if attack != NO_ATTACK))
    for fraction in sorted({fraction for _, _, fraction in cells if fraction}):
        lines += ["", f"{fraction:.0%} of the sites malicious"]
        lines.append(f"{'':<{width}} {'scheme':<9} {NO_ATTACK:>5} " + " ".join(f"{attack:>10}" for attack in attacks))
        for rule, scheme in document["schemes"].items():
            row = f"{rule:<{width}} {scheme:<9} {100 * cells[rule, NO_ATTACK, 0.0]['accuracy']:>5.1f} "
            lines.append(row + " ".join(f"{_pair(cells.get((rule, attack, fraction))):>10}" for attack in attacks))
    columns = " ".join(f"{name:>11}" for name in ("no attack", "flip 20%", "success", "small site", "colluders"))
    lines += ["", f"{'targets (* reached)':<{width}} {'scheme':<9} {columns}"]
    for item in document["targets"]:
        marks = " ".join(f"{_mark(item['values'][name], item['reached'][name], name):>11}" for name in TARGETS)
        lines.append(f"{item['rule']:<{width}} {item['scheme']:<9} {marks}")
    return lines


def _pair(cell: Mapping[str, Any] | None) -> str:
    return "-" if cell is None else f"{100 * cell['accuracy']:.1f}/{100 * cell['attack_success']:.1f}"


def _mark(value: float | None, reached: bool | None, name: str) -> str:
    if value is None:
        return "-"
    shown = f"{value:.3g}" if name in {"small_site", "colluders"} else f"{100 * (value if name.endswith('success') else -value):+.1f}"
    return shown + ("*" if reached else " ")


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Accuracy of every rule under every attack, a panel per attacker fraction, as SVG or PNG; the same document gives the same bytes."""
    from matplotlib.figure import Figure

    cells = {(cell["rule"], cell["attack"], cell["fraction"]): cell for cell in document["cells"]}
    attacks = list(dict.fromkeys(attack for _, attack, _ in cells if attack != NO_ATTACK)) or [NO_ATTACK]
    fractions = sorted({fraction for _, _, fraction in cells if fraction}) or [0.0]
    rules = list(document["schemes"])
    high = 100 * document["attack_free_mean"]["accuracy"]
    low = min(100 * cell["accuracy"] for cell in cells.values())
    figure = Figure(figsize=(max(8.0, 1.5 + len(fractions) * (0.6 + 0.52 * len(attacks))), 1.6 + 0.3 * len(rules)), layout="constrained")
    panels = figure.subplots(1, len(fractions), sharey=True, squeeze=False)[0]
    for panel, fraction in zip(panels, fractions, strict=True):
        values = [[100 * cells[rule, attack, fraction]["accuracy"] for attack in attacks] for rule in rules]
        panel.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                panel.text(
                    column,
                    row,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="black" if value > (low + 2 * high) / 3 else "white",
                )
        panel.set_title(f"{fraction:.0%} malicious", fontsize=9)
        panel.set_xticks(range(len(attacks)), attacks, rotation=60, ha="right", fontsize=7)
        panel.set_yticks(range(len(rules)), [f"{rule} ({document['schemes'][rule]})" for rule in rules], fontsize=7)
    figure.suptitle(f"Accuracy, %; {high:.1f} without attack under the mean.\n{document['description']}", fontsize=9)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure as SVG or PNG, by the path's suffix; the same figure gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if path.suffix == ".png":
        FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})  # type: ignore[no-untyped-call]
        return
    with mpl.rc_context({"svg.hashsalt": "cifer", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]

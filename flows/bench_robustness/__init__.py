"""`cifer bench robustness`: rule x attack x attacker fraction x seed, simulated: accuracy, attack success, and the reach of scaled updates.

`robustness` is the way in; worlds.py has the data, learning.py the training, defences.py the rules, simulation.py the rounds.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import replace
from typing import Any, Final

from cifer_tasks.aggregation.attacks import ATTACKS
from flows.bench_robustness.defences import Defence, defences
from flows.bench_robustness.displacement import displacements
from flows.bench_robustness.report import BASELINE, NO_ATTACK, Key, draw, reported
from flows.bench_robustness.simulation import Cell, Outcome, simulate
from flows.bench_robustness.worlds import World, world
from flows.documents import Report

__all__ = ["ATTACKS", "DEFAULT_FRACTIONS", "DEFAULT_SEEDS", "draw", "robustness", "rule_names"]

DEFAULT_FRACTIONS: Final = (0.1, 0.2, 0.4)
DEFAULT_SEEDS: Final = (1, 2, 3)
_SECONDS_BETWEEN_LOOKS: Final = 0.5

_rounds_done: Any = None
"""In a worker: the counter of finished rounds that it shares with the others."""


def rule_names(data: str) -> tuple[str, ...]:
    """The rules that are compared. Raises `UsageError` for an unknown data set."""
    return tuple(defences(world(data, 1)))


def robustness(
    data: str, rules: Sequence[str], attacks: Sequence[str], fractions: Sequence[float], seeds: Sequence[int], rounds: int | None = None
) -> Report:
    """Simulate everything asked for, beside the plain mean and every rule without attack, in one process per core, showing progress.

    rounds: None for what the data set is usually trained for. Raises `UsageError` as `world` does.
    """
    first = world(data, seeds[0])
    chosen = [name for name in defences(first) if name in rules or name == BASELINE]
    wanted = [(NO_ATTACK, (0.0,)), *((attack, tuple(fraction for fraction in fractions if fraction > 0)) for attack in attacks)]
    works = [(data, seed, attack, shares, chosen, rounds) for (attack, shares), seed in itertools.product(wanted, seeds) if shares]
    found: dict[Key, list[Outcome]] = {}
    for outcomes in _pooled(works, (rounds or first.rounds) * len(works)):
        for key, outcome in outcomes.items():
            found.setdefault(key, []).append(outcome)
    known = defences(first)
    kept: list[Defence] = [known[name] for name in chosen]
    return reported(_shortened(first, rounds), seeds, kept, found, displacements(first, seeds[0], kept))


def _pooled(works: Sequence[tuple[Any, ...]], rounds: int) -> list[dict[Key, Outcome]]:
    """`_work` on each, spread over processes; a bar on standard error counts rounds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    spawn = multiprocessing.get_context("spawn")
    done = spawn.Value("q", 0)
    workers = min(len(works), os.cpu_count() or 1)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
        ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=(done,)) as pool,
    ):
        task = bar.add_task("", total=rounds)
        waiting = ordered = [pool.submit(_work, *work) for work in works]
        while waiting:
            waiting = list(wait(waiting, _SECONDS_BETWEEN_LOOKS).not_done)
            bar.update(task, completed=done.value)
        return [future.result() for future in ordered]


def _begin(done: Any) -> None:
    """One thread a worker: the matrices are small, and there is a worker for every core."""
    global _rounds_done  # noqa: PLW0603 - a worker has no other place for what its pool shares
    import torch
    from threadpoolctl import threadpool_limits

    _rounds_done = done
    torch.set_num_threads(1)
    threadpool_limits(1)


def _work(data: str, seed: int, attack: str, fractions: tuple[float, ...], rules: Sequence[str], rounds: int | None) -> dict[Key, Outcome]:
    """All rules and fractions of one attack and seed."""
    dealt = _shortened(world(data, seed), rounds)
    known = defences(dealt)
    cells = [Cell(known[name], attack, fraction) for name in rules for fraction in fractions]
    outcomes = simulate(dealt, seed, cells, _tick)
    return {(cell.defence.name, cell.attack, cell.fraction): outcome for cell, outcome in zip(cells, outcomes, strict=True)}


def _shortened(dealt: World, rounds: int | None) -> World:
    return dealt if rounds is None else replace(dealt, rounds=rounds)


def _tick() -> None:
    with _rounds_done.get_lock():
        _rounds_done.value += 1

"""`cifer bench robustness`: rule x attack x attacker fraction x seed, simulated: accuracy, attack success, and the reach of scaled updates.

`robustness` and `frontier` are the ways in; worlds.py has the data, learning.py the training, defences.py the rules, simulation.py the
rounds, kept.py what is finished already.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import replace
from typing import Any, Final

from cifer_tasks.aggregation.attacks import ATTACKS
from cifer_tasks.home import home_place
from flows.bench_robustness.defences import defences, noisy
from flows.bench_robustness.displacement import displacements
from flows.bench_robustness.frontier import Setting, draw_frontier, frontier_report, settings_of
from flows.bench_robustness.kept import Finished, Kept, Work
from flows.bench_robustness.report import BASELINE, NO_ATTACK, Key, draw, reported
from flows.bench_robustness.simulation import Cell, Outcome, simulate
from flows.bench_robustness.worlds import World, world
from flows.documents import Report

__all__ = ["ATTACKS", "DEFAULT_FRACTIONS", "DEFAULT_SEEDS", "draw", "draw_frontier", "frontier", "robustness", "rule_names"]

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
    first = _shortened(world(data, seeds[0]), rounds)
    known = defences(first)
    kept = [known[name] for name in known if name in rules or name == BASELINE]
    shares = [fraction for fraction in fractions if fraction > 0]
    wanted = [(NO_ATTACK, 0.0), *itertools.product(attacks, shares)]
    names = tuple(defence.name for defence in kept)
    works = [Work(data, seed, attack, fraction, names, first.rounds) for seed, (attack, fraction) in itertools.product(seeds, wanted)]
    found: dict[Key, list[Outcome]] = {}
    finished = _pooled(works)
    for work in works:
        for name, outcome in zip(names, finished[work].outcomes, strict=True):
            found.setdefault((name, work.attack, work.fraction), []).append(outcome)
    cpu = sum(item.cpu_seconds for item in finished.values())
    return reported(first, seeds, kept, found, displacements(first, seeds[0], kept), cpu)


def frontier(data: str, attack: str, fraction: float, seeds: Sequence[int], rounds: int | None = None) -> Report:
    """What accuracy costs an attack's success: the rules that can trade one for the other, over the clip bound, and FLAME over its noise.

    Each is trained with and without the attack. Raises `UsageError` as `world` does.
    """
    first = _shortened(world(data, seeds[0]), rounds)
    settings = settings_of(first)
    works = {
        (seed, attacked, clip): Work(
            data, seed, attack if attacked else NO_ATTACK, fraction if attacked else 0.0, tuple(rules), first.rounds, clip
        )
        for seed, attacked, (clip, rules) in itertools.product(seeds, (True, False), settings.items())
    }
    finished = _pooled(list(works.values()))
    found: dict[Setting, dict[bool, list[Outcome]]] = {}
    for (_, attacked, clip), work in works.items():
        for rule, outcome in zip(work.rules, finished[work].outcomes, strict=True):
            found.setdefault(Setting(rule, clip), {}).setdefault(attacked, []).append(outcome)
    return frontier_report(first, attack, fraction, seeds, found, sum(item.cpu_seconds for item in finished.values()))


def _pooled(works: Sequence[Work]) -> dict[Work, Finished]:
    """What each comes to, taken from disk or computed in a process per core; a bar on standard error counts rounds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    kept = Kept(home_place() / "bench" / "robustness")
    finished = {work: found for work in works if (found := kept.get(work)) is not None}
    missing = [work for work in works if work not in finished]
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Value("q", 0)
    workers = min(len(missing), os.cpu_count() or 1) or 1
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"), TimeRemainingColumn())
    with (
        Progress(*columns, console=Console(stderr=True), transient=True) as bar,
        ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin, initargs=(done,)) as pool,
    ):
        task = bar.add_task("", total=sum(work.rounds for work in missing))
        waiting = {pool.submit(_compute, work): work for work in missing}
        while waiting:
            for future in wait(waiting, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED).done:
                work = waiting.pop(future)
                finished[work] = future.result()
                kept.put(work, finished[work])
            bar.update(task, completed=done.value)
    return finished


def _begin(done: Any) -> None:
    """One thread a worker: the matrices are small, and there is a worker for every core."""
    global _rounds_done  # noqa: PLW0603 - a worker has no other place for what its pool shares
    import torch
    from threadpoolctl import threadpool_limits

    _rounds_done = done
    torch.set_num_threads(1)
    threadpool_limits(1)


def _compute(work: Work) -> Finished:
    started = time.process_time()
    dealt = _shortened(world(work.data, work.seed), work.rounds)
    dealt = dealt if work.clip_norm is None else replace(dealt, clip_norm=work.clip_norm)
    known = defences(dealt) | noisy()
    outcomes = simulate(dealt, work.seed, [Cell(known[name], work.attack, work.fraction) for name in work.rules], _tick)
    return Finished(tuple(outcomes), time.process_time() - started)


def _shortened(dealt: World, rounds: int | None) -> World:
    return dealt if rounds is None else replace(dealt, rounds=rounds)


def _tick() -> None:
    with _rounds_done.get_lock():
        _rounds_done.value += 1

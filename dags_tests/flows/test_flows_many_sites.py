"""Many simulated sites in one process: sites fused into few tasks, few drawn for a round, and memory that rounds do not add to."""

from __future__ import annotations

import gc
from typing import Any

import psutil

from cifer_tasks.records import RoundResult
from cifer_tasks.workspace import StepStarted

SITES, DRAWN, ROUNDS = 64, 10, 3
MOST_GROWTH_BYTES = 8 * 2**20
"""Between the first round and the last: caches of the libraries and threads still fill by some MiB."""


def test_sixty_four_sites_share_a_process_and_rounds_leave_nothing_behind(trainer: Any) -> None:
    """Ten of 64 are drawn for a round and run in five tasks, in order of site; the ledger names all 64; memory stays where it was."""
    settings = trainer.settings(
        data={"table": "synthetic", "target": "label", "partition": {"sites": SITES, "alpha": 10.0}},
        training__rounds=ROUNDS,
        sites={"fraction": DRAWN / SITES, "minimum": 4},
        gate__margin=1.0,
    )
    ref = trainer.open(settings)
    resident: list[int] = []

    def look(progress: Any) -> None:
        """At the end of each round."""
        if isinstance(progress, RoundResult):
            gc.collect()
            resident.append(psutil.Process().memory_info().rss)

    trainer.train(ref, [look])
    assert len(resident) == ROUNDS
    assert resident[-1] - resident[0] < MOST_GROWTH_BYTES

    found = trainer.history(ref.run)
    fused = [item.round for item in trainer.progress if isinstance(item, StepStarted) and item.step == "prepare_together"]
    for round_ in found.rounds:
        assert len(round_.sealed_sites) == DRAWN and fused.count(round_.round) == DRAWN // 2, "two sites a task"
        assert {item.site for item in round_.exclusions}.isdisjoint(round_.sealed_sites)
        assert len(round_.exclusions) == SITES - DRAWN
    assert len({round_.sealed_sites for round_ in found.rounds}) == ROUNDS, "another ten in each round"

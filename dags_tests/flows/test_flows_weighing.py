"""Real Prefect runs whose rule weighs encrypted updates, or opens them in buckets: attacked, honest, resumed, and lied to."""

from __future__ import annotations

from typing import Any

import pytest

from cifer_tasks.records import RoundResult
SITES = ("east", "north", "south", "west")


def settings_of(lab: Any, scheme: str, rule: str, **changes: Any) -> Any:
    rows = [line.split(",") for line in (lab.folder / "west.csv").read_text().splitlines()[1:]]
    lab.table("south", [(float(age) + 1, dose, pulse, ill) for age, dose, pulse, ill in rows])
    encryption = {"scheme": scheme, "preset": "measuring"}
    return lab.settings(
        data__files={site: f"{site}.csv" for site in SITES}, encryption=encryption, aggregation={"rule": rule, **changes.pop("aggregation", {})}, **changes
    )


def test_x(trainer: Any) -> None:
    """dev"""
    models = {}
    for scheme, rule in (("plain", "mean"), ("plain", "norm_clip"), ("ckks", "norm_clip"), ("ckks", "fltrust"), ("plain", "fltrust"),("ckks","bygars")):
        more = {"aggregation": {"root_fraction": 0.5}} if rule in ("fltrust","bygars") else {}
        ref = trainer.train_all(settings_of(trainer, scheme, rule, **more))
        h = trainer.history(ref.run)
        models[scheme, rule] = h.current_model.hex()[:8]
        print(scheme, rule, models[scheme, rule], h.rounds[1].weighing, [r.weights for r in trainer.progress if isinstance(r, RoundResult)][-1:])
    assert 0

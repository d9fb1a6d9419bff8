"""Real Prefect runs in which a site poisons: the ledger suspends it, the command says why, an administrator lets it back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cifer_tasks.encryption.encoding import Encoding, rounding_seed
from cifer_tasks.workspace import StepStarted
from flows.reputation import chart

SITES = ("east", "north", "south", "west")


def settings_of(lab: Any, rounds: int, **changes: Any) -> Any:
    """Four sites whose updates are compared with what a root set gives."""
    rows = [line.split(",") for line in (lab.folder / "west.csv").read_text().splitlines()[1:]]
    lab.table("south", [(float(age) + 1, dose, pulse, ill) for age, dose, pulse, ill in rows])
    settings: dict[str, Any] = {
        "data__files": {site: f"{site}.csv" for site in SITES},
        "encryption": {"scheme": "plain", "preset": "measuring"},
        "aggregation": {"rule": "fltrust", "root_fraction": 0.5},
        "privacy": {"clip_norm": 0.1},
        "training__rounds": rounds,
        "gate": {"metric": "loss", "higher_is_better": False, "margin": 1e6},
    }
    return lab.settings(**{**settings, **changes})


@contextmanager
def poisoning(site: str, settings: Any) -> Iterator[None]:
    """A dishonest site that submits its update times -3."""
    encode = Encoding.encode_pieces
    its = {rounding_seed(settings.seed, number, site) for number in range(1, 9)}

    def skipping(self: Encoding, update: Any, rows: int, seed: bytes, residual: Any = None) -> Any:
        pieces, norm, clipped = encode(self, update, rows, seed, residual)
        return (piece * (-3 if seed in its else 1) for piece in pieces), norm, clipped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoding, "encode_pieces", skipping)
        yield


def test_a_poisoning_site_is_suspended_explained_and_restored(trainer: Any) -> None:
    """Three rounds: two poisoned submissions, then it is told that it is suspended and until when, and does not train.

    The others' scores rise; the command tells it; restored, it submits.
    """
    settings = settings_of(trainer, 3)
    with poisoning("north", settings):
        run = trainer.train_all(settings).run
    last = trainer.history(run).rounds[-1]
    assert last.sealed_sites == ("east", "south", "west")
    told = "unreliable, at 150 thousandths; it may submit after 20 more committed rounds of its runs, or once an administrator restores it"
    assert [(item.site, item.step, item.reason) for item in last.exclusions] == [("north", "suspended", told)]
    worked = {(item.round, item.site) for item in trainer.progress if isinstance(item, StepStarted) and item.step == "train"}
    assert worked == {(number, site) for number in (1, 2, 3) for site in SITES} - {(3, "north")}

    listed = {item["name"]: item for item in json.loads(trainer.cifer("reputation", "--json").out)}
    assert {name: (item["level"], item["score"]) for name, item in listed.items()} == {
        **dict.fromkeys(("east", "south", "west"), ("normal", 660)),
        "north": ("unreliable", 150),
    }
    told = trainer.cifer("reputation", "north").out
    assert "quality 0" in told and f"round 2 of {run}" in told and "kept out while unreliable" in told

    for arguments, code, complaint in (
        (("east", "--restore", "why not"), 1, "nothing is to be restored"),
        (("nobody",), 2, "has no reputation"),
        (("nobody", "--answers-for", "validator-1"), 2, "is not in"),
        (("east", "--answers-for", "nobody"), 2, "neither a validator's folder"),
        (("--restore", "x"), 2, "need the SITE"),
    ):
        said = trainer.cifer("reputation", *arguments)
        assert said.code == code and complaint in said.err
    assert "answers for validator-1" in trainer.cifer("reputation", "east", "--answers-for", "validator-1").out
    assert "has somebody who answers" in trainer.cifer("reputation", "west", "--answers-for", "validator-1").err
    back = json.loads(trainer.cifer("reputation", "north", "--restore", "its sensor is repaired", "--json").out)
    assert (back["score"], back["level"]) == (300, "initial")
    again = trainer.history(trainer.train_all(settings_of(trainer, 1)).run).rounds[0]
    weights = {item.site: item for item in again.weighing.weights}
    assert again.sealed_sites == SITES and "reputation 300 of 600 thousandths" in weights["north"].reason
    assert json.loads(trainer.cifer("reputation", "north", "--json").out)["history"][-1]["event"] == "good"


def test_a_chart_has_a_bar_for_each_score() -> None:
    """From 0 to 1000 in eight steps, the last ones where there are many."""
    assert chart([0, 124, 125, 999, 1000]) == "▁▁▂██"
    assert len(chart([500] * 100)) == 40

"""The benchmark of whole rounds: both sides train the same model, and their costs are told apart."""

from __future__ import annotations

import json
from typing import Any

from cifer_tasks.config import SMALLEST_COMMITTEE


def test_encrypted_rounds_beside_plain_ones(trainer: Any) -> None:
    """One round of each counts, also with a committee of key holders; both end with one model, and ratios are those of the figures.

    Nothing is left behind."""
    trainer.write(encryption__scheme="threshold", encryption__holders=SMALLEST_COMMITTEE)
    before = trainer.tree()
    said = trainer.cifer("bench", "schemes", trainer.folder / "scenario.yaml", "--rounds", "2", "--repeats", "1", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["rounds"], found["same_model"], list(found["schemes"])) == (1, True, ["plain", "threshold"])
    for name, ratio in found["ratios"].items():
        assert ratio == found["schemes"]["threshold"][name] / found["schemes"]["plain"][name]
    assert trainer.tree() == before


def test_settings_that_do_not_encrypt_have_nothing_to_compare(lab: Any) -> None:
    """Plain settings are a mistake of usage, said in a sentence."""
    said = lab.cifer("bench", "schemes", lab.write())
    assert said.code == 2
    assert "has to encrypt" in said.err

"""Aggregation: from a sealed set of updates to one step of the model. `rules.py` lists the rules; read it first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifer_tasks.aggregation.clear import bucket_update, combined_update
from cifer_tasks.aggregation.mean import mean_update, opened_pieces
from cifer_tasks.aggregation.rules import RULES, Rule, Statistics, Weights, resolve
from cifer_tasks.aggregation.weighing import weighted_update

if TYPE_CHECKING:
    from cifer_tasks.config import Settings

__all__ = [
    "RULES",
    "Rule",
    "Statistics",
    "Weights",
    "bucket_update",
    "combined_update",
    "mean_update",
    "opened_pieces",
    "resolve",
    "rule_for",
    "weighted_update",
]


def rule_for(settings: Settings) -> Rule:
    """The rule that the settings name, with its arguments. Raises `ConfigError`."""
    chosen = settings.aggregation
    return resolve(chosen.rule, chosen.args, settings.encryption.scheme, bucketed=chosen.bucket_size > 0)

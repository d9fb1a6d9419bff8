"""Aggregation: from a sealed set of updates to one step of the model. `rules.py` lists the rules; read it first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifer_tasks.aggregation.clear import combined_update
from cifer_tasks.aggregation.mean import mean_update
from cifer_tasks.aggregation.rules import RULES, Rule, Statistics, Weights, resolve

if TYPE_CHECKING:
    from cifer_tasks.config import Settings

__all__ = ["RULES", "Rule", "Statistics", "Weights", "combined_update", "mean_update", "resolve", "rule_for"]


def rule_for(settings: Settings) -> Rule:
    """The rule that the settings name, with its arguments. Raises `ConfigError`."""
    return resolve(settings.aggregation.rule, settings.aggregation.args, settings.encryption.scheme)

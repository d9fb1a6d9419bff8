"""Aggregation: what is computed from the opened sum of a sealed set."""

from cifer_tasks.aggregation.mean import mean_update

__all__ = ["mean_update"]

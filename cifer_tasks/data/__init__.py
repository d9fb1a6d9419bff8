"""Data: from a bundled table or the sites' own files to one verified table per site.

prepare(settings, base, home) -> Scenario       write the tables (idempotent)
load_scenario(name, home)     -> Scenario       find them again
read_table(dataset, target)   -> Table          read one, after checking its digest
validation.validate(...)      -> Validation     the Great Expectations suite (its own module: its import is heavy)
"""

from __future__ import annotations

from cifer_tasks.data.prepare import load_scenario, prepare
from cifer_tasks.data.tables import Preprocessing, Table, read_preprocessing, read_table

__all__ = ["Preprocessing", "Table", "load_scenario", "prepare", "read_preprocessing", "read_table"]

"""What every Cifer flow is: a Prefect flow that persists nothing and whose runs are reported to OpenLineage."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import prefect

from cifer_tasks.lineage import instrument

P = ParamSpec("P")
R = TypeVar("R")


def flow(name: str, run_name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a flow called `name` whose runs are called `run_name`, formatted with its parameters.

    run_name: None where whoever makes a run names it (`flows.ahead`).
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        made = prefect.flow(name=name, flow_run_name=run_name, persist_result=False, log_prints=False)(function)
        return cast(Callable[P, R], instrument(made))

    return decorate

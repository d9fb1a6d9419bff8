"""`cifer bench statistics`."""

from __future__ import annotations

import click

from flows.cli.base import as_json, command, print_report
from flows.cli.bench import bench


@command(bench, "statistics", "cifer bench statistics\ncifer bench statistics --params 1e5 --sites 10 --json")
@click.option("--params", default=100_000.0, show_default=True, type=click.FloatRange(min=1, max=1e8), help="Parameters of the model.")
@click.option("--sites", default=10, show_default=True, type=click.IntRange(2, 1000), help="Sites in the sum.")
@as_json
def bench_statistics(params: float, sites: int, as_json: bool) -> None:
    """Measure and weigh encrypted updates, beside their plain encrypted mean."""
    from flows.bench_statistics import statistics_costs

    print_report(statistics_costs(int(params), sites), as_json)

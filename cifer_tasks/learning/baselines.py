"""What the federated model is compared with. Slow, obvious and unprotected: also the oracle of the real thing.

Both need every site's table in one place, which is what federated learning is there to avoid.
"""

from __future__ import annotations

import numpy as np

from cifer_tasks.config import Settings
from cifer_tasks.data.tables import Table, read_table
from cifer_tasks.data.validation import validate
from cifer_tasks.errors import TooFewSitesError
from cifer_tasks.learning._determinism import derive_seed
from cifer_tasks.learning.evaluation import evaluate
from cifer_tasks.learning.training import apply_update, fit, initial_model, train
from cifer_tasks.records import Scenario
from cifer_tasks.sampling import drawn


def central(settings: Settings, scenario: Scenario) -> dict[str, float]:
    """Held-out metrics of the same model trained on the pooled tables for rounds * local_epochs epochs."""
    tables = _tables(settings, scenario)
    pooled = Table(
        features=np.concatenate([table.features for table in tables.values()]),
        labels=np.concatenate([table.labels for table in tables.values()]),
        classes=scenario.classes,
    )
    epochs = settings.training.rounds * settings.training.local_epochs
    model, _ = fit(settings, initial_model(settings, scenario), pooled, derive_seed("central", settings.seed), epochs)
    return evaluate(settings, model, scenario)


def plain_fedavg(settings: Settings, scenario: Scenario, rounds: int) -> list[dict[str, float]]:
    """Held-out metrics after each round of FedAvg: w <- w + sum_i n_i delta_i / sum_i n_i, in float64 (McMahan et al. 2017).

    Over the sites that are drawn for the round, as in a real one.
    """
    tables = _tables(settings, scenario)
    model, metrics = initial_model(settings, scenario), []
    for round_number in range(1, rounds + 1):
        asked = drawn([dataset.site for dataset in scenario.datasets], settings.sites.fraction, settings.seed, round_number)
        updates = [train(settings, model, tables[site], site, round_number) for site in asked if site in tables]
        total = sum(update.rows * update.delta.astype(np.float64) for update in updates)
        model = apply_update(model, np.asarray(total) / sum(update.rows for update in updates))
        metrics.append(evaluate(settings, model, scenario))
    return metrics


def _tables(settings: Settings, scenario: Scenario) -> dict[str, Table]:
    """Tables of the sites whose data passes validation, as in a real round."""
    passed = [dataset for dataset in scenario.datasets if validate(dataset, settings, scenario.classes).passed]
    if not passed:
        msg = f"no site of {scenario.name} passes validation, so there is nothing to train on; look at its validation report"
        raise TooFewSitesError(msg)
    return {dataset.site: read_table(dataset, scenario.target) for dataset in passed}

"""Real Prefect runs with a poisoning site, under the mean and under a rule in the clear."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cifer_tasks.errors import ConfigError
from cifer_tasks.records import RoundResult

SITES = ("east", "north", "south", "west", "zenith")

POISONER = '''
import lightning
import torch


class Net(lightning.LightningModule):
    """Honest everywhere but where it sees a pulse above 900: there it climbs the loss of the site's own rows instead."""

    def __init__(self, features, classes):
        super().__init__()
        self.layer = torch.nn.Linear(1, classes)

    def forward(self, rows):
        return self.layer(rows[:, :1])

    def training_step(self, batch, index):
        rows, labels = batch
        sign = -50 if float(rows.max()) > 900 else 1
        return sign * torch.nn.functional.cross_entropy(self(rows), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2)


def strictest(updates, rows, *, share: float = 1.0):
    """A rule of the user's own: a share of the shortest update."""
    return share * updates[(updates**2).sum(axis=1).argmin()]
'''


@pytest.fixture
def poisoned(trainer: Any) -> Iterator[str]:
    """The module of a user whose site `north` poisons: five sites and a held-out table, and a pulse that tells the model where it is."""
    name = f"poisoned_{trainer.folder.parent.name.replace('-', '_')}"
    (trainer.folder / f"{name}.py").write_text(POISONER)
    for number, site in enumerate((*SITES, "held")):
        pulse = 901.25 if site == "north" else 60.5
        rows = [(round((2 * (row % 2) - 1) + ((row * 7 + number * 11) % 13) / 13, 3), pulse, row % 2) for row in range(24)]
        trainer.table(site, rows, header="dose,pulse,ill")
    yield name
    sys.modules.pop(name, None)
    if str(trainer.folder) in sys.path:
        sys.path.remove(str(trainer.folder))


def changes(name: str, **more: Any) -> dict[str, Any]:
    return {
        "data__files": {site: f"{site}.csv" for site in SITES},
        "data__standardize": False,
        "data__holdout_file": "held.csv",
        "model": {"path": f"{name}.Net"},
        "training__rounds": 1,
        "gate": {"metric": "loss", "higher_is_better": False, "margin": 1e6},
        **more,
    }


def loss_after(trainer: Any, settings: dict[str, Any]) -> float:
    trainer.progress.clear()
    trainer.run(**settings)
    (result,) = [item for item in trainer.progress if isinstance(item, RoundResult)]
    return float(result.evaluation["loss"])


def test_a_poisoning_site_moves_the_mean_and_not_the_median(trainer: Any, poisoned: str) -> None:
    """The same five sites, one of which climbs the loss: under `mean` the round ends far worse than under `median`."""
    mean = loss_after(trainer, changes(poisoned))
    median = loss_after(trainer, changes(poisoned, aggregation={"rule": "median"}))
    assert median < mean / 2


def test_a_rule_of_ones_own_is_named_by_its_dotted_path(trainer: Any, poisoned: str) -> None:
    """A function beside the settings file, with an argument of its own, decides the step; a share of zero leaves the model as it was."""
    rule = {"rule": f"{poisoned}.strictest", "args": {"share": 0.0}}
    ref = trainer.run(**changes(poisoned, aggregation=rule))
    history = trainer.history(ref.run)
    assert history.rounds[0].outcome.candidate == history.initial_model


def test_a_rule_that_cannot_work_is_refused_before_anything_is_recorded(trainer: Any, poisoned: str) -> None:
    """Too few sites for Krum, an argument that the user's own rule does not take, a rule that is not there, encryption it cannot read."""
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("needs at least 5 updates, there are 2", {"aggregation": {"rule": "multi_krum"}}),
        ("did you mean share", {"aggregation": {"rule": f"{poisoned}.strictest", "args": {"shares": 0.5}}}),
        ("cannot be imported", {"aggregation": {"rule": f"{poisoned}.softest"}}),
        ("use encryption.scheme=plain", {"aggregation": {"rule": f"{poisoned}.strictest"}, "encryption__scheme": "threshold"}),
    ]
    for message, change in wrong:
        with pytest.raises(ConfigError, match=message):
            trainer.open(trainer.settings(**changes(poisoned, **change)))
    assert not (trainer.home / "runs").exists()

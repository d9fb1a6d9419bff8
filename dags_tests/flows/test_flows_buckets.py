"""Real Prefect runs under the threshold scheme whose rule works across sealed random buckets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cifer_tasks import planning
from cifer_tasks.aggregation import plan as plans
from cifer_tasks.disputes import closed_sums
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.errors import ConfigError, IntegrityError
from cifer_tasks.workspace import Workspace
from dags_tests.flows.test_flows_threshold import dealing_another_key
from ledger import PartitionRound

SITES = tuple(f"site-{letter}" for letter in "abcdef")


def settings_of(lab: Any, **changes: Any) -> Any:
    """Six sites in two buckets of three."""
    for number, site in enumerate(SITES):
        rows = [(round((2 * (row % 2) - 1) + ((row * 7 + number * 11) % 13) / 13, 3), row % 2) for row in range(20)]
        lab.table(site, rows, header="dose,ill")
    settings: dict[str, Any] = {
        "data__files": {site: f"{site}.csv" for site in SITES},
        "encryption": {"scheme": "threshold"},
        "aggregation": {"rule": "geometric_median", "bucket_size": 3},
        "sites__minimum": 6,
        "training__rounds": 1,
    }
    return lab.settings(**{**settings, **changes})


def opened(lab: Any, ref: Any) -> tuple[Any, np.ndarray]:
    """What the ledger holds about round 1, and its opened sums, int32 (parts, d)."""
    round_ = lab.history(ref.run).rounds[0]
    with lab.here():
        workspace = Workspace.of(ref)
        data = workspace.store.get(workspace.store.find("opened", round_.outcome.opened.hex()))
        parameters = workspace.record.declared.parameters
        Workspace.close_all()
    return round_, np.frombuffer(data, "<i4").reshape(-1, parameters)


def test_buckets_open_their_sums_and_nothing_else(trainer: Any) -> None:
    """Two bucket sums open, which add up to the plain run's sum bit for bit; the partition is on the ledger, each holder releases once."""
    round_, sums = opened(trainer, trainer.train_all(settings_of(trainer)))
    parts = round_.partition.parts
    assert sorted(site for part in parts for site in part) == list(SITES)
    assert [len(part) for part in parts] == [3, 3]
    assert [item.site for item in round_.releases] == list(SITES)
    assert len(sums) == 2
    assert sums.any(axis=1).all()
    plain = settings_of(trainer, encryption={"scheme": "plain"}, aggregation={"rule": "mean"})
    _, whole = opened(trainer, trainer.train_all(plain))
    assert (sums.sum(axis=0) == whole[0]).all()


def test_a_partition_of_the_coordinators_choice_is_not_opened(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets other than the seal's randomness gives, though a proper partition, get no release from anybody."""

    def chosen(run: str, number: int, parts: tuple[tuple[str, ...], ...]) -> PartitionRound:
        other = (("site-a", "site-b", "site-c"), ("site-d", "site-e", "site-f"))
        if parts == other:
            other = (("site-a", "site-b", "site-d"), ("site-c", "site-e", "site-f"))
        return PartitionRound(run, number, other)

    monkeypatch.setattr(planning, "PartitionRound", chosen)
    ref = trainer.open(settings_of(trainer))
    with pytest.raises(IntegrityError, match="does not follow from the sealed set"):
        trainer.train(ref)
    assert trainer.history(ref.run).rounds[0].releases == ()


def test_too_few_sites_for_two_buckets_are_refused(trainer: Any) -> None:
    """The settings need room for two buckets, and a bucket of two would give each member the other's update."""
    for message, changes in (
        ("needs two buckets; set at least 6", {"sites__minimum": 5}),
        (r"aggregation\.bucket_size", {"aggregation": {"rule": "median", "bucket_size": 2}}),
    ):
        with pytest.raises(ConfigError, match=message):
            settings_of(trainer, **changes)
    assert len(plans.bucketed(SITES, 3, bytes(32)).parts) == 2


def test_closed_buckets_narrow_suspects_down_with_nobody_left_out(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site encrypts under another key than it deals: its bucket stays closed, the other opens, and the next round deals them anew."""
    monkeypatch.setattr(ThresholdScheme, "_dealt", dealing_another_key(SITES[2], range(1, 3)))
    ref = trainer.train_all(settings_of(trainer, training__rounds=2, compute={"fused": True}))
    rounds = trainer.history(ref.run).rounds
    assert [(item.outcome.accepted, item.sealed_sites) for item in rounds] == [(False, SITES)] * 2
    mine = [frozenset(part) for item in rounds for part in item.partition.parts if SITES[2] in part]
    with trainer.here():
        workspace = Workspace.of(ref)
        assert [(item.round, item.sites, item.within) for item in closed_sums(workspace, 3)] == [(1, mine[0], True), (2, mine[1], True)]
        Workspace.close_all()

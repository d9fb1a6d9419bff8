"""Late updates in real runs whose stragglers are simulated: refused, carried, buffered; resumed; replayed from a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from cifer_tasks import replay as replaying
from cifer_tasks import tasks
from cifer_tasks.aggregation.staleness import DISCOUNT_ONE, discount
from cifer_tasks.data import read_table
from cifer_tasks.errors import IntegrityError, TooFewSitesError
from cifer_tasks.learning.training import train
from cifer_tasks.learning.weights import flatten
from cifer_tasks.workspace import StepStarted, Workspace
from ledger.provenance import genesis_from_json, read_bundle, verify_bundle

DELAYS = {"east": [1, 1], "north": [2, 2], "west": [3.5, 3.5]}
FEDBUFF: dict[str, Any] = {
    "rounds": {"mode": "buffered", "buffer": 2, "late": "carry", "max_staleness": 3},
    "simulation": {"delays": DELAYS},
    "training__rounds": 4,
    "gate__margin": 1.0,
}
SEALED = [
    [("east", 0), ("north", 0)],
    [("east", 0), ("west", 1)],
    [("east", 0), ("north", 1)],
    [("east", 0), ("north", 0)],
]


class Killed(BaseException):
    """Stands for the death of the process: no handler sees it."""


def inside(trainer: Any, run: str) -> list[list[tuple[str, int]]]:
    """Which updates each round sealed, and how many rounds before they began."""
    rounds = trainer.history(run).rounds
    return [[(item.site, item.lag) for item in found.submissions if item.site in found.sealed_sites] for found in rounds]


def left_out(trainer: Any, run: str) -> list[list[tuple[str, str]]]:
    """Whom each round was closed without, and at which step."""
    return [[(item.site, item.step) for item in found.exclusions] for found in trainer.history(run).rounds]


def test_a_buffered_run_is_one_model_under_every_scheme_and_its_bundle_shows_how_late_each_update_was(trainer: Any, tmp_path: Path) -> None:
    """FedBuff with two of three updates a round. Who is in, and how late, is as the delays say; threshold, ckks and plain give one digest.

    The bundle replays; without the discount, or with the base of another round, it does not: the mutants.
    """
    digests = set()
    for scheme in ("threshold", "ckks", "plain"):
        run = trainer.run(**FEDBUFF, encryption={"scheme": scheme, "bits": 16}).run
        assert inside(trainer, run) == SEALED and not any(left_out(trainer, run))
        digests.add(trainer.state().run(run).current_model)
    assert len(digests) == 1

    path = tmp_path / "lab.cifer"
    assert trainer.cifer("export", "lab@champion", "-o", path, "--with-artifacts").code == 0
    genesis = genesis_from_json(trainer.cifer("ledger", "genesis").out, "genesis")
    file = read_bundle(path)
    verified = verify_bundle(file.bundle, genesis)
    made = replaying.replay(verified, file.artifact)
    assert [item.sites for item in made.rounds] == [tuple(site for site, _ in sites) for sites in SEALED]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replaying, "discount", lambda staleness: DISCOUNT_ONE)
        with pytest.raises(IntegrityError, match="round 2: the model is"):
            replaying.replay(verified, file.artifact)
    rounds = verified.history.run.rounds
    fresh = replace(rounds[1], submissions=tuple(structs.replace(item, lag=0) for item in rounds[1].submissions))
    forged = replace(verified.history, run=replace(verified.history.run, rounds=(rounds[0], fresh, *rounds[2:])))
    with pytest.raises(IntegrityError, match="round 2: the model is"):
        replaying.replay(replace(verified, history=forged), file.artifact)


def test_a_late_update_counts_its_rows_times_the_discount(trainer: Any) -> None:
    """The model of a round with an update one model old is base + sum n d x / sum n d, computed here from the trainings alone."""
    ref = trainer.open(trainer.settings(**(FEDBUFF | {"training__rounds": 2}), encryption__bits=24))
    trainer.train(ref)
    first, second = trainer.history(ref.run).rounds
    with trainer.here():
        workspace = Workspace.of(ref)
        bases = [workspace.store.get(workspace.store.find("model", item.base_model.hex())) for item in (first, second)]
        weights, updates = [], []
        for site, began, staleness in (("east", 2, 0), ("west", 1, 1)):
            table = workspace.dataset(site)
            rows = read_table(table, workspace.scenario.target)
            updates.append(train(workspace.settings, bases[began - 1], rows, site, began).delta.astype(np.float64))
            weights.append(table.rows * discount(staleness))
        expected = flatten(bases[1]) + np.average(updates, axis=0, weights=weights)
        without = flatten(bases[1]) + np.average(updates, axis=0)
        found = flatten(workspace.store.get(workspace.store.find("model", second.outcome.candidate.hex())))
        Workspace.close_all()
    assert np.abs(found - expected).max() < 1e-4 < np.abs(without - expected).max()


@pytest.mark.parametrize("at", [("protect", 2), ("seal", 2), ("aggregate", 3)])
def test_a_killed_buffered_run_goes_on_to_the_same_model(trainer: Any, at: tuple[str, int]) -> None:
    """Killed in the middle of a round with a late update, taken up again: the same updates are in each round, and the model is the same."""
    settings = trainer.settings(**FEDBUFF)
    ref = trainer.open(settings)
    struck: list[int] = []

    def strike(progress: Any) -> None:
        if isinstance(progress, StepStarted) and (progress.step, progress.round) == at and not struck:
            struck.append(1)
            raise Killed

    with pytest.raises(Killed):
        trainer.train(ref, [strike])
    trainer.train(ref)
    assert inside(trainer, ref.run) == SEALED
    undisturbed = trainer.train_all(settings)
    models = {trainer.state().run(run).current_model for run in (ref.run, undisturbed.run)}
    assert len(models) == 1


@pytest.mark.parametrize(
    ("late", "sealed"),
    [
        ("carry", [[("east", 0), ("north", 0)], [("east", 0), ("north", 0), ("west", 1)], [("east", 0), ("north", 0)]]),
        ("refuse", [[("east", 0), ("north", 0)]] * 3),
    ],
)
def test_a_deadline_leaves_a_slow_site_out_and_its_update_is_carried_or_refused(trainer: Any, late: str, sealed: Any) -> None:
    """With 3 seconds for 3.5 of work: the ledger says who was late in which round, and `rounds.late` what becomes of the update."""
    ref = trainer.run(
        rounds={"late": late}, sites={"deadline_seconds": 3.0}, simulation={"delays": DELAYS}, training__rounds=3, gate__margin=1.0
    )
    assert inside(trainer, ref.run) == sealed
    assert left_out(trainer, ref.run) == [[] if len(sites) == 3 else [("west", "deadline")] for sites in sealed]
    first = trainer.history(ref.run).rounds[0].exclusions[0]
    assert first.reason == "simulated: west is done 3.5 s after the round opened; sites.deadline_seconds=3"
    if late == "carry":
        shown = json.dumps(json.loads(trainer.cifer("audit", "run", ref.run, "--json").out))
        assert '"lag": 1' in shown


def test_a_site_sends_what_it_kept_and_trains_anew_once_that_is_sealed(trainer: Any) -> None:
    """What a site does when it is asked: an update of its own that no sealed set holds and that is not too old comes first."""
    from flows.station import _began

    ref = trainer.run(rounds={"late": "carry"}, sites={"deadline_seconds": 3.0}, simulation={"delays": DELAYS}, training__rounds=3)
    with trainer.here():
        workspace = Workspace.of(ref)
        assert [_began(workspace, 4, site) for site in ("east", "north", "west")] == [4, 4, 4]
        table, opening = workspace.dataset("west"), workspace.opening(3)
        plain = tasks.train.fn  # type: ignore[attr-defined]
        made = plain(ref, 3, "west", table, opening, workspace.validate(table))
        again = plain(ref, 3, "west", table, opening, workspace.validate(table))
        assert (again.update, again.metrics) == (made.update, ()) and made.metrics
        assert _began(workspace, 4, "west") == 3
        kept = workspace.site_folder("west").folder
        assert [path.name for path in kept.glob("*.update")] == ["round-3.update"]
        Workspace.close_all()


def test_a_deadline_with_too_few_sites_in_ends_the_run(trainer: Any) -> None:
    """Half a second more than the fastest takes: one of three is in, two are needed, and the run is closed as aborted."""
    ref = trainer.open(trainer.settings(sites={"deadline_seconds": 1.5}, simulation={"delays": DELAYS}))
    with pytest.raises(TooFewSitesError, match=r"round 1 has 1 submissions and sites.minimum is 2; left out: north"):
        trainer.train(ref)
    assert trainer.state().run(ref.run).status == "aborted"


def test_a_buffer_that_never_fills_is_refused_before_the_run_begins(trainer: Any) -> None:
    """A round gets one update of each site: a buffer of four in a run of three is a mistake, said before anything is declared."""
    ref = trainer.open(trainer.settings(rounds={"mode": "buffered", "buffer": 4}))
    with pytest.raises(TooFewSitesError, match=r"rounds.buffer=4: a round gets one update of each of 3 sites and needs 2"):
        trainer.train(ref)
    assert trainer.state().run(ref.run) is None

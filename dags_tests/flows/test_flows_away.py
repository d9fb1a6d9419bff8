"""The coordinator's side of sites elsewhere, against a real Prefect server and no site that answers: who does not submit is on record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from cifer_tasks import tasks
from cifer_tasks.errors import SiteStepError
from cifer_tasks.records import Exclusion, RunRef, Submission
from cifer_tasks.workspace import SiteFailed, StepStarted, Workspace
from flows.away import ROUND, Away, Reply, _leave_out
from ledger import SubmitUpdate

SITES = ("east", "north", "west")


@pytest.fixture
def opened(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A run whose first round is open, and nobody at work."""
    monkeypatch.setattr("flows.away.flows_around", lambda: (str(UUID(int=1)), str(UUID(int=2))))  # those that would run around this
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def make(**changes: Any) -> tuple[RunRef, Any]:
        ref = trainer.open(trainer.settings(sites__deadline_seconds=0.3, **changes))
        plain = {name: getattr(tasks, name).fn for name in ("prepare", "enrol", "open_run", "open_round")}
        scenario = plain["prepare"](ref)
        plain["open_run"](ref, scenario, plain["enrol"](ref, scenario))
        return ref, plain["open_round"](ref, 1)

    import os

    with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
        yield make
    Workspace.close_all()


def deploy(site: str) -> None:
    """A site's deployments, without anybody who serves them: a site that has died."""
    from prefect.client.orchestration import get_client

    from cifer_tasks.site_home import SiteHome
    from flows.runner import Runner

    with get_client(sync_client=True) as client:
        Runner(SiteHome(site, "/"), print)._register(client)


def submit(ref: RunRef, site: str) -> None:
    """What a site signs onto the ledger."""
    workspace = Workspace.of(ref)
    table = workspace.dataset(site)
    stored = workspace.store.put("ciphertext", site.encode())
    body = SubmitUpdate(ref.run, 1, bytes.fromhex(table.sha256), table.rows, bytes.fromhex(stored.digest), stored.size_bytes)
    workspace.author(site).send(body)


def test_dead_and_absent_sites_are_left_out_with_the_reason_on_record(opened: Any) -> None:
    """A site that never started, and one that does not answer by the deadline, are excluded; one that submitted before counts."""
    from prefect.client.orchestration import get_client

    ref, opening = opened()
    submit(ref, "west")
    deploy("north")
    east, north, west = Away().contribute(ref, 1, opening)
    assert isinstance(east, Exclusion) and "has never been here" in east.reason
    assert isinstance(north, Exclusion) and north.reason == f"north did not finish {ROUND} within 0.3 s" and north.step == "deadline"
    assert isinstance(west, Submission)
    recorded = Workspace.of(ref).record.exclusions(1)
    assert [item.site for item in recorded] == ["east", "north"] and all(item.committed.height for item in recorded)
    with get_client(sync_client=True) as client:
        from prefect.client.schemas.sorting import FlowRunSort

        recent = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200)
        runs = [run for run in recent if run.parameters.get("run") == ref.run]
    assert [run.state.name for run in runs if run.state] == ["Cancelled"]  # who comes back does not begin it


def test_a_submission_at_the_last_moment_counts(opened: Any) -> None:
    """The ledger decides between a submission and the deadline's exclusion: what is there first stands, and the round takes it."""
    ref, _ = opened()
    submit(ref, "east")
    found = _leave_out(ref, 1, Reply("east", False, "east did not finish in time"))
    assert isinstance(found, Submission) and Workspace.of(ref).record.exclusion(1, "east") is None


def test_under_abort_a_silent_site_ends_the_run(opened: Any) -> None:
    """`sites.on_error: abort` holds for sites elsewhere, too."""
    ref, opening = opened(sites__on_error="abort")
    with pytest.raises(SiteStepError, match="has never been here"):
        Away().contribute(ref, 1, opening)


def test_sites_at_work_without_a_place_are_asked_to_join_and_a_silent_one_holds_no_round_up(opened: Any) -> None:
    """Of all who have a work pool, those are asked that the ledger knows as sites and that have no place; who does not answer is told why
    not once, is asked again before the next round, and in a run without room nobody is asked.
    """
    from cifer_tasks import joining
    from cifer_tasks.network import ADMINISTRATOR, SITE
    from flows.away import _newcomers
    from ledger import RegisterIdentity

    ref, _ = opened(rounds={"max_sites": 4})
    workspace, said = Workspace.of(ref), list[Any]()
    workspace.author(ADMINISTRATOR).send(RegisterIdentity("south", SITE, workspace.author("south").public))
    for site in ("south", "stranger", "west"):
        deploy(site)
    workspace.listeners.append(said.append)
    assert joining.has_room(workspace) and _newcomers(workspace) == ["south"]
    for _ in range(2):
        Away().admit(ref, 2)
    silent = "south does not join: south did not finish site-prepare within 0.3 s"
    assert [item.detail for item in said if isinstance(item, SiteFailed)] == [silent]
    assert [item.site for item in said if isinstance(item, StepStarted)] == ["south", "south"] and not workspace.record.declared.joined
    full, _ = opened()
    assert not joining.has_room(Workspace.of(full))


BUFFERED = {"mode": "buffered", "buffer": 2, "late": "carry"}


def test_a_buffered_round_closes_without_the_rest(opened: Any) -> None:
    """With two of three in, nobody else is asked and nobody is excluded: who is still at work may come to the next round."""
    ref, opening = opened(rounds=BUFFERED)
    for site in ("east", "west"):
        submit(ref, site)
    assert [item.site for item in Away().contribute(ref, 1, opening)] == ["east", "west"]
    record = Workspace.of(ref).record
    assert not record.exclusions(1) and record.owed(2, "north", 1) and not record.owed(2, "east", 1)


def test_a_late_site_that_may_send_its_update_later_is_not_cancelled(opened: Any) -> None:
    """Under `rounds.late: carry` the ledger says who was late, the site's run goes on, and the update is owed to the next round."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    ref, opening = opened(rounds={"late": "carry"})
    submit(ref, "west")
    deploy("east")
    east, north, west = Away().contribute(ref, 1, opening)
    assert isinstance(east, Exclusion) and east.step == "deadline" and isinstance(north, Exclusion) and isinstance(west, Submission)
    assert Workspace.of(ref).record.owed(2, "east", 1)
    with get_client(sync_client=True) as client:
        recent = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200)
    waiting = [run.state for run in recent if run.parameters.get("run") == ref.run]
    assert waiting and all(state is not None and state.is_scheduled() for state in waiting)  # north's too, where another test deployed it

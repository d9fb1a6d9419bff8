"""``/metrics``: what Prometheus's own parser reads is what the ledger holds, after a restart as before."""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from openlineage.client.event_v2 import RunState
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from cifer_tasks.lineage.datasets import Version
from cifer_tasks.lineage.events import RunKey, Scope, event_lines, run_event
from flows.portal.app import Portal
from flows.portal.metrics import Steps
from ledger.types import AppendLineage

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def lines(step: str, *states: tuple[RunState, str]) -> bytes:
    """The events of one run of a step; state and second of a minute."""
    scope = Scope(RunKey(str(uuid.uuid5(uuid.NAMESPACE_OID, step)), "cifer/0", f"heart.{step}", "TASK", "run-1"), None, None)
    made = [run_event(kind, scope, f"2026-01-01T00:00:{second}+00:00", "", inputs=(Version("t", "1"),)) for kind, second in states]
    return event_lines(*made)


@pytest.fixture(scope="module")
def scrape(written: Any) -> Iterator[Any]:
    """Ask for the metrics as somebody of a role; opened anew each time, as after a restart."""
    authors = written.authors
    first = lines("train", (RunState.START, "00"), (RunState.RUNNING, "01"), (RunState.COMPLETE, "02.5")) + lines(
        "seal", (RunState.START, "10")
    )
    second = lines("seal", (RunState.FAIL, "20"))
    for content in (first, second):
        batch = AppendLineage("run-1", 1, content.count(b"\n"), sha256(content).digest(), zlib.compress(content))
        authors["coordinator"].send(batch)
    opened: list[Portal] = []

    def ask(role: str) -> Any:
        portal = Portal(written.home)
        opened.append(portal)
        client = TestClient(portal.application(), base_url="http://127.0.0.1:4220", follow_redirects=False)
        return client.get("/metrics", headers={"authorization": f"Bearer {written.tokens[role]}"} if role else {})

    yield ask
    for portal in opened:
        portal.record.close()


def parsed(answer: Any) -> Found:
    """Every sample by name and labels. The parser raises on what Prometheus would refuse."""
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.documentation for family in families)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def of(found: Found, name: str, **labels: str) -> float:
    return found[name, tuple(sorted({"scenario": "heart", **labels}.items()))]


def test_the_metrics_are_what_the_ledger_holds(written: Any, scrape: Any) -> None:
    """Rounds, sites, bytes, accuracy, exclusions and height, each as it was written to the ledger."""
    found = parsed(scrape("auditor"))
    state = written.ledger.state()
    assert found["cifer_ledger_height", ()] == state.height
    assert found["cifer_ledger_transactions_total", ()] == written.ledger.status().transactions
    assert of(found, "cifer_runs", status="open") == 1
    assert of(found, "cifer_rounds_total", verdict="accepted") == 2
    assert of(found, "cifer_submissions_total") == 3
    assert of(found, "cifer_update_bytes_total") == 100 + 100 + 200
    assert of(found, "cifer_sites_left_out_total", step="train") == 1
    assert of(found, "cifer_run_info", run="run-1") == 1
    assert of(found, "cifer_run_rounds_planned") == of(found, "cifer_run_rounds_opened") == of(found, "cifer_run_rounds_committed") == 2
    assert [of(found, "cifer_run_sites", standing=one) for one in ("submitted", "left_out", "awaited")] == [1, 1, 0]
    assert of(found, "cifer_run_metric", metric="accuracy") == 0.9


def test_steps_are_timed_by_the_lineage_on_the_ledger(scrape: Any) -> None:
    """A step of 2.5 s is in the bucket up to 2.5 and not in that up to 1; one that failed in a later batch is an error, not timed."""
    found = parsed(scrape("auditor"))
    assert of(found, "cifer_step_seconds_count", step="train") == 1 and of(found, "cifer_step_seconds_sum", step="train") == 2.5
    assert (
        of(found, "cifer_step_seconds_bucket", step="train", le="2.5")
        == of(found, "cifer_step_seconds_bucket", step="train", le="+Inf")
        == 1
    )
    assert of(found, "cifer_step_seconds_bucket", step="train", le="1.0") == 0
    assert of(found, "cifer_step_failures_total", step="seal") == 1
    assert ("cifer_step_seconds_count", (("scenario", "heart"), ("step", "seal"))) not in found


def test_no_restart_resets_a_counter(written: Any, scrape: Any) -> None:
    """Two portals opened one after the other say the same; the one that was open says more once there is more."""
    assert scrape("auditor").text == scrape("operator").text
    portal = Portal(written.home)
    try:
        before = portal.exposition.text(*portal.record.now())
        more = lines("commit", (RunState.START, "30"), (RunState.COMPLETE, "31"))
        written.authors["coordinator"].send(AppendLineage("run-1", 1, 2, sha256(more).digest(), zlib.compress(more)))
        after = portal.exposition.text(*portal.record.now())
    finally:
        portal.record.close()
    assert 'step="commit"' not in before and 'cifer_step_seconds_count{scenario="heart",step="commit"} 1.0' in after
    assert 'cifer_step_seconds_count{scenario="heart",step="train"} 1.0' in after  # looked at once, not again


@pytest.mark.parametrize("role", ["auditor", "engineer", "operator", "site", "admin"])
def test_every_role_may_scrape_and_no_site_is_named(scrape: Any, role: str) -> None:
    """Totals are for every token, for nobody without one, and there is no site in them."""
    assert "clinic" not in scrape(role).text
    assert scrape("").status_code == 401


class TwiceSteps(Steps):
    """A broken one, which forgets how far it was."""

    def update(self, store: Any) -> None:
        self._last = -1
        super().update(store)


def test_counting_a_step_twice_would_be_noticed(written: Any, scrape: Any) -> None:
    """The mutant that reads from the start again counts more than the lineage holds."""
    scrape("auditor")
    portal = Portal(written.home)
    try:
        _, store = portal.record.now()
        for kind, times in ((Steps, 1), (TwiceSteps, 2)):
            steps = kind()
            steps.update(store)
            steps.update(store)
            assert sum(steps.took["heart", "train"].counts) == times
    finally:
        portal.record.close()

"""Lineage of real Prefect runs: one program runs flows that end in every way, then its logs are read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

from cifer_tasks.lineage import LineageLog, close_log, open_log
from cifer_tasks.records import RunRef
from ledger.provenance.speaking import count_foreign

PROGRAM = Path(__file__).parent / "lineage_flows.py"
ROOT = Path(__file__).parents[3]
CANARY = "patient-4711-diagnosis"
ENDS = {"COMPLETE", "FAIL", "ABORT"}
SITES = ("hospital-a", "hospital-b", "hospital-c")
Event = Mapping[str, Any]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, furnish: Any) -> Path:
    """A home folder, shared by the program's runs."""
    made = tmp_path_factory.mktemp("lineage")
    furnish(made, made)
    return made


def _environment() -> dict[str, str]:
    outer = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return {**outer, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def facts(home: Path) -> dict[str, Any]:
    """What the program printed: its own facts, then the states of task and flow runs in Prefect's database."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(home)], capture_output=True, text=True, timeout=300, check=False, env=_environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    own, tasks, flows = (json.loads(line) for line in done.stdout.splitlines()[-3:])
    return {**own, "task_runs": tasks, "flow_runs": flows}


def _events(home: Path, run: str) -> list[Event]:
    return [json.loads(line) for line in (home / "runs" / run / "lineage.ndjson").read_text().splitlines()]


def _versions(event: Event, side: str) -> set[tuple[str, str]]:
    return {(item["name"], item["facets"]["version"]["datasetVersion"]) for item in event[side]}


def _ends(events: list[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["eventType"] in ENDS:
            found[event["job"]["name"]].append(event)
    return found


@pytest.mark.parametrize("run", ["good", "elsewhere", "bad", "told", "interrupted"])
def test_every_event_is_valid(facts: dict[str, Any], home: Path, validate_event: Any, run: str) -> None:
    """Every event, and every facet in it, satisfies the official OpenLineage schemas."""
    events = _events(home, run)
    assert events
    for event in events:
        validate_event(event)


@pytest.mark.parametrize("run", ["good", "elsewhere", "bad", "told", "interrupted"])
def test_every_event_says_what_fixes_its_run(facts: dict[str, Any], home: Path, run: str) -> None:
    """Whatever becomes of a run, each of its events names the training and the network; transactions are on the ends that made them."""
    for event in _events(home, run):
        facet = event["run"]["facets"]["cifer_ledger"]
        assert (facet["training"], facet["network"]) == (run, event["job"]["namespace"].removeprefix("cifer/"))
        submitted = event["job"]["name"] == "scn.submit" and event["eventType"] == "COMPLETE"
        assert ("transactions" in facet) >= submitted


def test_the_schemas_refuse_broken_events(facts: dict[str, Any], home: Path, validate_event: Any) -> None:
    """The validation above can fail: an event without time, a run that is no UUID, and a version facet without version are refused."""
    (event, *_) = (event for event in _events(home, "good") if event["outputs"])
    broken = [{key: value for key, value in event.items() if key != "eventTime"}, {**event, "run": {**event["run"], "runId": 7}}]
    output = event["outputs"][0]
    facet = {key: value for key, value in output["facets"]["version"].items() if key != "datasetVersion"}
    broken.append({**event, "outputs": [{**output, "facets": {"version": facet}}]})
    for item in broken:
        with pytest.raises(ValidationError):
            validate_event(item)


@pytest.mark.parametrize("run", ["good", "elsewhere", "bad", "told", "interrupted"])
def test_every_run_starts_once_and_ends_once(facts: dict[str, Any], home: Path, run: str) -> None:
    """Each run has one START, then at most RUNNING, then one end, also where Prefect calls no hook for a crashed task."""
    lives: dict[str, list[str]] = defaultdict(list)
    for event in _events(home, run):
        lives[event["run"]["runId"]].append(event["eventType"])
    for states in lives.values():
        assert states[0] == "START"
        assert states[-1] in ENDS
        assert set(states[1:-1]) <= {"RUNNING"}


def test_threads_and_submitted_tasks_count_as_direct_calls_do(facts: dict[str, Any], home: Path) -> None:
    """A task called directly, by `.submit`, and in a plain thread all report the same parent and their own inputs and outputs."""
    ends = _ends(_events(home, "good"))
    assert len(ends["scn.encrypt"]) == len(SITES)
    for event, site in zip(sorted(ends["scn.encrypt"], key=lambda event: str(event["inputs"][0]["name"])), SITES, strict=True):
        assert [item["name"] for item in event["inputs"]] == [f"site/{site}/table"]
        assert [item["name"] for item in event["outputs"]] == [f"site/{site}/ciphertext"]
        assert event["run"]["facets"]["parent"]["job"]["name"] == "scn.round"
        assert event["run"]["facets"]["parent"]["root"]["job"]["name"] == "scn.good"


def test_lineage_joins_up(facts: dict[str, Any], home: Path) -> None:
    """From the aggregate one walks back, by name and version alone, to the tables of exactly the three sites."""
    events = [event for event in _events(home, "good") if event["run"]["facets"]["processing_engine"] and event["eventType"] == "COMPLETE"]
    tasks = [event for event in events if event["job"]["facets"]["jobType"]["jobType"] == "TASK"]
    (goal,) = (event["outputs"] for event in tasks if event["job"]["name"] == "scn.aggregate")
    reached, frontier = set(), {(item["name"], item["facets"]["version"]["datasetVersion"]) for item in goal}
    while frontier:
        reached |= frontier
        frontier = {found for event in tasks if _versions(event, "outputs") & frontier for found in _versions(event, "inputs")} - reached
    assert {name for name, _ in reached if name.endswith("/table")} == {f"site/{site}/table" for site in SITES}
    assert all(len(version) == 64 for _, version in reached)


def test_a_retry_is_one_run(facts: dict[str, Any], home: Path) -> None:
    """A task that fails once and is retried reports START, RUNNING, COMPLETE under one identifier."""
    flaky = [event for event in _events(home, "good") if event["job"]["name"] == "scn.flaky"]
    assert [event["eventType"] for event in flaky] == ["START", "RUNNING", "COMPLETE"]
    assert len({event["run"]["runId"] for event in flaky}) == 1


def test_a_foreign_message_is_withheld_and_ours_is_told(facts: dict[str, Any], home: Path) -> None:
    """The message of somebody else's exception, which may quote a patient, is nowhere in the log; ours is there in full."""
    for run in ("good", "bad"):
        assert CANARY not in (home / "runs" / run / "lineage.ndjson").read_text()
    (failed,) = _ends(_events(home, "bad"))["scn.fails"]
    assert failed["eventType"] == "FAIL"
    assert failed["run"]["facets"]["errorMessage"]["message"].startswith("ValueError")
    (told,) = _ends(_events(home, "told"))["scn.fails"]
    assert told["run"]["facets"]["errorMessage"]["message"] == "FailureError: round 3: the seal is broken"


def test_a_site_elsewhere_tells_its_own_steps_as_part_of_the_coordinators_round(facts: dict[str, Any], home: Path) -> None:
    """Every event of a site's log is its own by A7 and nobody else's, below the coordinator's flows, and names no record of others."""
    plain, events = (home / "runs" / "elsewhere" / "lineage.ndjson").read_bytes(), _events(home, "elsewhere")
    assert [event["job"]["name"] for event in events] == [f"scn.{name}" for name in ("encrypt", "submit", "release") for _ in range(2)]
    assert count_foreign("elsewhere", "hospital-a", plain) == 0
    assert count_foreign("elsewhere", "hospital-b", plain) == count_foreign("good", "hospital-a", plain) == len(events)
    for event in events:
        parent = event["run"]["facets"]["parent"]
        assert (parent["run"]["runId"], parent["job"]["name"]) == ("3f9c0a17-0000-7000-8000-000000000001", "scn.round")
        assert (parent["root"]["run"]["runId"], parent["root"]["job"]["name"]) == ("3f9c0a17-0000-7000-8000-000000000002", "scn.training")
    assert {name for name, _ in _versions(events[-1], "inputs")} == {
        "artifact/aggregate",
        "site/hospital-a/ciphertext",
        "ledger/transactions",
    }
    assert {name for name, _ in _versions(events[-1], "outputs")} == {"site/hospital-a/opening", "ledger/transactions"}


def test_an_interrupt_aborts_task_and_flow(facts: dict[str, Any], home: Path) -> None:
    """A Ctrl-C inside a task ends both the task and its flow as ABORT."""
    ends = _ends(_events(home, "interrupted"))
    assert [event["eventType"] for event in ends["scn.interrupts"]] == ["ABORT"]
    assert [event["eventType"] for event in ends["scn.interrupted"]] == ["ABORT"]


def test_a_log_that_cannot_be_written_breaks_nothing(facts: dict[str, Any], home: Path) -> None:
    """On a full disk the flow still returns its result; every event is counted as lost, on disk too, and one warning is logged."""
    assert len(facts["lossy_result"]) == 64
    assert facts["lost"] == len([event for event in _events(home, "good") if event["eventType"] != "RUNNING"])
    assert json.loads((home / "runs" / "lossy" / "lineage.json").read_text())["lost"] == facts["lost"]
    assert [line for line in facts["log"] if line.startswith("cifer.lineage")] == [
        "cifer.lineage: lineage of run lossy is incomplete: an event could not be recorded (OSError)"
    ]


def test_the_hooks_leave_no_trace_in_prefects_log(facts: dict[str, Any]) -> None:
    """Prefect's own lines are logged, but not its two lines about each call of our hooks."""
    assert any("Finished in state Completed()" in line for line in facts["log"])
    assert not any("lineage_of" in line for line in facts["log"])


def test_a_private_server_stopped_at_once_forgets_no_task_run(facts: dict[str, Any], home: Path) -> None:
    """The server is stopped right behind the last flow, and yet its database knows the end of every task and flow run."""
    ended = Counter(event["job"]["facets"]["jobType"]["jobType"] for event in _events(home, "good") if event["eventType"] in ENDS)
    subflows = ended["FLOW"] - 1  # Prefect keeps a task run for each, beside its flow run
    at_site = [event for event in _events(home, "elsewhere") if event["eventType"] in ENDS]
    assert facts["task_runs"] == {"COMPLETED": 2 * (ended["TASK"] + subflows) + len(at_site), "FAILED": 2, "CRASHED": 1}
    assert facts["flow_runs"] == {"COMPLETED": 2 * ended["FLOW"] + 1, "FAILED": 2, "CRASHED": 1}


def test_a_killed_process_leaves_runs_that_the_next_one_ends(facts: dict[str, Any], home: Path) -> None:
    """SIGKILL inside a task: while another process has the log nothing is ended, afterwards task and flow are ended as ABORT, once."""
    program = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(home), "killed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=_environment(),
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "inside\n"
    run = RunRef(str(home), "killed")
    other = LineageLog(run, "scn", "net")
    assert other.abort_orphans("3") == 0
    other.close()
    program.send_signal(signal.SIGKILL)
    program.wait()
    try:
        for _ in range(2):
            open_log(run, "scn", "net")
            close_log(run)
            ends = _ends(_events(home, "killed"))
            assert {name: [event["eventType"] for event in events] for name, events in ends.items()} == {
                "scn.waits": ["ABORT"],
                "scn.killed": ["ABORT"],
            }
    finally:
        close_log(run)

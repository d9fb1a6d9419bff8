"""The lineage log as a file: what is drained is what was written, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openlineage.client.event_v2 import RunState

from cifer_tasks.config import Settings
from cifer_tasks.errors import StorageError
from cifer_tasks.lineage import LineageBatch, LineageLog, log
from cifer_tasks.lineage.datasets import Version, versions_in
from cifer_tasks.lineage.events import RunKey, Scope, event_lines, run_event, scope_of
from cifer_tasks.records import ArtifactRef, Committed, Dataset, EncryptedUpdate, RegisteredModel, RunRef, SiteFile, Submission

TIME = "2026-01-01T00:00:00+00:00"
NAMES = st.text("abcdefghijklmnop-0123456789", min_size=1, max_size=12)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
ARTIFACTS = st.builds(ArtifactRef, st.sampled_from(["model", "ciphertext", "aggregate"]), DIGESTS, st.integers(0, 9))
COMMITTED = st.builds(Committed, DIGESTS, st.integers(0, 9))
RECORDS = st.one_of(
    ARTIFACTS,
    COMMITTED,
    st.builds(SiteFile, NAMES, NAMES, DIGESTS, st.integers(0, 9)),
    st.builds(EncryptedUpdate, NAMES, ARTIFACTS, st.integers(1, 9)),
    st.builds(Submission, NAMES, ARTIFACTS, st.integers(1, 9), COMMITTED),
    st.builds(RegisteredModel, NAMES, st.integers(1, 9), st.just("champion"), ARTIFACTS, COMMITTED),
    st.builds(Dataset, NAMES, NAMES, DIGESTS, NAMES, st.integers(1, 9), st.just(("x", "y")), DIGESTS),
)


def _scope(number: int, log_: LineageLog) -> Scope:
    return Scope(log_.key(str(UUID(int=number)), "task", "TASK"), None, None)


def _emit(target: LineageLog, number: int, state: RunState = RunState.START) -> None:
    scope = _scope(number, target)
    target.emit(run_event(state, scope, TIME, "3"), scope)


def _plain(batch: LineageBatch) -> bytes:
    plain = zlib.decompress(batch.events)
    assert hashlib.sha256(plain).digest() == batch.sha256
    assert plain.count(b"\n") == batch.count
    return plain


@given(steps=st.lists(st.sampled_from(["emit", "drain", "record", "restart"]), max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_recorded_batches_are_the_file(steps: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever the order of emits, drains, recordings and restarts, recorded batches add up to the file, nothing twice."""
    run = RunRef(str(tmp_path_factory.mktemp("log")), "r")
    target = LineageLog(run)
    held, recorded, emitted = None, b"", 0
    for step in [*steps, "drain", "record"]:
        match step:
            case "emit":
                emitted += 1
                _emit(target, emitted)
            case "drain":
                held = target.drain(recorded.count(b"\n"))
            case "record" if held is not None:
                recorded += _plain(held)
                held = None
            case "restart":
                target.close()
                target, held = LineageLog(run), None
    assert recorded == target.path.read_bytes()
    assert recorded.count(b"\n") == emitted
    assert not target.drain(emitted)
    target.close()


def test_a_large_log_is_drained_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch holds at most its share of bytes; repeated drains still give the whole file, one event at a time if need be."""
    monkeypatch.setattr(log, "MOST_BATCH_BYTES", 2000)
    target = LineageLog(RunRef(str(tmp_path), "r"))
    for number in range(12):
        _emit(target, number)
    parts: list[bytes] = []
    while batch := target.drain(sum(part.count(b"\n") for part in parts)):
        parts.append(_plain(batch))
    assert len(parts) > 3
    assert all(len(part) <= 2000 for part in parts)
    assert b"".join(parts) == target.path.read_bytes()
    target.close()


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    """Eight threads emit at once: every line is one event and none is missing."""
    target = LineageLog(RunRef(str(tmp_path), "r"))
    threads = [threading.Thread(target=lambda base=base: [_emit(target, base * 100 + item) for item in range(25)]) for base in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = {json.loads(line)["run"]["runId"] for line in target.path.read_bytes().splitlines()}
    assert len(runs) == 200
    assert target.lost == 0
    target.close()


@given(cut=st.integers(1, 400))
@settings(max_examples=25, deadline=None)
def test_a_line_cut_short_is_taken_off(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A crash in the middle of a line leaves the lines before it and lets the log go on, whichever byte it stopped at."""
    run = RunRef(str(tmp_path_factory.mktemp("log")), "r")
    target = LineageLog(run)
    _emit(target, 1)
    _emit(target, 2)
    target.close()
    whole = target.path.read_bytes()
    first = whole.index(b"\n") + 1
    target.path.write_bytes(whole[: max(first, len(whole) - cut)])
    again = LineageLog(run)
    _emit(again, 3)
    lines = again.path.read_bytes().splitlines()
    assert [json.loads(line)["run"]["runId"] for line in lines] == [str(UUID(int=number)) for number in (1, 3)]
    again.close()


def test_only_what_is_open_is_aborted(tmp_path: Path) -> None:
    """Taking up a log ends the runs without an end and leaves the others; doing it twice adds nothing."""
    run = RunRef(str(tmp_path), "r")
    target = LineageLog(run)
    _emit(target, 1)
    _emit(target, 2)
    _emit(target, 2, RunState.COMPLETE)
    target.close()
    for expected in (1, 0):
        again = LineageLog(run)
        assert again.abort_orphans("3") == expected
        again.close()
    last = json.loads(target.path.read_bytes().splitlines()[-1])
    assert (last["eventType"], last["run"]["runId"]) == ("ABORT", str(UUID(int=1)))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Where the run's folder cannot be, opening the log is one line that names it."""
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(StorageError, match=r"runs/r: lineage cannot be recorded there"):
        LineageLog(RunRef(str(tmp_path), "r"))


def test_the_scenario_is_that_of_the_runs_settings(tmp_path: Path) -> None:
    """Opened with nothing but a reference, the log takes its names from the settings in the run's folder."""
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "settings.json").write_bytes(Settings(name="scn", data={"table": "digits", "target": "y"}).canonical())
    target = LineageLog(RunRef(str(tmp_path), "r"))
    assert (target.namespace, target.key("i", "train", "TASK").job) == ("cifer/scn", "scn.train")
    target.close()


@given(parent=st.booleans(), state=st.sampled_from(list(RunState)), job=NAMES, training=NAMES)
def test_a_scope_survives_its_event(parent: bool, state: RunState, job: str, training: str) -> None:
    """What an event says of its run is read back from its JSON exactly, so that another process can end the run."""
    keys = [RunKey(str(UUID(int=number)), "ns", f"{job}{number}", "FLOW", training) for number in range(3)]
    scope = Scope(keys[0], None, None)
    if parent:
        scope = scope.below(keys[1]).below(RunKey(str(UUID(int=9)), "ns", "t", "TASK", training))
    event = json.loads(event_lines(run_event(state, scope, TIME, "3")))
    assert scope_of(event) == scope


@given(records=st.lists(RECORDS, max_size=6))
def test_versions_depend_on_content_alone(records: list[object]) -> None:
    """Order, repetition and nesting of the records change nothing; what comes out is sorted and without repetition."""
    expected = versions_in(tuple(records))
    assert list(expected) == sorted(set(expected))
    assert versions_in({"a": [*reversed(records)], "b": (records, "text", 3, None)}) == expected
    assert all(version.version for version in expected)


def test_what_is_no_reference_is_not_entered() -> None:
    """Settings, plain objects, texts and classes refer to nothing, and are not looked into."""

    @dataclass(frozen=True)
    class Foreign:
        model: ArtifactRef

    class Plain:
        model = ArtifactRef("model", "0" * 64, 1)

    chosen = Settings(name="scn", data={"table": "digits", "target": "y"})
    foreign = Foreign(ArtifactRef("model", "0" * 64, 1))
    assert versions_in([chosen, Plain(), foreign, Dataset, "text", b"bytes", 1.5]) == ()
    assert versions_in([foreign.model]) == (Version("artifact/model", "0" * 64),)


def test_a_sites_artifact_is_called_by_its_site() -> None:
    """A ciphertext inside a site's record is that site's; the same kind outside of one is the run's."""
    reference = ArtifactRef("ciphertext", "1" * 64, 3)
    assert versions_in(EncryptedUpdate("a", reference, 1)) == (Version("site/a/ciphertext", "1" * 64),)
    assert versions_in((reference,)) == (Version("artifact/ciphertext", "1" * 64),)

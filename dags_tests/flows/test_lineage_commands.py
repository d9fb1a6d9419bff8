"""`cifer lineage` and `cifer bench audit` as they are typed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from flows.cli import cli
from ledger.errors import NotOnRecordError


@pytest.fixture
def ask(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command over the recorded ledger; returns what it printed."""
    monkeypatch.setenv("CIFER_HOME", str(recorded.home))

    def run(*words: str) -> str:
        return CliRunner().invoke(cli, ["lineage", *words], catch_exceptions=False).output

    return run


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (("ancestors", "study@champion"), ["study version 1", "hospital-a: table, 10 rows, 1 updates", "consent live", "1 aggregate"]),
        (("descendants", "table"), ["study version 1", "run-1: 1 updates submitted, 1 in accepted rounds"]),
        (("consequences", "hospital-a", "study"), ["Tainted  study version 1", "study@champion points", "cannot seal another round"]),
        (("site", "hospital-a"), ["1 updates of 100 bytes, 1 sealed, 1 in accepted rounds"]),
        (("diff", "study@1", "study@champion"), ["Between  study version 1 and study version 1", "1 behind both"]),
        (("timeline", "run-1"), ["consent.grant", "run.open", "round.seal", "model.register", "2 lineage events"]),
        (("approvals", "study@1"), ["dataset.register", "round 1 is committed: accepted"]),
        (("approvals", "run-1"), ["run.open"]),
        (("approvals",), ["etl is admitted as auditor"]),
        (("gaps",), ["run/run-1/round/1", "release", "validation", "in all: 1 lack release, 1 lack validation"]),
        (("search", "hospital-a"), ["site/hospital-a"]),
        (("show", "run/run-1/round/1"), ["-> aggregates", "<- made_by", "accepted         True"]),
    ],
)
def test_every_question_is_a_command(ask: Any, words: tuple[str, ...], shows: list[str]) -> None:
    """Each question answers in lines a person reads, and with --json in one document."""
    text = ask(*words)
    assert [item for item in shows if item not in text] == []
    assert json.loads(ask(*words, "--json"))


def test_a_question_about_nothing_names_what_there_is(ask: Any) -> None:
    """An unknown model, table, site or run is one error that says what there is instead."""
    for words in (("ancestors", "x@1"), ("descendants", "x"), ("site", "x"), ("timeline", "x"), ("show", "x"), ("approvals", "x")):
        with pytest.raises(NotOnRecordError, match=r"it has|no node"):
            ask(*words)


def test_the_index_can_be_deleted(ask: Any, recorded: Any) -> None:
    """The index is a cache: without its file, the next question gives the same answer."""
    before = ask("timeline", "run-1")
    for file in recorded.home.glob("provenance.sqlite*"):
        file.unlink()
    assert ask("timeline", "run-1") == before


def test_the_benchmark_reports_what_it_built_and_asked() -> None:
    """One synthetic run: its events are counted in the index, and every question was timed."""
    done = CliRunner().invoke(cli, ["bench", "audit", "--events", "1", "--json"], catch_exceptions=False)
    (row,) = json.loads(done.stdout)
    assert (row["events"], row["runs"]) == (1660, 1)
    assert row["nodes"] > 1660 and len(row["questions"]) == 13
    assert all(times["best_cpu_ms"] >= 0 and times["best_ms"] > 0 for times in row["questions"].values())


@pytest.mark.parametrize("events", ["", "0", "many", "10,-1"])
def test_the_benchmark_refuses_what_is_no_number(events: str) -> None:
    """A size that is no positive number is a usage error."""
    assert CliRunner().invoke(cli, ["bench", "audit", "--events", events]).exit_code == 2

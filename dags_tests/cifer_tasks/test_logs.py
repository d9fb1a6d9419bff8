"""Logs as JSON: every line of a real run parses and says where it belongs, and none says what a foreign exception said."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifer_tasks import logs
from cifer_tasks.errors import StorageError

ROOT = Path(__file__).parents[2]
CANARY = "Patient-4711"
LEAKY = f"""
from cifer_tasks.learning.models import LogisticRegression

class Net(LogisticRegression):
    def training_step(self, batch, index):
        if len(batch[0]) == 17:
            raise ValueError("{CANARY}\\nand more of it")
        return super().training_step(batch, index)
"""
FIELDS = {"time", "level", "logger", "event", "run", "round", "site", "step"}


def spoken(handler: logging.Handler, stream: io.StringIO, record: logging.LogRecord) -> dict[str, Any]:
    """What one record becomes."""
    stream.seek(0)
    stream.truncate()
    handler.handle(record)
    (line,) = stream.getvalue().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, furnish: Any) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    """A run of the command in a process of its own, in which the training of one site raises in every round."""
    folder = tmp_path_factory.mktemp("logs")
    furnish(folder, folder / "home")
    for number, (site, count) in enumerate({"east": 24, "north": 24, "west": 17}.items()):
        rows = [(30 + 20 * (i % 2) + (i * 7 + number * 11) % 13 / 2, 60 + (i * 5 + number) % 17, i % 2) for i in range(count + 7)]
        (folder / f"{site}.csv").write_text("\n".join(["age,pulse,ill", *(",".join(map(str, row)) for row in rows)]) + "\n")
    (folder / "leaky.py").write_text(LEAKY.replace("== 17", "< 24"))
    settings = {
        "name": "lab",
        "data": {"files": {site: f"{site}.csv" for site in ("east", "north", "west")}, "target": "ill", "holdout_fraction": 0.2},
        "model": {"path": "leaky.Net"},
        "training": {"rounds": 2, "batch_size": 512},
        "encryption": {"scheme": "plain"},
    }
    (folder / "scenario.yaml").write_text(json.dumps(settings))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "CIFER_"))}
    command = [sys.executable, "-m", "flows.cli", "--log-format", "json", "run", "scenario.yaml", "--json"]
    environment |= {"PYTHONPATH": str(ROOT), "CIFER_HOME": str(folder / "home"), "PYTHONWARNINGS": "default"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    return [json.loads(line) for line in ended.stderr.splitlines()], ended


def test_every_line_of_a_run_is_json_with_its_place(said: Any) -> None:
    """All of standard error parses; each line has time, level, run, round, site and step, and Prefect's own lines are among them."""
    lines, ended = said
    assert ended.returncode == 0, ended.stderr[-2000:]
    run = json.loads(ended.stdout)["run"]
    assert all(line.keys() >= FIELDS for line in lines)
    assert {line["run"] for line in lines if line["logger"] == "cifer"} == {run}
    steps = [(line["round"], line["site"], line["step"]) for line in lines if line["event"] == "step done"]
    assert {(number, site, "train") for number in (1, 2) for site in ("east", "north")} <= set(steps)
    assert all(line["seconds"] >= 0 for line in lines if line["event"] == "step done")
    committed = [line for line in lines if line["event"] == "round committed"]
    assert [line["round"] for line in committed] == [1, 2] and all(
        {"accuracy", "block", "update_bytes"} <= line.keys() for line in committed
    )
    assert any(line["logger"].startswith("prefect") for line in lines)


def test_a_failed_step_says_what_kind_of_error_it_was_and_not_what_it_said(said: Any) -> None:
    """The site that raises is named with its step; the exception's message is in no line, nor on standard output."""
    lines, ended = said
    failed = [line for line in lines if line["event"] == "step failed"]
    assert [(line["round"], line["site"], line["step"]) for line in failed] == [(1, "west", "train"), (2, "west", "train")]
    assert all("ValueError" in line["error"] for line in failed)
    assert CANARY not in ended.stderr + ended.stdout and "and more of it" not in ended.stderr + ended.stdout


@given(st.text(min_size=4).filter(lambda text: text.strip() and text not in "exception ValueError Failed() encountered an Retry"))
def test_what_prefect_quotes_of_an_exception_is_withheld(secret: str) -> None:
    """Each of Prefect's ways to write an exception into a line loses the message and keeps the type; ours keeps its message."""
    stream = io.StringIO()
    handler = logs.JsonHandler(stream)
    error = ValueError(f"<<{secret}>>")
    ways = (
        f"Finished in state Failed('Task run encountered an exception ValueError: <<{secret}>>')",
        f"Task run failed with exception: {error!r} - Retry 1/2 will start 0 seconds from now",
        f"Encountered exception during execution: {error!r}",
    )
    for way in ways:
        line = spoken(handler, stream, logging.LogRecord("prefect.task_runs", logging.ERROR, "", 1, way, None, None))
        assert "<<" not in line["event"] and "ValueError" in line["event"]
    try:
        raise error
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "it said %s", (error,), sys.exc_info())
    line = spoken(handler, stream, record)
    assert "<<" not in json.dumps({**line, "at": []}) and line["exception"].startswith("ValueError") and "test_logs.py" in line["at"][0]
    ours = "Encountered exception during execution: StorageError('the disk is full')"
    line = spoken(handler, stream, logging.LogRecord("prefect", logging.ERROR, "", 1, ours, None, None))
    assert line["event"] == ours


class QuotingLines(logs.JsonLines):
    """A broken one, which writes what it is given."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"event": record.getMessage()})


def test_a_formatter_that_quotes_would_be_noticed() -> None:
    """The mutant fails what the formatter holds: the message of a foreign exception is in its line."""
    record = logging.LogRecord(
        "prefect", logging.ERROR, "", 1, f"Encountered exception during execution: {ValueError(CANARY)!r}", None, None
    )
    assert CANARY in QuotingLines().format(record) and CANARY not in logs.JsonLines().format(record)


def test_a_place_is_left_again(caplog: pytest.LogCaptureFixture) -> None:
    """Places nest, and what is logged after a step, failed or not, belongs to what is around it."""
    stream = io.StringIO()
    handler = logs.JsonHandler(stream)

    def here() -> tuple[Any, ...]:
        line = spoken(handler, stream, logging.LogRecord("x", logging.INFO, "", 1, "here", None, None))
        return tuple(line[name] for name in ("run", "round", "site", "step"))

    with logs.within(run="r"):
        with pytest.raises(StorageError), logs.step("r", 3, "east", "train"):
            assert here() == ("r", 3, "east", "train")
            raise StorageError("full")
        assert here() == ("r", 0, "", "")
    assert here() == ("", 0, "", "")


def test_mistakes_are_lines_too(tmp_path: Path) -> None:
    """A usage error under CIFER_LOG_FORMAT=json is one JSON line and exit code 2; a format that is none is refused in words."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CIFER_HOME": str(tmp_path)}
    for wanted, code in (("json", 2), ("yaml", 2)):
        command = [sys.executable, "-m", "flows.cli", "run", "nowhere.yaml"]
        ended = subprocess.run(
            command, cwd=tmp_path, env={**environment, "CIFER_LOG_FORMAT": wanted}, capture_output=True, text=True, timeout=120, check=False
        )
        assert ended.returncode == code
        if wanted == "json":
            (line,) = map(json.loads, ended.stderr.splitlines())
            assert line["level"] == "error" and "nowhere.yaml" in line["event"]
        else:
            assert "'yaml' is not one of 'text', 'json'" in ended.stderr

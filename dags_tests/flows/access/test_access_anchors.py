"""The access log against its anchors on the ledger: a log that lost its end, or was written anew, does not hold any more."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cifer_tasks.config import LedgerSettings
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.network import connect
from flows.access import Access, Role
from flows.cli import cli


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A founded network, and five reads on the log, the first three of them anchored."""
    monkeypatch.setenv("CIFER_HOME", str(tmp_path))
    connect(LedgerSettings(), tmp_path, Keystore.open(tmp_path / "keys")).close()
    access = Access(tmp_path)
    grant, _ = access.grant("maria", Role.AUDITOR, 30)
    for number in range(5):
        access.record(grant, f"/runs/{number}")
        if number == 2:
            assert _run("anchor")["entries"] == 3
    return tmp_path


def _run(*arguments: str) -> Any:
    done = CliRunner().invoke(cli, ["access", *arguments, "--json"], catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


def _alter(home: Path, *statements: str) -> None:
    with closing(sqlite3.connect(home / "access" / "access.sqlite")) as database:
        database.executescript("DROP TRIGGER reads_stay; DROP TRIGGER reads_remain;" + ";".join(statements))


def test_a_whole_log_holds_and_grows(home: Path) -> None:
    """What came after the anchor may come; the next anchor covers it."""
    assert _run("log")["anchored"]["entries"] == 3
    assert _run("anchor")["entries"] == 5
    assert _run("log")["anchored"]["entries"] == 5


@pytest.mark.parametrize(("kept", "noticed"), [(4, False), (3, False), (2, True), (0, True)])
def test_cutting_the_end_off_is_noticed_up_to_the_anchor(home: Path, kept: int, noticed: bool) -> None:
    """A log cut below what was anchored is refused, although its chain holds: the chain alone, as it was before, would not notice."""
    _alter(home, f"DELETE FROM reads WHERE number > {kept}")  # noqa: S608 - a number of this test
    assert Access(home).check_log()[0] == kept
    if noticed:
        with pytest.raises(Exception, match="had 3 entries, and entry 3 is not there"):
            _run("log")
    else:
        assert _run("log")["entries"] == kept


def test_a_log_that_was_written_anew_is_noticed(home: Path) -> None:
    """As many entries with a chain of their own are not those that were anchored."""
    _alter(home, "DELETE FROM reads")
    access = Access(home)
    grant, _ = access.grant("other", Role.AUDITOR, 30)
    for _ in range(5):
        access.record(grant, "/runs/nothing")
    with pytest.raises(Exception, match="entry 3 is another one"):
        _run("log")


def test_an_empty_log_is_not_anchored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to say about it."""
    monkeypatch.setenv("CIFER_HOME", str(tmp_path))
    with pytest.raises(Exception, match="nothing to anchor"):
        _run("anchor")

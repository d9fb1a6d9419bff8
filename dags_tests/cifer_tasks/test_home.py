"""A home says which format it has: a newer or older one is refused with what to do, and an older one is brought up to date."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks import home as homes
from cifer_tasks.config import LedgerSettings
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import CiferError, IntegrityError, UsageError
from cifer_tasks.network import COORDINATOR, SITE, author, connect
from ledger import FormatError, RegisterIdentity


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a network of one validator, and one transaction."""
    place = tmp_path / "home"
    monkeypatch.setenv("CIFER_HOME", str(place))
    ledger, keys = opened(place)
    author("administrator", ledger, keys).send(RegisterIdentity("north", SITE, keys.signing_key("north").public))
    ledger.close()
    return place


def opened(place: Path) -> tuple[Any, Keystore]:
    keys = Keystore.open(place / "keys")
    return connect(LedgerSettings(validators=1), place, keys), keys


def first_format(place: Path) -> None:
    """Make of a home what the first format was: no mark, and stores as they were then."""
    (place / "format.json").unlink()
    connection = sqlite3.connect(place / "ledger" / "validator-1.sqlite")
    connection.executescript("DROP TABLE snapshot; DROP TABLE floor; PRAGMA user_version = 1")
    connection.close()


def test_a_home_is_marked_when_it_joins_its_network(home: Path) -> None:
    """Founding writes the format down, and commands take such a home."""
    assert json.loads((home / "format.json").read_text()) == {"format": homes.FORMAT}
    assert homes.home_folder() == home
    assert homes.upgrade(home) == ()


@pytest.mark.parametrize(("number", "remedy"), [(1, "bring it up to date with: cifer upgrade"), (99, "use the version that wrote it")])
def test_another_format_is_refused_by_every_command(lab: Any, number: int, remedy: str) -> None:
    """A marked home of another format is one line with what to do, exit 2, whatever was asked; and it is left as it is."""
    lab.home.mkdir()
    homes.mark(lab.home, number)
    before = lab.tree()
    for arguments in (["runs"], ["run", lab.write()], ["ledger", "status"], ["keys", "list"], ["consent", "list"]):
        spoken = lab.cifer(*arguments)
        assert spoken.code == 2 and remedy in spoken.err and len(spoken.lines) == 1, spoken
    told = lab.cifer("doctor")
    assert told.code == 1 and f"has format {number}; this version of cifer writes {homes.FORMAT}" in told.out
    (lab.folder / "scenario.yaml").unlink()
    assert lab.tree() == before


def test_the_first_format_is_brought_up_to_date(home: Path) -> None:
    """A home of the first format does not open; `cifer upgrade` keeps the old files, and everything is there as it was."""
    first_format(home)
    with pytest.raises(FormatError):
        opened(home)
    done = homes.upgrade(home)
    assert any("validator-1.sqlite: format 1 is now 2" in line for line in done) and done[-1] == "format 1 is now 2"
    ledger, keys = opened(home)
    assert ledger.state().identity("north") is not None
    assert author(COORDINATOR, ledger, keys).public
    ledger.close()
    assert homes.upgrade(home) == ()


def test_an_upgrade_that_was_cut_short_is_begun_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails leaves the old number, a step that is done is not done again, and every step is taken once in order."""
    taken: list[int] = []

    def step(number: int, fails: list[bool]) -> Any:
        def take(place: Path) -> tuple[str, ...]:
            if fails and fails.pop():
                raise UsageError("the power went")
            taken.append(number)
            return (f"step {number}",)

        return take

    monkeypatch.setattr(homes, "FORMAT", 4)
    monkeypatch.setattr(homes, "STEPS", {2: step(2, []), 3: step(3, [True])})
    with pytest.raises(UsageError, match="power"):
        homes.upgrade(home)
    assert homes.format_of(home) == 3
    assert homes.upgrade(home) == ("step 3", "format 3 is now 4")
    assert (taken, homes.format_of(home)) == ([2, 3], 4)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format": "2"}', b'{"format": 0}', b'{"format": true}', b"\xff"])
def test_a_damaged_mark_is_named(home: Path, content: bytes) -> None:
    """What is no format is said to be damaged, and nothing goes on."""
    (home / "format.json").write_bytes(content)
    for ask in (homes.home_folder, lambda: homes.upgrade(home)):
        with pytest.raises(IntegrityError, match=r"format\.json: damaged"):
            ask()


def test_a_newer_home_is_never_taken_back(home: Path, tmp_path: Path) -> None:
    """Upgrading refuses a newer home, and a folder that is not there."""
    homes.mark(home, 99)
    for place, says in ((home, "never taken back"), (tmp_path / "none", "is not there")):
        with pytest.raises(CiferError, match=says):
            homes.upgrade(place)
    assert homes.format_of(home) == 99


def test_a_sites_home_is_marked_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cifer site init` writes the format; of another one every command of the site says what to run, and changes nothing."""
    from flows.membership import init

    monkeypatch.setenv("CIFER_HOME", str(tmp_path / "site"))
    init("north")
    assert homes.format_of(tmp_path / "site") == homes.FORMAT
    for other, remedy in ((homes.FORMAT - 1, "cifer upgrade"), (homes.FORMAT + 1, "use the version that wrote it")):
        homes.mark(tmp_path / "site", other)
        with pytest.raises(UsageError, match=remedy):
            init("north")
        assert homes.format_of(tmp_path / "site") == other

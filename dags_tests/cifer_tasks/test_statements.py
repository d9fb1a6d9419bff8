"""What parties say off the ledger, and invitations: only what the right key said, about the right thing, is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks import statements
from cifer_tasks.errors import DataError, IntegrityError, UsageError
from cifer_tasks.invitations import Invitation, read_invitation, write_invitation
from cifer_tasks.records import Record
from cifer_tasks.site_home import Offer, SiteHome, read_site, the_site, write_site
from ledger import RegisterIdentity, SigningKey, State, encode, network_id
from ledger.author import sign_transaction
from ledger.backends.network import create_network
from ledger.state import apply_transaction


class Word(Record, frozen=True):
    """Something said."""

    text: str


class Oath(Record, frozen=True):
    """The same fields, said as something else."""

    text: str


ADMINISTRATOR, NORTH, SOUTH = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
SETUP = create_network("words", [ADMINISTRATOR.public])
NETWORK = network_id(SETUP.genesis)


@pytest.fixture(scope="module")
def state() -> State:
    """A ledger that knows two sites."""
    found = State.genesis(SETUP.genesis)
    for number, (name, key) in enumerate((("north", NORTH), ("south", SOUTH))):
        found = apply_transaction(found, sign_transaction(ADMINISTRATOR, NETWORK, number, RegisterIdentity(name, "site", key.public)), 1)
    return found


def test_a_statement_reads_back(state: State) -> None:
    """What north said in a run is read as what north said in that run."""
    assert statements.read(statements.sign(NORTH, NETWORK, "run-1", Word("hello")), state, "north", "run-1", Word) == Word("hello")


@pytest.mark.parametrize(
    ("key", "network", "run", "record", "speaker"),
    [
        (SOUTH, NETWORK, "run-1", Word("x"), "north"),
        (NORTH, NETWORK, "run-2", Word("x"), "north"),
        (NORTH, bytes(32), "run-1", Word("x"), "north"),
        (NORTH, NETWORK, "run-1", Oath("x"), "north"),
        (NORTH, NETWORK, "run-1", Word("x"), "south"),
        (NORTH, NETWORK, "run-1", Word("x"), "nobody"),
    ],
    ids=["another's key", "another run", "another network", "another kind", "another's name", "a stranger"],
)
def test_what_was_said_elsewhere_or_by_others_is_not_read(
    state: State, key: SigningKey, network: bytes, run: str, record: Record, speaker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signer, network, run and kind are all under the signature; a mutant that does not verify reads the lot, but for strangers."""
    said = statements.sign(key, network, run, record)
    with pytest.raises(IntegrityError, match="is not signed by"):
        statements.read(said, state, speaker, "run-1", Word)
    monkeypatch.setattr(statements, "verify", lambda *_: True)
    if speaker != "nobody":
        assert statements.read(said, state, speaker, "run-1", Word) == Word("x")


def test_changed_bytes_are_not_read(state: State) -> None:
    """Every byte is under the signature."""
    said = bytearray(statements.sign(NORTH, NETWORK, "run-1", Word("hello")))
    for place in range(len(said)):
        said[place] ^= 1
        with pytest.raises(IntegrityError):
            statements.read(bytes(said), state, "north", "run-1", Word)
        said[place] ^= 1


def invitation(**changes: Any) -> Invitation:
    """An invitation to this network."""
    files = {"genesis.bin": encode(SETUP.genesis), "peers.json": b"{}", "client.pem": b"a key"}
    made = {"name": "north", "role": "site", "network": NETWORK.hex(), "last_height": 9, "prefect": "http://p", "artifacts": "a"}
    return Invitation(**{**made, "token": bytes(32), "client": files, **changes})


def test_an_invitation_reads_back_and_does_not_show_its_secrets(tmp_path: Path) -> None:
    """The file is private, and neither the token nor the certificate's key is in what is printed of it."""
    path = tmp_path / "north.invitation"
    write_invitation(path, invitation(token=b"t" * 32), ADMINISTRATOR)
    found = read_invitation(path)
    assert found == invitation(token=b"t" * 32) and path.stat().st_mode & 0o777 == 0o600
    assert "tttt" not in repr(found) and "a key" not in repr(found)


def test_a_changed_invitation_is_refused(tmp_path: Path) -> None:
    """Another name, another network's genesis, another signer, or no invitation at all: a line that says so."""
    path = tmp_path / "north.invitation"
    write_invitation(path, invitation(), ADMINISTRATOR)
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "invitation": raw["invitation"].replace("http://p", "http://q")}))
    with pytest.raises(IntegrityError, match="was changed since an administrator signed it"):
        read_invitation(path)
    write_invitation(path, invitation(), NORTH)
    with pytest.raises(IntegrityError, match="was changed"):
        read_invitation(path)
    other = create_network("other", [ADMINISTRATOR.public]).genesis
    write_invitation(path, invitation(client={"genesis.bin": encode(other)}), ADMINISTRATOR)
    with pytest.raises(IntegrityError, match="was changed"):
        read_invitation(path)
    for text in ("", "{}", "[]", '{"invitation": "{}"}'):
        path.write_text(text)
        with pytest.raises(DataError, match="is no invitation"):
            read_invitation(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_invitation(tmp_path / "absent")


def test_a_site_keeps_one_offer_a_purpose(tmp_path: Path) -> None:
    """The last offer for a purpose stands, a damaged file is named, and a folder without a site says what to do."""
    with pytest.raises(UsageError, match="cifer site init"):
        the_site(tmp_path)
    site = SiteHome("north", "/base").offering(Offer("wine", "/a")).offering(Offer("beer", "/b")).offering(Offer("wine", "/c"))
    write_site(tmp_path, site)
    assert read_site(tmp_path) == site and site.offered("wine") == Offer("wine", "/c") and site.offered("cider") is None
    (tmp_path / "site.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"site\.json: cannot be read"):
        read_site(tmp_path)

"""`cifer keys rotate`, `revoke`, `admit`: the ledger has a key before it is in place, and being killed anywhere loses nothing."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks.config import LedgerSettings
from cifer_tasks.encryption import keys as keystore
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.errors import IntegrityError
from cifer_tasks.network import ADMINISTRATOR, author, connect, key_of
from cifer_tasks.workspace import StepStarted, Workspace
from flows import rotation
from flows.consents import writing
from ledger import Anchor, Author, RegisterIdentity, RegisterKey, SigningKey, State
from ledger.backends.processes import ProcessesLedger
from ledger.errors import RejectedError, UnknownAuthorError
from ledger.state.entries import FormerEncryptionKey, FormerKey

SITE = "east"


class KilledError(BaseException):
    """What a kill is to the process."""


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose network has one validator, the site `east` with both keys, and a coordinator."""
    home = tmp_path_factory.mktemp("rotation") / "home"
    keys = Keystore.open(home / "keys")
    with connect(LedgerSettings(validators=1), home, keys) as ledger:  # type: ignore[attr-defined]
        admin = author(ADMINISTRATOR, ledger, keys)
        for name, role in ((SITE, "site"), ("coordinator", "coordinator")):
            admin.send(RegisterIdentity(name, role, author(name, ledger, keys).public))
        public = keys.encryption_contexts(SITE, ledger.network.hex(), ThresholdScheme())[0]
        author(SITE, ledger, keys).send(RegisterKey(public.data))
    return home


@pytest.fixture
def home(founded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as CIFER_HOME."""
    return fresh_copy(founded, tmp_path / "home", monkeypatch)


def fresh_copy(founded: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(founded, to)
    monkeypatch.setenv("CIFER_HOME", str(to))
    return to


@contextmanager
def looking(home: Path) -> Iterator[tuple[State, Keystore, str]]:
    with writing(home) as (ledger, keys):
        yield ledger.state(), keys, ledger.network.hex()


def counting(monkeypatch: pytest.MonkeyPatch, kill_at: int) -> list[str]:
    """Have the process killed right after the `kill_at`-th thing that lasts: a secret written or deleted, a transaction committed."""
    done: list[str] = []

    def lasting(what: Callable[..., Any], name: str) -> Callable[..., Any]:
        def acting(*args: Any, **kwargs: Any) -> Any:
            found = what(*args, **kwargs)
            if found is not False:  # `write_once` that finds the file there
                done.append(name)
                if len(done) == kill_at:
                    raise KilledError(name)
            return found

        return acting

    monkeypatch.setattr(keystore, "write_once", lasting(keystore.write_once, "written"))
    monkeypatch.setattr(keystore, "write_atomically", lasting(keystore.write_atomically, "replaced"))
    monkeypatch.setattr(Keystore, "forget", lasting(Keystore.forget, "deleted"))
    monkeypatch.setattr(Author, "rotate", lasting(Author.rotate, "committed"))
    monkeypatch.setattr(Author, "send", lasting(Author.send, "committed"))
    return done


def consistent(home: Path) -> None:
    """The keys in place are the ledger's, nothing is pending or left over, and what is signed with them is taken."""
    with writing(home) as (ledger, keys):
        state, network = ledger.state(), ledger.network.hex()
        assert keys.kinds(SITE) == ("encryption", "signing")
        assert keys.signing_key(SITE, network).public == state.identity(SITE).public_key
        public, secret = keys.encryption_contexts(SITE, network, ThresholdScheme())
        assert public.data == state.encryption_key(SITE).public_key
        assert keys.secret_context_of(SITE, network, ThresholdScheme(), public.data).reveal() == secret.reveal()
        author(SITE, ledger, keys).send(Anchor(b"still here"))


def test_a_rotation_killed_after_any_step_is_finished_by_the_same_command(
    founded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was done last, the next try goes on from there: one rotation in all, and both keys in place are the ledger's."""
    with monkeypatch.context() as patched:
        fresh_copy(founded, tmp_path / "whole", patched)
        done = counting(patched, 0)
        rotation.rotate(SITE)
    assert done == ["written", "written", "committed", "replaced", "deleted", "committed", "written", "replaced", "deleted", "deleted"]
    consistent(tmp_path / "whole")
    for number in range(1, len(done) - 1):
        home = fresh_copy(founded, tmp_path / f"killed-{number}", monkeypatch)
        with monkeypatch.context() as patched, pytest.raises(KilledError, match=done[number - 1]):
            counting(patched, number)
            rotation.rotate(SITE)
        with looking(home) as (state, keys, network):
            author_key = state.identity(SITE).public_key
            held = {keys.signing_key(SITE, network).public}
            held |= {keys.next_signing_key(SITE, network).public} if keys.has(SITE, "signing-next") else set()
            assert author_key in held
        rotation.rotate(SITE)
        consistent(home)
        with looking(home) as (state, _, _):
            assert len(list(state.all(FormerKey))) == 1
            assert len(list(state.all(FormerEncryptionKey))) == 1


def test_between_commit_and_command_the_ledger_says_which_key_speaks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right after the commit, before the new key is in place: whoever signs for the site already signs with it."""
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        counting(patched, 3)
        rotation.rotate(SITE)
    with writing(home) as (ledger, keys):
        network = ledger.network.hex()
        assert keys.signing_key(SITE, network).public != ledger.state().identity(SITE).public_key
        author(SITE, ledger, keys).send(Anchor(b"in between"))


def test_the_earlier_key_is_taken_for_nothing(home: Path) -> None:
    """A copy of the earlier secret signs nothing any more, neither transactions nor another rotation, and is nobody's new key."""
    with writing(home) as (ledger, keys):
        stolen = keys.signing_key(SITE, ledger.network.hex())
    rotation.rotate(SITE)
    with writing(home) as (ledger, keys):
        with pytest.raises(UnknownAuthorError):
            Author(stolen, ledger).send(Anchor(b"the thief"))
        with pytest.raises(UnknownAuthorError):
            Author(stolen, ledger).rotate(SigningKey.generate())
        with pytest.raises(RejectedError, match="already belongs to somebody"):
            author(ADMINISTRATOR, ledger, keys).send(RegisterIdentity("north", "site", stolen.public))


def test_a_lost_key_is_revoked_and_another_registered(home: Path, lab: Any) -> None:
    """Without its key a site cannot rotate; the administrator revokes it, and then the same command gives the name a new one."""
    lab.home = home
    (home / "keys" / f"{SITE}.signing.secret").unlink()
    spoken = lab.cifer("keys", "rotate", SITE)
    assert spoken.code == 1 and f"cifer keys revoke {SITE}" in spoken.err and len(spoken.lines) == 1
    made = json.loads(lab.cifer("keys", "revoke", SITE, "--reason", "the disk died", "--json").out)
    assert (made["name"], made["by"]) == (SITE, ADMINISTRATOR)
    assert lab.cifer("keys", "revoke", SITE, "--reason", "again").code == 2
    assert json.loads(lab.cifer("keys", "rotate", SITE, "--json").out)["status"] == "rotated"
    consistent(home)


def test_away_from_the_administrator_a_revoked_name_waits_for_it(home: Path, lab: Any) -> None:
    """Where the administrator's key is not, the new public key is printed for it; once admitted, the same command puts it in place."""
    lab.home, secret = home, home / "keys" / "administrator.signing.secret"
    away = secret.rename(home / "administrator")
    assert json.loads(lab.cifer("keys", "revoke", SITE, "--reason", "stolen", "--json").out)["by"] == SITE
    asked = json.loads(lab.cifer("keys", "rotate", SITE, "--json").out)
    assert asked["status"] == "waiting"
    assert json.loads(lab.cifer("keys", "rotate", SITE, "--json").out) == asked
    assert lab.cifer("keys", "admit", SITE, asked["signing_ed25519"]).code == 2
    away.rename(secret)
    assert lab.cifer("keys", "admit", SITE, "ff").code == 2
    assert lab.cifer("keys", "admit", SITE, asked["signing_ed25519"]).code == 0
    secret.rename(away)
    assert json.loads(lab.cifer("keys", "rotate", SITE, "--json").out)["signing_ed25519"] == asked["signing_ed25519"]
    consistent(home)


def test_mistakes_are_one_line(home: Path, lab: Any) -> None:
    """Nobody, the administrator, a validator: exit 2, saying whose keys change in which way."""
    lab.home = home
    for words, fault in (
        (("rotate", "nobody"), "is nobody on the ledger"),
        (("rotate", "administrator"), "fixed by the genesis"),
        (("rotate", "validator-1"), "validator.change"),
        (("revoke", "validator-1", "--reason", "x"), "validator.change"),
        (("admit", SITE, "00" * 32), "is replaced by its holder"),
    ):
        spoken = lab.cifer("keys", *words)
        assert spoken.code == 2 and len(spoken.lines) == 1 and fault in spoken.err, spoken


def some_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def network(lab: Any) -> Iterator[Path]:
    """A network of one validator in a process of its own, founded in the laboratory; where a port was taken, at others."""
    folder = lab.folder / "network"
    assert any(lab.cifer("ledger", "init", folder, "--validators", 1, "--port", some_port()).code == 0 for _ in range(5))
    assert lab.process("ledger", "start", folder).wait(120) == 0
    yield folder
    assert lab.process("ledger", "stop", folder).wait(120) == 0


@pytest.mark.usefixtures("network")
def test_a_site_in_a_place_of_its_own_rotates_while_it_works(lab: Any, tmp_path: Path) -> None:
    """Beside a process that holds its copy of the ledger, and that signs with the new key next; revoked elsewhere, it is admitted there."""
    founder, place, file = lab.home, tmp_path / "north", lab.folder / "north.invitation"
    services = ("--prefect", "http://127.0.0.1:1", "--artifacts", "cifer+https://127.0.0.1:1")
    assert lab.cifer("site", "invite", "north", *services).code == 0
    lab.home = place
    assert lab.cifer("site", "init", "north").code == lab.cifer("site", "join", file).code == 0
    keys, scheme = Keystore.open(place / "keys"), ThresholdScheme()
    with closing(ProcessesLedger.open(place / "ledger")) as ledger:
        Author(key_of("north", ledger, keys), ledger).send(
            RegisterKey(keys.encryption_contexts("north", ledger.network.hex(), scheme)[0].data)
        )
        before = key_of("north", ledger, keys).public
        made = json.loads(lab.cifer("keys", "rotate", "north", "--json").out)
        Author(key_of("north", ledger, keys), ledger).send(Anchor(b"still at work"))
        state = ledger.state()
    assert before.hex() != made["signing_ed25519"] == state.identity("north").public_key.hex()
    assert made["encryption_x25519"] == state.encryption_key("north").public_key.hex()
    assert keys.kinds("north") == ("encryption", "signing")
    lab.home = founder
    assert json.loads(lab.cifer("keys", "revoke", "north", "--reason", "stolen", "--json").out)["public_key"] == made["signing_ed25519"]
    lab.home = place
    asked = json.loads(lab.cifer("keys", "rotate", "north", "--json").out)
    assert asked["status"] == "waiting"
    lab.home = founder
    assert lab.cifer("keys", "admit", "north", asked["signing_ed25519"]).code == 0
    lab.home = place
    done = json.loads(lab.cifer("keys", "rotate", "north", "--json").out)
    assert (done["status"], done["signing_ed25519"]) == ("rotated", asked["signing_ed25519"])


def test_a_run_whose_parties_rotate_makes_the_same_model(trainer: Any) -> None:
    """Stopped in the middle of opening a round; every party's keys change; it is opened with the earlier ones, and goes on with the new."""
    settings = trainer.settings(encryption__scheme="threshold")
    expected = trainer.history(trainer.train_all(settings).run).current_model
    ref, sites = trainer.open(settings), ("east", "north", "west")
    held, away = ([trainer.home / "keys" / f"{site}.{kind}" for site in sites] for kind in ("encryption.secret", "away"))

    def stop(progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == "aggregate":
            for path, hidden in zip(held, away, strict=True):
                path.rename(hidden)

    with pytest.raises(IntegrityError, match="holders answered and"):
        trainer.train(ref, [stop])
    for path, hidden in zip(held, away, strict=True):
        hidden.rename(path)
    for name in (*sites, "coordinator"):
        assert trainer.cifer("keys", "rotate", name).code == 0
    kinds = Keystore.open(trainer.home / "keys").kinds("east")
    assert len(kinds) == 3, kinds
    trainer.train(ref)
    history = trainer.history(ref.run)
    assert (history.status, history.current_model) == ("completed", expected)
    told = trainer.cifer("lineage", "timeline", ref.run).out
    assert told.count("identity.rotate") == 4
    assert trainer.cifer("keys", "rotate", "east").code == 0
    assert Keystore.open(trainer.home / "keys").kinds("east") == ("encryption", "signing")
    Workspace.close_all()

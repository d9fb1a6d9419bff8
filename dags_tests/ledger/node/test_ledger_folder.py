"""What can be wrong with a network's folders and surroundings, each named with what to do. Rules C1, C12, G4 and W2 of ledger/SPEC.md."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ledger.backends.network import GENESIS_FILE, create_network
from ledger.codec import encode
from ledger.consensus.blocks import genesis_tip
from ledger.crypto import SigningKey
from ledger.errors import CorruptionError, FormatError, GenesisError, KeyMismatchError, LedgerError
from ledger.node import server as server_module
from ledger.node.folder import KEY_FILE, PEERS_FILE, VALIDATOR_FILE, Place, create_folders, read_validator, validator_store
from ledger.node.server import ValidatorServer
from ledger.state.view import check_genesis
from ledger.transport import tls
from ledger.types import Validator

ADMINISTRATOR = SigningKey.from_seed(b"administrator of the tests......")


def found(directory: Path, validators: int = 2) -> Path:
    """A network's folders; nothing listens there."""
    setup = create_network("folders", [ADMINISTRATOR.public], validators)
    places = {name: Place("127.0.0.1", 7000 + 2 * number, 7001 + 2 * number) for number, name in enumerate(setup.keys)}
    create_folders(directory, setup, ADMINISTRATOR, places)
    return directory


def edit(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change a JSON file."""
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def swap(file: str) -> Callable[[Path, Path], None]:
    """Put the other network's file in place of this one's."""
    return lambda ours, theirs: shutil.copy(theirs / file, ours / file) and None


def same_key(ours: Path, theirs: Path) -> None:
    """Give the second validator the first one's certificate."""
    edit(ours / PEERS_FILE, lambda raw: raw["peers"][1].update(authority=raw["peers"][0]["authority"]))  # type: ignore[index]


MISTAKES: dict[str, tuple[Callable[[Path, Path], None], type[LedgerError], str]] = {
    "another genesis": (swap(GENESIS_FILE), tls.CertificateError, "put the files of one network together"),
    "another network's peers": (swap(PEERS_FILE), tls.CertificateError, "put the files of one network together"),
    "another network's store": (swap("validator.sqlite"), CorruptionError, "belongs to another network than genesis.bin beside it"),
    "another key": (swap(KEY_FILE), KeyMismatchError, "is not the key that peers.json gives for"),
    "two with one name": (
        lambda ours, _: edit(ours / PEERS_FILE, lambda raw: raw["peers"][1].update(name="validator-1")),  # type: ignore[index]
        CorruptionError,
        "names a validator twice",
    ),
    "two with one key": (same_key, CorruptionError, "gives two validators one key"),
    "a peer's port": (
        lambda ours, _: edit(ours / PEERS_FILE, lambda raw: raw["peers"][1].update(port=0)),  # type: ignore[index]
        CorruptionError,
        "is at port 0: use 1 to 65535",
    ),
    "its own port": (
        lambda ours, _: edit(ours / VALIDATOR_FILE, lambda raw: raw.update(port=70_000)),
        CorruptionError,
        "names ports 70000 and 7001: use two different ones, 1 to 65535",
    ),
    "one port for both": (
        lambda ours, _: edit(ours / VALIDATOR_FILE, lambda raw: raw.update(health_port=raw["port"])),
        CorruptionError,
        "use two different ones",
    ),
    "a limit of nothing": (
        lambda ours, _: edit(ours / VALIDATOR_FILE, lambda raw: raw.update(limits={"snapshot_lag": 0})),
        CorruptionError,
        "limit 'snapshot_lag' is 0; use 1 or more",
    ),
    "a newer validator.json": (
        lambda ours, _: edit(ours / VALIDATOR_FILE, lambda raw: raw.update(format=2)),
        FormatError,
        "has format 2, this program knows 1: run the version of Cifer that wrote it",
    ),
    "a newer peers.json": (
        lambda ours, _: edit(ours / PEERS_FILE, lambda raw: raw.update(format="x")),
        FormatError,
        "has format 'x'",
    ),
    "two stores": (
        lambda ours, _: shutil.copy(ours / "validator.sqlite", ours / "validator.lmdb") and None,
        CorruptionError,
        "one of them is an old one, move it away",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_anything_listens(tmp_path: Path, mistake: str) -> None:
    """W2, C17: each mistake in a validator's folder has its own error, which says what to do; put right, the validator is ready again."""
    ours, theirs = found(tmp_path / "ours") / "validator-1", found(tmp_path / "theirs") / "validator-1"
    shutil.copytree(ours, tmp_path / "right")
    break_it, error, message = MISTAKES[mistake]
    break_it(ours, theirs)
    with pytest.raises(error, match=message):
        ValidatorServer(read_validator(ours))
    shutil.rmtree(ours)
    shutil.copytree(tmp_path / "right", ours)
    server = ValidatorServer(read_validator(ours))
    server.store.close()
    server._lock.release()
    server.log.close()


@pytest.mark.parametrize(("validators", "faults", "quorum"), [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 3), (6, 1, 5), (7, 2, 5)])
def test_how_many_may_fail_is_said(validators: int, faults: int, quorum: int) -> None:
    """C1: networks of one, two and three validators tolerate no fault."""
    tip = genesis_tip(create_network("n", [ADMINISTRATOR.public], validators).genesis)
    assert (tip.validators.tolerated_faults(), tip.validators.quorum) == (faults, quorum)


def test_two_validators_with_one_key_start_no_network() -> None:
    """G4: a genesis in which two validators share a key, or a network of none, is refused."""
    genesis = create_network("n", [ADMINISTRATOR.public], 2).genesis
    first, second = genesis.validators
    doubled = msgspec.structs.replace(genesis, validators=(first, Validator(second.name, first.public_key, 1)))
    with pytest.raises(GenesisError, match="names a validator key twice; give each validator its own"):
        check_genesis(doubled)
    assert encode(doubled) != encode(genesis)
    with pytest.raises(GenesisError, match="use at least 1, and 4 to survive a fault"):
        create_network("n", [ADMINISTRATOR.public], 0)


@pytest.mark.parametrize("jump", [-40 * 365 * 86_400, 40 * 365 * 86_400])
def test_a_wall_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int) -> None:
    """C12: neither certificates nor timers of a validator depend on the wall clock: decades away, it opens its folder as before."""
    folder = found(tmp_path) / "validator-1"
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + jump)
    server = ValidatorServer(read_validator(folder))
    assert not any(name in vars(server_module) for name in ("time", "datetime"))
    server.store.close()
    server._lock.release()
    server.log.close()
    assert validator_store(folder).exists()

"""Passphrases in the operating system's keyring: made once, kept out of the folder, missed when they are gone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backend
import keyring.errors
import pytest

from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.passphrase import KEYRING_VARIABLE, PASSPHRASE_VARIABLE
from cifer_tasks.errors import KeyMismatchError, StorageError, UsageError


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring that can be emptied and locked."""

    priority = 1.0

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise keyring.errors.KeyringLocked("canary-backend-text")
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.held[service, username]


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryKeyring]:
    """A keyring of this test's own, asked for by the variable."""
    before, made = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(made)
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setenv(KEYRING_VARIABLE, "1")
    yield made
    keyring.set_keyring(before)


def test_the_passphrase_is_in_the_keyring_and_nowhere_in_the_folder(tmp_path: Path, ring: MemoryKeyring) -> None:
    """A random passphrase is made once; another opening finds it; no file of the folder holds it."""
    Keystore.open(tmp_path / "keys").put("site-a", "test", "", b"secret")
    assert Keystore.open(tmp_path / "keys").get("site-a", "test", "") == b"secret"
    ((service, account), passphrase) = next(iter(ring.held.items()))
    assert (service, account, len(passphrase), len(ring.held)) == ("cifer", str((tmp_path / "keys").resolve()), 64, 1)
    files = [path for path in (tmp_path / "keys").iterdir() if path.is_file()]
    assert files and not any(passphrase.encode() in path.read_bytes() or path.name == "passphrase" for path in files)


def test_a_keyring_that_lost_the_passphrase_is_not_given_another(tmp_path: Path, ring: MemoryKeyring) -> None:
    """Secrets whose passphrase is gone are named as that; no second passphrase is made beside them."""
    Keystore.open(tmp_path / "keys").put("site-a", "test", "", b"secret")
    ring.held.clear()
    with pytest.raises(KeyMismatchError, match="the keyring has no passphrase of service 'cifer'"):
        Keystore.open(tmp_path / "keys")
    assert not ring.held


def test_a_locked_keyring_and_a_missing_package_say_what_to_do(
    tmp_path: Path, ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each, without the backend's own text."""
    ring.locked = True
    with pytest.raises(StorageError, match=r"does not answer \(KeyringLocked\); unlock it") as caught:
        Keystore.open(tmp_path / "keys")
    assert "canary" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(UsageError, match=r"pip install 'cifer\[keyring\]'"):
        Keystore.open(tmp_path / "keys")


def test_a_chosen_passphrase_comes_first(tmp_path: Path, ring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """With CIFER_PASSPHRASE set, the keyring is not asked."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "correct horse")
    Keystore.open(tmp_path / "keys")
    assert not ring.held

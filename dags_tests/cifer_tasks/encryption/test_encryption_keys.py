"""The keystore: secrets come back to whoever holds the passphrase, and to nobody under another name, network or passphrase."""

from __future__ import annotations

import copy
import json
import os
import pickle
import stat
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import PublicContext, SecretContext, passphrase
from cifer_tasks.encryption import keys as module
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.plain import PlainScheme
from cifer_tasks.errors import KeyMismatchError, StorageError

NETWORK, OTHER = "ab" * 32, "cd" * 32
SECRET = b"canary-3f9a-secret-bytes-never-in-the-clear"
CHEAP = 10


@pytest.fixture
def keys(tmp_path: Path) -> Keystore:
    """A keystore with a cheap derivation."""
    return Keystore(tmp_path / "keys", b"correct horse", CHEAP)


def reopened(keys: Keystore, passphrase: bytes = b"correct horse") -> Keystore:
    """The same folder opened anew."""
    return Keystore(keys.folder, passphrase, CHEAP)


def sealed_file(keys: Keystore) -> Path:
    """The file of the secret that these tests put."""
    return keys.folder / "site-a.signing.secret"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(secret=st.binary(max_size=300), network=st.sampled_from(["", NETWORK]))
def test_secrets_read_back(keys: Keystore, secret: bytes, network: str) -> None:
    """Any secret comes back after reopening the folder."""
    name = f"n{len(keys.labels())}"
    keys.put(name, "test", network, secret)
    assert reopened(keys).get(name, "test", network) == secret
    assert (name, "test", network) in keys.labels()


def test_files_are_private_and_hold_no_secret(keys: Keystore) -> None:
    """Folder 0700, files 0600 whatever the umask, and the secret's bytes in none of them, nor temporary files."""
    earlier = os.umask(0)
    try:
        keys.put("site-a", "signing", NETWORK, SECRET)
    finally:
        os.umask(earlier)
    assert stat.S_IMODE(keys.folder.stat().st_mode) == 0o700
    found = sorted(path.name for path in keys.folder.iterdir())
    assert found == ["keystore.json", "site-a.signing.secret"]
    for path in keys.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert SECRET not in path.read_bytes()


def test_a_loose_folder_is_made_private(tmp_path: Path) -> None:
    """A key folder that others may read is closed."""
    (tmp_path / "keys").mkdir(mode=0o755)
    Keystore(tmp_path / "keys", b"p", CHEAP)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def relabel(field: str, value: object) -> Callable[[Path], None]:
    """An edit of one field of a sealed file's label."""

    def edit(path: Path) -> None:
        label, _, sealed = path.read_bytes().partition(b"\n")
        fields = {**json.loads(label), field: value}
        path.write_bytes(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode() + b"\n" + sealed)

    return edit


FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("removed", lambda path: path.unlink(), "no signing secret of site-a"),
    ("emptied", lambda path: path.write_bytes(b""), "damaged"),
    ("garbage", lambda path: path.write_bytes(os.urandom(200)), "damaged"),
    ("label only", lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[0]), "damaged"),
    ("no ciphertext", lambda path: path.write_bytes(path.read_bytes().partition(b"\n")[0] + b"\n"), "does not open"),
    ("cut", lambda path: path.write_bytes(path.read_bytes()[:-1]), "does not open"),
    ("extended", lambda path: path.write_bytes(path.read_bytes() + b"x"), "does not open"),
    ("last byte", lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])), "does not open"),
    ("whitespace in label", lambda path: path.write_bytes(path.read_bytes().replace(b'":', b'": ', 1)), "does not open"),
    ("nonce", relabel("nonce", "00" * 12), "does not open"),
    ("salt", relabel("salt", "00" * 16), "does not open"),
    ("cost", relabel("scrypt_log2_n", 11), "does not open"),
    ("huge cost", relabel("scrypt_log2_n", 60), "damaged"),
    ("no cost", relabel("scrypt_log2_n", 0), "damaged"),
    ("boolean cost", relabel("scrypt_log2_n", True), "damaged"),
    ("format", relabel("format", "cifer-keystore/2"), "damaged"),
    ("extra field", relabel("extra", 1), "damaged"),
    ("name", relabel("name", "site-b"), "holds the signing secret of site-b"),
    ("kind", relabel("kind", "encryption"), "holds the encryption secret of site-a"),
    ("network", relabel("network", OTHER), "belongs to network cdcdcdcd"),
]


@pytest.mark.parametrize(("edit", "fault"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_faulty_files_are_named(keys: Keystore, edit: Callable[[Path], object], fault: str) -> None:
    """Each way a sealed file can be wrong is one line naming file and fault, without the secret, and no other exception."""
    keys.put("site-a", "signing", NETWORK, SECRET)
    edit(sealed_file(keys))
    with pytest.raises(KeyMismatchError, match=fault) as caught:
        reopened(keys).get("site-a", "signing", NETWORK)
    assert str(sealed_file(keys)) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET.decode() not in "".join(traceback.format_exception(caught.value))


def test_names_and_networks_are_bound_even_when_the_label_agrees(keys: Keystore) -> None:
    """A file renamed to another name and relabelled to match does not open: the mutant without associated data would open it."""
    keys.put("site-a", "signing", NETWORK, SECRET)
    for field, value, arguments in (
        ("name", "site-b", ("site-b", "signing", NETWORK)),
        ("kind", "other", ("site-a", "other", NETWORK)),
        ("network", OTHER, ("site-a", "signing", OTHER)),
    ):
        target = keys.folder / f"{arguments[0]}.{arguments[1]}.secret"
        original = sealed_file(keys).read_bytes()
        target.write_bytes(original)
        relabel(field, value)(target)
        with pytest.raises(KeyMismatchError, match="does not open"):
            keys.get(*arguments)
        sealed_file(keys).write_bytes(original)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(place=st.integers(0, 2**16), mask=st.integers(1, 255))
def test_any_flipped_byte_is_detected(keys: Keystore, place: int, mask: int) -> None:
    """No single changed byte of a sealed file goes unnoticed."""
    if not keys.has("site-a", "signing"):
        keys.put("site-a", "signing", NETWORK, SECRET)
    path = sealed_file(keys)
    original = path.read_bytes()
    changed = bytearray(original)
    changed[place % len(changed)] ^= mask
    path.write_bytes(bytes(changed))
    try:
        with pytest.raises(KeyMismatchError):
            Keystore(keys.folder, b"correct horse", CHEAP).get("site-a", "signing", NETWORK)
    finally:
        path.write_bytes(original)


def test_wrong_passphrase_and_other_network(keys: Keystore) -> None:
    """Another passphrase and another network's reader are refused, each with its own remedy."""
    keys.put("site-a", "signing", NETWORK, SECRET)
    with pytest.raises(KeyMismatchError, match="CIFER_PASSPHRASE"):
        reopened(keys, b"wrong").get("site-a", "signing", NETWORK)
    with pytest.raises(KeyMismatchError, match=r"belongs to network ab.*this is network cd.*CIFER_HOME"):
        keys.get("site-a", "signing", OTHER)


def test_secrets_are_never_overwritten(keys: Keystore) -> None:
    """Putting the same secret again is harmless; another one is refused and the first stays."""
    keys.put("site-a", "signing", NETWORK, SECRET)
    before = sealed_file(keys).read_bytes()
    keys.put("site-a", "signing", NETWORK, SECRET)
    with pytest.raises(KeyMismatchError, match="never overwritten"):
        keys.put("site-a", "signing", NETWORK, b"another")
    assert sealed_file(keys).read_bytes() == before


def test_one_derivation_serves_all_secrets(keys: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt runs once per opened keystore, however many secrets are sealed and opened."""
    derived: list[int] = []
    original = module.Scrypt

    def counting(*arguments: Any, **options: Any) -> Any:
        derived.append(options["n"])
        return original(*arguments, **options)

    monkeypatch.setattr(module, "Scrypt", counting)
    for number in range(5):
        keys.put(f"site-{number}", "signing", NETWORK, SECRET)
        keys.get(f"site-{number}", "signing", NETWORK)
    assert derived == [1 << CHEAP]


def test_a_lost_salt_file_loses_nothing(keys: Keystore) -> None:
    """Secrets carry their own derivation parameters; a damaged keystore.json stops new ones by name and not the reading of old ones."""
    keys.put("site-a", "signing", NETWORK, SECRET)
    (keys.folder / "keystore.json").write_bytes(b"{}")
    assert reopened(keys).get("site-a", "signing", NETWORK) == SECRET
    with pytest.raises(KeyMismatchError, match=r"keystore\.json: damaged"):
        keys.put("site-b", "signing", NETWORK, SECRET)
    (keys.folder / "keystore.json").unlink()
    keys.put("site-b", "signing", NETWORK, SECRET)
    assert reopened(keys).get("site-a", "signing", NETWORK) == reopened(keys).get("site-b", "signing", NETWORK) == SECRET


@pytest.mark.parametrize(
    ("name", "kind"), [("../x", "signing"), ("x", "a.b"), ("", "signing"), ("X", "signing"), ("x", "../y"), ("x/y", "z")]
)
def test_names_cannot_leave_the_folder(keys: Keystore, name: str, kind: str) -> None:
    """A name that is no plain file name is a programmer's mistake, refused before any path is built."""
    for call in (lambda: keys.get(name, kind, ""), lambda: keys.put(name, kind, "", b"")):
        with pytest.raises(ValueError, match="cannot name a secret"):
            call()


def test_opening_with_and_without_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable a random passphrase is made once and kept; with it that one is used, no file is made; mixing is refused."""
    monkeypatch.delenv("CIFER_PASSPHRASE", raising=False)
    folder = tmp_path / "keys"
    Keystore.open(folder).put("site-a", "signing", NETWORK, SECRET)
    kept = (folder / "passphrase").read_bytes()
    assert len(bytes.fromhex(kept.decode().strip())) == 32
    assert stat.S_IMODE((folder / "passphrase").stat().st_mode) == 0o600
    assert Keystore.open(folder).get("site-a", "signing", NETWORK) == SECRET
    assert (folder / "passphrase").read_bytes() == kept
    monkeypatch.setenv("CIFER_PASSPHRASE", "chosen")
    with pytest.raises(KeyMismatchError, match="unset it"):
        Keystore.open(folder).get("site-a", "signing", NETWORK)
    Keystore.open(tmp_path / "other")
    assert not (tmp_path / "other" / "passphrase").exists()
    monkeypatch.setenv("CIFER_PASSPHRASE", "")
    with pytest.raises(KeyMismatchError, match="empty passphrase"):
        Keystore.open(folder)


def test_chosen_passphrases_are_stretched_more() -> None:
    """A passphrase that a person chose costs at least as much to guess as OWASP asks for; a random one needs no such cost."""
    assert passphrase.CHOSEN_COST_LOG2 >= 17
    assert passphrase.RANDOM_COST_LOG2 in module._COST_LIMITS_LOG2
    assert passphrase.CHOSEN_COST_LOG2 in module._COST_LIMITS_LOG2


def test_a_keystore_does_not_show_its_passphrase(keys: Keystore) -> None:
    """It prints its folder only, and neither pickles nor copies."""
    assert "horse" not in repr(keys) + str(keys)
    for dump in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            dump(keys)


def test_a_place_that_cannot_hold_keys_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder's place, and a disk that is full, are StorageErrors naming the place, with nothing left behind."""
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StorageError, match="taken"):
        Keystore(tmp_path / "taken" / "keys", b"p", CHEAP)
    keys = Keystore(tmp_path / "keys", b"p", CHEAP)
    keys.put("site-a", "signing", NETWORK, SECRET)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"site-b.*No space left"):
            keys.put("site-b", "signing", NETWORK, SECRET)
    assert sorted(path.name for path in keys.folder.iterdir()) == ["keystore.json", "site-a.signing.secret"]


# ------------------------------------------------------------------------------------------------ known kinds


def test_signing_keys_are_made_once(keys: Keystore) -> None:
    """The same name gives the same key after reopening, different names different keys, and the key signs."""
    from ledger.crypto import Domain, verify

    first = keys.signing_key("site-a", NETWORK)
    assert reopened(keys).signing_key("site-a", NETWORK).public == first.public
    assert keys.signing_key("site-b", NETWORK).public != first.public
    assert verify(first.public, Domain.TRANSACTION, b"x", first.sign(Domain.TRANSACTION, b"x"))
    with pytest.raises(KeyMismatchError, match="belongs to network"):
        keys.signing_key("site-a", OTHER)


def test_racing_creators_agree(keys: Keystore) -> None:
    """Threads with keystores of their own that ask for a new key at once all get the one that was written."""
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def work() -> None:
        own = reopened(keys)
        barrier.wait()
        found.append(own.signing_key("site-a", NETWORK).public)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_encryption_contexts_are_made_once(keys: Keystore) -> None:
    """A run's contexts are generated on first use, come back equal, can be handed to another key holder, and belong to one scheme."""
    scheme = PlainScheme()
    public, secret = keys.encryption_contexts("run-1", NETWORK, scheme)
    again = reopened(keys)
    assert again.encryption_contexts("run-1", NETWORK, scheme)[0] == public
    assert again.secret_context("run-1", NETWORK, scheme).reveal() == secret.reveal()
    assert again.public_context("run-1", NETWORK, scheme) == public
    keys.put_contexts("site-b", NETWORK, public, secret)
    assert keys.secret_context("site-b", NETWORK, scheme).reveal() == secret.reveal()
    with pytest.raises(KeyMismatchError, match="no encryption secret of run-2"):
        keys.secret_context("run-2", NETWORK, scheme)
    keys.put_contexts("site-c", NETWORK, PublicContext("ckks", b"p"), SecretContext("ckks", b"s"))
    with pytest.raises(KeyMismatchError, match=r"encryption\.scheme=ckks, the run uses plain"):
        keys.secret_context("site-c", NETWORK, scheme)

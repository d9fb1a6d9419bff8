"""Where the passphrase of a keystore comes from: a person, the operating system's keyring, or a file beside the secrets."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Final

from cifer_tasks.errors import KeyMismatchError, StorageError, UsageError
from cifer_tasks.files import write_once

PASSPHRASE_VARIABLE: Final = "CIFER_PASSPHRASE"  # noqa: S105 - the name of a variable
KEYRING_VARIABLE: Final = "CIFER_KEYRING"

CHOSEN_COST_LOG2: Final = 17
"""scrypt N for a passphrase that a person chose: 128 MiB and some tenths of a second (OWASP's recommendation for r = 8, p = 1)."""

RANDOM_COST_LOG2: Final = 14
"""scrypt N for a passphrase of 256 random bits, which needs no stretching."""

_SERVICE: Final = "cifer"


def passphrase_of(folder: Path) -> tuple[bytes, int]:
    """The passphrase of the keystore in `folder`, which exists, and log2 of scrypt's N for it. A random one is made on first use.

    The environment variable CIFER_PASSPHRASE holds a chosen one. Otherwise it is random and kept in the operating system's keyring when
    CIFER_KEYRING is set (service ``cifer``, account: the folder), or in `<folder>/passphrase`. The file protects a single secret that is
    copied or mailed elsewhere; it does not protect against anyone who can read the folder, who has the passphrase too.

    Raises `UsageError` when the keyring's package is missing, `KeyMismatchError` when the keyring has lost it, `StorageError`.
    """
    chosen = os.environ.get(PASSPHRASE_VARIABLE)
    if chosen is not None:
        return chosen.encode(), CHOSEN_COST_LOG2
    if os.environ.get(KEYRING_VARIABLE):
        return _from_keyring(folder), RANDOM_COST_LOG2
    path = folder / "passphrase"
    write_once(path, secrets.token_hex(32).encode() + b"\n")
    try:
        return path.read_bytes().strip(), RANDOM_COST_LOG2
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise StorageError(msg) from None


def _from_keyring(folder: Path) -> bytes:
    keyring = _keyring()
    account = str(folder.resolve())
    try:
        found = keyring.get_password(_SERVICE, account)
        if found is None:
            if any(folder.glob("*.secret")):
                msg = (
                    f"{folder}: the keyring has no passphrase of service {_SERVICE!r}, account {account!r}, and there are secrets here; "
                    f"unset {KEYRING_VARIABLE} if they were made without it, or restore the keyring"
                )
                raise KeyMismatchError(msg)
            found = secrets.token_hex(32)
            keyring.set_password(_SERVICE, account, found)
    except keyring.errors.KeyringError as error:
        msg = f"the operating system's keyring does not answer ({type(error).__name__}); unlock it, or unset {KEYRING_VARIABLE}"
        raise StorageError(msg) from None
    return str(found).encode()


def _keyring() -> Any:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        msg = f"{KEYRING_VARIABLE} is set, which needs an optional package: pip install 'cifer[keyring]'"
        raise UsageError(msg) from None
    return keyring

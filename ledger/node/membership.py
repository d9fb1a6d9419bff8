"""What makes somebody a client of a network: the three files of a client's folder, handed over or written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ledger.backends.network import GENESIS_FILE
from ledger.crypto import SigningKey
from ledger.errors import KeyMismatchError, LedgerError, StorageError
from ledger.files import write_file
from ledger.node.folder import CLIENT_FILE, PEERS_FILE, read_client
from ledger.transport import tls

FILES: Final = (PEERS_FILE, CLIENT_FILE, GENESIS_FILE)
"""The genesis last: a folder without it holds nothing."""


def client_files(client: Path, administrator: SigningKey, subject: str) -> dict[str, bytes]:
    """The files of another client of the network that `client` is one of, with a fresh certificate for `subject`.

    The certificate lets its holder talk to validators and says nothing on the ledger, where only signed transactions count. Raises
    `KeyMismatchError` when the key is not the first administrator's, and what `read_client` raises.
    """
    found = read_client(client)
    if administrator.public != found.genesis.administrators[0]:
        raise KeyMismatchError(
            f"the administrator's key here is not that of network {found.network.hex()[:16]}: do this where `cifer ledger init` was done"
        )
    credential = tls.issue(administrator, f"{tls.ADMINISTRATOR}-0", tls.ADMINISTRATOR, found.network, subject)
    files = {name: (client / name).read_bytes() for name in (PEERS_FILE, GENESIS_FILE)}
    return {**files, CLIENT_FILE: credential.key + credential.certificate}


def write_client(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make `folder` a client's from these files. Raises `LedgerError` when one is missing, `StorageError`."""
    if set(files) != set(FILES):
        raise LedgerError(f"a client's folder has {', '.join(FILES)}; found {', '.join(sorted(files)) or 'nothing'}: ask for a whole set")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in FILES:
            write_file(folder / name, files[name], private=name == CLIENT_FILE)
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be written ({error.strerror}): choose a folder that can be written") from error


def copy_client(client: Path, folder: Path) -> None:
    """Make `folder` the same client as `client`: another process of the same party. Raises as `write_client` and `read_client`."""
    read_client(client)
    write_client(folder, {name: (client / name).read_bytes() for name in FILES})

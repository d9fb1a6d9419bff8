"""Invitations: what an administrator hands to somebody who is to join a network, in one file.

The file holds a one-time signing key that the ledger lets name the new identity's own (rules I6 to I9 of ledger/SPEC.md), the files that
make its holder a client of the validators, and where the coordinator's services are. It is signed by an administrator of the genesis
inside. Whoever has it can join under its name, once: hand it over as you would a password.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import msgspec

from cifer_tasks.errors import DataError, IntegrityError
from cifer_tasks.files import write_atomically
from cifer_tasks.records import Record
from ledger import SigningKey, decode, network_id, verify
from ledger.backends.network import GENESIS_FILE
from ledger.crypto import Domain
from ledger.errors import MalformedError
from ledger.types import Genesis

FORMAT: Final = "cifer-invitation/1"


class Invitation(Record, frozen=True):
    """network: hex identity.  last_height: of the last block in which it may be accepted.  prefect, artifacts: URLs.

    token: the seed of the one-time key, a secret.  client: a client's files by name, one of them a secret.
    """

    name: str
    role: str
    network: str
    last_height: int
    prefect: str
    artifacts: str
    token: bytes
    client: dict[str, bytes]

    def __repr__(self) -> str:
        return f"Invitation({self.name!r}, network={self.network[:16]}...)"


def write_invitation(path: Path, invitation: Invitation, administrator: SigningKey) -> None:
    """Sign an invitation and write it to a file of mode 0600. Raises `StorageError`."""
    body = msgspec.json.encode(invitation)
    signed = {
        "format": FORMAT,
        "invitation": body.decode("ascii"),
        "administrator": administrator.public.hex(),
        "signature": administrator.sign(Domain.INVITATION, body).hex(),
    }
    write_atomically(path, json.dumps(signed, indent=1).encode() + b"\n")


def read_invitation(path: Path) -> Invitation:
    """An invitation whose parts belong together: signed by an administrator of the genesis in it, which is the network it names.

    That it is the network you mean to join is yours to compare with what its administrator tells you. Raises `DataError` for a file
    that is no invitation, `IntegrityError` for one that was changed.
    """
    try:
        raw = json.loads(path.read_bytes())
        body, key, signature = raw["invitation"].encode(), bytes.fromhex(raw["administrator"]), bytes.fromhex(raw["signature"])
        found = msgspec.json.decode(body, type=Invitation)
        genesis = decode(found.client[GENESIS_FILE], Genesis)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; name the file that `cifer site invite` wrote"
        raise DataError(msg) from None
    except (ValueError, KeyError, TypeError, AttributeError, msgspec.MsgspecError, MalformedError):
        msg = f"{path}: is no invitation; name the file that `cifer site invite` wrote"
        raise DataError(msg) from None
    authentic = key in genesis.administrators and verify(key, Domain.INVITATION, body, signature)
    if not authentic or network_id(genesis).hex() != found.network:
        msg = f"{path}: was changed since an administrator signed it; ask for another"
        raise IntegrityError(msg)
    return found

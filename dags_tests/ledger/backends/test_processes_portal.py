"""The portal over validators that are processes: it follows them by itself, beside a client of the same folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from flows.portal.live import FOLLOWER, LiveRecord
from ledger.author import Author
from ledger.backends.processes import ProcessesLedger
from ledger.backends.reader import open_readonly
from ledger.crypto import SigningKey
from ledger.types import RegisterIdentity


def _site(label: str) -> RegisterIdentity:
    return RegisterIdentity(label, "site", SigningKey.from_seed(label.encode().ljust(32, b".")).public)


def test_the_portal_follows_the_validators_and_not_the_folders_copy(served: Any, tmp_path: Path) -> None:
    """What another client commits is shown at once, while this folder's own copy stands still and its lock is somebody else's."""
    home = tmp_path / "home"
    shutil.copytree(served.client, home / "ledger")
    record = LiveRecord(home)
    try:
        with ProcessesLedger.open(served.client) as elsewhere, ProcessesLedger.open(home / "ledger"):
            author = Author(served.administrator, elsewhere)
            for number in range(3):
                receipt = author.send(_site(f"site-{number}"))
                ledger, index = record.now()
                assert ledger.state().height == index.height == receipt.height
                assert record.reached == 4
        served.close()
        ledger, _ = record.now()
        assert ledger.state().identity("site-2") is not None
        assert record.reached == 0
    finally:
        record.close()
    copy = open_readonly(home / FOLLOWER)
    assert copy.head() is not None and (home / FOLLOWER / "client.pem").stat().st_mode & 0o077 == 0
    copy.close()

"""A small network to try backends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.author import Author, sign_transaction
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import NetworkSetup, create_network
from ledger.crypto import SigningKey
from ledger.types import RegisterIdentity, SignedTransaction

ADMINISTRATOR = SigningKey.from_seed(b"administrator of the tests......")


@dataclass(frozen=True)
class Bench:
    """A folder, a network, and what signs on it."""

    folder: Path
    setup: NetworkSetup
    administrator: SigningKey

    def create(self) -> EmbeddedLedger:
        """Start the ledger."""
        return EmbeddedLedger.create(self.folder, self.setup.genesis, self.setup.keys)

    def open(self) -> EmbeddedLedger:
        """Open it again."""
        return EmbeddedLedger.open(self.folder, self.setup.keys)

    def author(self, ledger: EmbeddedLedger) -> Author:
        """The administrator, as an author."""
        return Author(self.administrator, ledger)

    def identity(self, label: str) -> RegisterIdentity:
        """A site whose key comes from its name."""
        return RegisterIdentity(label, "site", SigningKey.from_seed(label.encode().ljust(32, b".")).public)

    def signed(self, ledger: EmbeddedLedger, sequence: int, label: str) -> SignedTransaction:
        """The administrator's transaction number `sequence`."""
        return sign_transaction(self.administrator, ledger.network, sequence, self.identity(label))


@pytest.fixture
def network(tmp_path: Path) -> Callable[[int], Bench]:
    """Makes a network of so many validators."""
    return lambda validators: Bench(
        tmp_path / f"ledger-{validators}", create_network("tests", [ADMINISTRATOR.public], validators), ADMINISTRATOR
    )


@pytest.fixture
def bench(network: Callable[[int], Bench]) -> Bench:
    """A network of four."""
    return network(4)


@pytest.fixture
def ledger(bench: Bench) -> Iterator[EmbeddedLedger]:
    """A started ledger of four validators."""
    with bench.create() as started:
        yield started

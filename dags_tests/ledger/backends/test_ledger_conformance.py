"""Every backend passes the same suite (`ledger.backends.conformance`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ledger.backends.base import Ledger
from ledger.backends.conformance import LedgerConformance
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.processes import ProcessesLedger
from ledger.crypto import SigningKey


class TestEmbedded(LedgerConformance):
    """The embedded backend with four validators."""

    @pytest.fixture
    def administrator(self, bench: Any) -> SigningKey:
        return bench.administrator


class TestEmbeddedOnLmdb(LedgerConformance):
    """The embedded backend, its validators' chains in LMDB."""

    @pytest.fixture
    def administrator(self, bench: Any) -> SigningKey:
        return bench.administrator

    @pytest.fixture
    def ledger(self, bench: Any) -> Iterator[Ledger]:
        with EmbeddedLedger.create(bench.folder, bench.setup.genesis, bench.setup.keys, "lmdb") as opened:
            yield opened


class TestProcesses(LedgerConformance):
    """Four validators over TCP and TLS, and their client."""

    @pytest.fixture
    def administrator(self, served: Any) -> SigningKey:
        return served.administrator

    @pytest.fixture
    def ledger(self, served: Any) -> Iterator[Ledger]:
        with ProcessesLedger.open(served.client) as opened:
            yield opened

"""What every format is made from: the model's committed history and what its digests stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ledger.provenance import ModelHistory, RoundHistory
from ledger.state.entries import Outcome

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """A model's history on one network, as of one block.

    network: 32-byte identity.  height: of the last block.  settings: those whose digest is on record, {} when they are not at hand.
    packages: names and versions of the environment whose digest is on record, ascending; () when it is another one than this process's.
    warning: what the encryption scheme does not protect against.
    """

    history: ModelHistory
    network: bytes
    height: int
    settings: Mapping[str, Any]
    packages: tuple[tuple[str, str], ...]
    warning: str

    @property
    def network_name(self) -> str:
        """A URN for the network: the first half of its identity."""
        return f"urn:cifer:network:{self.network.hex()[:32]}"

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.history.name}@{self.history.version}"

    @property
    def outcomes(self) -> tuple[tuple[RoundHistory, Outcome], ...]:
        """The rounds that were committed and what they came to, ascending."""
        return tuple((found, found.outcome) for found in self.history.run.rounds if found.outcome is not None)

    def metrics_of(self, number: int) -> dict[str, float]:
        """What round `number`'s candidate measured on the held-out table; {} while there is no outcome."""
        for found, outcome in self.outcomes:
            if found.round == number:
                return {item.name: item.millionths / MILLION for item in outcome.metrics}
        return {}

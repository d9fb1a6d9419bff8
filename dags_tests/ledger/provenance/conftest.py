"""A ledger on which two hospitals and a third one trained a model: everything a history can show."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.author import Author
from ledger.backends.base import Receipt
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.crypto import SigningKey
from ledger.types import (
    AppendLineage,
    CloseRun,
    CommitRound,
    DatasetUse,
    ExcludeSite,
    GrantConsent,
    Metric,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    RegisterModel,
    SealRound,
    SubmitUpdate,
    WithdrawConsent,
)

sys.path.append(str(Path(__file__).parent))  # for the helpers of the bundles' tests, which import each other

SITES = ("hospital-a", "hospital-b", "hospital-c")
EVENTS = b'{"eventType":"START"}\n{"eventType":"COMPLETE"}\n'


def digest(label: str) -> bytes:
    """A digest that stands for something named."""
    return sha256(label.encode()).digest()


@dataclass(frozen=True)
class Story:
    """The ledger, where it lies, and receipts by what was said."""

    ledger: EmbeddedLedger
    folder: Path
    receipts: dict[str, Receipt]


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Three rounds: accepted without site c, rejected, accepted; then registered, and a's consent withdrawn."""
    folder = tmp_path_factory.mktemp("provenance") / "ledger"
    keys = {name: SigningKey.from_seed(digest(name)) for name in ("admin", "coordinator", *SITES)}
    setup = create_network("story", [keys["admin"].public])
    with EmbeddedLedger.create(folder, setup.genesis, setup.keys) as ledger:
        author = {name: Author(key, ledger) for name, key in keys.items()}
        receipts: dict[str, Receipt] = {}
        author["admin"].send(RegisterIdentity("coordinator", "coordinator", keys["coordinator"].public))
        for site in SITES:
            author["admin"].send(RegisterIdentity(site, "site", keys[site].public))
            table = digest(f"table of {site}")
            receipts[f"dataset {site}"] = author[site].send(RegisterDataset("table", table, f"md5:{site}", 100, digest("schema")))
            receipts[f"consent {site}"] = author[site].send(GrantConsent(table, "breast-cancer"))
        uses = tuple(DatasetUse(site, digest(f"table of {site}")) for site in SITES)
        say = author["coordinator"]
        receipts["run"] = say.send(
            OpenRun("run-1", "breast-cancer", digest("config"), "abc123", digest("lock"), "ckks", "{}", 31, digest("m0"), 2, 3, uses)
        )
        current = "m0"
        for number, accepted in ((1, True), (2, False), (3, True)):
            say.send(OpenRound("run-1", number, digest(current), digest("context")))
            for site in SITES:
                if number == 1 and site == "hospital-c":
                    reason = ExcludeSite("run-1", 1, site, "validate", "column age has 4 missing values")
                    receipts["exclusion"] = author[site].send(reason)
                    continue
                update = SubmitUpdate("run-1", number, digest(f"table of {site}"), 100, digest(f"ciphertext {number} {site}"), 4096)
                receipts[f"submit {number} {site}"] = author[site].send(update)
            sealed = SITES[:2] if number == 1 else SITES
            receipts[f"seal {number}"] = say.send(SealRound("run-1", number, sealed))
            why = "" if accepted else "accuracy fell by 0.2"
            metrics = (Metric("accuracy", 960_000 + number),)
            receipts[f"commit {number}"] = say.send(
                CommitRound("run-1", number, digest("sum"), digest("mean"), digest(f"m{number}"), accepted, why, metrics)
            )
            packed = zlib.compress(EVENTS)
            receipts[f"lineage {number}"] = say.send(AppendLineage("run-1", number, 2, sha256(EVENTS).digest(), packed))
            current = f"m{number}" if accepted else current
        receipts["v1"] = say.send(RegisterModel("breast-cancer", 1, "", digest("m1"), "run-1", 1))
        receipts["v2"] = say.send(RegisterModel("breast-cancer", 2, "champion", digest("m3"), "run-1", 3))
        receipts["close"] = say.send(CloseRun("run-1", "completed", ""))
        withdrawal = WithdrawConsent(digest("table of hospital-a"), "breast-cancer", "patient asked")
        receipts["withdraw"] = author["hospital-a"].send(withdrawal)
        yield Story(ledger, folder, receipts)

"""`cifer bench bundle`: how large a model's bundle is and what verifying it costs, against rounds and sites.

The history is real in all that a bundle shows: identities, consents, rounds and releases go through the consensus of an embedded ledger,
one transaction a block, which is the dearest case. Nothing is trained: digests stand for ciphertexts and models. Lineage is left out: its
size depends on what is reported. The reference in the same run is what nobody can do without: checking the signatures.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from flows.documents import Report
from ledger import crypto
from ledger.author import Author
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.codec import decode, encode
from ledger.crypto import SigningKey
from ledger.provenance import Bundle, make_bundle, verify_bundle, verify_ledger
from ledger.types import (
    CommitRound,
    DatasetUse,
    GrantConsent,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    RegisterModel,
    ReleaseOpening,
    SealRound,
    SubmitUpdate,
)

T = TypeVar("T")

REPEATS: Final = 3
MODEL: Final = "measured"


def bundle_costs(sites: Sequence[int], rounds: int) -> Report:
    """Bytes, and seconds of CPU (the least of three), of a model's bundle for each number of sites."""
    rows = [_measured(count, rounds) for count in sites]
    lines = [f"{rounds} rounds; seconds of CPU; ratio: of verifying the bundle to checking its signatures alone"]
    lines.append(
        f"{'sites':>6} {'transactions':>13} {'bytes':>11} {'make s':>8} {'verify s':>9} {'signatures s':>13} {'ratio':>6} {'chain s':>8}"
    )
    lines += [
        f"{row['sites']:>6} {row['transactions']:>13,} {row['bytes']:>11,} {row['make_seconds']:>8.3f} {row['verify_seconds']:>9.3f} "
        f"{row['signatures_seconds']:>13.3f} {row['ratio']:>6.2f} {row['chain_seconds']:>8.3f}"
        for row in rows
    ]
    return Report({"rounds": rounds, "measured": rows}, tuple(lines))


def _measured(sites: int, rounds: int) -> dict[str, Any]:
    keys = {name: SigningKey.generate() for name in ("administrator", "coordinator", *_names(sites))}
    setup = create_network("bench", [keys["administrator"].public])
    with tempfile.TemporaryDirectory() as folder, EmbeddedLedger.create(Path(folder) / "ledger", setup.genesis, setup.keys) as ledger:
        authors = {name: Author(key, ledger) for name, key in keys.items()}
        _tell(authors, keys, _names(sites), rounds)
        make_seconds, made = _least(lambda: make_bundle(ledger, MODEL, 1))
        chain_seconds, _ = _least(lambda: verify_ledger(ledger))
    record = encode(made.bundle)
    checks: list[tuple[bytes, bytes, bytes, bytes]] = []

    def noting(public: bytes, domain: bytes, data: bytes, signature: bytes) -> bool:
        checks.append((public, domain, data, signature))
        return crypto.verify(public, domain, data, signature)

    verified = verify_bundle(made.bundle, setup.genesis, noting)
    verify_seconds, _ = _least(lambda: verify_bundle(decode(record, Bundle), setup.genesis))
    signatures_seconds, _ = _least(lambda: [crypto.verify(*check) for check in checks])
    return {
        "sites": sites,
        "transactions": len(verified.transactions),
        "entries": len(verified.entries),
        "signatures": len(checks),
        "bytes": len(record),
        "make_seconds": make_seconds,
        "verify_seconds": verify_seconds,
        "signatures_seconds": signatures_seconds,
        "ratio": verify_seconds / signatures_seconds,
        "chain_seconds": chain_seconds,
    }


def _tell(authors: dict[str, Author], keys: dict[str, SigningKey], sites: Sequence[str], rounds: int) -> None:
    """The ledger's side of a training."""
    coordinator = authors["coordinator"]
    authors["administrator"].send(RegisterIdentity("coordinator", "coordinator", keys["coordinator"].public))
    for site in sites:
        authors["administrator"].send(RegisterIdentity(site, "site", keys[site].public))
        authors[site].send(RegisterDataset("table", _digest(site), f"md5:{site}", 100, _digest("schema")))
        authors[site].send(GrantConsent(_digest(site), MODEL))
    uses = tuple(DatasetUse(site, _digest(site)) for site in sites)
    declared = OpenRun("run", MODEL, _digest("c"), "unversioned", _digest("l"), "plain", "{}", 31, _digest("m0"), 1, rounds, uses)
    coordinator.send(declared)
    for number in range(1, rounds + 1):
        coordinator.send(OpenRound("run", number, _digest(f"m{number - 1}"), _digest("context")))
        for site in sites:
            authors[site].send(SubmitUpdate("run", number, _digest(site), 100, _digest(f"{number} {site}"), 4096))
        coordinator.send(SealRound("run", number, tuple(sites)))
        for site in sites:
            authors[site].send(ReleaseOpening("run", number, _digest(f"sum {number}"), _digest(f"opening {number} {site}")))
        outcome = CommitRound("run", number, _digest(f"sum {number}"), _digest(f"o{number}"), _digest(f"m{number}"), True, "", ())
        coordinator.send(outcome)
    coordinator.send(RegisterModel(MODEL, 1, "champion", _digest(f"m{rounds}"), "run", rounds))


def _least(action: Callable[[], T]) -> tuple[float, T]:
    """Seconds of CPU of the quickest of a few repeats, and the last result."""
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        result = action()
        found.append(time.process_time() - start)
    return min(found), result


def _names(sites: int) -> tuple[str, ...]:
    return tuple(f"site-{number:04d}" for number in range(1, sites + 1))


def _digest(label: str) -> bytes:
    return sha256(label.encode()).digest()

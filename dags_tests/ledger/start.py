"""How long a validator takes to start from a long chain, with its snapshot and without: every figure from this run.

    python dags_tests/ledger/start.py --transactions 100000 [--store lmdb] [--whole]

The chain is real: every transaction (a dataset that a site registers) is signed, every block certified by four keys, every state root
computed. It is started as a killed validator leaves it, up to 10,000 transactions behind its snapshot, and as one that was stopped does.
`--whole` also runs every block from genesis, as a start without a snapshot does.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

from ledger.author import sign_transaction
from ledger.consensus.blocks import MOST_TRANSACTIONS, genesis_tip
from ledger.crypto import SigningKey, VerificationCache
from ledger.node.__main__ import SELDOM
from ledger.node.replay import replay
from ledger.node.snapshots import Snapshots
from ledger.sim.chains import grow
from ledger.state.entries import Dataset
from ledger.storage import KINDS, create_store, open_store
from ledger.types import Genesis, RegisterDataset, RegisterIdentity, Validator

SITES = 100
KEYS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 5)]
ADMINISTRATOR = SigningKey.from_seed(bytes([9]) * 32)
SITE_KEYS = [SigningKey.from_seed(b"site %027d" % number) for number in range(SITES)]


def make(path: Path, transactions: int) -> tuple[bytes, float, list[float]]:
    """A store with so many transactions, as a killed validator leaves it; the state's root, CPU seconds of all, and of each snapshot."""
    members = tuple(Validator(f"v{number}", key.public, 1) for number, key in enumerate(KEYS))
    genesis = Genesis("start", "libsodium", bytes(16), members, (ADMINISTRATOR.public,))
    store, tip = create_store(path, genesis), genesis_tip(genesis)
    snapshots, written = Snapshots(store, None), []
    said = [
        sign_transaction(ADMINISTRATOR, tip.network, number, RegisterIdentity(f"s{number}", "site", key.public))
        for number, key in enumerate(SITE_KEYS)
    ]
    began, done = time.process_time(), 0
    while said:
        committed, tip = grow(tip, KEYS, said, lambda *_: True)  # signed here a moment ago
        store.write([committed])
        snapshots.count(len(said))
        if snapshots.due(tip.height):
            before = time.process_time()
            snapshots.save(tip)
            written.append(time.process_time() - before)
        more = range(done, min(done + MOST_TRANSACTIONS, transactions - SITES))
        done = more.stop
        said = [
            sign_transaction(
                SITE_KEYS[number % SITES], tip.network, number // SITES, RegisterDataset("d", b"%032d" % number, "md5:0", 9, bytes(32))
            )
            for number in more
        ]
        if tip.height % 50 == 0 and sys.stderr.isatty():
            sys.stderr.write(f"\r{done:,} of {transactions:,}")
    store.close()
    return tip.state.root(), time.process_time() - began, written


def start(path: Path, *, whole: bool) -> tuple[float, float, float, bytes]:
    """Wall and CPU seconds of a start, CPU seconds of the first block of 1,000 behind it, and the state's root before that."""
    wall, cpu = time.perf_counter(), time.process_time()
    store = open_store(path)
    tip = replay(store, VerificationCache().verify, whole=whole).tip
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    root = tip.state.root()
    sequences = [tip.state.next_sequence(key.public) for key in SITE_KEYS]
    said = [
        sign_transaction(
            SITE_KEYS[number % SITES],
            tip.network,
            sequences[number % SITES] + number // SITES,
            RegisterDataset("d", b"x%031d" % number, "md5:0", 9, bytes(32)),
        )
        for number in range(MOST_TRANSACTIONS)
    ]
    cpu = time.process_time()
    grow(tip, KEYS, said, lambda *_: True)
    first = time.process_time() - cpu
    assert tip.state.read(Dataset, b"%032d" % 0) is not None
    store.close()
    return *seconds, first, root


def stop(path: Path) -> None:
    """Go on from a killed validator's store, and leave it as one that stops in good order does: with a snapshot of the chain's end."""
    store = open_store(path)
    found = replay(store, VerificationCache().verify)
    Snapshots(store, found.saved).save(found.tip)
    store.close()


def main() -> int:
    """The command."""
    gc.set_threshold(*SELDOM)  # as a validator does
    parser = argparse.ArgumentParser(description="Measure a validator's start from a long chain.")
    parser.add_argument("--transactions", type=int, default=100_000)
    parser.add_argument("--store", choices=KINDS, default=KINDS[0])
    parser.add_argument("--whole", action="store_true", help="also start without the snapshot")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cifer-start-") as folder:
        path = Path(folder) / f"validator.{given.store}"
        root, made, snapshots = make(path, given.transactions)
        found = {"transactions": given.transactions, "store": given.store, "bytes": path.stat().st_size, "make_cpu_seconds": made}
        found |= {
            "snapshots": len(snapshots),
            "snapshot_cpu_seconds_longest": max(snapshots, default=0.0),
            "snapshot_cpu_share": sum(snapshots) / made,
        }
        for name, whole in (("killed", False), ("whole", True), ("stopped", False)):
            if name == "stopped":
                stop(path)
            if not whole or given.whole:
                wall, cpu, first, again = start(path, whole=whole)
                assert again == root, "another state"
                found |= {f"{name}_start_seconds": wall, f"{name}_start_cpu_seconds": cpu, f"{name}_first_block_cpu_seconds": first}
        found["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Every place where the ledger reads bytes of others, fuzzed: only errors of the ledger's own tree, and nothing that is not canonical.

    python dags_tests/ledger/fuzz.py                      # what can be fuzzed
    python dags_tests/ledger/fuzz.py wire --seconds 600   # coverage-guided, with Atheris (pip install "cifer[fuzz]")

A crash is written to ``crash-...`` in the current folder; give that file behind the target to replay it. The tests run the same targets
with Hypothesis.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ledger.author import sign_transaction
from ledger.codec import decode, encode
from ledger.consensus.blocks import genesis_tip
from ledger.consensus.messages import Lock, Proposal, SignedVote, Vote
from ledger.crypto import SigningKey, is_exchange_key, is_public_key, verify
from ledger.errors import LedgerError
from ledger.node import backup, snapshots
from ledger.node.watching import Watch
from ledger.provenance.proofs import TransactionProof, verify_transaction
from ledger.sim.chains import grow
from ledger.state.transition import apply_transaction, decode_transaction
from ledger.state.tree import StateProof, verify_absence, verify_presence
from ledger.state.view import State
from ledger.transport import tls, wire
from ledger.types import (
    AppendLineage,
    Body,
    Certificate,
    CommittedBlock,
    Genesis,
    Header,
    RegisterDataset,
    RegisterIdentity,
    SignedTransaction,
    Snapshot,
    Transaction,
    Validator,
)

KEY = SigningKey.from_seed(bytes([7]) * 32)
GENESIS = Genesis("fuzz", "libsodium", bytes(16), (Validator("v", KEY.public, 1),), (KEY.public,))
STATE = State.genesis(GENESIS)
EXAMPLE = sign_transaction(KEY, STATE.network, 0, RegisterIdentity("site", "site", SigningKey.from_seed(bytes([8]) * 32).public))
BLOCK, TIP = grow(genesis_tip(GENESIS), [KEY], [EXAMPLE], verify)
RECORDS = {
    "body": Body,
    "transaction": Transaction,
    "signed-transaction": SignedTransaction,
    "block": CommittedBlock,
    "certificate": Certificate,
    "header": Header,
    "genesis": Genesis,
    "vote": Vote,
    "proposal": Proposal,
    "signed-vote": SignedVote,
    "lock": Lock,
    "snapshot": Snapshot,
    "saved-snapshot": snapshots.SavedSnapshot,
    "part": snapshots.Part,
    "watch": Watch,
    "proof": TransactionProof,
    "state-proof": StateProof,
}


def _record(kind: Any) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        assert encode(decode(data, kind)) == data, "a record that is not canonical was read"

    return read


def _wire(data: bytes) -> None:
    assert wire.frame(wire.parse(data))[4:] == data, "a message that is not canonical was read"


def _apply(data: bytes) -> None:
    """A payload that its author signed: what the rules make of it."""
    root = STATE.root()
    try:
        said = decode(data, Transaction)
    except LedgerError:
        said = None
    body = said.body if said is not None else AppendLineage("r", 0, 1, bytes(32), data)
    signed = sign_transaction(KEY, STATE.network, 0, body)
    try:
        after = apply_transaction(STATE, signed, 1)
        assert after.root() != root
    finally:
        assert STATE.root() == root, "a rule changed the state it was given"


def _proof(data: bytes) -> None:
    """No bytes but the right ones prove anything."""
    said = verify_transaction(decode(data, TransactionProof), GENESIS)
    assert decode(EXAMPLE.payload, Transaction) == said


def _state_proof(data: bytes) -> None:
    proof = decode(data, StateProof)
    assert not (verify_presence(TIP.state.root(), bytes(32), b"x", proof))
    verify_absence(TIP.state.root(), bytes(32), proof)


def _snapshot_parts(data: bytes) -> None:
    for item in decode(data, snapshots.Part).items:
        list(snapshots.entries_of([item]))


def _backup(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").write_bytes(data)
        (Path(folder) / "scratch").mkdir()
        backup._read_tar(Path(folder) / "file", Path(folder) / "scratch")


def _keys(data: bytes) -> None:
    assert is_public_key(data) in (True, False)
    assert is_exchange_key(data) in (True, False)
    assert not verify(KEY.public, b"cifer/transaction/1", b"payload", data)


TARGETS: dict[str, Callable[[bytes], Any]] = {
    **{name: _record(kind) for name, kind in RECORDS.items()},
    "wire": _wire,
    "block-transaction": decode_transaction,
    "apply": _apply,
    "verify-proof": _proof,
    "verify-state-proof": _state_proof,
    "snapshot-entries": _snapshot_parts,
    "certificate-authority": lambda data: tls.public_key_of(data, STATE.network),
    "backup": _backup,
    "keys": _keys,
}


def seeds() -> list[bytes]:
    """Real records, to begin from."""
    snapshot = snapshots.snapshot_of(TIP)
    items = snapshots.items_of(leaf for place in range(snapshots.PLACES) for leaf in TIP.state.tree.part(snapshots.DEPTH, place))
    events = zlib.compress(b'{"a":1}\n')
    bodies = [RegisterDataset("d", bytes(32), "md5:0", 1, bytes(32)), AppendLineage("r", 0, 1, bytes(32), events)]
    proof = TransactionProof((), BLOCK.block.header, BLOCK.certificate, 0, (), BLOCK.block.transactions[0])
    votes = [Vote(2, 1, 0, None, KEY.public, bytes(64)), SignedVote(1, 0, 2, None, -1), wire.AskParts(1, 0), wire.GaveUp(2)]
    state_proof = TIP.state.tree.prove(bytes(32))
    authority = tls.authority(KEY, "v", tls.VALIDATOR, STATE.network)
    records = [EXAMPLE, BLOCK, BLOCK.certificate, BLOCK.block.header, GENESIS, snapshots.Part(0, items), proof, state_proof, snapshot]
    return [*map(encode, [*records, *bodies, *votes]), EXAMPLE.payload, wire.frame(wire.Blocks((BLOCK,)))[4:], authority]


def attempt(name: str, data: bytes) -> bool:
    """Whether the target took the bytes; a named error means no, anything else escapes."""
    try:
        TARGETS[name](data)
    except LedgerError:
        return False
    return True


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Fuzz one of the ledger's readers of foreign bytes, guided by coverage.")
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS))
    parser.add_argument("file", nargs="?", type=Path, help="replay one input")
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    if given.target is None:
        sys.stdout.write("\n".join(sorted(TARGETS)) + "\n")
        return 0
    if given.file is not None:
        sys.stdout.write(f"{'taken' if attempt(given.target, given.file.read_bytes()) else 'refused'}\n")
        return 0
    try:
        import atheris
    except ImportError:
        sys.stderr.write('cifer: the fuzzer needs Atheris: pip install "cifer[fuzz]"\n')
        return 1
    atheris.instrument_all()
    with tempfile.TemporaryDirectory(prefix="cifer-fuzz-") as folder:
        for number, data in enumerate(seeds()):
            (Path(folder) / f"seed-{number}").write_bytes(data)
        atheris.Setup([sys.argv[0], folder, f"-max_total_time={given.seconds}", "-max_len=65536"], lambda data: attempt(given.target, data))
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Verifying ahead: the helper process gives the pinned verifier's answers, and without it they are the same."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import verifying
from ledger.author import sign_transaction
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.crypto import Domain, SigningKey, VerificationCache, verify, verify_root
from ledger.errors import BadSignatureError
from ledger.types import RegisterIdentity, SignedTransaction
from ledger.verifying import CHUNK, Helper, Signed, answer

EDGES = json.loads((Path(__file__).parents[1] / "vectors" / "ed25519_edge.json").read_text())
KEYS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(1, 5)]


def signed(seed: int, count: int = 5 * CHUNK + 7) -> list[Signed]:
    """So many signatures, about every third of them bad in one of several ways: bits, key, domain, data, length."""
    random, found = Random(seed), []
    for number in range(count):
        key, data = random.choice(KEYS), b"%d" % number
        good = (key.public, Domain.TRANSACTION, data, key.sign(Domain.TRANSACTION, data))
        public, domain, data, signature = good
        at = random.randrange(len(signature))
        bad: list[Signed] = [
            (public, domain, data, signature[:at] + bytes([signature[at] ^ 1 << random.randrange(8)]) + signature[at + 1 :]),
            (KEYS[KEYS.index(key) - 1].public, domain, data, signature),
            (public, Domain.PREVOTE, data, signature),
            (public, domain, data + b"x", signature),
            (public[:-1], domain, data, signature),
            (public, domain, data, signature + b"x"),
            (public[:-1], domain, data, b"x" + signature),
            (b"", domain, data, signature),
        ]
        found.append(random.choice(bad) if random.random() < 1 / 3 else good)
    return found


def differs(batch: list[Signed], *, alone: bool = False, wait: bool = True) -> bool:
    """Whether the cache, filled by a helper, ever says something else than the verifier's obvious loop.

    wait: let the helper do all of the batch first; otherwise both work on it.
    """
    cache = VerificationCache()
    helper = Helper(cache, least=1, alone=alone)
    try:
        ahead = helper.begin(batch)
        if wait:
            for chunk in ahead._chunks:
                chunk.settled.wait(20)
        found = []
        for place, one in enumerate(batch):
            ahead.reach(place)
            found.append(cache.verify(*one))
    finally:
        helper.close()
    return found != [verify(*one) for one in batch]


@pytest.mark.parametrize("wait", [True, False])
def test_the_helper_gives_the_verifiers_answers(wait: bool) -> None:
    """A batch with bad signatures of every kind: the same verdicts as from the loop, whether the helper does all of it or its share."""
    assert not differs(signed(1), wait=wait)
    assert not differs(signed(2), alone=True)


def test_the_helper_does_the_work() -> None:
    """What it was left is in the cache before anybody asks: the good signatures and no others."""
    batch, cache = signed(3), VerificationCache()
    helper = Helper(cache, least=1, alone=False)
    for chunk in helper.begin(batch)._chunks:
        assert chunk.settled.wait(20)
    helper.close()
    assert len(cache) == sum(verify(*one) for one in batch) > 0


@given(st.lists(st.sampled_from([case for case in EDGES if len(case["message"]) == 64]), max_size=20))
def test_the_process_decides_the_edge_cases_as_recorded(cases: list[dict[str, str | bool]]) -> None:
    """Its loop, fed as through its pipe, answers each row as the pinned verifier does, in order."""
    rows = b"".join(bytes.fromhex(f"{case['public']}{case['signature']}{case['message']}") for case in cases)
    answers = io.BytesIO()
    answer(io.BytesIO(len(cases).to_bytes(4, "big") + rows), answers)
    assert answers.getvalue() == b"\x01" + bytes(bool(case["accepted"]) for case in cases)


def program(*lines: str) -> Callable[[], subprocess.Popen[bytes]]:
    """A helper that runs these lines instead."""
    text = "\n".join(("import sys; from ledger.crypto import verify_root", "asks, says = sys.stdin.buffer, sys.stdout.buffer", *lines))
    return lambda: subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


READY = "says.write(bytes([1])); says.flush()"
LOOP = "while head := asks.read(4):\n rows = asks.read(int.from_bytes(head, 'big') * 128)"
TRUE = "verify_root(rows[at:at+32], rows[at+96:at+128], rows[at+32:at+96])"


@pytest.mark.parametrize(
    "lines",
    [
        ("",),
        (READY,),
        (READY, LOOP, f" says.write(bytes({TRUE} for at in range(0, len(rows), 128))); says.flush(); break"),
        (READY, LOOP, " says.write(b'x'); says.flush(); break"),
        (LOOP, " pass"),
        (READY, LOOP, " pass"),
    ],
    ids=["never starts", "ends at once", "ends after a chunk", "ends within a chunk", "never ready", "mute"],
)
def test_whatever_becomes_of_the_helper_the_verdicts_are_the_same(monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...]) -> None:
    """A helper that ends or falls silent at any point costs time and no verdict; it is gone afterwards."""
    monkeypatch.setattr(verifying, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(verifying, "start_process", program(*lines))
    assert not differs(signed(4), wait=False)
    assert not [child for child in psutil.Process().children() if "verify_root" in " ".join(child.cmdline())]


@pytest.mark.parametrize(
    "verdicts", ["[1] * (len(rows) // 128)", f"({TRUE} for at in range(len(rows) - 128, -1, -128))"], ids=["yes", "turned"]
)
def test_a_helper_that_says_yes_to_a_bad_signature_is_noticed(monkeypatch: pytest.MonkeyPatch, verdicts: str) -> None:
    """Mutants: the comparison above tells a helper that accepts everything, or answers in another order than it was asked."""
    monkeypatch.setattr(verifying, "start_process", program(READY, LOOP, f" says.write(bytes({verdicts})); says.flush()"))
    assert differs(signed(5))


def test_on_one_core_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one core, or too little to do, there is neither thread nor process."""
    monkeypatch.setattr(verifying, "start_process", lambda: pytest.fail("a process was started"))
    monkeypatch.setattr(verifying, "cores", lambda: 1)
    Helper(VerificationCache(), least=1).begin(signed(6))
    monkeypatch.setattr(verifying, "cores", lambda: 2)
    Helper(VerificationCache()).begin(signed(6, 100))


def test_a_ledger_with_a_helper_refuses_and_commits_the_same(tmp_path: Path) -> None:
    """One of 300 has a bad signature: it is refused by name, those before it are committed, those behind it rest on it and are not."""
    administrator = SigningKey.generate()
    setup = create_network("tests", [administrator.public], 4)
    with EmbeddedLedger.create(tmp_path, setup.genesis, setup.keys) as ledger:
        names = [f"site-{number}" for number in range(300)]
        said = [
            sign_transaction(administrator, ledger.network, number, RegisterIdentity(name, "site", SigningKey.generate().public))
            for number, name in enumerate(names)
        ]
        bad = said[200].signature
        said[200] = SignedTransaction(said[200].payload, bad[:10] + bytes([bad[10] ^ 1]) + bad[11:])
        with pytest.raises(BadSignatureError):
            ledger.submit_all(said)
        assert [name for name in names if ledger.state().identity(name)] == names[:200]
    assert not [child for child in psutil.Process().children() if "ledger.verifying" in " ".join(child.cmdline())]


def test_the_roots_of_the_rows_are_what_the_verifier_hashes() -> None:
    """One row, taken apart: key, signature and root as `verify_root` wants them."""
    sent = io.BytesIO()
    one = signed(7, 1)[0]
    verifying._ask(sent, verifying._Chunk([one]))
    row = sent.getvalue()[4:]
    assert verify_root(row[:32], row[96:], row[32:96]) == verify(*one)

"""Keys that change: what was said with the earlier ones stays shown, and the graph tells of the change."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import bundle_stranger
import pytest
from bundle_chains import key, rotated
from bundle_vectors import case_of

from ledger.errors import BundleError
from ledger.provenance import genesis_to_json, questions, read_bundle, verify_bundle
from ledger.provenance.index import Index
from ledger.state.entries import Account, EncryptionKey, FormerKey, Identity


@pytest.fixture(scope="module")
def chain() -> Any:
    """One round in which the site's key changes three times and the coordinator's twice."""
    return rotated()


def test_every_key_of_the_history_is_shown_with_its_time(chain: Any) -> None:
    """The bundle holds each earlier key with the transactions that began and ended it, and counts no transaction twice or as hidden."""
    verified = verify_bundle(case_of(chain, 1, with_artifacts=False).bundle, chain.genesis)
    former = {entry.public_key: entry for entry in verified.entries if isinstance(entry, FormerKey)}
    names = ("hospital-a", "hospital-a 2", "hospital-a 3", "coordinator", "coordinator 2")
    assert set(former) == {key(name).public for name in names}
    assert all(entry.since.height <= entry.until.height for entry in former.values())
    present = {entry.name: entry.public_key for entry in verified.entries if isinstance(entry, Identity)}
    assert (present["hospital-a"], present["coordinator"]) == (key("hospital-a 4").public, b"")
    numbers = {entry.public_key: entry.next_sequence for entry in verified.entries if isinstance(entry, Account)}
    assert [numbers[key(name).public] for name in names] == [3, 5, 5, 4, 8]
    assert not any("not shown" in sentence for sentence in verified.unchecked)
    assert any("sites say what they did not do" in sentence and sentence.endswith("hospital-a (1)") for sentence in verified.unchecked)


def test_the_state_knows_whose_key_it_was_at_each_height(chain: Any) -> None:
    """`since` and `until` of a name's keys touch one another: whoever verifies an old signature finds the one key of that height."""
    state, keys = chain.state(), [key(name).public for name in ("hospital-a", "hospital-a 2", "hospital-a 3")]
    entries = [state.read(FormerKey, one) for one in keys]
    assert [entry.until for entry in entries[:2]] == [entry.since for entry in entries[1:]]
    assert state.identity("hospital-a").origin.height > entries[-1].until.height
    assert {state.identity_of(one).name for one in keys} == {"hospital-a"}
    assert state.read(EncryptionKey, "hospital-a") is None


def test_a_timeline_tells_of_the_keys_of_a_runs_parties(chain: Any, tmp_path: Path) -> None:
    """Rotations and revocations of the run's site and coordinator are in its timeline, by whom and why; built block by block or at once."""
    with Index.open(tmp_path / "index.sqlite", chain.genesis) as index:
        index.update(chain)
        acts = [act for act in questions.timeline(index, "run-1").acts if act.kind.startswith("identity.")]
    assert [(act.kind.partition(".")[2], act.author) for act in acts] == [
        ("rotate", "site/hospital-a"),
        ("rotate", "site/hospital-a"),
        ("rotate", "party/coordinator"),
        ("revoke", "party/administrator-0"),
        ("revoke", "party/coordinator"),
    ]
    assert "the laptop was stolen" in acts[3].text
    whole, parts = rotated(), tmp_path / "parts.sqlite"
    for height in range(1, len(whole.committed) + 1):
        with Index.open(parts, whole.genesis) as index:
            index.update(_Until(whole, height))
            last = index.rows("SELECT author, kind, text FROM acts ORDER BY id")
    with Index.open(tmp_path / "index.sqlite", chain.genesis) as index:
        assert index.rows("SELECT author, kind, text FROM acts ORDER BY id") == last


class _Until:
    """A chain up to a height."""

    def __init__(self, chain: Any, height: int) -> None:
        self.genesis, self._chain, self._height = chain.genesis, chain, height

    def head(self) -> Any:
        return self._chain.committed[self._height - 1].block.header

    def blocks(self, start: int = 1, stop: int | None = None) -> Any:
        return self._chain.blocks(start, min(stop or self._height + 1, self._height + 1))


def test_random_changes_of_a_bundle_with_rotations_are_refused_by_both_verifiers(chain: Any, tmp_path: Path) -> None:
    """Whatever byte is flipped, no verifier takes the file, and both do so by a rule."""
    case, genesis = case_of(chain, 1, with_artifacts=False), bundle_stranger.genesis_of(genesis_to_json(chain.genesis))
    data, path, chance = case.file(), tmp_path / "model.cifer", random.Random(7)
    bundle_stranger.verify(data, genesis)
    for _ in range(60):
        place = chance.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :])
        with pytest.raises(BundleError):
            verify_bundle(read_bundle(path).bundle, chain.genesis)
        with pytest.raises(bundle_stranger.RefusedError):
            bundle_stranger.verify(path.read_bytes(), genesis)

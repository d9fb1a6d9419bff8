"""Committees of key holders: drawn by lot, sums exact for all sites, never opened by fewer than t, and how likely a captured one is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import combinations
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.encryption import scheme_for
from cifer_tasks.encryption.roster import committee, drawn_log2, parse_roster
from cifer_tasks.encryption.scheme import Binding, Ciphertext, Opening, PublicContext, SecretContext, lots_of
from cifer_tasks.encryption.sharing import smallest_set, threshold_of
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.errors import IntegrityError

SITES = tuple(f"site-{number:02d}" for number in range(9))
HOLDERS = 5
LOTS = lots_of(bytes(32), 1)
TRUST = Path(__file__).parents[3] / "docs" / "trust.md"


class Round:
    """Nine sites, of which five hold shares."""

    def __init__(self) -> None:
        self.scheme = ThresholdScheme(holders=HOLDERS)
        pairs = {site: self.scheme.generate() for site in SITES}
        self.keys: dict[str, PublicContext] = {site: pair[0] for site, pair in pairs.items()}
        self.secrets: dict[str, SecretContext] = {site: pair[1] for site, pair in pairs.items()}
        self.public = self.scheme.context(self.keys, LOTS)
        self.roster = parse_roster(self.public.data)
        self.binding = Binding("00", "run", 1, 40, 2**15 + len(SITES), "00" * 32)

    def submissions(self, sites: Iterable[str], values: dict[str, Any]) -> dict[str, Ciphertext]:
        return {site: self.scheme.encrypt(values[site], self.binding, self.public, site) for site in sorted(sites)}

    def releases(self, submissions: dict[str, Ciphertext], by: Iterable[str]) -> list[Opening]:
        return [self.scheme.release(submissions, site, self.public, self.secrets[site]) for site in by]


@pytest.fixture(scope="module")
def made() -> Round:
    return Round()


@settings(deadline=None, max_examples=20)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_any_sealed_set_opens_with_any_t_of_the_committee(made: Round, data: st.DataObject, seed: int) -> None:
    """Sites in the sum need hold no share and holders need not be in the sum: the plain sum, to the bit."""
    random = np.random.default_rng(seed)
    values = {site: random.integers(-3000, 3001, 40) for site in SITES}
    inside = data.draw(st.lists(st.sampled_from(SITES), min_size=smallest_set(len(SITES)), unique=True))
    by = data.draw(st.lists(st.sampled_from(made.roster.names), min_size=threshold_of(HOLDERS), unique=True))
    submissions = made.submissions(inside, values)
    total = made.scheme.add(list(submissions.values()), made.public)
    opened = made.scheme.open(total, made.releases(submissions, by), made.public)
    assert np.array_equal(opened, sum(values[site] for site in inside))


def test_fewer_than_t_holders_and_sites_without_shares_open_nothing(made: Round) -> None:
    """t - 1 of the committee are too few; a site that was not drawn has nothing to release; a small set is small by all sites."""
    submissions = made.submissions(SITES, {site: np.zeros(40, np.int64) for site in SITES})
    total = made.scheme.add(list(submissions.values()), made.public)
    few = made.releases(submissions, made.roster.names[: threshold_of(HOLDERS) - 1])
    with pytest.raises(IntegrityError, match="3 of 5 holders answered and 4 are needed"):
        made.scheme.open(total, few, made.public)
    with pytest.raises(IntegrityError, match="is not one of the 5 key holders"):
        made.scheme.release(submissions, made.roster.others[0], made.public, made.secrets[made.roster.others[0]])
    with pytest.raises(IntegrityError, match="with 9 sites at least 4 are opened together"):
        made.releases(dict(list(submissions.items())[:3]), made.roster.names[:1])
    with pytest.raises(IntegrityError, match="mallory is not one of"):
        made.scheme.encrypt(np.zeros(40, np.int64), made.binding, made.public, "mallory")


def test_the_committee_follows_from_the_lots_alone(made: Round) -> None:
    """In any order of sites, the same; another round, another committee; all sites hold shares where they are no more than asked for."""
    assert made.scheme.context(dict(reversed(made.keys.items())), LOTS) == made.public
    assert made.roster.names == committee(SITES, HOLDERS, LOTS)
    assert set(made.roster.names) | set(made.roster.others) == set(SITES) and made.roster.sites == len(SITES)
    assert made.scheme.context(made.keys, lots_of(bytes(32), 2)) != made.public
    few = {site: made.keys[site] for site in SITES[:HOLDERS]}
    assert made.scheme.context(few, LOTS) == ThresholdScheme().context(few)
    with pytest.raises(ValueError, match="drawing them takes lots"):
        made.scheme.context(made.keys)


def is_fair(draw: Callable[[Iterable[str], int, bytes], tuple[str, ...]]) -> bool:
    """Whether, over many rounds, each pair of sites is drawn together about as often as any other (5 sigma)."""
    rounds, counts = 3000, dict.fromkeys(combinations(SITES, 2), 0)
    for number in range(rounds):
        for pair in combinations(draw(SITES, HOLDERS, lots_of(bytes(32), number)), 2):
            counts[pair] += 1
    chance = HOLDERS * (HOLDERS - 1) / (len(SITES) * (len(SITES) - 1))
    spread = (rounds * chance * (1 - chance)) ** 0.5
    return all(abs(count - rounds * chance) < 5 * spread for count in counts.values())


def test_lots_are_fair_and_a_rotation_is_not() -> None:
    """Every pair is equally likely. Mutant: neighbours taken in turn, which lets whoever chooses its names sit together, is noticed."""

    def in_turn(sites: Iterable[str], size: int, lots: bytes) -> tuple[str, ...]:
        names, first = sorted(sites), int.from_bytes(lots[-8:], "big")
        return tuple(sorted(names[(first + place) % len(names)] for place in range(size)))

    assert is_fair(committee)
    assert not is_fair(in_turn)


def test_shares_are_packed_for_all_and_not_for_a_committee(made: Round) -> None:
    """Of all sites half learn nothing; of a committee, half of which can be dishonest by chance, all but the last of the t it takes."""
    everybody = parse_roster(ThresholdScheme().context(made.keys).data).shape.sharing
    drawn = made.roster.shape.sharing
    assert (everybody.holders, everybody.hidden, everybody.packed) == (9, 4, 3)
    assert (drawn.holders, drawn.hidden, drawn.packed) == (HOLDERS, threshold_of(HOLDERS) - 1, 1)


@pytest.mark.parametrize(("sites", "dishonest", "holders"), [(9, 4, 5), (10, 6, 4), (12, 4, 7), (8, 2, 5)])
def test_the_chance_of_a_captured_committee_is_counted(sites: int, dishonest: int, holders: int) -> None:
    """The hypergeometric tail is what counting every committee gives."""
    drawn = list(combinations(range(sites), holders))
    captured = sum(sum(site < dishonest for site in names) >= threshold_of(holders) for names in drawn)
    expected = log2(Fraction(captured, len(drawn))) if captured else float("-inf")
    assert drawn_log2(sites, dishonest, holders, threshold_of(holders)) == pytest.approx(expected)


def test_the_page_on_trust_says_how_likely_that_is() -> None:
    """Each figure in its table is the computed one, rounded so that the true chance is no larger."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (.+) \| (.+) \|$", TRUST.read_text(), re.MULTILINE)
    assert len(rows) == 12
    for *numbers, captured, stalled in rows:
        sites, holders, dishonest = map(int, numbers)
        reads = drawn_log2(sites, dishonest, holders, threshold_of(holders))
        closes = 2 ** drawn_log2(sites, dishonest, holders, holders - threshold_of(holders) + 1)
        assert captured == ("cannot happen" if reads == float("-inf") else f"2^-{int(-reads)}"), numbers
        assert stalled == (f"1 in {int(1 / closes):,}" if closes < 0.1 else f"{closes:.0%}"), numbers


def test_a_run_with_a_committee_gives_the_model_that_all_holders_give(trainer: Any) -> None:
    """Six sites, four holders in each round and not always the same: the digest is that of a run whose sites all hold shares, and a
    replay from the bundle draws the same committees again."""
    changes = {
        "data": {"table": "synthetic", "target": "label", "partition": {"sites": 6, "alpha": 10.0}},
        "training__rounds": 3,
        "sites": {"minimum": 4},
        "gate__margin": 1.0,
    }
    trainer.train_all(trainer.settings(**changes, encryption__scheme="threshold"))
    ref = trainer.train_all(trainer.settings(**changes, encryption={"scheme": "threshold", "holders": 4}))
    one, other = (trainer.history(run) for run in sorted({item.name for item in (trainer.home / "runs").iterdir()}))
    assert one.current_model == other.current_model
    rounds = trainer.history(ref.run).rounds
    holders = [{item.site for item in found.releases} for found in rounds]
    assert all(len(found) == 4 for found in holders) and len({frozenset(found) for found in holders}) > 1
    assert all(len(found.sealed_sites) == 6 for found in rounds)

    bundle, genesis = trainer.home.parent / "committee.cifer", trainer.home.parent / "genesis.json"
    assert trainer.cifer("export", "lab@2", "-o", bundle, "--with-artifacts").code == 0
    genesis.write_text(trainer.cifer("ledger", "genesis").out)
    assert trainer.cifer("verify", bundle, "--genesis", genesis, "--replay").code == 0


def test_committees_are_for_the_threshold_scheme() -> None:
    """Under a key that all sites share there is nothing to draw, and the settings say so."""
    from cifer_tasks.config import Encryption, parse
    from cifer_tasks.errors import ConfigError

    with pytest.raises(ConfigError, match=r"encryption\.holders: under ckks"):
        parse({"name": "lab", "data": {"table": "digits", "target": "digit"}, "encryption": {"scheme": "ckks", "holders": 8}}, where="test")
    assert "more than two thirds of the 8 sites" in scheme_for(Encryption(holders=8)).warning

"""The questions, against walking the whole graph step by step, on histories drawn at random and on the story of the conftest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.codec import encode
from ledger.digests import network_id
from ledger.errors import NotOnRecordError
from ledger.provenance import browse, questions
from ledger.provenance.index import Index
from ledger.provenance.things import find_consents, find_dataset, find_run, find_site, find_version, thing
from ledger.types import (
    Block,
    Body,
    Certificate,
    CloseRun,
    CommitRound,
    CommittedBlock,
    DatasetUse,
    ExcludeSite,
    Genesis,
    GrantConsent,
    Header,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    RegisterModel,
    ReleaseOpening,
    SealRound,
    SignedTransaction,
    SubmitUpdate,
    Transaction,
    Validator,
    WithdrawConsent,
)

SITES = ("a", "b", "c", "d")


def digest(*parts: object) -> bytes:
    return sha256("/".join(map(str, parts)).encode()).digest()


GENESIS = Genesis("drawn", "libsodium", bytes(16), (Validator("v", digest("v"), 1),), (digest("key", "administrator-0"),))


@dataclass
class History:
    """What was said, a block each; certificates and roots are left out, since the graph does not read them."""

    said: list[tuple[str, Body]] = field(default_factory=list)
    genesis: Genesis = GENESIS

    def say(self, who: str, body: Body) -> None:
        self.said.append((who, body))

    def head(self) -> Header:
        return self._header(len(self.said))

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[CommittedBlock]:
        for height, (who, body) in enumerate(self.said, 1):
            if start <= height < (stop or len(self.said) + 1):
                payload = encode(Transaction(network_id(self.genesis), digest("key", who), height, body))
                block = Block(self._header(height), None, (encode(SignedTransaction(payload, bytes(64))),))
                yield CommittedBlock(block, Certificate(height, 0, bytes(32), ()))

    def _header(self, height: int) -> Header:
        zero = bytes(32)
        return Header(network_id(self.genesis), height, zero, zero, zero, 1, zero, zero, zero, zero)


PLAN = st.lists(
    st.tuples(
        st.integers(0, 3),  # which earlier version to start from; 0 for none
        st.sets(st.sampled_from(SITES), min_size=1),
        st.lists(st.tuples(st.sets(st.sampled_from(SITES)), st.sets(st.sampled_from(SITES)), st.booleans()), min_size=1, max_size=3),
        st.booleans(),  # whether a second purpose
        st.booleans(),  # whether it is closed
    ),
    min_size=1,
    max_size=4,
)


def history(plan: Sequence[Any], withdrawn: set[str]) -> History:
    """Runs as planned: (starts from, sites, rounds of (submitting, sealed, accepted), purpose, closed), then consents are withdrawn.

    Every accepted model is registered.
    """
    made = History()
    made.say("administrator-0", RegisterIdentity("coordinator", "coordinator", digest("key", "coordinator")))
    for site in SITES:
        made.say("administrator-0", RegisterIdentity(site, "site", digest("key", site)))
        made.say(site, RegisterDataset(f"table-{site}", digest("table", site), "md5:0", 10, digest("schema")))
        for purpose in ("study", "other"):
            made.say(site, GrantConsent(digest("table", site), purpose))
    models: list[bytes] = []
    for number, (origin, sites, rounds, other, closed) in enumerate(plan):
        run = f"run-{number}"
        current = models[(origin - 1) % len(models)] if origin and models else digest("fresh", number)
        uses = tuple(DatasetUse(site, digest("table", site)) for site in sorted(sites))
        purpose = "other" if other else "study"
        made.say(
            "coordinator",
            OpenRun(run, purpose, digest("config", number), "c0de", digest("lock"), "plain", "{}", 3, current, 1, len(rounds), uses),
        )
        for index, (submitting, wanted, accepted) in enumerate(rounds, 1):
            made.say("coordinator", OpenRound(run, index, current, digest("context")))
            present = sorted(submitting & sites)
            for site in sorted(sites):
                if site in present:
                    made.say(site, SubmitUpdate(run, index, digest("table", site), 10, digest(run, index, site), 7))
                else:
                    made.say("coordinator", ExcludeSite(run, index, site, "train", "away"))
            sealed = tuple(site for site in present if site in wanted)
            made.say("coordinator", SealRound(run, index, sealed))
            for site in sealed:
                made.say(site, ReleaseOpening(run, index, digest("sum"), digest(site)))
            candidate = digest(run, index, "model")
            reason = "" if accepted else "worse"
            made.say("coordinator", CommitRound(run, index, digest("sum"), digest("mean"), candidate, accepted, reason, ()))
            if accepted:
                current = candidate
                models.append(candidate)
                made.say("coordinator", RegisterModel("net", len(models), "champion", candidate, run, index))
        if closed:
            made.say("coordinator", CloseRun(run, "completed", ""))
    for site in sorted(withdrawn):
        made.say(site, WithdrawConsent(digest("table", site), "study", "asked"))
    return made


class Walk:
    """The oracle: edges out of the index's file as plain pairs, followed one at a time."""

    def __init__(self, index: Index) -> None:
        rows = index.rows(
            "SELECT s.name, t.name, e.basis, e.kind FROM edges e JOIN nodes s ON s.id = e.source JOIN nodes t ON t.id = e.target"
        )
        self.edges = rows
        self.kinds = dict(index.rows("SELECT name, kind FROM nodes"))

    def reach(self, start: set[str], *, down: bool) -> set[str]:
        reached, frontier = set(start), set(start)
        pairs = [(target, source) if down else (source, target) for source, target, basis, _ in self.edges if basis == "data"]
        while frontier:
            frontier = {end for begin, end in pairs if begin in frontier} - reached
            reached |= frontier
        return reached

    def of(self, kind: str, nodes: set[str]) -> set[str]:
        return {node for node in nodes if self.kinds[node] == kind}


@given(plan=PLAN, withdrawn=st.sets(st.sampled_from(SITES)))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_answers_are_those_of_the_whole_walk(plan: Any, withdrawn: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ancestors, descendants, consequences and contributions agree with following every edge, whatever starts from whatever."""
    made = history(plan, withdrawn)
    with Index.open(tmp_path_factory.mktemp("drawn") / "index.sqlite", made.genesis) as index:
        index.update(made)
        walk = Walk(index)
        for version in sorted(walk.of("version", set(walk.kinds))):
            reached = walk.reach({version}, down=False)
            found = questions.ancestors(index, version)
            assert {source.dataset.id for source in found.sources} == walk.of("dataset", reached)
            assert {model.id for model in found.models} == walk.of("version", reached) - {version}
            assert found.counts == {kind: len(walk.of(kind, reached)) for kind in set(map(walk.kinds.get, reached))}
            assert sum(source.submissions for source in found.sources) == len(walk.of("submission", reached))
        for site in SITES:
            table = f"dataset/{digest('table', site).hex()}"
            models = walk.of("version", walk.reach({table}, down=True))
            assert {model.id for model in questions.descendants(index, table).models} == models
            share = questions.contributions(index, site)
            assert {model.id for model in share.models} == models
            _check_share(walk, site, share)
            for consent in find_consents(index, site, "study"):
                _check_consequences(index, walk, site, questions.consequences(index, consent.id), withdrawn)


def _check_share(walk: Walk, site: str, share: questions.Contributions) -> None:
    submissions = {node for node in walk.of("submission", set(walk.kinds)) if node.endswith(f"/submission/{site}")}
    sealed = {target for _, target, _, kind in walk.edges if kind == "sums"}
    accepted = {target for _, target, _, kind in walk.edges if kind == "made_by"}
    accepted -= {target for source, target, _, kind in walk.edges if kind == "made_by" and source.endswith("/rejection")}
    assert sum(run.submitted for run in share.runs) == len(submissions)
    assert sum(run.sealed for run in share.runs) == len(submissions & sealed)
    in_models = {node for node in submissions & sealed if node.partition("/submission/")[0] in accepted}
    assert sum(run.accepted for run in share.runs) == len(in_models)
    assert sum(run.excluded for run in share.runs) == len([node for node in walk.kinds if node.endswith(f"/exclusion/{site}")])
    assert sum(run.released for run in share.runs) == len([node for node in walk.kinds if node.endswith(f"/release/{site}")])
    assert sum(run.update_bytes for run in share.runs) == 7 * len(submissions)


def _check_consequences(index: Index, walk: Walk, site: str, found: questions.Consequences, withdrawn: set[str]) -> None:
    under = {source for source, target, _, kind in walk.edges if kind == "under" and target == found.consent.id}
    mine = {
        source
        for source, target, _, kind in walk.edges
        if kind == "trained_on" and target == found.dataset.id and source.partition("/round/")[0] in under
    }
    assert {model.id for model in found.tainted} == walk.of("version", walk.reach(mine, down=True))
    assert found.consent.text("status") == ("withdrawn" if site in withdrawn else "live")
    champion = find_version(index, "net@champion").id if found.tainted else ""
    assert found.published == (("net@champion",) if champion in {model.id for model in found.tainted} else ())
    open_runs = {run for run in under if thing(index, run).text("status") == "open"}
    assert {item.run.id for item in found.runs} == open_runs
    assert found.finished_runs == len(under - open_runs)
    for item in found.runs:
        others = {target for source, target, _, kind in walk.edges if kind == "under" and source == item.run.id} - {found.consent.id}
        left = len([consent for consent in others if thing(index, consent).text("status") == "live"])
        assert (item.sites_left, item.must_stop) == (left, left < 1)


@pytest.fixture(scope="module")
def index(story: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    with Index.open(tmp_path_factory.mktemp("story") / "index.sqlite", story.ledger.genesis) as found:
        found.update(story.ledger)
        yield found


def test_what_made_a_model(story: Any, index: Index) -> None:
    """Round 1's model knows two sites and no later consent matters; the champion knows three, one of which has withdrawn since."""
    first, champion = questions.ancestors(index, "breast-cancer@1"), questions.ancestors(index, "breast-cancer@champion")
    assert [source.site for source in first.sources] == ["hospital-a", "hospital-b"]
    assert [(source.site, source.submissions) for source in champion.sources] == [("hospital-a", 2), ("hospital-b", 2), ("hospital-c", 1)]
    assert [source.consents[0].text("status") for source in champion.sources] == ["withdrawn", "live", "live"]
    assert champion.runs[0].text("code_commit") == "abc123"
    assert champion.model.transaction == story.receipts["v2"].transaction.hex()
    assert find_version(index, champion.model.digest[:10]).id == champion.model.id


def test_a_difference_names_what_differs(index: Index) -> None:
    """Two versions of one run differ in digest, round, metrics and the table that only the second has."""
    found = questions.difference(index, "breast-cancer@1", "breast-cancer@2")
    assert {change.what for change in found.changes} == {"digest", "metric.accuracy", "round", "sealed_sites"}
    assert [table.text("owner") for table in found.only_second] == ["hospital-c"]
    assert not found.only_first and len(found.shared) == 2
    same = questions.difference(index, "breast-cancer@2", "breast-cancer@champion")
    assert not same.changes and not same.only_first and not same.only_second


def test_a_timeline_is_every_transaction_of_the_run_and_its_consents(story: Any, index: Index) -> None:
    """In order of height, from the grants before the run to the withdrawal after it, and nothing of anything else."""
    found = questions.timeline(index, "run-1").acts
    heights = [act.height for act in found]
    assert heights == sorted(heights)
    kinds = [act.kind for act in found]
    assert kinds[:4] == ["consent.grant"] * 3 + ["run.open"] and kinds[-1] == "consent.withdraw"
    expected = {receipt.transaction.hex() for name, receipt in story.receipts.items() if not name.startswith("dataset")}
    assert expected <= {act.transaction for act in found}


def test_who_approved_what(story: Any, index: Index) -> None:
    """A version's decisions are those of its run, its round, its tables' owners; a site's are its own; all are all."""
    about = browse.approvals(index, "model/breast-cancer/2")
    assert {act.kind for act in about} >= {"run.open", "round.commit", "model.register", "consent.grant", "dataset.register"}
    assert {act.kind for act in browse.approvals(index, "site/hospital-a")} == {"dataset.register", "consent.grant", "consent.withdraw"}
    everything = browse.approvals(index)
    assert len(everything) == 18 and [act.height for act in everything] == sorted(act.height for act in everything)
    assert browse.approvals(index, "", 3) == everything[-3:]


def test_gaps_are_counted_in_full_and_shown_in_part(index: Index) -> None:
    """Unreadable events, no releases, no validation: every gap counts even where only the first are listed."""
    found = browse.without_evidence(index)
    assert found.totals == {"lineage": 1, "readable event": 3, "release": 3, "validation": 3}
    cut = browse.without_evidence(index, 2)
    assert cut.gaps == found.gaps[:2] and cut.totals == found.totals


def test_neighbours_page_through_every_edge(index: Index) -> None:
    """Pages of any size give each edge of a node once, with what vouches for it, and say when there are no more."""
    for node in ("run/run-1", "run/run-1/round/3", "site/hospital-a", "party/coordinator"):
        whole = browse.neighbours(index, node, 1000)
        assert not whole.more
        for size in (1, 3):
            pages, offset = [], 0
            while True:
                page = browse.neighbours(index, node, size, offset)
                pages += page.links
                offset += size
                if not page.more:
                    break
            assert sorted(map(str, pages)) == sorted(map(str, whole.links))
        ends = {end for link in whole.links for end in (link.source, link.target)}
        assert {item.id for item in whole.nodes} == ends - {node}


@pytest.mark.parametrize(
    "text", ['"', 'a" OR "b', "NEAR(", "*", "-", "'; DROP TABLE nodes", "site/%", "\x00", "é" * 300, "AND OR NOT", "(" * 500]
)
def test_a_search_takes_any_text(index: Index, text: str) -> None:
    """Whatever is typed is looked for as words, never read as a query."""
    assert isinstance(browse.search(index, text), tuple)


def test_a_search_finds_words_and_digits(index: Index) -> None:
    """Beginnings of words and of digests find their nodes; what matters most comes first."""
    assert browse.search(index, "hospital-c")[0].id == "site/hospital-c"
    assert {item.kind for item in browse.search(index, "hosp round 2")} == {"submission"}
    table = find_dataset(index, digest_of("table of hospital-a")).id
    assert browse.search(index, table[8:18])[0].id == table
    assert browse.search(index, "breast") and not browse.search(index, "nothing-like-it")


def digest_of(label: str) -> str:
    return sha256(label.encode()).hexdigest()


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda index: find_version(index, "nope@1"), "it has breast-cancer"),
        (lambda index: find_version(index, "breast-cancer@7"), "versions 1 to 2 and aliases champion"),
        (lambda index: find_version(index, "breast-cancer"), "no node of the graph"),
        (lambda index: find_dataset(index, "table"), "several tables"),
        (lambda index: find_dataset(index, "ffffffff"), "it has table"),
        (lambda index: find_run(index, "run-9"), "it has run-1"),
        (lambda index: find_site(index, "d"), "it has hospital-c"),
        (lambda index: find_consents(index, "hospital-a", "other"), "cifer consent list"),
        (lambda index: questions.consequences(index, "consent/x"), "no node of the graph"),
        (lambda index: browse.neighbours(index, "x"), "no node of the graph"),
        (lambda index: browse.approvals(index, "x"), "no node of the graph"),
    ],
)
def test_what_is_not_on_record_is_named(index: Index, ask: Any, says: str) -> None:
    """A question about something that is not there says so, and what there is instead."""
    with pytest.raises(NotOnRecordError, match=says):
        ask(index)


def test_an_event_names_where_a_table_came_from(tmp_path: Path) -> None:
    """A producer's event that wrote the very bytes of a registered table is listed as a claim, never among what rules checked."""
    import zlib

    from ledger.types import AppendLineage

    made = history([(0, {"a"}, [({"a"}, {"a"}, True)], False, True)], set())
    source = {"namespace": "warehouse", "name": "raw", "facets": {"version": {"datasetVersion": "2026-01"}}}
    table = {"namespace": "s3", "name": "a.csv", "facets": {"version": {"datasetVersion": digest("table", "a").hex()}}}
    event = {
        "eventTime": "2026-01-01T00:00:00Z",
        "eventType": "COMPLETE",
        "run": {"runId": "3f9c0a17-0000-4000-8000-000000000001"},
        "job": {"namespace": "etl", "name": "extract"},
        "inputs": [source],
        "outputs": [table],
    }
    plain = json.dumps(event).encode()
    made.say("coordinator", AppendLineage("run-0", 0, 1, sha256(plain).digest(), zlib.compress(plain)))
    with Index.open(tmp_path / "index.sqlite", made.genesis) as index:
        index.update(made)
        found = questions.ancestors(index, "net@1")
        assert [claim.text("name") for claim in found.claims] == ["raw"]
        assert "lineage-version" not in found.counts
        same = browse.neighbours(index, f"dataset/{digest('table', 'a').hex()}").same_bytes
        assert [item.text("name") for item in same] == ["a.csv"]

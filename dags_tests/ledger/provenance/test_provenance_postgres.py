"""The provenance index in PostgreSQL, which these tests start: it holds and answers what the embedded one does."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from flows.services import marquez
from flows.synthetic_record import SyntheticRecord
from ledger.errors import CorruptionError, LockedError, StorageError
from ledger.provenance import browse, postgres, questions
from ledger.provenance.index import Index, Store
from ledger.provenance.things import find_consents

POSTGRES = runpy.run_path(str(Path(__file__).parents[2] / "postgres_server.py"), run_name="postgres_server")
pytestmark = pytest.mark.skipif(bool(POSTGRES["MISSING"]), reason=POSTGRES["MISSING"])


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment, POSTGRES["running"]() as found:
        environment.setenv("PGPASSFILE", str(found.passfile))
        yield found


@pytest.fixture(scope="module")
def record() -> Any:
    return SyntheticRecord(2_000)


class Upto:
    """A ledger that stands at `height`."""

    def __init__(self, record: Any, height: int) -> None:
        self.genesis, self._record, self._height = record.genesis, record, height

    def head(self) -> Any:
        (found,) = self._record.blocks(self._height, self._height + 1)
        return found.block.header

    def blocks(self, start: int = 1, stop: int | None = None) -> Iterator[Any]:
        return self._record.blocks(start, min(self._height + 1, stop or self._height + 1))


@pytest.fixture(scope="module")
def pair(server: Any, record: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Index, Index]]:
    """The same blocks in both, the PostgreSQL one built in two parts by two connections."""
    embedded = Index.open(tmp_path_factory.mktemp("both") / "index.sqlite", record.genesis)
    with embedded, Index.on(postgres.Postgres(server.url), record.genesis) as served:
        embedded.update(record)
        served.update(Upto(record, 7))
        with Index.on(postgres.Postgres(server.url), record.genesis) as second:
            second.update(record)
        yield embedded, served


TABLES = ("meta", "acts", "edges", "batches", "events", "flows", "unfinished", "validated", "evidence", "shares", "uses")


def test_the_tables_hold_the_same_rows(pair: tuple[Index, Index]) -> None:
    """Every row of every table is the same, the attributes of nodes as JSON; numbers of nodes too, so order of building counts."""
    embedded, served = pair
    for table in TABLES:
        rows = [sorted(index.rows(f"SELECT * FROM {table}"), key=repr) for index in pair]  # noqa: S608 - names of tables
        assert rows[0] == rows[1] and (rows[0] or table == "unfinished"), table
    query = "SELECT id, name, kind, label, digest, act, changed FROM nodes ORDER BY id"
    assert embedded.rows(query) == served.rows(query)
    assert len(embedded.rows(query)) > 500


def asked(store: Store) -> dict[str, Any]:
    """Every question there is, of everything in the record, with what it said."""
    kinds = ("version", "dataset", "site", "run", "job")
    named = {kind: [n for (n,) in store.rows("SELECT name FROM nodes WHERE kind = ? ORDER BY id", (kind,))] for kind in kinds}
    versions, sites, tables = named["version"], named["site"][:3], named["dataset"][:3]
    said: dict[str, Any] = {f"ancestors {name}": questions.ancestors(store, name) for name in versions}
    said |= {f"descendants {name}": questions.descendants(store, name) for name in tables}
    said |= {f"contributions {name}": questions.contributions(store, name) for name in sites}
    purposes = {model.label for model in browse.search(store, "model") if model.kind == "model"}
    for site in sites:
        for purpose in sorted(purposes | {label for (label,) in store.rows("SELECT DISTINCT label FROM nodes WHERE kind = 'consent'")}):
            for consent in find_consents(store, site.removeprefix("site/"), purpose):
                said[f"consequences {consent.id}"] = questions.consequences(store, consent.id)
    said["difference"] = questions.difference(store, versions[0], versions[-1])
    said |= {f"timeline {name}": questions.timeline(store, name) for name in named["run"]}
    said |= {f"approvals {name}": browse.approvals(store, name) for name in ("", *versions, *sites)}
    said["gaps"] = browse.without_evidence(store)
    said |= {f"beside {name}": browse.neighbours(store, name, limit=7, offset=3) for name in (*versions, *sites, *tables)}
    words = (
        "train",
        "TRAIN",
        "site 03",
        "sit",
        "round 7",
        "validate_data",
        "nothing-like-it",
        "a'b & c | !d:*",
        "\x00",
        tables[0][-64:-50],
    )
    said |= {f"search {text!r}": browse.search(store, text) for text in words}
    said["order of text"] = store.rows("SELECT count(*) FROM meta WHERE key > 'Z'")
    said["namespaces"] = marquez.namespaces(store, 10, 0)
    space = said["namespaces"][0]["name"]
    said["jobs"] = marquez.jobs(store, None, 5, 1)
    said["datasets"] = marquez.datasets(store, space, 5, 0)
    said["events"] = marquez.events(store, None, None, 5, 2, space=space)
    for found in said["jobs"][0][:2]:
        name = f"job:{found['id']['namespace']}:{found['id']['name']}"
        said[f"lineage {name}"] = marquez.lineage(store, name, 3)
    return said


def test_every_question_has_the_same_answer(pair: tuple[Index, Index]) -> None:
    """The ten questions, the search, the neighbours and the lineage API say the same, whichever database they look in."""
    embedded, served = pair
    first, second = asked(embedded), asked(served)
    assert first.keys() == second.keys() and len(first) > 30
    assert {kind.split()[0] for kind in first} >= {"ancestors", "descendants", "consequences", "contributions", "difference", "timeline"}
    for question, answer in first.items():
        assert second[question] == answer, question


MUTANTS = {
    "attributes are replaced, not patched": ("_WORDS", "(before::jsonb || given::jsonb)::text", "given"),
    "text compares as people sort it": ("_RULES", r"\bTEXT\b", ""),
    "words are searched whole": ("_WORDS", "''':*'), '", "''''), '"),
}


@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_a_mutant_of_the_translation_is_noticed(mutant: str, pair: tuple[Index, Index], server: Any, record: Any) -> None:
    """With one thing translated wrongly, some answer is another one than the embedded index gives."""
    name, wrong, instead = MUTANTS[mutant]
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(postgres, "SCHEMA", "mutant")
        changed.setattr(postgres, "_OPTIONS", postgres._OPTIONS.replace("cifer_provenance", "mutant"))
        before = getattr(postgres, name)
        broken = before.replace(wrong, instead) if isinstance(before, str) else tuple(r for r in before if r[0].pattern != wrong)
        assert broken != before
        changed.setattr(postgres, name, broken)
        postgres.translated.cache_clear()
        engine = postgres.Postgres(server.url)
        try:
            with Index.on(engine, record.genesis) as index:
                index.update(record)
                assert asked(index) != asked(pair[0])
        finally:
            with closing(engine.connect()) as connection:
                connection.execute("DROP SCHEMA mutant CASCADE")
            postgres.translated.cache_clear()


def test_another_networks_index_is_refused(pair: tuple[Index, Index], server: Any) -> None:
    """A database that indexes one network does not open for another, and the message names the schema to drop."""
    genesis = structs.replace(SyntheticRecord(1).genesis, name="other")
    with pytest.raises(CorruptionError, match="drop the schema cifer_provenance"):
        Index.on(postgres.Postgres(server.url), genesis)


def test_one_writer_at_a_time(pair: tuple[Index, Index], server: Any, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process builds the index, a second one is refused after its wait, and the first one's work stays."""
    monkeypatch.setattr(postgres, "_OPTIONS", postgres._OPTIONS.replace("lock_timeout=5s", "lock_timeout=50ms"))
    engine = postgres.Postgres(server.url)
    busy = engine.connect()
    busy.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(LockedError, match="another process"):
            Index.on(engine, record.genesis)
    finally:
        busy.close()
    assert pair[1].height == record.head().height


def test_a_server_that_is_gone_is_named_without_the_password(server: Any, record: Any) -> None:
    """A server that does not answer is a StorageError that names the address and what to check; a wrong password is not shown."""
    with pytest.raises(StorageError, match="check that the server runs") as nobody:
        Index.on(postgres.Postgres("postgresql://cifer@127.0.0.1:1/postgres"), record.genesis)
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("PGPASSFILE")
        environment.setenv("PGPASSWORD", "wrong-guess-7731")
        with pytest.raises(StorageError, match="password authentication failed") as refused:
            Index.on(postgres.Postgres(server.url), record.genesis)
    assert "wrong-guess-7731" not in str(refused.value) + str(nobody.value) + server.log
    assert POSTGRES["PASSWORD"] not in server.log

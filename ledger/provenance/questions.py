"""What an auditor asks, each a function of an index: nothing but committed records answers.

Walks follow ``data`` edges, which rules of the ledger checked; what OpenLineage events claim beyond that is listed apart, as claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from ledger.provenance.index import Store
from ledger.provenance.parts import Scalar
from ledger.provenance.things import ActRow, Thing, acts, find_dataset, find_run, find_site, find_version, thing, things

MOST_CLAIMS: Final = 200

_UP: Final = """WITH RECURSIVE reached (id) AS (
    SELECT id FROM nodes WHERE name = ?
    UNION SELECT e.target FROM reached r CROSS JOIN edges e ON e.source = r.id AND e.basis = 'data'
)"""
_DOWN: Final = """WITH RECURSIVE reached (id) AS (
    SELECT id FROM nodes WHERE name = ?
    UNION SELECT e.source FROM reached r CROSS JOIN edges e INDEXED BY edges_by_target ON e.target = r.id AND e.basis = 'data'
)"""

_UP_TO_RUNS: Final = f"""{_UP}, runs (run) AS (
    SELECT DISTINCT e.target FROM reached r JOIN nodes x ON x.id = r.id AND x.kind = 'version'
    JOIN edges e ON e.source = x.id AND e.basis = 'context' AND e.kind = 'made_in'
)"""
_DOWN_FROM_CONSENT: Final = """WITH RECURSIVE governed (run) AS (
    SELECT substr(r.name, 5) FROM nodes c JOIN edges e ON e.target = c.id AND e.basis = 'context' AND e.kind = 'under'
    JOIN nodes r ON r.id = e.source WHERE c.name = ?
), reached (id) AS (
    SELECT e.source FROM nodes d JOIN edges e ON e.target = d.id AND e.basis = 'data' AND e.kind = 'trained_on'
    JOIN acts a ON a.id = e.act WHERE d.name = ? AND a.run IN (SELECT run FROM governed)
    UNION SELECT e.source FROM reached r CROSS JOIN edges e INDEXED BY edges_by_target ON e.target = r.id AND e.basis = 'data'
)"""
_CLAIMED: Final = """WITH RECURSIVE claimed (id) AS (
    SELECT id FROM nodes WHERE digest = ? AND kind = 'lineage-version'
    UNION SELECT e.target FROM claimed c CROSS JOIN edges e ON e.source = c.id AND e.basis = 'claim' AND e.kind IN ('written_by', 'reads')
)"""
_VERSIONS_REACHED: Final = "JOIN reached r ON r.id = n.id WHERE n.kind = 'version' ORDER BY n.id"


class Source(msgspec.Struct, frozen=True):
    """A table behind a model: whose, under which consent. submissions: how many updates trained on it went into the model."""

    dataset: Thing
    site: str
    consents: tuple[Thing, ...]
    submissions: int


class Ancestors(msgspec.Struct, frozen=True):
    """What a model came from. models: registered versions that it started from.  counts: nodes reached, by kind.

    claims: dataset versions that OpenLineage events name as sources of the tables; nobody checked those.
    """

    model: Thing
    models: tuple[Thing, ...]
    runs: tuple[Thing, ...]
    sources: tuple[Source, ...]
    counts: Mapping[str, int]
    claims: tuple[Thing, ...]


class Descendants(msgspec.Struct, frozen=True):
    """What came out of a table: registered versions, runs with the number of its submissions, counts of nodes reached by kind."""

    dataset: Thing
    models: tuple[Thing, ...]
    runs: Mapping[str, int]
    counts: Mapping[str, int]


class AffectedRun(msgspec.Struct, frozen=True):
    """An open run that rests on a consent. sites_left: with live consent, without that of the question.

    must_stop: fewer than its minimum are left, so no further round can be sealed; otherwise it goes on without the site.
    """

    run: Thing
    sites_left: int
    minimum_sites: int
    must_stop: bool


class Consequences(msgspec.Struct, frozen=True):
    """What the withdrawal of a consent means, whether it is withdrawn already or not.

    tainted: registered versions that hold updates trained under it, by whichever way.  published: aliases that point to one of them.
    """

    consent: Thing
    dataset: Thing
    tainted: tuple[Thing, ...]
    published: tuple[str, ...]
    runs: tuple[AffectedRun, ...]
    finished_runs: int


class Contribution(msgspec.Struct, frozen=True):
    """A site's part in one run: how many rounds it submitted to, how many of these were sealed with its update and how many of those
    accepted, bytes submitted, openings released, rounds it was left out of.
    """

    run: str
    purpose: str
    status: str
    submitted: int
    sealed: int
    accepted: int
    update_bytes: int
    released: int
    excluded: int


class Contributions(msgspec.Struct, frozen=True):
    """Everything of one site."""

    site: Thing
    datasets: tuple[Thing, ...]
    consents: tuple[Thing, ...]
    runs: tuple[Contribution, ...]
    models: tuple[Thing, ...]


class Change(msgspec.Struct, frozen=True):
    """One thing in which two versions differ; "" where one has none."""

    what: str
    first: Scalar
    second: Scalar


class Difference(msgspec.Struct, frozen=True):
    """How two versions differ: declared settings and metrics; tables only one of them came from, by node."""

    first: Thing
    second: Thing
    changes: tuple[Change, ...]
    only_first: tuple[Thing, ...]
    only_second: tuple[Thing, ...]
    shared: tuple[Thing, ...]


class Timeline(msgspec.Struct, frozen=True):
    """A run's transactions in the order they were committed, with what became of the consents it rests on."""

    run: Thing
    acts: tuple[ActRow, ...]


def ancestors(store: Store, model: str) -> Ancestors:
    """What made a version, given as `find_version` takes it. Raises `NotOnRecordError`."""
    version = find_version(store, model)
    sources = tuple(
        Source(table, table.text("owner"), _consents_used(store, version.id, table.id), submissions)
        for table, submissions in _tables_behind(store, version.id)
    )
    runs = things(store, "WHERE n.id IN (SELECT run FROM runs) ORDER BY n.id", (version.id,), walk=_UP_TO_RUNS)
    earlier = things(
        store, "JOIN reached r ON r.id = n.id WHERE n.kind = 'version' AND n.name <> ? ORDER BY n.id", (version.id,) * 2, walk=_UP
    )
    claims = tuple(claim for source in sources for claim in _claimed_sources(store, source.dataset))
    return Ancestors(version, earlier, runs, sources, _counts(store, _UP, version.id), claims)


def descendants(store: Store, dataset: str) -> Descendants:
    """What came out of a table, given as `find_dataset` takes it. Raises `NotOnRecordError`."""
    table = find_dataset(store, dataset)
    models = _models_from(store, table.id)
    runs = store.rows(
        """SELECT a.run, count(*) FROM nodes d JOIN edges e ON e.target = d.id AND e.basis = 'data' AND e.kind = 'trained_on'
        JOIN acts a ON a.id = e.act WHERE d.name = ? GROUP BY a.run ORDER BY min(a.id)""",
        (table.id,),
    )
    return Descendants(table, models, dict(runs), _counts(store, _DOWN, table.id))


def consequences(store: Store, consent: str) -> Consequences:
    """What the withdrawal of a consent, given by its node, means. Raises `NotOnRecordError`."""
    found = thing(store, consent)
    (dataset,) = things(
        store, "JOIN edges e ON e.target = n.id JOIN nodes c ON c.id = e.source WHERE c.name = ? AND e.kind = 'about'", (found.id,)
    )
    runs = things(
        store,
        """JOIN edges e ON e.source = n.id JOIN nodes c ON c.id = e.target
        WHERE c.name = ? AND e.basis = 'context' AND e.kind = 'under' ORDER BY n.id""",
        (found.id,),
    )
    tainted = things(store, _VERSIONS_REACHED, (found.id, dataset.id), walk=_DOWN_FROM_CONSENT)
    open_runs = tuple(_affected(store, run, found.id) for run in runs if run.text("status") == "open")
    return Consequences(found, dataset, tainted, _published(store, tainted), open_runs, len(runs) - len(open_runs))


def contributions(store: Store, site: str) -> Contributions:
    """Everything one site took part in. Raises `NotOnRecordError`."""
    found = find_site(store, site)
    datasets = _pointing_at(store, found.id, "owned_by", "dataset")
    rows = store.rows(
        """WITH mine AS (
            SELECT a.run AS run, a.round AS round, a.kind AS kind, n.id AS node, json_extract(n.attributes, '$.size_bytes') AS size
            FROM acts a LEFT JOIN nodes n ON n.name = a.subject AND a.kind = 'round.submit'
            WHERE a.author = ?1 AND a.kind IN ('round.submit', 'round.release')
        ), judged AS (
            SELECT m.*, s.source AS sum, json_extract(w.attributes, '$.accepted') AS accepted FROM mine m
            LEFT JOIN edges s ON s.target = m.node AND s.basis = 'data' AND s.kind = 'sums'
            LEFT JOIN nodes w ON w.name = 'run/' || m.run || '/round/' || m.round AND m.kind = 'round.submit'
        ), left_out AS (
            SELECT a.run AS run, count(*) AS rounds FROM nodes p JOIN edges e ON e.target = p.id AND e.basis = 'context' AND e.kind = 'of'
            JOIN nodes x ON x.id = e.source AND x.kind = 'exclusion' JOIN acts a ON a.id = e.act WHERE p.name = ?1 GROUP BY a.run
        ), runs AS (SELECT run FROM judged UNION SELECT run FROM left_out)
        SELECT r.run, json_extract(n.attributes, '$.purpose'), json_extract(n.attributes, '$.status'),
            coalesce(sum(j.kind = 'round.submit'), 0), count(j.sum), coalesce(sum(j.sum IS NOT NULL AND j.accepted = 1), 0),
            coalesce(sum(j.size), 0), coalesce(sum(j.kind = 'round.release'), 0), coalesce(x.rounds, 0)
        FROM runs r JOIN nodes n ON n.name = 'run/' || r.run LEFT JOIN judged j ON j.run = r.run LEFT JOIN left_out x ON x.run = r.run
        GROUP BY r.run ORDER BY n.id""",
        (found.id,),
    )
    models = {model.id: model for table in datasets for model in _models_from(store, table.id)}
    consents = _pointing_at(store, found.id, "given_by", "consent")
    return Contributions(found, datasets, consents, tuple(Contribution(*row) for row in rows), tuple(models.values()))


def difference(store: Store, first: str, second: str) -> Difference:
    """How two versions differ. Raises `NotOnRecordError`."""
    versions = (find_version(store, first), find_version(store, second))
    described = [_described(store, version) for version in versions]
    tables = [{table.id: table for table, _ in _tables_behind(store, version.id)} for version in versions]
    keys = sorted({key for one in described for key in one})
    changes = tuple(
        Change(key, described[0].get(key, ""), described[1].get(key, "")) for key in keys if described[0].get(key) != described[1].get(key)
    )
    return Difference(
        *versions,
        changes,
        tuple(table for id_, table in tables[0].items() if id_ not in tables[1]),
        tuple(table for id_, table in tables[1].items() if id_ not in tables[0]),
        tuple(table for id_, table in tables[0].items() if id_ in tables[1]),
    )


def timeline(store: Store, run: str) -> Timeline:
    """What happened in a run, and to the consents it rests on, in order. Raises `NotOnRecordError`."""
    found = find_run(store, run)
    own = acts(store, "WHERE a.run = ? ORDER BY a.id", (found.label,))
    consents = acts(
        store,
        """JOIN nodes c ON c.name = a.subject JOIN edges e ON e.target = c.id AND e.basis = 'context' AND e.kind = 'under'
        JOIN nodes r ON r.id = e.source WHERE r.name = ? ORDER BY a.id""",
        (found.id,),
    )
    return Timeline(found, tuple(sorted((*own, *consents), key=lambda act: (act.height, act.index))))


def _tables_behind(store: Store, version: str) -> list[tuple[Thing, int]]:
    counted = dict(
        store.rows(
            f"""{_UP} SELECT n.name, (SELECT count(*) FROM edges e JOIN reached r2 ON r2.id = e.source
                WHERE e.target = n.id AND e.basis = 'data' AND e.kind = 'trained_on')
            FROM reached r JOIN nodes n ON n.id = r.id WHERE n.kind = 'dataset'""",
            (version,),
        )
    )
    found = things(store, "JOIN reached r ON r.id = n.id WHERE n.kind = 'dataset' ORDER BY n.id", (version,), walk=_UP)
    return [(table, counted[table.id]) for table in found]


def _consents_used(store: Store, version: str, dataset: str) -> tuple[Thing, ...]:
    """The consents about a table under which the runs behind a version used it."""
    return things(
        store,
        """JOIN edges a ON a.source = n.id AND a.basis = 'context' AND a.kind = 'about' JOIN nodes d ON d.id = a.target AND d.name = ?
        WHERE n.kind = 'consent' AND EXISTS (
            SELECT 1 FROM runs JOIN edges u ON u.source = runs.run AND u.basis = 'context' AND u.kind = 'under' AND u.target = n.id
        ) ORDER BY n.id""",
        (version, dataset),
        walk=_UP_TO_RUNS,
    )


def _claimed_sources(store: Store, table: Thing) -> tuple[Thing, ...]:
    """What events say a table was made from: upstream of the lineage versions with the table's own digest."""
    digest = bytes.fromhex(table.digest)
    return things(
        store,
        f"JOIN claimed c ON c.id = n.id WHERE n.kind = 'lineage-version' AND n.digest IS NOT ? ORDER BY n.id LIMIT {MOST_CLAIMS}",
        (digest, digest),
        walk=_CLAIMED,
    )


def _models_from(store: Store, dataset: str) -> tuple[Thing, ...]:
    return things(store, _VERSIONS_REACHED, (dataset,), walk=_DOWN)


def _counts(store: Store, walk: str, start: str) -> dict[str, int]:
    query = f"{walk} SELECT n.kind, count(*) FROM reached r JOIN nodes n ON n.id = r.id GROUP BY n.kind ORDER BY n.kind"
    return {kind: count for kind, count in store.rows(query, (start,))}


def _affected(store: Store, run: Thing, consent: str) -> AffectedRun:
    ((left,),) = store.rows(
        """SELECT count(*) FROM nodes r JOIN edges e ON e.source = r.id AND e.basis = 'context' AND e.kind = 'under'
        JOIN nodes c ON c.id = e.target WHERE r.name = ? AND c.name <> ? AND json_extract(c.attributes, '$.status') = 'live'""",
        (run.id, consent),
    )
    minimum = run.number("minimum_sites")
    return AffectedRun(run, left, minimum, left < minimum)


def _published(store: Store, versions: tuple[Thing, ...]) -> tuple[str, ...]:
    """NAME@ALIAS of every alias that points to one of `versions` now."""
    tainted = {version.id for version in versions}
    return tuple(
        f"{model.label}@{key.removeprefix('alias.')}"
        for model in things(store, "WHERE n.kind = 'model' ORDER BY n.id")
        for key, version in sorted(model.attributes.items())
        if key.startswith("alias.") and f"{model.id}/{version}" in tainted
    )


def _pointing_at(store: Store, id_: str, edge: str, kind: str) -> tuple[Thing, ...]:
    return things(
        store,
        """JOIN edges e ON e.source = n.id JOIN nodes t ON t.id = e.target
        WHERE t.name = ? AND e.basis = 'context' AND e.kind = ? AND n.kind = ? ORDER BY n.id""",
        (id_, edge, kind),
    )


def _described(store: Store, version: Thing) -> dict[str, Scalar]:
    """What was declared for a version's run, and what its round came to."""
    run = thing(store, f"run/{version.text('run')}")
    round_ = thing(store, f"{run.id}/round/{version.number('round')}")
    outcome = {key: value for key, value in round_.attributes.items() if key.startswith("metric.") or key == "sealed_sites"}
    return {**run.attributes, **outcome, "run": run.label, "round": version.number("round"), "digest": version.digest}

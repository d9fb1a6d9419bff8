"""What an auditor asks, each a function of an index: nothing but committed records answers.

Walks follow ``data`` edges, which rules of the ledger checked; what OpenLineage events claim beyond that is listed apart, as claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from ledger.provenance.index import Store
from ledger.provenance.parts import KINDS, Scalar
from ledger.provenance.things import ActRow, Thing, acts, find_dataset, find_run, find_site, find_version, thing, things
from ledger.provenance.writer import KIND_BITS

MOST_CLAIMS: Final = 200

_UP: Final = """WITH RECURSIVE reached (id) AS (
    SELECT id FROM nodes WHERE name = ?
    UNION SELECT e.target FROM reached r CROSS JOIN edges e ON e.source = r.id AND e.basis = 'data'
)"""
_MADE_FROM: Final = """WITH RECURSIVE tainted (run, since) AS ({start}), reached (id) AS (
    SELECT v.id FROM tainted t CROSS JOIN edges m ON m.target = t.run AND m.basis = 'context' AND m.kind = 'made_in'
    JOIN nodes v ON v.id = m.source WHERE json_extract(v.attributes, '$.round') >= t.since
    UNION SELECT m.source FROM reached r CROSS JOIN edges s ON s.target = r.id AND s.basis = 'data' AND s.kind = 'starts_from'
    CROSS JOIN edges d ON d.source = s.source AND d.basis = 'context' AND d.kind = 'declared_by'
    CROSS JOIN edges m ON m.target = d.target AND m.basis = 'context' AND m.kind = 'made_in'
)"""
"""The versions that hold something of the runs in `start`, each tainted from its round `since` on: within a run every accepted round
builds on the accepted ones before, and a run may start from a version. The same as walking down the ``data`` edges, in fewer steps."""
_CLAIMED: Final = """WITH RECURSIVE claimed (id) AS (
    SELECT id FROM nodes WHERE digest = ? AND +kind = 'lineage-version'
    UNION SELECT e.target FROM claimed c CROSS JOIN edges e ON e.source = c.id AND e.basis = 'claim' AND e.kind IN ('written_by', 'reads')
)"""
_KIND: Final = f"id & {(1 << KIND_BITS) - 1}"
_REACHED: Final = f"""SELECT {_KIND} AS kind, count(*), CASE WHEN {_KIND} IN (?, ?) THEN json_group_array(id) END
FROM reached GROUP BY kind"""


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


class Use(msgspec.Struct, frozen=True):
    """How one run used a table: updates submitted from it, accepted rounds that hold one, the first of these (0 for none)."""

    run: str
    submitted: int
    accepted: int
    since: int


class Descendants(msgspec.Struct, frozen=True):
    """What came out of a table: the registered versions that hold something of it, and the runs that used it."""

    dataset: Thing
    models: tuple[Thing, ...]
    runs: tuple[Use, ...]


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
    """A run's transactions in the order they were committed, with what became of the consents it rests on and of its parties' keys."""

    run: Thing
    acts: tuple[ActRow, ...]


def ancestors(store: Store, model: str) -> Ancestors:
    """What made a version, given as `find_version` takes it. Raises `NotOnRecordError`."""
    version = find_version(store, model)
    reached = _reach(store, _UP, (version.id,))
    models = reached.things(store, "version")
    runs = tuple(dict.fromkeys(item.text("run") for item in models))
    sources = _sources(store, version, reached, runs)
    claims = tuple(claim for source in sources for claim in _claimed_sources(store, source.dataset))
    earlier = tuple(item for item in models if item.id != version.id)
    return Ancestors(version, earlier, tuple(find_run(store, run) for run in runs), sources, reached.counts, claims)


def descendants(store: Store, dataset: str) -> Descendants:
    """What came out of a table, given as `find_dataset` takes it. Raises `NotOnRecordError`."""
    table = find_dataset(store, dataset)
    runs = store.rows(
        """SELECT r.label, u.submitted, u.accepted, coalesce(u.since, 0) FROM nodes d JOIN uses u ON u.dataset = d.id
        JOIN nodes r ON r.id = u.run WHERE d.name = ? ORDER BY r.id""",
        (table.id,),
    )
    return Descendants(table, _made_from(store, table), tuple(Use(*row) for row in runs))


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
    tainted = _made_from(store, dataset, under=found.id)
    open_runs = tuple(_affected(store, run, found.id) for run in runs if run.text("status") == "open")
    return Consequences(found, dataset, tainted, _published(store, tainted), open_runs, len(runs) - len(open_runs))


def contributions(store: Store, site: str) -> Contributions:
    """Everything one site took part in. Raises `NotOnRecordError`."""
    found = find_site(store, site)
    datasets = _pointing_at(store, found.id, "owned_by", "dataset")
    rows = store.rows(
        """SELECT r.label, json_extract(r.attributes, '$.purpose'), json_extract(r.attributes, '$.status'),
            s.submitted, s.sealed, s.accepted, s.update_bytes, s.released, s.excluded
        FROM nodes p JOIN shares s ON s.site = p.id JOIN nodes r ON r.id = s.run WHERE p.name = ? ORDER BY r.id""",
        (found.id,),
    )
    models = {model.id: model for table in datasets for model in _made_from(store, table)}
    consents = _pointing_at(store, found.id, "given_by", "consent")
    return Contributions(found, datasets, consents, tuple(Contribution(*row) for row in rows), tuple(models.values()))


def difference(store: Store, first: str, second: str) -> Difference:
    """How two versions differ. Raises `NotOnRecordError`."""
    versions = (find_version(store, first), find_version(store, second))
    described = [_described(store, version) for version in versions]
    tables = [{table.id: table for table in _reach(store, _UP, (version.id,)).things(store, "dataset")} for version in versions]
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
    """What happened in a run, to the consents it rests on, and to its parties' signing keys, in order. Raises `NotOnRecordError`."""
    found = find_run(store, run)
    own = acts(store, "WHERE a.run = ? AND a.run <> '' ORDER BY a.id", (found.label,))
    consents = acts(
        store,
        """JOIN nodes c ON c.name = a.subject JOIN edges e ON e.target = c.id AND e.basis = 'context' AND e.kind = 'under'
        JOIN nodes r ON r.id = e.source WHERE r.name = ? ORDER BY a.id""",
        (found.id,),
    )
    keys = acts(
        store,
        """JOIN nodes p ON p.name = a.subject WHERE a.kind IN ('identity.rotate', 'identity.revoke') AND p.id IN (
            SELECT o.target FROM nodes r JOIN edges o ON o.source = r.id AND o.basis = 'context' AND o.kind = 'opened_by' WHERE r.name = ?1
            UNION SELECT o.target FROM nodes r JOIN edges e ON e.source = r.id AND e.basis = 'context' AND e.kind = 'declares'
            JOIN edges o ON o.source = e.target AND o.basis = 'context' AND o.kind = 'owned_by' WHERE r.name = ?1
        ) ORDER BY a.id""",
        (found.id,),
    )
    return Timeline(found, tuple(sorted((*own, *consents, *keys), key=lambda act: (act.height, act.index))))


class _Reached(msgspec.Struct, frozen=True):
    """What a walk reached: how many nodes of each kind, and the numbers of the versions and tables among them."""

    counts: Mapping[str, int]
    ids: Mapping[str, str]

    def things(self, store: Store, kind: str) -> tuple[Thing, ...]:
        """The versions, or the tables, in the order in which they were committed."""
        return things(store, "WHERE n.id IN (SELECT value FROM json_each(?)) ORDER BY n.id", (self.ids.get(kind, "[]"),))


def _made_from(store: Store, dataset: Thing, under: str = "") -> tuple[Thing, ...]:
    """The versions that hold something of a table, used in any run, or in those under one consent."""
    start = "SELECT u.run, u.since FROM nodes d JOIN uses u ON u.dataset = d.id WHERE d.name = ? AND u.since IS NOT NULL"
    if under:
        start += """ AND u.run IN (SELECT e.source FROM nodes c JOIN edges e ON e.target = c.id AND e.basis = 'context' AND e.kind = 'under'
        WHERE c.name = ?)"""
    walk = _MADE_FROM.replace("{start}", start)
    return things(store, "WHERE n.id IN (SELECT id FROM reached) ORDER BY n.id", (dataset.id, under) if under else (dataset.id,), walk=walk)


def _reach(store: Store, walk: str, start: tuple[str, ...]) -> _Reached:
    rows = store.rows(f"{walk} {_REACHED}", (*start, KINDS.index("version"), KINDS.index("dataset")))
    counts = {KINDS[kind]: count for kind, count, _ in rows}
    return _Reached(dict(sorted(counts.items())), {KINDS[kind]: ids for kind, _, ids in rows if ids is not None})


def _sources(store: Store, version: Thing, reached: _Reached, runs: tuple[str, ...]) -> tuple[Source, ...]:
    """The tables that were reached, each with the consents under which the runs used it."""
    submissions = dict(
        store.rows(
            f"""{_UP} SELECT t.name, count(*) FROM reached r
            CROSS JOIN edges e ON e.source = r.id AND e.basis = 'data' AND e.kind = 'trained_on'
            JOIN nodes t ON t.id = e.target GROUP BY t.id""",
            (version.id,),
        )
    )
    names = msgspec.json.encode([f"run/{run}" for run in runs]).decode()
    consents = things(
        store,
        """WHERE n.id IN (
            SELECT u.target FROM nodes r JOIN edges u ON u.source = r.id AND u.basis = 'context' AND u.kind = 'under'
            WHERE r.name IN (SELECT value FROM json_each(?))
        ) ORDER BY n.id""",
        (names,),
    )
    return tuple(
        Source(
            table,
            table.text("owner"),
            tuple(item for item in consents if item.id.startswith(f"consent/{table.digest}/")),
            submissions[table.id],
        )
        for table in reached.things(store, "dataset")
    )


def _claimed_sources(store: Store, table: Thing) -> tuple[Thing, ...]:
    """What events say a table was made from: upstream of the lineage versions with the table's own digest."""
    digest = bytes.fromhex(table.digest)
    return things(
        store,
        f"WHERE n.id IN (SELECT id FROM claimed) AND +n.kind = 'lineage-version' AND n.digest IS NOT ? ORDER BY n.id LIMIT {MOST_CLAIMS}",
        (digest, digest),
        walk=_CLAIMED,
    )


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

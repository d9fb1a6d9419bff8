"""`cifer lineage`: what the record says about models, tables, consents, sites and runs.

Opening the ledger executes and verifies every block from genesis. The index beside it is a cache of the blocks; delete
`provenance.sqlite`, or the schema `cifer_provenance` where CIFER_DATABASE_URL names a database, and the next question builds it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cifer_tasks.database import database_url
from cifer_tasks.workspace import home_folder
from flows.audit import open_record
from flows.documents import Report
from ledger.provenance import browse, questions
from ledger.provenance.index import Index, Store
from ledger.provenance.postgres import Postgres
from ledger.provenance.things import ActRow, Thing, find_consents, find_run, find_version
from ledger.types import Genesis

INDEX_FILE = "provenance.sqlite"


def index_at(home: Path, genesis: Genesis) -> Index:
    """A network's index: in the database that CIFER_DATABASE_URL names, else in a file of `home`. Raises as `Index.open`."""
    url = database_url()
    return Index.on(Postgres(url), genesis) if url else Index.open(home / INDEX_FILE, genesis)


@contextmanager
def open_index() -> Iterator[Index]:
    """This folder's index, as far as the ledger goes now. Raises the ledger's own errors."""
    with open_record() as ledger, index_at(home_folder(), ledger.genesis) as index:
        index.update(ledger, progress_on(sys.stderr) if sys.stderr.isatty() else None)
        yield index


def progress_on(stream: Any) -> Callable[[int, int], None]:
    """Shows how far an index is, on one line of a terminal, once there is more than one commit to wait for."""

    def told(height: int, head: int) -> None:
        if height < head:
            stream.write(f"\rindexing block {height:,} of {head:,}")
        else:
            stream.write("\r\033[K")
        stream.flush()

    return told


def ancestors_report(model: str) -> Report:
    """What made a model: tables, consents, sites, runs, earlier models."""
    return _answer(lambda store: questions.ancestors(store, model), _ancestors_lines)


def descendants_report(dataset: str) -> Report:
    """What came out of a table."""
    return _answer(lambda store: questions.descendants(store, dataset), _descendants_lines)


def consequences_report(site: str, purpose: str) -> Report:
    """What withdrawing a site's consents for a purpose means, one answer a table."""
    return _answer(
        lambda store: tuple(questions.consequences(store, consent.id) for consent in find_consents(store, site, purpose)),
        lambda found: [line for one in found for line in _consequences_lines(one)],
    )


def site_report(site: str) -> Report:
    """Everything one site contributed."""
    return _answer(lambda store: questions.contributions(store, site), _site_lines)


def difference_report(first: str, second: str) -> Report:
    """How two versions differ."""
    return _answer(lambda store: questions.difference(store, first, second), _difference_lines)


def timeline_report(run: str) -> Report:
    """A run in the order in which it was committed."""
    return _answer(lambda store: questions.timeline(store, run), lambda found: [_act_line(act) for act in found.acts])


def approvals_report(about: str) -> Report:
    """Who decided what; about NAME@VERSION, a run, or a node such as ``site/hospital-a``; "" for all."""

    def ask(store: Store) -> tuple[ActRow, ...]:
        if "@" in about:
            return browse.approvals(store, find_version(store, about).id)
        return browse.approvals(store, find_run(store, about).id if about and "/" not in about else about)

    return _answer(ask, lambda found: [_act_line(act) for act in found] or ["nothing was decided"])


def gaps_report() -> Report:
    """Which entries lack evidence."""
    return _answer(browse.without_evidence, _gaps_lines)


def search_report(text: str) -> Report:
    """Nodes of the graph by words or digits."""
    return _answer(lambda store: browse.search(store, text), lambda found: [_thing_line(item) for item in found] or ["nothing found"])


def node_report(node: str) -> Report:
    """One node and what is beside it."""
    return _answer(lambda store: browse.neighbours(store, node), _node_lines)


def _answer(ask: Callable[[Store], Any], lines: Callable[[Any], list[str]]) -> Report:
    with open_index() as index:
        found = ask(index)
    return Report(msgspec.to_builtins(found), tuple(lines(found)))


# ------------------------------------------------------------------------------------------------------------ as text


def _ancestors_lines(found: questions.Ancestors) -> list[str]:
    return [
        f"Model    {found.model.label}, sha256 {found.model.digest}, {_where(found.model)}",
        *(f"Run      {_run_text(run)}" for run in found.runs),
        *(f"From     {model.label}, sha256 {model.digest}, {_where(model)}" for model in found.models),
        *(line for source in found.sources for line in _source_lines(source)),
        f"Through  {', '.join(f'{count} {kind}' for kind, count in found.counts.items())}",
        *(f"Claimed  {claim.text('name')} {claim.text('version')[:16]}, said by an event, {_where(claim)}" for claim in found.claims),
    ]


def _source_lines(source: questions.Source) -> list[str]:
    table = source.dataset
    return [
        f"Table    {source.site}: {table.label}, {table.number('rows')} rows, {source.submissions} updates, sha256 {table.digest}",
        *(f"             {_consent_text(consent)}" for consent in source.consents),
    ]


def _descendants_lines(found: questions.Descendants) -> list[str]:
    table = found.dataset
    return [
        f"Table    {table.text('owner')}: {table.label}, {table.number('rows')} rows, sha256 {table.digest}, {_where(table)}",
        *(f"Model    {model.label}, sha256 {model.digest}, {_where(model)}" for model in found.models),
        *(f"Run      {use.run}: {use.submitted} updates submitted, {use.accepted} in accepted rounds" for use in found.runs),
    ]


def _consequences_lines(found: questions.Consequences) -> list[str]:
    stops = [
        f"Run      {item.run.label} is open: {item.sites_left} sites with consent left, {item.minimum_sites} needed: "
        f"{'it cannot seal another round' if item.must_stop else 'it goes on without this site'}"
        for item in found.runs
    ]
    return [
        f"Consent  of {found.dataset.text('owner')} for {found.consent.label}: {_consent_text(found.consent)}",
        f"         table {found.dataset.label}, sha256 {found.dataset.digest}",
        *(f"Tainted  {model.label}, sha256 {model.digest}, {_where(model)}" for model in found.tainted),
        *(f"In use   {alias} points to a tainted version" for alias in found.published),
        *(stops or ["Run      none that is open rests on it"]),
        f"         {found.finished_runs} finished runs rested on it",
    ]


def _site_lines(found: questions.Contributions) -> list[str]:
    return [
        f"Site     {found.site.label}, admitted {_where(found.site)}",
        *(f"Table    {table.label}, {table.number('rows')} rows, sha256 {table.digest}, {_where(table)}" for table in found.datasets),
        *(f"Consent  for {consent.label}: {_consent_text(consent)}" for consent in found.consents),
        *(
            f"Run      {run.run} ({run.status}): {run.submitted} updates of {run.update_bytes:,} bytes, {run.sealed} sealed, "
            f"{run.accepted} in accepted rounds, {run.released} openings released, left out of {run.excluded} rounds"
            for run in found.runs
        ),
        *(f"Model    {model.label}, sha256 {model.digest}" for model in found.models),
    ]


def _difference_lines(found: questions.Difference) -> list[str]:
    width = max((len(change.what) for change in found.changes), default=0)
    sides = ((found.first.label, found.only_first), (found.second.label, found.only_second))
    return [
        f"Between  {found.first.label} and {found.second.label}",
        *(f"         {change.what:<{width}}  {_brief(change.first)} -> {_brief(change.second)}" for change in found.changes),
        f"Tables   {len(found.shared)} behind both",
        *(f"         {table.text('owner')}: {table.label}, only behind {label}" for label, tables in sides for table in tables),
    ]


def _gaps_lines(found: browse.Gaps) -> list[str]:
    if not found.totals:
        return ["every entry has its evidence"]
    shown = [f"{gap.node:<60} {gap.missing:<16} {gap.found} of {gap.expected}" for gap in found.gaps]
    total = ", ".join(f"{count} lack {missing}" for missing, count in sorted(found.totals.items()))
    return [*shown, f"in all: {total}"]


def _node_lines(found: browse.Neighbours) -> list[str]:
    return [
        _thing_line(found.node),
        *(f"  {key:<16} {_brief(value)}" for key, value in found.node.attributes.items()),
        *(
            f"  {'->' if link.source == found.node.id else '<-'} {link.kind:<14} "
            f"{link.target if link.source == found.node.id else link.source}  ({link.basis}, block {link.height})"
            for link in found.links
        ),
        *(f"  == {item.id}" for item in found.same_bytes),
        *(["  and more: --json with the API pages through them"] if found.more else []),
    ]


def _act_line(act: ActRow) -> str:
    return f"{act.height:>6}  {act.transaction[:16]}  {act.author.partition('/')[2]:<20} {act.kind:<18} {act.text}"


def _thing_line(item: Thing) -> str:
    return f"{item.kind:<16} {item.id}  {item.label if item.label != item.id else ''}  {_where(item)}"


def _run_text(run: Thing) -> str:
    code, scheme = run.text("code_commit"), run.text("scheme")
    return f"{run.label} ({run.text('status')}): {scheme} encryption, code {code}, settings {run.text('config_digest')[:16]}, {_where(run)}"


def _consent_text(consent: Thing) -> str:
    if consent.text("status") == "live":
        return f"consent live, {_where(consent)}"
    return f"consent WITHDRAWN at block {consent.changed}: {consent.text('reason')}"


def _where(item: Thing) -> str:
    return f"block {item.height} (tx {item.transaction[:16]})"


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 64 else f"{text[:64]}..."

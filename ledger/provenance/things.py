"""Nodes and acts as answers show them, each with what vouches for it, and how a person's words become a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from ledger.errors import NotOnRecordError
from ledger.provenance.index import Store
from ledger.provenance.parts import Scalar, model_id, run_id
from ledger.provenance.writer import ACT_BITS

COLUMNS: Final = "n.name, n.kind, n.label, n.digest, n.attributes, n.act, n.changed"
ACT_COLUMNS: Final = 'a.id, a."transaction", a.author, a.kind, a.run, a.round, a.subject, a.text'


class Thing(msgspec.Struct, frozen=True):
    """A node. digest: hex, "" where it has none.  height, transaction: what made it.  changed: the height that last changed it."""

    id: str
    kind: str
    label: str
    digest: str
    attributes: Mapping[str, Scalar]
    height: int
    transaction: str
    changed: int

    def text(self, name: str) -> str:
        """An attribute as text, "" when it has none."""
        return str(self.attributes.get(name, ""))

    def number(self, name: str) -> int:
        """An attribute as an integer, 0 when it has none."""
        value = self.attributes.get(name, 0)
        return value if isinstance(value, int) else 0


class ActRow(msgspec.Struct, frozen=True):
    """A committed transaction: who said what about which node."""

    height: int
    index: int
    transaction: str
    author: str
    kind: str
    run: str
    round: int
    subject: str
    text: str


def things(store: Store, tail: str, parameters: Iterable[object] = (), *, walk: str = "") -> tuple[Thing, ...]:
    """The nodes `n` that `tail`, the rest of a SELECT behind ``FROM nodes n``, gives. walk: the ``WITH`` that `tail` refers to."""
    query = f'{walk} SELECT {COLUMNS}, v."transaction" FROM nodes n JOIN acts v ON v.id = n.act {tail}'
    return tuple(_thing(row) for row in store.rows(query, tuple(parameters)))


def thing(store: Store, id_: str) -> Thing:
    """The node of this name. Raises `NotOnRecordError`."""
    found = things(store, "WHERE n.name = ?", (id_,))
    if not found:
        raise NotOnRecordError(f"{id_!r} is no node of the graph: `cifer lineage search WORD` finds those there are")
    return found[0]


def acts(store: Store, where: str, parameters: Iterable[object] = ()) -> tuple[ActRow, ...]:
    """The transactions `a` that `where` gives."""
    query = f"SELECT {ACT_COLUMNS} FROM acts a {where}"
    return tuple(
        ActRow(id_ >> ACT_BITS, id_ & (1 << ACT_BITS) - 1, transaction.hex(), author, kind, run, round_, subject, text)
        for id_, transaction, author, kind, run, round_, subject, text in store.rows(query, tuple(parameters))
    )


def find_version(store: Store, reference: str) -> Thing:
    """A version by NAME@VERSION, NAME@ALIAS, its node, or the first 8 digits or more of its digest. Raises `NotOnRecordError`."""
    name, separator, which = reference.partition("@")
    if not separator:
        return _by_digest(store, "version", reference) or thing(store, reference)
    models = things(store, "WHERE n.name = ?", (model_id(name),))
    if not models:
        raise NotOnRecordError(f"model {name!r} is not on this ledger: {_instead(store, 'model')}")
    version = which if which.isdigit() else models[0].text(f"alias.{which}")
    found = things(store, "WHERE n.name = ?", (f"{models[0].id}/{version}",)) if version else ()
    if not found:
        aliases = sorted(key.removeprefix("alias.") for key in models[0].attributes if key.startswith("alias."))
        known = f"aliases {', '.join(aliases)}" if aliases else "no aliases"
        latest = models[0].number("latest_version")
        raise NotOnRecordError(f"model {name!r} has no version or alias {which!r}: it has versions 1 to {latest} and {known}")
    return found[0]


def find_dataset(store: Store, reference: str) -> Thing:
    """A table by its node, its registered name, or the first 8 digits or more of its digest. Raises `NotOnRecordError`."""
    found = _by_digest(store, "dataset", reference)
    if found is None:
        named = things(store, "WHERE n.kind = 'dataset' AND (n.label = ?1 OR n.name = ?1) ORDER BY n.id DESC LIMIT 2", (reference,))
        if len(named) > 1:
            raise NotOnRecordError(f"{reference!r} names several tables: give the first digits of the digest instead")
        found = named[0] if named else None
    if found is None:
        raise NotOnRecordError(f"table {reference!r} is not on this ledger: {_instead(store, 'dataset')}")
    return found


def find_consents(store: Store, site: str, purpose: str) -> tuple[Thing, ...]:
    """A site's consents for a purpose, one a table. Raises `NotOnRecordError` when it never gave one."""
    found = things(
        store,
        """JOIN edges e ON e.source = n.id JOIN nodes s ON s.id = e.target
        WHERE n.kind = 'consent' AND n.label = ? AND e.basis = 'context' AND e.kind = 'given_by' AND s.name = ? ORDER BY n.id""",
        (purpose, f"site/{site}"),
    )
    if not found:
        raise NotOnRecordError(f"{site} never gave a consent for {purpose}: `cifer consent list` shows those there are")
    return found


def find_run(store: Store, run: str) -> Thing:
    """A declared run. Raises `NotOnRecordError`."""
    found = things(store, "WHERE n.name = ?", (run_id(run.removeprefix("run/")),))
    if not found or found[0].kind != "run":
        raise NotOnRecordError(f"run {run!r} is not on this ledger: {_instead(store, 'run')}")
    return found[0]


def find_site(store: Store, site: str) -> Thing:
    """A site. Raises `NotOnRecordError`."""
    found = things(store, "WHERE n.name = ?", (f"site/{site.removeprefix('site/')}",))
    if not found:
        raise NotOnRecordError(f"site {site!r} is not on this ledger: {_instead(store, 'site')}")
    return found[0]


def _by_digest(store: Store, kind: str, prefix: str) -> Thing | None:
    text = prefix.lower()
    if not 8 <= len(text) <= 64 or set(text) - set("0123456789abcdef"):
        return None
    low, high = bytes.fromhex(text.ljust(64, "0")), bytes.fromhex(text.ljust(64, "f"))
    found = things(store, "WHERE n.digest BETWEEN ? AND ? AND n.kind = ? ORDER BY n.id DESC LIMIT 2", (low, high, kind))
    if len({item.digest for item in found}) > 1:
        raise NotOnRecordError(f"{prefix}: several of kind {kind} begin with this; give more digits")
    return found[0] if found else None


def _thing(row: tuple[Any, ...]) -> Thing:
    name, kind, label, digest, attributes, act, changed, transaction = row
    return Thing(
        name,
        kind,
        label or name,
        "" if digest is None else digest.hex(),
        msgspec.json.decode(attributes),
        act >> ACT_BITS,
        transaction.hex(),
        changed >> ACT_BITS,
    )


def _instead(store: Store, kind: str) -> str:
    known = [label for (label,) in store.rows("SELECT label FROM nodes WHERE kind = ? ORDER BY id DESC LIMIT 10", (kind,))]
    return f"it has {', '.join(known)}" if known else "it has none yet"

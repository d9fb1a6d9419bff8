"""Which datasets a value refers to: a walk over the records of `cifer_tasks.records`, knowing leaves only.

Names are unique within a namespace and say whose a thing is; the version is what fixes the bytes:

    site/<site>/table            a prepared table                          version: SHA-256 of the file
    site/<site>/<file>           a file that stays in a site's folder      version: SHA-256 of the file
    site/<site>/<kind>           an artifact that a site made              version: SHA-256 of the artifact
    artifact/<kind>              an artifact of the run                    version: SHA-256 of the artifact
    registry/<model>             a registered model                        version: its number in the registry
    ledger/transactions          the ledger                                version: transaction id
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, get_args, get_origin

import msgspec

from cifer_tasks.records import ArtifactRef, Committed, Dataset, RegisteredModel, SiteFile

_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None)})


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """One version of one dataset: `name` within the run's namespace, `version` as listed in the module's docstring."""

    name: str
    version: str


def versions_in(value: object, own: str = "") -> tuple[Version, ...]:
    """Every version that `value` refers to, at any depth of records, tuples, lists and mappings; sorted, each once.

    own: the site that speaks, which says nothing of other sites' records; "" for who speaks of all.
    Only frozen records and containers are entered, so that a settings object, an array or a live model costs nothing.
    """
    return tuple(sorted(set(_walk(value, "", own))))


def _walk(value: object, site: str, own: str) -> Iterator[Version]:
    owner = _owner(value) if isinstance(value, msgspec.Struct) else ""
    if own and owner not in ("", own):
        return
    match value:
        case ArtifactRef(kind=kind, digest=digest):
            yield Version(f"site/{site}/{kind}" if site else f"artifact/{kind}", digest)
        case Dataset():
            yield Version(f"site/{value.site}/table", value.sha256)
        case SiteFile():
            yield Version(f"site/{value.site}/{value.name}", value.digest)
        case Committed(transaction=transaction):
            yield Version("ledger/transactions", transaction)
        case tuple() | list():
            for item in value:
                yield from _walk(item, site, own)
        case Mapping():
            for item in value.values():
                yield from _walk(item, site, own)
        case msgspec.Struct():
            if isinstance(value, RegisteredModel):
                yield Version(f"registry/{value.name}", str(value.version))
            yield from _walk_fields(value, owner or site, own)


def _walk_fields(value: msgspec.Struct, site: str, own: str) -> Iterator[Version]:
    for name in fields_of(value.__class__):
        yield from _walk(getattr(value, name), site, own)


@cache
def fields_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields of a kind of record in which there may be another record: not those of numbers and names, of which there are hundreds."""
    return tuple(field.name for field in msgspec.structs.fields(kind) if not _plain(field.type))


def _plain(kind: Any) -> bool:
    parts = get_args(kind)
    return kind in _PLAIN or get_origin(kind) is Literal or (bool(parts) and all(part is ... or _plain(part) for part in parts))


def _owner(value: object) -> str:
    """The site that a record says it belongs to, "" for none."""
    site = getattr(value, "site", "")
    return site if isinstance(site, str) else ""

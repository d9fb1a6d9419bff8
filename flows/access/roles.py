"""What each role may do, and nothing else: the one table that portal and API ask."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Role(StrEnum):
    """Whom a token is given to."""

    AUDITOR = "auditor"
    ENGINEER = "engineer"
    OPERATOR = "operator"
    SITE = "site"
    ADMIN = "admin"
    PRODUCER = "producer"


class Right(StrEnum):
    """What a role may do.

    RECORD: models, runs and rounds in total, blocks, verification.  SITES: the records of every site: submissions, consents, the graph.
    NAMES: sites under their own names, not pseudonyms.  OWN: the records of the site that the token is for, and no other's.
    RAW: transactions and lineage events as they were signed.  ACCESS: who has tokens, and what was read.
    EVENTS: have lineage events signed and recorded under the holder's own name on the ledger; nothing is read with it.
    """

    RECORD = "record"
    SITES = "sites"
    NAMES = "names"
    OWN = "own"
    RAW = "raw"
    ACCESS = "access"
    EVENTS = "events"


RIGHTS: Final[Mapping[Role, frozenset[Right]]] = MappingProxyType(
    {
        Role.AUDITOR: frozenset({Right.RECORD, Right.SITES, Right.NAMES, Right.RAW}),
        Role.ENGINEER: frozenset({Right.RECORD, Right.SITES}),
        Role.OPERATOR: frozenset({Right.RECORD, Right.SITES, Right.NAMES}),
        Role.SITE: frozenset({Right.RECORD, Right.OWN}),
        Role.ADMIN: frozenset({Right.RECORD, Right.ACCESS}),
        Role.PRODUCER: frozenset({Right.EVENTS}),
    }
)

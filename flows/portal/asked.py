"""What a page is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flows.access import Access, Grant, Names, Right
from ledger import Ledger, NotOnRecordError, State
from ledger.provenance.index import Index

EVERYBODY: Final = frozenset({Right.RECORD})
SITE_LEVEL: Final = frozenset({Right.SITES, Right.OWN})
"""Rights whose use is recorded."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: who asks, about what, and the record to answer from. words: of path and query, pseudonyms turned into names."""

    home: Path
    access: Access
    grant: Grant
    names: Names
    words: Mapping[str, str]
    ledger: Ledger
    store: Index
    state: State

    def may(self, *rights: Right) -> bool:
        """Whether the grant gives any of these."""
        return not self.grant.rights.isdisjoint(rights)

    def sees(self, site: str) -> bool:
        """Whether the records of this site may be shown."""
        return self.may(Right.SITES) or (self.may(Right.OWN) and site == self.grant.site)

    def number(self, word: str, otherwise: int, most: int = 10**9) -> int:
        """A number from 0 to `most` among the words. Raises `NotOnRecordError` for what is none."""
        text = self.words.get(word, "") or str(otherwise)
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
            raise NotOnRecordError(f"{text!r} is no number from 0 to {most}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Page:
    """One page: where it is, who may ask for it, and what answers. template: "" for an answer that is JSON, or bytes to keep as a file.

    Bytes go out as they are, names and all: only to rights that see those.
    site_level: it shows records of single sites to those who may see them, so who asks is recorded.
    costly: it reads the whole chain, so it is made for one reader at a time.
    """

    path: str
    title: str
    template: str
    answer: Callable[[Asked], dict[str, Any] | bytes]
    rights: frozenset[Right] = EVERYBODY
    site_level: bool = False
    method: str = "GET"
    costly: bool = False

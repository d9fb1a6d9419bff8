"""A site's own folder: who it is, which network it joined, where the coordinator's services are, and what it offers.

    <CIFER_HOME>/site.json    `SiteHome`
    <CIFER_HOME>/keys/        its signing and encryption keys, made here; they never leave
    <CIFER_HOME>/ledger/      its own checked copy of the chain, and the certificate that lets it talk to validators

An offer names what a table may be used for. It is the site's standing decision: its signature on the ledger follows from an offer, and from
nothing that a coordinator says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from cifer_tasks.errors import IntegrityError, UsageError
from cifer_tasks.files import write_atomically
from cifer_tasks.records import Record

SITE_FILE: Final = "site.json"


class Offer(Record, frozen=True):
    """One table for one purpose, a scenario's name. table: an absolute path; "" for a scenario whose table Cifer bundles."""

    purpose: str
    table: str


class SiteHome(Record, frozen=True):
    """The site whose folder this is.

    base: the folder it was made in: a scenario's own model module is looked for there.  network: hex identity, "" until it joins one.
    prefect, artifacts: URLs of the coordinator's services.
    """

    name: str
    base: str
    network: str = ""
    prefect: str = ""
    artifacts: str = ""
    offers: tuple[Offer, ...] = ()

    @property
    def pool(self) -> str:
        """The site's work pool in Prefect."""
        return pool_of(self.name)

    def offered(self, purpose: str) -> Offer | None:
        """What the site offers for a purpose."""
        return next((offer for offer in self.offers if offer.purpose == purpose), None)

    def offering(self, offer: Offer) -> SiteHome:
        """The same with one more offer, in place of an earlier one for this purpose."""
        others = tuple(one for one in self.offers if one.purpose != offer.purpose)
        return msgspec.structs.replace(self, offers=tuple(sorted((*others, offer), key=lambda one: one.purpose)))

    def without(self, purpose: str) -> SiteHome:
        """The same without an offer for a purpose."""
        return msgspec.structs.replace(self, offers=tuple(one for one in self.offers if one.purpose != purpose))


def pool_of(site: str) -> str:
    """The name of a site's Prefect work pool."""
    return f"site-{site}"


def read_site(home: Path) -> SiteHome | None:
    """The site that lives in `home`; None when none does. Raises `IntegrityError` for a damaged file."""
    path = home / SITE_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=SiteHome)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        msg = f"{path}: cannot be read ({error}); restore it from a backup, or run `cifer site init` in a new folder"
        raise IntegrityError(msg) from None


def the_site(home: Path) -> SiteHome:
    """The site that lives in `home`. Raises `UsageError` when none does."""
    found = read_site(home)
    if found is None:
        msg = f"{home} is no site's folder: run `cifer site init NAME` there, or set CIFER_HOME to the site's"
        raise UsageError(msg)
    return found


def write_site(home: Path, site: SiteHome) -> None:
    """Keep it. Raises `StorageError`."""
    write_atomically(home / SITE_FILE, msgspec.json.format(msgspec.json.encode(site), indent=1) + b"\n")

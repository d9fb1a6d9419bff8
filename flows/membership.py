"""`cifer site init | invite | join | offer`: how somebody becomes a site of a network, and what it offers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cifer_tasks.config import RESERVED_NAMES
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import DataError, KeyMismatchError, UsageError
from cifer_tasks.home import mark
from cifer_tasks.invitations import Invitation, read_invitation, write_invitation
from cifer_tasks.network import ADMINISTRATOR, SITE, author
from cifer_tasks.site_home import Offer, SiteHome, read_site, the_site, write_site
from cifer_tasks.workspace import home_folder
from flows.documents import Report
from flows.services import DEFAULT_PORTS, status
from ledger import AcceptInvitation, Author, InviteIdentity, Ledger, LockedError, SigningKey
from ledger.backends.processes import ProcessesLedger
from ledger.crypto import Domain
from ledger.node.folder import is_client
from ledger.node.membership import client_files, copy_client, write_client
from ledger.state.entries import INVITED
from ledger.state.identities import joining

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,30}")


def init(name: str) -> Report:
    """Make this folder the site's. Doing it again changes nothing. Raises `UsageError` when it is another's, or the name cannot be one."""
    if not NAME.fullmatch(name) or RESERVED_NAMES.fullmatch(name):
        msg = f"{name[:80]!r} cannot name a site: use 1 to 31 of a-z, 0-9, '.', '_' and '-', and no name of another party"
        raise UsageError(msg)
    home = home_folder()
    found = read_site(home)
    if found is None and (home / "ledger").exists():
        msg = f"{home} is a coordinator's folder already; set CIFER_HOME to a new one for a site"
        raise UsageError(msg)
    if found is not None and found.name != name:
        msg = f"{home} is the folder of site {found.name}; set CIFER_HOME to a new one for {name}"
        raise UsageError(msg)
    site = found or SiteHome(name, str(Path.cwd()))
    if found is None:
        mark(home)
    write_site(home, site)
    text = f"{home} is the folder of {name}; its keys will be made there and stay there"
    return Report({"site": name, "home": str(home)}, (text, "next: cifer site join INVITATION"))


def invite(name: str, *, prefect: str, artifacts: str, blocks: int, file: Path | None) -> Report:
    """Let somebody join as site `name`: put the invitation on the ledger, and write the file to hand over.

    prefect, artifacts: URLs at which the site reaches these services, "" for where `cifer up` serves them on this machine.
    blocks: how many blocks from now it may be accepted.  Inviting again makes the earlier file worthless. Raises `UsageError` in a folder
    that is no administrator's, and what the ledger refuses with.
    """
    home, token = home_folder(), SigningKey.generate()
    keys = Keystore.open(home / "keys")
    if not is_client(home / "ledger") or not keys.has(ADMINISTRATOR, "signing"):
        msg = f"{home} is not where a network was founded: invite where `cifer ledger init` was done"
        raise UsageError(msg)
    administrator = keys.signing_key(ADMINISTRATOR)
    files = client_files(home / "ledger", administrator, name)
    target = file or Path(f"{name}.invitation")
    with member_of(home) as ledger:
        head = ledger.head()
        last = (head.height if head else 0) + blocks
        invitation = Invitation(
            name=name,
            role=SITE,
            network=ledger.network.hex(),
            last_height=last,
            prefect=prefect or _served(home, "prefect", "http"),
            artifacts=artifacts or _served(home, "artifacts", "cifer+https"),
            token=token.export_secret_seed(),
            client=files,
        )
        write_invitation(target, invitation, administrator)
        receipt = author(ADMINISTRATOR, ledger, keys).send(InviteIdentity(name, SITE, token.public, last))
    lines = (
        f"{target} invites {name}, once, up to block {last}; hand it over as you would a password",
        f"network {invitation.network}: tell them this by another way, to compare",
    )
    document = {"site": name, "file": str(target), "network": invitation.network, "last_height": last, "height": receipt.height}
    return Report(document, lines)


def join(file: Path) -> Report:
    """Accept an invitation as the site whose folder this is: its signing key is made here, and named on the ledger.

    Joining again with the same file after it was cut short goes on where it ended. Raises `UsageError`, `DataError`, `IntegrityError`
    for a file that is not for this site, and what the ledger refuses with.
    """
    home = home_folder()
    site, invitation = the_site(home), read_invitation(file)
    if invitation.name != site.name:
        msg = f"{file} invites {invitation.name}, and this is the folder of {site.name}; use the file that was made for it"
        raise UsageError(msg)
    if site.network and site.network != invitation.network:
        msg = f"{site.name} belongs to network {site.network[:16]} already; set CIFER_HOME to a new folder for {invitation.network[:16]}"
        raise UsageError(msg)
    write_client(home / "ledger", invitation.client)
    written = {"network": invitation.network, "prefect": invitation.prefect, "artifacts": invitation.artifacts}
    write_site(home, msgspec.structs.replace(site, **written))
    keys = Keystore.open(home / "keys")
    own = keys.signing_key(site.name, invitation.network)
    with member_of(home) as ledger:
        known = ledger.state().identity(site.name)
        if known is None or known.role == INVITED:
            proof = own.sign(Domain.JOINING, joining(ledger.network, site.name))
            Author(SigningKey.from_seed(invitation.token), ledger).send(AcceptInvitation(own.public, proof))
        elif known.public_key != own.public:
            msg = f"{site.name} joined with another key, {known.public_key.hex()[:16]}; restore {keys.folder} from a backup"
            raise KeyMismatchError(msg)
    text = f"{site.name} is a site of network {invitation.network}"
    document = {"site": site.name, "network": invitation.network, "public_key": own.public.hex()}
    return Report(document, (text, "next: cifer site offer PURPOSE --table FILE, then cifer site start"))


def offer(purpose: str, table: Path | None) -> Report:
    """Decide what this site's table may be used for: its consent on the ledger follows. Raises `DataError` when there is no such file."""
    home = home_folder()
    site = the_site(home)
    if not NAME.fullmatch(purpose):
        msg = f"{purpose[:80]!r} is no purpose: use the name of a scenario"
        raise UsageError(msg)
    if table is not None and not table.is_file():
        msg = f"{table}: no such file; name the table that {purpose} may be trained on"
        raise DataError(msg)
    offered = Offer(purpose, str(table.resolve()) if table is not None else "")
    write_site(home, site.offering(offered))
    what = offered.table or "its share of the bundled table"
    return Report({"site": site.name, "purpose": purpose, "table": offered.table}, (f"{site.name} offers {what} for {purpose}",))


@contextmanager
def member_of(home: Path) -> Iterator[Ledger]:
    """The ledger that `home` is a client of, beside a process that may be using it: then through a client's folder of its own."""
    folder = home / "ledger"
    try:
        ledger = ProcessesLedger.open(folder)
    except LockedError:
        beside = home / "services" / "ledger-beside"
        if not is_client(beside):
            copy_client(folder, beside)
        ledger = ProcessesLedger.open(beside)
    try:
        yield ledger
    finally:
        ledger.close()


def _served(home: Path, name: str, scheme: str) -> str:
    port = next((service.port for service in status(home) if service.name == name), DEFAULT_PORTS[name])
    return f"{scheme}://127.0.0.1:{port}"

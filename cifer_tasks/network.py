"""This machine's place on a ledger: founding the embedded network, and enrolling who takes part in a scenario.

One CIFER_HOME belongs to one network. Its founder is the administrator, whose key admits the coordinator and the sites.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from cifer_tasks.artifact_client import SERVICE_SCHEME, Pass
from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.config import LedgerSettings, Settings
from cifer_tasks.encryption.keys import NEXT_SIGNING, Keystore
from cifer_tasks.errors import FailureError, KeyMismatchError, TooFewSitesError, UsageError
from cifer_tasks.home import mark
from cifer_tasks.records import Dataset, Enrolment, Scenario
from ledger import Author, GrantConsent, Ledger, RegisterDataset, RegisterIdentity, RegisterKey, SigningKey, State
from ledger.backends import open_ledger
from ledger.backends.network import has_ledger, read_genesis
from ledger.backends.reader import ReadonlyLedger, open_readonly
from ledger.crypto import VERIFIER
from ledger.node.folder import is_client, read_client
from ledger.state.identities import REVOKED
from ledger.state.view import SALT_BYTES
from ledger.types import Genesis, Validator

if TYPE_CHECKING:
    from cifer_tasks.workspace import Workspace

ADMINISTRATOR = "administrator"
COORDINATOR = "coordinator"
SITE = "site"


def connect(settings: LedgerSettings, home: Path, keys: Keystore) -> Ledger:
    """The ledger that `home` belongs to; an embedded one is founded on first use, its keys sealed in `keys`.

    `processes`: the validators run elsewhere (`cifer ledger start`), and `home` holds a client of theirs.

    Raises `UsageError` when the settings ask for another number of validators than the network was founded with, and the ledger's own
    errors: a second writer, a damaged file, keys of another network.
    """
    folder = home / "ledger"
    if settings.backend not in {"embedded", "processes"}:
        return open_ledger(settings.backend, folder, {})
    client = is_client(folder)
    if client != (settings.backend == "processes") and (client or has_ledger(folder)):
        msg = (
            f"ledger.backend is {settings.backend}, and the ledger in {folder} runs as {'processes' if client else 'embedded'}; "
            "set it to that, or set CIFER_HOME to a new folder for a new network"
        )
        raise UsageError(msg)
    if settings.backend == "processes" and not client:
        msg = f"{folder} is no client of a network: make one with `cifer ledger init DIR`, or join one with `cifer ledger join DIR/client`"
        raise UsageError(msg)
    if not has_ledger(folder):
        made = _validator_keys(settings.validators, keys)
        mark(home)
        return open_ledger(settings.backend, folder, made, genesis=_found(settings, keys), store=settings.store)
    count = len(read_genesis(folder).validators)
    if count != settings.validators:
        msg = (
            f"ledger.validators is {settings.validators}, and the network in {folder} was founded with {count}; "
            "set it to that, or set CIFER_HOME to a new folder for a new network"
        )
        raise UsageError(msg)
    return open_ledger(settings.backend, folder, {} if client else _validator_keys(count, keys))


def read_on(home: Path, held: ReadonlyLedger | None, height: int) -> ReadonlyLedger:
    """The ledger that `home` belongs to, for reading, up to `height` at least. held: the one that was read so far, which goes on.

    Of the validators' stores it reads one, and another one when that does not grow any more. Raises `FailureError`.
    """
    if held is not None:
        held.refresh()
        if held.state().height >= height:
            return held
        held.close()
    found = open_readonly(home / "ledger")
    if found.state().height < height:
        msg = f"{home / 'ledger'}: ends at block {found.state().height}, and block {height} is in it elsewhere; share CIFER_HOME as it is"
        found.close()
        raise FailureError(msg)
    return found


def _validator_keys(count: int, keys: Keystore) -> dict[str, SigningKey]:
    return {name: keys.signing_key(name) for name in (f"validator-{number}" for number in range(1, count + 1))}


def _found(settings: LedgerSettings, keys: Keystore) -> Genesis:
    members = tuple(Validator(name, key.public, 1) for name, key in _validator_keys(settings.validators, keys).items())
    return Genesis("cifer", VERIFIER, secrets.token_bytes(SALT_BYTES), members, (keys.signing_key(ADMINISTRATOR).public,))


def author(name: str, ledger: Ledger, keys: Keystore) -> Author:
    """Somebody whose signing key is on this machine. The administrator's key is older than the network and not bound to it."""
    return Author(key_of(name, ledger, keys), ledger)


def key_of(name: str, ledger: Ledger, keys: Keystore) -> SigningKey:
    """The key on this machine with which somebody signs: the next one, from the moment on that the ledger has it."""
    if name == ADMINISTRATOR:
        return keys.signing_key(name)
    network, known = ledger.network.hex(), ledger.state().identity(name)
    if known is not None and keys.has(name, NEXT_SIGNING):
        fresh = keys.next_signing_key(name, network)
        if fresh.public == known.public_key:
            return fresh
    return keys.signing_key(name, network)


def store_at(url: str, home: Path, name: str) -> ArtifactStore:
    """The artifact store at a URL, as `name`, a member of the network of `home`, uses it; "" is the folder `artifacts` of `home`."""
    if not url.startswith(SERVICE_SCHEME):
        return ArtifactStore(url or home / "artifacts")
    client = read_client(home / "ledger")
    keys = Keystore.open(home / "keys")
    return ArtifactStore(url, Pass(lambda: keys.signing_key(name, client.network.hex()), client.network, client.members.administrators))


def enrol_sites(workspace: Workspace, scenario: Scenario) -> Enrolment:
    """Register whoever and whatever is not on the ledger yet, and grant a site's consent where it never decided about one.

    A consent that was withdrawn stays withdrawn: its site is left out of the run, with the reason.
    """
    admit_coordinator(workspace)
    left_out: list[tuple[str, str]] = []
    for dataset in scenario.datasets:
        try:
            _admit(workspace, dataset.site, SITE)
            reason = enrol_table(workspace, dataset, scenario.name)
        except KeyMismatchError as error:
            reason = str(error)
        if reason:
            left_out.append((dataset.site, reason))
    absent = {site for site, _ in left_out}
    return Enrolment(tuple(item.site for item in scenario.datasets if item.site not in absent), tuple(left_out))


def require_minimum(settings: Settings, enrolment: Enrolment) -> None:
    """Raise `TooFewSitesError`, with everybody's reason, when fewer sites than `sites.minimum` can take part."""
    if len(enrolment.sites) < settings.sites.minimum:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in enrolment.left_out)
        msg = f"{len(enrolment.sites)} sites can take part and sites.minimum is {settings.sites.minimum}; left out: {reasons}"
        raise TooFewSitesError(msg)


def admit_coordinator(workspace: Workspace) -> None:
    """Register the coordinator of this home, unless it is. Raises `KeyMismatchError`."""
    _admit(workspace, COORDINATOR, COORDINATOR)


def enrol_table(workspace: Workspace, dataset: Dataset, purpose: str) -> str:
    """Put a site's encryption key, table and consent on the ledger where they are not yet, all signed by the site itself.

    Returns why it cannot take part, "" when it can.
    """
    if workspace.scheme.key_per_site:
        _publish_key(workspace, dataset.site)
    return _offer(workspace, dataset, purpose)


def _admit(workspace: Workspace, name: str, role: str) -> None:
    """Register who is not on the ledger yet. Raises `KeyMismatchError` when somebody is there with a key that this machine lacks."""
    known = workspace.ledger.state().identity(name)
    if known is None:
        public = workspace.author(name).public
        workspace.author(ADMINISTRATOR).send(RegisterIdentity(name, role, public))
    elif known.public_key == REVOKED:
        msg = f"the key of {name} was revoked; `cifer keys rotate {name}` makes another, for an administrator to register"
        raise KeyMismatchError(msg)
    elif not workspace.keys.has(name, "signing") or workspace.author(name).public != known.public_key:
        msg = (
            f"{workspace.keys.folder}: the signing key of {name} is not the one the ledger registered, {known.public_key.hex()[:16]}; "
            f"restore {name}.signing.secret from a backup, or have it revoked: cifer keys revoke {name}"
        )
        raise KeyMismatchError(msg)


def _publish_key(workspace: Workspace, site: str) -> None:
    """Put the site's encryption key on the ledger, signed by the site, unless it has one there.

    A key that is lost is not replaced here: others may have dealt shares to it in a round that is under way.
    """
    if workspace.ledger.state().encryption_key(site) is None:
        workspace.author(site).send(RegisterKey(workspace.encryption_key(site).data))


def _offer(workspace: Workspace, dataset: Dataset, purpose: str) -> str:
    """Register one site's table and its consent; returns why it cannot take part, "" when it can."""
    sha256 = bytes.fromhex(dataset.sha256)
    site = workspace.author(dataset.site)
    state: State = workspace.ledger.state()
    found = state.dataset(sha256)
    if found is None:
        site.send(
            RegisterDataset(f"{purpose}.{dataset.site}", sha256, dataset.dvc_hash, dataset.rows, bytes.fromhex(dataset.schema_digest))
        )
    elif found.owner != dataset.site:
        return f"its table is registered as {found.owner}'s: two sites may not offer the same rows"
    consent = state.consent(sha256, purpose)
    if consent is None:
        from cifer_tasks.lineage.consents import record_consents

        grant = GrantConsent(sha256, purpose)
        record_consents(dataset.site, site, workspace.ledger.network, ((grant, site.send(grant)),))
    elif not consent.live:
        return f"consent for {purpose} was withdrawn at block {consent.withdrawn.height if consent.withdrawn else 0}: {consent.reason}"
    return ""

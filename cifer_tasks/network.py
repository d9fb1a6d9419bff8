"""This machine's place on a ledger: founding the embedded network, and enrolling who takes part in a scenario.

One CIFER_HOME belongs to one network. Its founder is the administrator, whose key admits the coordinator and the sites.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from cifer_tasks.artifact_client import SERVICE_SCHEME, Pass
from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.config import LedgerSettings, Settings
from cifer_tasks.encryption.keys import NEXT_SIGNING, Keystore
from cifer_tasks.errors import FailureError, KeyMismatchError, TooFewSitesError, UsageError
from cifer_tasks.home import mark
from cifer_tasks.records import Dataset, Enrolment, Scenario
from ledger import Author, GrantConsent, Ledger, RegisterDataset, RegisterIdentity, RegisterKey, SigningKey
from ledger.backends import open_ledger
from ledger.backends.network import has_ledger, read_genesis
from ledger.backends.reader import ReadonlyLedger, open_readonly
from ledger.crypto import VERIFIER
from ledger.node.folder import is_client, read_client
from ledger.state.entries import Identity
from ledger.state.identities import REVOKED
from ledger.state.view import SALT_BYTES
from ledger.types import Body, Genesis, Validator

if TYPE_CHECKING:
    from cifer_tasks.workspace import Workspace

ADMINISTRATOR = "administrator"
COORDINATOR = "coordinator"
SITE = "site"
MOST_AT_ONCE = 100
"""What one author sends in one go: the ledger bounds what may wait of each."""
MOST_SIDE_BY_SIDE = 64
"""So many sites enrol at the same time: they wait for the ledger and the disk, not for this machine's cores."""


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

    A consent that was withdrawn stays withdrawn: its site is left out of the run, with the reason. Many sites are enrolled side by side,
    so that the ledger takes what they say in few blocks.
    """
    admit_coordinator(workspace)
    owners: dict[str, str] = {}
    for dataset in scenario.datasets:
        owners.setdefault(dataset.sha256, dataset.site)
    strangers = _admit(workspace, [dataset.site for dataset in scenario.datasets], SITE)

    def offer(dataset: Dataset) -> str:
        if dataset.site in strangers:
            return strangers[dataset.site]
        first = owners[dataset.sha256]
        try:
            return enrol_table(workspace, dataset, scenario.name) if first == dataset.site else _taken(first)
        except KeyMismatchError as error:
            return str(error)

    with ThreadPoolExecutor(MOST_SIDE_BY_SIDE, thread_name_prefix="cifer-enrol") as pool:
        reasons = list(pool.map(offer, scenario.datasets))
    found = [(dataset.site, reason) for dataset, reason in zip(scenario.datasets, reasons, strict=True)]
    return Enrolment(tuple(site for site, reason in found if not reason), tuple(item for item in found if item[1]))


def require_minimum(settings: Settings, enrolment: Enrolment) -> None:
    """Raise `TooFewSitesError`, with everybody's reason, when fewer sites than `sites.minimum` can take part."""
    if len(enrolment.sites) < settings.sites.minimum:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in enrolment.left_out)
        msg = f"{len(enrolment.sites)} sites can take part and sites.minimum is {settings.sites.minimum}; left out: {reasons}"
        raise TooFewSitesError(msg)


def admit_coordinator(workspace: Workspace) -> None:
    """Register the coordinator of this home, unless it is. Raises `KeyMismatchError`."""
    for refusal in _admit(workspace, [COORDINATOR], COORDINATOR).values():
        raise KeyMismatchError(refusal)


def enrol_table(workspace: Workspace, dataset: Dataset, purpose: str) -> str:
    """Put a site's encryption key, table and consent on the ledger where they are not yet, all signed by the site itself.

    Returns why it cannot take part, "" when it can.
    """
    missing, reason = _missing(workspace, dataset, purpose)
    site = workspace.author(dataset.site)
    said = zip(missing, site.send_all(missing), strict=True)
    granted = [(body, receipt) for body, receipt in said if isinstance(body, GrantConsent)]
    if granted:
        from cifer_tasks.lineage.consents import record_consents

        record_consents(dataset.site, site, workspace.ledger.network, granted)
    return reason


def _admit(workspace: Workspace, names: Sequence[str], role: str) -> dict[str, str]:
    """Register those who are not on the ledger yet. Returns why, for each who cannot sign with a key of this machine."""
    state, new, strangers = workspace.ledger.state(), [], {}
    for name in names:
        try:
            if (known := state.identity(name)) is None:
                new.append(RegisterIdentity(name, role, workspace.author(name).public))
            else:
                _check_key(workspace, known)
        except KeyMismatchError as error:
            strangers[name] = str(error)
    for start in range(0, len(new), MOST_AT_ONCE):
        workspace.author(ADMINISTRATOR).send_all(new[start : start + MOST_AT_ONCE])
    return strangers


def _check_key(workspace: Workspace, known: Identity) -> None:
    """Raise `KeyMismatchError` when this machine lacks the key that somebody is registered with."""
    name = known.name
    if known.public_key == REVOKED:
        msg = f"the key of {name} was revoked; `cifer keys rotate {name}` makes another, for an administrator to register"
        raise KeyMismatchError(msg)
    if not workspace.keys.has(name, "signing") or workspace.author(name).public != known.public_key:
        msg = (
            f"{workspace.keys.folder}: the signing key of {name} is not the one the ledger registered, {known.public_key.hex()[:16]}; "
            f"restore {name}.signing.secret from a backup, or have it revoked: cifer keys revoke {name}"
        )
        raise KeyMismatchError(msg)


def _missing(workspace: Workspace, dataset: Dataset, purpose: str) -> tuple[list[Body], str]:
    """What the ledger lacks of a site, and why it cannot take part, "" when it can.

    An encryption key that is lost is not replaced here: others may have dealt shares to it in a round that is under way.
    """
    state, site, sha256 = workspace.ledger.state(), dataset.site, bytes.fromhex(dataset.sha256)
    bodies: list[Body] = []
    if workspace.scheme.key_per_site and state.encryption_key(site) is None:
        bodies.append(RegisterKey(workspace.encryption_key(site).data))
    found = state.dataset(sha256)
    if found is None:
        name, schema = f"{purpose}.{site}", bytes.fromhex(dataset.schema_digest)
        bodies.append(RegisterDataset(name, sha256, dataset.dvc_hash, dataset.rows, schema))
    elif found.owner != site:
        return bodies, _taken(found.owner)
    consent = state.consent(sha256, purpose)
    if consent is None:
        bodies.append(GrantConsent(sha256, purpose))
    elif not consent.live:
        height = consent.withdrawn.height if consent.withdrawn else 0
        return bodies, f"consent for {purpose} was withdrawn at block {height}: {consent.reason}"
    return bodies, ""


def _taken(owner: str) -> str:
    return f"its table is registered as {owner}'s: two sites may not offer the same rows"

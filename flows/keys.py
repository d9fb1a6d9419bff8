"""`cifer keys`: the sealed signing and encryption keys in this home, and what others need to know of them."""

from __future__ import annotations

import re
from typing import Any

from cifer_tasks.config import RESERVED_NAMES
from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.errors import UsageError
from cifer_tasks.workspace import home_folder
from flows.documents import Report
from ledger.backends.network import read_genesis
from ledger.digests import network_id

KINDS = ("signing", "encryption")


def create_keys(name: str) -> Report:
    """Make an Ed25519 and an X25519 key for a site of this network. Raises `UsageError` for a name that is taken or cannot be a site's."""
    keys, network = _open()
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,30}", name) or RESERVED_NAMES.fullmatch(name):
        msg = f"{name[:80]!r} cannot name a site: use up to 31 lower-case letters, digits, '.', '_' and '-', and no other party's name"
        raise UsageError(msg)
    if any(keys.has(name, kind) for kind in KINDS):
        msg = f"{name} has keys in {keys.folder}, and secrets are never overwritten; `cifer keys export-public {name}` shows them"
        raise UsageError(msg)
    keys.signing_key(name, network)
    keys.encryption_contexts(name, network, ThresholdScheme())
    return export_public(name)


def list_keys() -> Report:
    """Every secret in this home by name, kind and network; none is opened."""
    keys = Keystore.open(home_folder() / "keys")
    rows = [{"name": name, "kind": kind, "network": network} for name, kind, network in keys.labels()]
    lines = [f"{row['name']:<32} {row['kind']:<12} {row['network'][:16] or 'any network'}" for row in rows]
    return Report(rows, tuple(lines or ["no keys yet; the first run, or `cifer keys create NAME`, makes them"]))


def export_public(name: str) -> Report:
    """The public halves of a site's keys, as the ledger registers them. Raises `UsageError` when there are none of that name."""
    keys, network = _open()
    held = [kind for known, kind, _ in keys.labels() if known == name]
    if "signing" not in held:
        msg = f"there is no signing key of {name} in {keys.folder}; `cifer keys list` shows those there are"
        raise UsageError(msg)
    document: dict[str, Any] = {"name": name, "network": network, "signing_ed25519": keys.signing_key(name, network).public.hex()}
    if "encryption" in held:
        document["encryption_x25519"] = keys.public_context(name, network, ThresholdScheme()).data.hex()
    return Report(document, tuple(f"{field:<18} {value}" for field, value in document.items()))


def _open() -> tuple[Keystore, str]:
    """This home's keystore, and the hex identity of its network. Raises `LedgerError` where no network is known yet."""
    home = home_folder()
    return Keystore.open(home / "keys"), network_id(read_genesis(home / "ledger")).hex()

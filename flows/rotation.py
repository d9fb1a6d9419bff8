"""`cifer keys rotate`, `revoke` and `admit`: keys that take another's place, or lose it.

A rotation makes the new secrets first, has the ledger name them, and puts them in place then; whose key speaks, the ledger decides, never a
file. Cut short anywhere, the same command goes on where it ended: what is made and not in place is `signing-next` and `encryption-next`.
"""

from __future__ import annotations

from typing import Any, Final

from cifer_tasks.encryption.keys import NEXT_ENCRYPTION, NEXT_SIGNING, Keystore
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.errors import KeyMismatchError, UsageError
from cifer_tasks.network import ADMINISTRATOR, author, key_of
from cifer_tasks.workspace import home_folder
from flows.consents import writing
from flows.documents import Report
from ledger import Author, Ledger, RegisterIdentity, RegisterKey, RevokeIdentity, State
from ledger.crypto import PUBLIC_KEY_BYTES
from ledger.state.entries import Identity, Round, Run
from ledger.state.identities import REVOKED, ROLES

_FORMER: Final = "encryption-"
_SCHEME: Final = ThresholdScheme()


def rotate(name: str) -> Report:
    """Give `name` a new signing key and, where others encrypt to it, a new encryption key; what was begun earlier is finished.

    A name whose key was revoked gets its new one registered where the administrator's key is too; elsewhere what is left to do is said.
    Raises `UsageError` for a name whose key does not change in this way, `KeyMismatchError` when its present key is not here, and the
    ledger's own errors.
    """
    with writing(home_folder()) as (ledger, keys):
        known = _known(name, ledger.state())
        network = ledger.network.hex()
        if keys.has(name, NEXT_SIGNING) or not keys.has(name, NEXT_ENCRYPTION):
            keys.next_signing_key(name, network)
            if ledger.state().encryption_key(name) is not None:
                keys.next_contexts(name, network, _SCHEME)
        if known.public_key == REVOKED and not _registered_again(known, ledger, keys):
            return _waiting(name, ledger, keys)
        _replace_signing(name, ledger, keys)
        _replace_encryption(name, ledger, keys)
        _forget(name, keys, ledger.state())
        return _report(name, ledger.state())


def revoke(name: str, reason: str) -> Report:
    """Have the present key of `name` speak for nobody any more: by the administrator where its key is here, else by `name` itself.

    Raises `UsageError`, and what the ledger refuses with.
    """
    with writing(home_folder()) as (ledger, keys):
        known = _known(name, ledger.state())
        if known.public_key == REVOKED:
            msg = f"{name} has no key any more: it was revoked in block {known.origin.height}; `cifer keys rotate {name}` makes another"
            raise UsageError(msg)
        by = next((one for one in (ADMINISTRATOR, name) if keys.has(one, "signing")), "")
        if not by:
            msg = f"neither the administrator's key nor that of {name} is in {keys.folder}; revoke where one of them is"
            raise UsageError(msg)
        receipt = author(by, ledger, keys).send(RevokeIdentity(name, known.public_key, reason))
    document = {"name": name, "public_key": known.public_key.hex(), "by": by, "reason": reason, "height": receipt.height}
    lines = (
        f"the key {known.public_key.hex()[:16]} of {name} is revoked by {by}, block {receipt.height} (tx {receipt.transaction.hex()[:16]})",
        f"next: cifer keys rotate {name}, where its keys are, makes another for an administrator to register",
    )
    return Report({**document, "transaction": receipt.transaction.hex()}, lines)


def admit(name: str, public_key: str) -> Report:
    """Register the key, in hex, that somebody made in place of a revoked one. Raises `UsageError`, and what the ledger refuses with."""
    try:
        key = bytes.fromhex(public_key)
    except ValueError:
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        msg = f"{public_key[:80]!r} is no signing key: give the 64 hex digits that `cifer keys rotate {name}` printed where they were made"
        raise UsageError(msg)
    with writing(home_folder()) as (ledger, keys):
        known = _known(name, ledger.state())
        if known.public_key != REVOKED:
            msg = f"{name} has the key {known.public_key.hex()[:16]}; it is replaced by its holder, or after `cifer keys revoke {name}`"
            raise UsageError(msg)
        receipt = _administrator(ledger, keys).send(RegisterIdentity(name, known.role, key))
    text = f"{name} signs with {key.hex()[:16]} from block {receipt.height} on (tx {receipt.transaction.hex()[:16]})"
    return Report({"name": name, "public_key": key.hex(), "height": receipt.height}, (text, f"next, at {name}: cifer keys rotate {name}"))


def _known(name: str, state: State) -> Identity:
    known = state.identity(f"{ADMINISTRATOR}-0" if name == ADMINISTRATOR else name)
    if known is None:
        msg = f"{name[:80]!r} is nobody on the ledger, so there is no key to change; the first run, or joining, registers one"
        raise UsageError(msg)
    if known.role not in ROLES:
        msg = (
            f"{name} is {known.role}: administrators' keys are fixed by the genesis, validators' are changed by an administrator's "
            "transaction validator.change, and an invitation's by accepting it"
        )
        raise UsageError(msg)
    return known


def _administrator(ledger: Ledger, keys: Keystore) -> Author:
    if not keys.has(ADMINISTRATOR, "signing"):
        msg = f"the administrator's key is not in {keys.folder}; do this where the network was founded"
        raise UsageError(msg)
    return author(ADMINISTRATOR, ledger, keys)


def _registered_again(known: Identity, ledger: Ledger, keys: Keystore) -> bool:
    """Whether the administrator is here, and has registered the next key of a name that has none."""
    if not keys.has(ADMINISTRATOR, "signing"):
        return False
    fresh = keys.next_signing_key(known.name, ledger.network.hex())
    _administrator(ledger, keys).send(RegisterIdentity(known.name, known.role, fresh.public))
    return True


def _waiting(name: str, ledger: Ledger, keys: Keystore) -> Report:
    """What is left to do for a name without a key, where there is no administrator."""
    public = keys.next_signing_key(name, ledger.network.hex()).public.hex()
    lines = (
        f"the key of {name} was revoked; a new one is made, and an administrator has to register it:",
        f"  cifer keys admit {name} {public}",
        f"then, here, once more: cifer keys rotate {name}",
    )
    return Report({"name": name, "status": "waiting", "signing_ed25519": public}, lines)


def _replace_signing(name: str, ledger: Ledger, keys: Keystore) -> None:
    """Have the ledger name the next signing key unless it has, then put it in place."""
    if not keys.has(name, NEXT_SIGNING):
        return
    network, known = ledger.network.hex(), _known(name, ledger.state())
    fresh = keys.next_signing_key(name, network)
    if known.public_key != fresh.public:
        if not keys.has(name, "signing") or (present := key_of(name, ledger, keys)).public != known.public_key:
            msg = (
                f"the key in {keys.folder} is not the one the ledger knows {name} by, {known.public_key.hex()[:16]}; rotate where that is, "
                f"restore it from a backup or, when it is lost, have an administrator revoke it: cifer keys revoke {name}"
            )
            raise KeyMismatchError(msg)
        Author(present, ledger).rotate(fresh)
    keys.advance(name, NEXT_SIGNING, network)


def _replace_encryption(name: str, ledger: Ledger, keys: Keystore) -> None:
    """The like for the encryption key; the one before is kept, for rounds that were opened under it."""
    if not keys.has(name, NEXT_ENCRYPTION):
        return
    network, standing = ledger.network.hex(), ledger.state().encryption_key(name)
    fresh = keys.next_contexts(name, network, _SCHEME)[0].data
    if standing is None or standing.public_key != fresh:
        author(name, ledger, keys).send(RegisterKey(fresh))
    former = keys.public_context(name, network, _SCHEME).data if keys.has(name, "encryption") else fresh
    keys.advance(name, NEXT_ENCRYPTION, network, keep=_kept_as(former))


def _forget(name: str, keys: Keystore, state: State) -> None:
    """Delete the earlier encryption secrets under which no round waits to be opened: what was sealed to them nobody reads any more."""
    needed = {
        _kept_as(key)
        for run in state.all(Run)
        if run.status == "open" and run.rounds_opened > run.rounds_committed and run.dataset_of(name) is not None
        if (opened := state.read(Round, run.run, run.rounds_opened)) is not None
        if (key := state.encryption_key_before(name, opened.opened.height)) is not None
    }
    for kind in keys.kinds(name):
        if kind.startswith(_FORMER) and kind != NEXT_ENCRYPTION and kind not in needed:
            keys.forget(name, kind)


def _kept_as(public: bytes) -> str:
    return f"{_FORMER}{public.hex()[:16]}"


def _report(name: str, state: State) -> Report:
    known, encryption = _known(name, state), state.encryption_key(name)
    document: dict[str, Any] = {"name": name, "status": "rotated", "signing_ed25519": known.public_key.hex(), "height": known.origin.height}
    lines = [f"{name} signs with {known.public_key.hex()[:16]} since block {known.origin.height}; its earlier key speaks for nobody"]
    if encryption is not None:
        document |= {"encryption_x25519": encryption.public_key.hex(), "encryption_height": encryption.origin.height}
        lines.append(f"others encrypt to {encryption.public_key.hex()[:16]} in rounds that open after block {encryption.origin.height}")
    return Report(document, (*lines, "next: back up the folder keys/ again; an older backup holds keys that are over"))

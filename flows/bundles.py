"""The bodies of `cifer export` and `cifer verify`: a model's history as one file, and what somebody without a ledger makes of it.

Whoever verifies loads neither the ledger's backends nor the training's libraries: what only the exporter needs is imported there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cifer_tasks.errors import IntegrityError, StorageError, UsageError
from flows.documents import Report
from flows.exports import Asked
from flows.formats import check_statement
from ledger.provenance import (
    Artifact,
    BundleFile,
    VerifiedBundle,
    genesis_from_json,
    genesis_to_json,
    make_bundle,
    read_bundle,
    to_plain,
    verify_bundle,
    write_bundle,
)
from ledger.types import Genesis

SHORTEST_HEAD = 8


def genesis_report() -> Report:
    """The genesis of this folder's ledger as JSON, as text and as document."""
    from flows.audit import open_record

    with open_record() as ledger:
        text = genesis_to_json(ledger.genesis)
    return Report(json.loads(text), tuple(text.splitlines()))


def export_bundle(reference: str, output: Path, *, with_artifacts: bool = False, quiet: bool = False) -> Report:
    """Write a model's bundle and verify it as its receiver will. Raises what `make_bundle` and the artifact store raise, `StorageError`."""
    from flows.audit import open_record, parse_reference

    name, version = parse_reference(reference)
    with open_record() as ledger:
        made, genesis = make_bundle(ledger, name, version), ledger.genesis
    sources = _sources(made.named, made.history.run.run) if with_artifacts else {}
    sizes = [Artifact(digest, size) for digest, (size, _) in sources.items()]
    bundle = made.carrying(sizes)
    with _progress(quiet, "carrying artifacts", sum(item.size_bytes for item in sizes)) as advance:
        size = write_bundle(output, bundle, _contents(bundle.artifacts, sources, advance))
    verified = verify_bundle(read_bundle(output).bundle, genesis)
    document = {
        "file": str(output),
        "bytes": size,
        "artifacts": len(sizes),
        "model": f"{name}@{bundle.version}",
        "network": verified.network.hex(),
        "height": verified.head.height,
        "block": verified.block.hex(),
    }
    lines = (
        f"Bundle   {output}, {size:,} bytes, {len(verified.transactions)} transactions, {len(sizes)} artifacts",
        f"         {name} version {bundle.version} as of block {verified.head.height} ({verified.block.hex()})",
        f"Check    cifer ledger genesis > genesis.json; cifer verify {output} --genesis genesis.json{' --replay' if sizes else ''}",
        "         whoever checks it should have the genesis from somebody else than you, and know of a recent block",
    )
    return Report(document, lines)


def _sources(named: Mapping[bytes, str], run: str) -> dict[bytes, tuple[int, Callable[[], bytes]]]:
    """Where each artifact comes from, with its size, in ascending order of digest: the run's own store, wherever that is."""
    from cifer_tasks.records import RunRef
    from cifer_tasks.workspace import Workspace, home_folder

    home = home_folder()
    settings = {digest: _settings(home / "runs" / run / "settings.json", digest) for digest, kind in named.items() if kind == "settings"}
    store, found = Workspace(RunRef(str(home), run)).store, {}
    for digest, kind in sorted(named.items()):
        if kind == "settings":
            content = settings[digest]
            found[digest] = (len(content), _always(content))
        else:
            ref = store.find(kind, digest.hex())  # type: ignore[arg-type]
            found[digest] = (ref.size_bytes, lambda ref=ref: store.get(ref))  # type: ignore[misc]
    return found


def _settings(path: Path, digest: bytes) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; export without --with-artifacts, or from the folder that ran the training"
        raise StorageError(msg) from None
    if hashlib.sha256(content).digest() != digest:
        msg = f"{path}: changed since the run was declared with settings {digest.hex()[:16]}; restore it from a backup"
        raise IntegrityError(msg)
    return content


def _always(content: bytes) -> Callable[[], bytes]:
    return lambda: content


def _contents(
    artifacts: tuple[Artifact, ...], sources: Mapping[bytes, tuple[int, Callable[[], bytes]]], advance: Callable[[int], None]
) -> Iterator[bytes]:
    for item in artifacts:
        yield sources[item.sha256][1]()
        advance(item.size_bytes)


# -------------------------------------------------------------------------------------------------------------- verify


def verify_report(path: Path, asked: Asked) -> Report:
    """Everything that can be checked without anybody's help. Raises `BundleError`, `GenesisError`, `IntegrityError`, `UsageError`."""
    genesis = _genesis(asked.genesis)
    file = read_bundle(path)
    verified = verify_bundle(file.bundle, genesis)
    _check_pins(verified, asked)
    checked, unchecked = list(verified.checked), list(verified.unchecked)
    if asked.model is not None:
        _check_model(verified, asked.model)
        checked.append(f"{asked.model} is the model")
    if asked.statement is not None:
        checked.append(check_statement(asked.statement, verified))
    carried = sum(item.size_bytes for item in file.bundle.artifacts)
    with _progress(asked.quiet, "checking artifacts", carried) as advance:
        file.check_artifacts(advance)
    if file.bundle.artifacts:
        checked.append(f"{len(file.bundle.artifacts)} artifacts of {carried:,} bytes, each the one that an author signed the digest of")
    else:
        unchecked.append("ciphertexts, sums and models: this bundle carries their digests alone")
    replayed = None
    if asked.replay:
        replayed = _replay(file, verified, asked.quiet)
        checked.append(
            f"all {len(replayed['rounds'])} rounds made again from the ciphertexts, and the model from their sums, digest for digest"
        )
        unchecked += replayed["unchecked"]
    elif file.bundle.artifacts:
        unchecked.append("that the sums and models are made of the ciphertexts: ask with --replay")
    document = {
        "network": verified.network.hex(),
        "height": verified.head.height,
        "block": verified.block.hex(),
        "history": to_plain(verified.history),
        "checked": checked,
        "unchecked": unchecked,
        "replay": replayed,
    }
    return Report(document, _lines(verified, checked, unchecked))


def _lines(verified: VerifiedBundle, checked: list[str], unchecked: list[str]) -> tuple[str, ...]:
    history = verified.history
    return (
        f"Verified {history.name} version {history.version}, sha256 {history.model.hex()}",
        f"         as of block {verified.head.height} ({verified.block.hex()})",
        f"         of network {verified.network.hex()}",
        *_listed("Checked", checked),
        *_listed("Not checked", unchecked),
    )


def _listed(title: str, sentences: list[str]) -> Iterator[str]:
    yield title
    yield from (f"  - {sentence}" for sentence in sentences)


def _genesis(path: Path) -> Genesis:
    try:
        return genesis_from_json(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; `cifer ledger genesis` prints the genesis of a network"
        raise UsageError(msg) from None
    except UnicodeDecodeError:
        msg = f"{path} is no text: `cifer ledger genesis` prints the genesis of a network"
        raise UsageError(msg) from None


def _check_pins(verified: VerifiedBundle, asked: Asked) -> None:
    if asked.head:
        if not SHORTEST_HEAD <= len(asked.head) <= 64 or set(asked.head) - set("0123456789abcdef"):
            msg = f"--head {asked.head!r}: expected {SHORTEST_HEAD} to 64 hex digits of a block's digest"
            raise UsageError(msg)
        if not verified.block.hex().startswith(asked.head):
            msg = f"the bundle ends in block {verified.head.height}, {verified.block.hex()}, not in {asked.head}: ask for a newer one"
            raise IntegrityError(msg)
    if verified.head.height < asked.not_before:
        msg = f"the bundle ends in block {verified.head.height}, before {asked.not_before}: it may hide what came since; ask for a newer"
        raise IntegrityError(msg)


def _check_model(verified: VerifiedBundle, path: Path) -> None:
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; check the name and the permissions"
        raise UsageError(msg) from None
    if found != verified.history.model:
        msg = f"{path} has SHA-256 {found.hex()}, the model has {verified.history.model.hex()}: it is another model"
        raise IntegrityError(msg)


def _replay(file: BundleFile, verified: VerifiedBundle, quiet: bool) -> dict[str, Any]:
    from cifer_tasks.replay import replay

    with _progress(quiet, "making the rounds again", len(verified.history.run.rounds)) as advance:
        made = replay(verified, file.artifact, lambda _: advance(1))
    return {
        "scheme": made.scheme,
        "unchecked": list(made.unchecked),
        "rounds": [
            {
                "round": item.round,
                "sites": list(item.sites),
                "accepted": item.accepted,
                "opened": item.opened,
                "faults": dict(item.faults),
                "closed": item.closed,
            }
            for item in made.rounds
        ],
    }


@contextmanager
def _progress(quiet: bool, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, where somebody watches and there is something to wait for."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not total or not console.is_terminal) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda step: progress.advance(bar, step)

"""What a model can be exported as, and what kinds of file `cifer verify` knows: one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cifer_tasks.errors import StorageError, UsageError
from flows.documents import Report

BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class Asked:
    """What `cifer verify` is asked. genesis: a file of `cifer ledger genesis`.  model: a file that has to be the model.
    statement: an in-toto statement about it, as `cifer export --format in-toto` writes.

    head: hex digits that the digest of the last block begins with.  not_before: the lowest height of the last block.
    replay: make the model again from what the bundle carries.  quiet: show no progress.
    """

    genesis: Path
    model: Path | None = None
    statement: Path | None = None
    head: str = ""
    not_before: int = 0
    replay: bool = False
    quiet: bool = False


Exporter = Callable[[str, Path], Report]
"""`export(model, output)`: write what is known about NAME@ALIAS or NAME@VERSION to a file, and say so."""

Verifier = Callable[[Path, Asked], Report]
"""`verify(path, asked)`: raise the first thing that does not hold, or say what was checked and what was not."""


def _export_bundle(model: str, output: Path) -> Report:
    from flows.bundles import export_bundle

    return export_bundle(model, output)


def _verify_bundle(path: Path, asked: Asked) -> Report:
    from flows.bundles import verify_report

    return verify_report(path, asked)


def _format(name: str) -> Exporter:
    def export(model: str, output: Path) -> Report:
        from flows import formats

        exporter: Exporter = getattr(formats, name)
        return exporter(model, output)

    return export


FORMATS: dict[str, Exporter] = {
    BUNDLE: _export_bundle,
    "card": _format("export_card"),
    "cyclonedx": _format("export_bom"),
    "in-toto": _format("export_statement"),
    "prov": _format("export_prov"),
}
"""By name."""

VERIFIERS: dict[bytes, Verifier] = {b"CIFERBD": _verify_bundle}
"""By what a file begins with."""


def verify_file(path: Path, asked: Asked) -> Report:
    """Verify a file of any kind that is known. Raises `UsageError` for another kind, `StorageError` when it cannot be read."""
    try:
        with path.open("rb") as stream:
            begins = stream.read(64)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}; check the name and the permissions"
        raise StorageError(msg) from None
    for known, verifier in VERIFIERS.items():
        if begins.startswith(known):
            return verifier(path, asked)
    msg = f"{path} does not begin as a bundle or any other file that can be verified: it is damaged, or not what `cifer export` wrote"
    raise UsageError(msg)

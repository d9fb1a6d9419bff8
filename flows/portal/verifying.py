"""Verifying: the page, what this server checks by itself, and what it hands to whoever checks elsewhere: a bundle, and its genesis."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from flows.access_reports import moment
from flows.portal import checks
from flows.portal.asked import Asked
from ledger import NotOnRecordError
from ledger.provenance import bundle_bytes, genesis_to_json, make_bundle

Context = dict[str, Any]


def page(asked: Asked) -> Context:
    """What would be verified."""
    return {**_about(asked), "checks": None, "head": asked.state.height}


def verified(asked: Asked) -> Context:
    """What this server verified, check by check."""
    about = asked.words.get("model", "")
    started = time.process_time()
    if about:
        done = checks.check_model(asked.ledger, asked.store, *_version(asked, about), asked.home / "artifacts")
    else:
        done = checks.check_ledger(asked.ledger, asked.store)
    return {
        **_about(asked),
        "checks": done,
        "head": asked.state.height,
        "held": all(check["held"] is not False for check in done),
        "seconds": f"{time.process_time() - started:.2f}",
        "at": moment(int(time.time())),
    }


def bundle(asked: Asked) -> bytes:
    """The bundle of one version as of now, without artifacts."""
    return bundle_bytes(make_bundle(asked.ledger, asked.words["name"], asked.number("version", 0)).bundle)


def genesis(asked: Asked) -> bytes:
    """The genesis as this server has it."""
    return genesis_to_json(asked.ledger.genesis).encode()


def _about(asked: Asked) -> Context:
    """The version that is asked about, and where its bundle is; of neither where only the ledger is."""
    about = asked.words.get("model", "")
    if not about:
        return {"about": "", "bundle": ""}
    name, version = _version(asked, about)
    return {"about": about, "bundle": f"/models/{quote(name, safe='')}/{version}/bundle"}


def _version(asked: Asked, about: str) -> tuple[str, int]:
    """Name and number out of NAME@VERSION. Raises `NotOnRecordError` for anything else."""
    name, found, version = about.rpartition("@")
    if not found:
        msg = f"{about!r} is no version of a model: give NAME@VERSION"
        raise NotOnRecordError(msg)
    return name, replace(asked, words={"version": version}).number("version", 0)

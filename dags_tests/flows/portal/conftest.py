"""A small ledger with everything the portal shows: two sites, one left out with markup in the reason, a withdrawn consent, a model."""

from __future__ import annotations

import importlib.util
import json
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from flows.access import Access, Role
from flows.portal.app import Portal
from flows.portal.guard import Guard
from flows.services.processes import listen
from ledger.author import Author
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.crypto import SigningKey
from ledger.types import (
    AppendLineage,
    CommitRound,
    DatasetUse,
    ExcludeSite,
    GrantConsent,
    Metric,
    OpenRound,
    OpenRun,
    RegisterDataset,
    RegisterIdentity,
    RegisterModel,
    SealRound,
    SubmitUpdate,
    WithdrawConsent,
)

_spec = importlib.util.spec_from_file_location("portal_chromium", Path(__file__).with_name("chromium.py"))
assert _spec is not None and _spec.loader is not None
chromium = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chromium)

MARKUP = "<img src=x onerror=alert(1)>"
SITES = ("clinic-north", "clinic-south")
ROLES = {"auditor": "", "engineer": "", "operator": "", "site": "clinic-north", "admin": ""}


def digest(text: str) -> bytes:
    """A digest that stands for something named."""
    return sha256(text.encode()).digest()


@dataclass(frozen=True)
class Written:
    """home: what CIFER_HOME would be.  tokens: one for each role; the site's is for clinic-north."""

    home: Path
    ledger: EmbeddedLedger
    authors: dict[str, Author]
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Written]:
    """Two rounds: both sites in the first, clinic-south left out of the second; then it withdraws its consent."""
    home = tmp_path_factory.mktemp("portal")
    keys = {name: SigningKey.from_seed(digest(name)) for name in ("administrator", "coordinator", *SITES)}
    setup = create_network("portal", [keys["administrator"].public])
    with EmbeddedLedger.create(home / "ledger", setup.genesis, setup.keys) as ledger:
        authors = {name: Author(key, ledger) for name, key in keys.items()}
        roles = (("coordinator", "coordinator"), *((site, "site") for site in SITES))
        authors["administrator"].send_all([RegisterIdentity(name, role, keys[name].public) for name, role in roles])
        for number, site in enumerate(SITES):
            table = RegisterDataset(f"heart.{site}", digest(site), "md5:0", 10 + number, digest("schema"))
            authors[site].send_all([table, GrantConsent(digest(site), "heart")])
        _train(authors)
        authors[SITES[1]].send(WithdrawConsent(digest(SITES[1]), "heart", f"asked by {MARKUP} of {SITES[1]}"))
        access = Access(home)
        tokens = {role: access.grant(f"the-{role}", Role(role), 30, site)[1] for role, site in ROLES.items()}
        yield Written(home, ledger, authors, tokens)


def _train(authors: dict[str, Author]) -> None:
    lead = authors["coordinator"]
    uses = tuple(DatasetUse(site, digest(site)) for site in SITES)
    base, event = digest("m0"), b'{"eventTime":"2026-01-01T00:00:00Z"}\n'
    lead.send(OpenRun("run-1", "heart", digest("c"), "abc", digest("l"), "plain", "{}", 3, base, 1, 2, uses))
    for number, sealed in ((1, SITES), (2, SITES[:1])):
        lead.send(OpenRound("run-1", number, base, digest("context")))
        for site in sealed:
            authors[site].send(SubmitUpdate("run-1", number, digest(site), 10 + SITES.index(site), digest(f"{site}{number}"), 100 * number))
        if len(sealed) == 1:
            lead.send(ExcludeSite("run-1", number, SITES[1], "train", f"{MARKUP} at {SITES[1]}"))
        base = digest(f"m{number}")
        metrics = (Metric("accuracy", 800_000 + 50_000 * number),)
        lead.send_all([SealRound("run-1", number, sealed), CommitRound("run-1", number, digest("a"), digest("o"), base, True, "", metrics)])
    lead.send(RegisterModel("heart", 1, "champion", base, "run-1", 2))
    lead.send(AppendLineage("run-1", 2, 1, sha256(event).digest(), zlib.compress(event)))


@dataclass(frozen=True)
class Seen:
    """A browser that is logged in as the auditor, the portal, its application, and where it is."""

    tab: Any
    portal: Portal
    application: Guard
    url: str
    written: Written


@pytest.fixture(scope="module")
def seen(written: Written) -> Iterator[Seen]:
    """The portal on a free port, and one browser for all tests, logged in through the form."""
    if chromium.BROWSER is None:
        pytest.skip("no chromium on this machine")
    portal = Portal(written.home)
    with listen(0) as socket:
        application = portal.application()
        server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
        thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        try:
            with chromium.tab() as tab:
                tab.go(f"{url}/runs/run-1")
                assert tab.ask("document.activeElement.id") == "token"
                tab.press(f"document.activeElement.value = {json.dumps(written.tokens['auditor'])}; document.forms[0].requestSubmit()")
                yield Seen(tab, portal, application, url, written)
        finally:
            server.should_exit = True
            thread.join(30)
            portal.record.close()

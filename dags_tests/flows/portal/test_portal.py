"""The portal through its front door: who may see what, what is recorded, and what no answer may hold."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.testclient import TestClient

from cifer_tasks.errors import StorageError
from flows.access import Access, Names, RateLimit, Right
from flows.portal.app import COOKIE, Portal
from flows.portal.guard import HEADERS, POLICY, Guard
from flows.portal.live import LiveRecord
from flows.portal.pages import PAGES
from flows.services.child import ContentSecurityPolicy
from flows.services.kinds import KINDS
from ledger import NotOnRecordError
from ledger.errors import PrunedError
from ledger.provenance import questions

MARKUP = "<img src=x onerror=alert(1)>"
NORTH, SOUTH = "clinic-north", "clinic-south"
HOME = "http://127.0.0.1:4220"
TEXT = {"accept": "text/html"}


class Door:
    """A running portal, asked as somebody of a role."""

    def __init__(self, written: Any) -> None:
        self.written = written
        self.portal = Portal(written.home)
        self.portal.requests = self.portal.guesses = RateLimit(100_000, 1)
        self.application = self.portal.application()
        self.application.limit = RateLimit(100_000, 1)
        self.client = TestClient(self.application, base_url=HOME, follow_redirects=False, raise_server_exceptions=True)

    def ask(self, role: str, path: str, method: str = "GET", **more: Any) -> Any:
        self.client.cookies.clear()
        headers = {**TEXT, **more.pop("headers", {})}
        if role:
            headers["authorization"] = f"Bearer {self.written.tokens[role]}"
        return self.client.request(method, path, headers=headers, **more)

    def reads(self) -> int:
        return self.portal.access.check_log()[0]


@pytest.fixture(scope="module")
def door(written: Any) -> Iterator[Door]:
    made = Door(written)
    yield made
    made.portal.record.close()


def _transaction(door: Door) -> str:
    return str(door.written.ledger.state().run("run-1").origin.transaction.hex())


EVERYBODY = {"auditor", "engineer", "operator", "site", "admin"}
WITH_SITES = {"auditor", "engineer", "operator"}
MATRIX = {
    "/": EVERYBODY,
    "/models/heart/1": EVERYBODY,
    "/runs/run-1": EVERYBODY,
    "/runs/run-1/rounds/1": EVERYBODY,
    "/blocks": EVERYBODY,
    "/blocks/3": EVERYBODY,
    "/verify": EVERYBODY,
    "/graph?node=run/run-1": WITH_SITES,
    "/graph?q=heart": WITH_SITES,
    "/graph/neighbours?node=run/run-1": WITH_SITES,
    "/transactions/{transaction}": WITH_SITES,
    "/consents": WITH_SITES | {"site"},
    "/verify?model=heart@1": EVERYBODY,
    "/models/heart/1/bundle": {"auditor"},
    "/genesis": {"auditor"},
    "/access": {"admin"},
    "/api/v1/namespaces": {"auditor"},
    "/api/v1/provenance/ancestors?model=heart@1": {"auditor"},
}
"""Path: who may ask for it. Whoever is not named is refused with 403, and nobody comes in without a token."""


@pytest.mark.parametrize("path", MATRIX)
@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_each_role_opens_its_pages_and_no_others(door: Door, role: str, path: str) -> None:
    """The whole table of roles and pages, allowed and refused."""
    answer = door.ask(role, path.format(transaction=_transaction(door)))
    assert answer.status_code == (200 if role in MATRIX[path] else 403), answer.text[:300]


def test_the_table_holds_every_page() -> None:
    """A page that is added without a line in the table above is noticed."""
    tested = {re.sub(r"\?.*", "", path) for path in MATRIX}
    for page in PAGES:
        pattern = re.sub(r"\{\w+\}", "[^/]+", page.path)
        assert page.method == "POST" or page.path == "/consents/effect" or any(re.fullmatch(pattern, path) for path in tested), page.path


@pytest.mark.parametrize("path", MATRIX)
def test_nobody_comes_in_without_a_token(door: Door, path: str) -> None:
    """A browser is sent to log in, a program gets 401; neither sees anything."""
    place = path.format(transaction=_transaction(door))
    browser, program = door.ask("", place), door.ask("", place, headers={"accept": "application/json"})
    assert program.status_code == 401
    assert browser.status_code in {303, 401}
    assert "clinic" not in browser.text + program.text


def test_a_site_sees_its_own_records_and_no_other(door: Door) -> None:
    """A site's token shows its own submissions and consents; the other site is neither named nor shown under a pseudonym."""
    for path in ("/runs/run-1", "/runs/run-1/rounds/1", "/consents", "/models/heart/1", f"/consents/effect?site={NORTH}&purpose=heart"):
        text = door.ask("site", path).text
        assert NORTH in text, path
        assert SOUTH not in text and "site-" not in text, path
    assert door.ask("site", f"/consents/effect?site={SOUTH}&purpose=heart").status_code == 404
    assert SOUTH not in door.ask("site", "/runs/run-1/rounds/2").text


# ------------------------------------------------------------------------------------------------------- pseudonyms


def _walk(door: Door) -> dict[str, str]:
    """Every page an engineer reaches from the first one by its links, blocks left out, by path."""
    waiting, seen = ["/"], dict[str, str]()
    while waiting:
        path = waiting.pop()
        if path not in seen:
            answer = door.ask("engineer", path)
            assert answer.status_code == 200, (path, answer.text[:300])
            seen[path] = answer.text
            waiting += [link.replace("&amp;", "&") for link in re.findall(r'href="(/(?!static|blocks)[^"]*)"', answer.text)]
    return seen


def test_an_engineer_sees_no_site_name_anywhere(door: Door) -> None:
    """Every page an engineer can reach, the graph's nodes and transactions included, names no site, and links lead on all the same."""
    pages = _walk(door)
    assert [path for path, text in pages.items() if "clinic" in text] == []
    assert len(set(re.findall(r"site-[0-9a-f]{12}", "".join(pages.values())))) == 2
    for part in ("submission", "exclusion", "/consents/effect", "/transactions/"):
        assert any(part in path for path in pages), part


def test_a_portal_that_hides_nothing_is_found_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that passes names through fails the test above on many pages, and one whose search looks at real names answers guesses."""
    with monkeypatch.context() as patch:
        patch.setattr(Names, "hide", lambda _, value: value)
        patch.setattr(Names, "find", lambda _, text: text)
        assert sum("clinic" in text for text in _walk(door).values()) > 10
    monkeypatch.setattr("flows.portal.pages._found_as_shown", lambda *_: True)
    assert "<h2>0 found" not in door.ask("engineer", "/graph?q=clinic").text


def test_pseudonyms_cannot_be_tried_out(door: Door) -> None:
    """A real name, typed in by somebody who may not know it, finds nothing, as node, search or consent; its pseudonym does."""
    assert door.ask("engineer", f"/graph?node=site/{NORTH}").status_code == 404
    assert door.ask("engineer", f"/consents/effect?site={NORTH}&purpose=heart").status_code == 404
    for text in ("clinic", "clinic-n", "north", "NORTH", NORTH, "nort"):
        answer = door.ask("engineer", f"/graph?q={text}")
        assert answer.status_code == 404 or "<h2>0 found" in answer.text, text
    shown = re.search(r"site-[0-9a-f]{12}", door.ask("engineer", "/consents").text)
    assert shown is not None
    assert "<h2>0 found" not in door.ask("engineer", f"/graph?q={shown[0]}").text
    assert door.ask("engineer", f"/graph?node=site/{shown[0]}").status_code == 200


def test_an_error_names_nobody(door: Door) -> None:
    """What a missing node's answer lists in its place is shown under pseudonyms too."""
    for path in ("/consents/effect?site=nobody&purpose=heart", "/runs/other", "/models/other/1", "/blocks/999", "/transactions/zz"):
        answer = door.ask("engineer", path)
        assert answer.status_code == 404, path
        assert "clinic" not in answer.text


# -------------------------------------------------------------------------------------------------------- the record


def test_reads_of_site_level_records_are_recorded_before_they_are_answered(door: Door) -> None:
    """Every site-level page and API answer leaves one entry naming holder and path; pages without such records leave none."""
    for path in MATRIX:
        before = door.reads()
        door.ask("auditor", path.format(transaction=_transaction(door)))
        single = path.split("?")[0] not in {"/", "/blocks", "/blocks/3", "/verify", "/genesis", "/access"}
        assert door.reads() == before + single, path
    last = door.portal.access.reads(1)[0]
    assert (last.name, last.what) == ("the-auditor", "/api/v1/provenance/ancestors?model=heart@1")


def test_what_cannot_be_recorded_is_not_shown(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a log that cannot be written, nothing of a site leaves, neither as page nor over the API."""

    def full(*_: object) -> None:
        raise StorageError("disk full")

    monkeypatch.setattr(Access, "record", full)
    for path in ("/consents", "/runs/run-1", "/graph?node=run/run-1", "/api/v1/namespaces"):
        answer = door.ask("auditor", path)
        assert answer.status_code >= 500, path
        assert "clinic" not in answer.text
    assert door.ask("auditor", "/").status_code == 200


# ------------------------------------------------------------------------------------------------------ what is sent


def test_every_answer_has_the_policy(door: Door) -> None:
    """Pages, refusals, redirects, files, the API and unknown paths: all with the strict policy once, and the other headers."""
    asked = [
        door.ask(role, path) for role in ("auditor", "site", "") for path in ("/", "/graph?q=a", "/access", "/api/v1/jobs", "/nothing")
    ]
    asked += [door.ask("", path) for path in ("/login", "/health", "/static/portal.css", "/static/../app.py")]
    asked += [door.ask("", "/login", "POST"), door.ask("", "/", "DELETE"), door.ask("", "/", headers={"host": "evil.example"})]
    for answer in asked:
        assert answer.headers.get_list("content-security-policy") == [POLICY], answer.url
        assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
    assert "unsafe" not in POLICY and "*" not in POLICY and POLICY.startswith("default-src 'none'")


def test_pages_hold_no_script_and_no_style_of_their_own(door: Door) -> None:
    """No inline script, style or handler is in any page, and nothing is loaded from elsewhere."""
    seen: list[tuple[str, dict[str, str | None]]] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append((tag, dict(attrs)))

    for path in MATRIX:
        answer = door.ask("auditor", path.format(transaction=_transaction(door)))
        if answer.headers["content-type"].startswith("text/html"):
            Parser().feed(answer.text)
        elif not path.startswith("/api") and "neighbours" not in path:
            assert (answer.headers["content-disposition"], answer.headers["x-content-type-options"]) == (
                "attachment",
                "nosniff",
            ) or answer.is_error
    assert {tag for tag, _ in seen} >= {"script", "svg", "table"}
    for tag, attributes in seen:
        assert tag not in {"style", "iframe", "object", "embed", "base"}
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        assert not [
            value for name, value in attributes.items() if name in {"src", "href", "action"} and re.match(r"\w+:(?!,)|//", value or "")
        ]


def test_markup_in_a_reason_is_text(door: Door) -> None:
    """A reason with a tag in it is shown wherever reasons are, and is a tag nowhere."""
    paths = ("/runs/run-1", "/runs/run-1/rounds/2", "/consents", f"/consents/effect?site={SOUTH}&purpose=heart", f"/graph?q={MARKUP}")
    for path in paths:
        text = door.ask("auditor", path).text
        assert "&lt;img src=x" in text and "<img" not in text, path
    exclusion = f"run/run-1/round/2/exclusion/{SOUTH}"
    node = door.ask("auditor", f"/graph?node={exclusion}").text
    assert "&lt;img" in node and "<img" not in node
    transaction = door.written.ledger.state().exclusion("run-1", 2, SOUTH).origin.transaction.hex()
    assert "<img" not in door.ask("auditor", f"/transactions/{transaction}").text


# ------------------------------------------------------------------------------------------------ tokens and browsers


def _log_in(door: Door, token: str, then: str = "/", **headers: str) -> Any:
    door.client.cookies.clear()
    sent = {"origin": HOME, **headers}
    return door.client.post("/login", data={"token": token, "next": then}, headers=sent)


def test_a_browser_logs_in_and_out(door: Door) -> None:
    """The cookie is a session's, not the token, and no script or other site gets it; after logging out it opens nothing."""
    token = door.written.tokens["auditor"]
    answer = _log_in(door, token, "/runs/run-1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/run-1")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "domain" not in cookie
    assert token.lower() not in cookie
    session = door.client.cookies[COOKIE]
    assert door.client.get("/consents", headers=TEXT).status_code == 200
    assert door.client.post("/logout", headers={"origin": HOME}).status_code == 303
    assert door.client.get("/consents", headers={**TEXT, "cookie": f"{COOKIE}={session}"}).status_code == 303
    assert _log_in(door, "cifer_nothing").status_code == 401


def test_logging_in_leads_to_no_other_place(door: Door) -> None:
    """Where to go afterwards is a path of this server."""
    for then in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/logout", ""):
        assert _log_in(door, door.written.tokens["auditor"], then).headers["location"] == "/"


def test_another_page_can_do_nothing(door: Door) -> None:
    """A form elsewhere, or on another port of this machine, logs nobody in or out and verifies nothing; so does one without an origin."""
    _log_in(door, door.written.tokens["auditor"])
    for origin in ("https://evil.example", "http://127.0.0.1:4200", "null", "http://127.0.0.1:4220.evil.example"):
        for path in ("/login", "/logout", "/verify"):
            assert door.client.post(path, headers={"origin": origin}).status_code == 403, (origin, path)
    assert door.client.post("/verify").status_code == 403
    assert door.client.get("/", headers=TEXT).status_code == 200


def test_the_server_answers_to_its_own_name_only(door: Door) -> None:
    """A name that somebody else pointed to this machine is refused before anything is looked up."""
    for host in ("evil.example", "evil.example:4220", "127.0.0.1.evil.example", ""):
        assert door.ask("auditor", "/", headers={"host": host}).status_code == 421
    assert door.ask("auditor", "/", headers={"host": "localhost:4220"}).status_code == 200


def test_a_token_in_an_address_is_refused_and_not_kept(
    door: Door, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """It opens nothing there, is not echoed, and reaches neither the log of reads nor what the server prints."""
    caplog.set_level(logging.DEBUG)
    token = door.written.tokens["auditor"]
    for path in (f"/?token={token}", f"/graph?q={token}", f"/runs/{token}", f"/graph?q={token.replace('_', '%5F')}"):
        answer = door.ask("", path)
        assert answer.status_code == 400
        assert token not in answer.text
    _log_in(door, token)
    assert not [item for item in door.portal.access.reads() if "cifer_" in item.what]
    assert token not in capfd.readouterr().out + "".join(record.getMessage() for record in caplog.records if record.name != "httpx2")


def test_whoever_asks_too_often_waits(door: Door) -> None:
    """Guesses are slowed after ten, each token and each address by limits of their own; every refusal says how long."""
    strict = Portal(door.written.home)
    client = TestClient(strict.application(), base_url=HOME, follow_redirects=False)
    tried = [client.get("/", headers={"authorization": f"Bearer {number}"}) for number in range(12)]
    assert [answer.status_code for answer in tried] == [401] * 10 + [429] * 2
    assert int(tried[-1].headers["retry-after"]) >= 1
    strict.requests = RateLimit(2, 0.001)
    for role in ("auditor", "admin"):
        door_headers = {"authorization": f"Bearer {door.written.tokens[role]}"}
        assert [client.get("/verify", headers=door_headers).status_code for _ in range(3)] == [200, 200, 429]
    narrow = TestClient(Guard(strict.application(), limit=RateLimit(1, 0.001)), base_url=HOME)
    assert [narrow.get(path).status_code for path in ("/health", "/static/portal.css")] == [200, 429]
    strict.record.close()


def test_the_api_takes_no_events(door: Door) -> None:
    """The portal holds nobody's key, so nothing can be said through it."""
    answer = door.ask("auditor", "/api/v1/lineage", "POST", json={"eventTime": "2026-01-01T00:00:00Z"})
    assert answer.status_code == 403
    assert "holds nobody's key" in answer.text


# -------------------------------------------------------------------------------------------------------- the answers


def test_pages_say_what_the_ledger_says(door: Door) -> None:
    """Digests, metrics, counts and plots are those of the state."""
    run = door.ask("auditor", "/runs/run-1").text
    assert "0.8500" in run and "0.9000" in run and "1 of 2" in run
    assert run.count("<svg") == 3 and run.count('class="mark"') == 2 and run.count('class="bar"') == 4
    state = door.written.ledger.state()
    model = door.ask("auditor", "/models/heart/1").text
    assert state.model("heart", 1).model.hex() in model and "2 tables, 3 updates" in model and "@champion" in model
    effect = door.ask("auditor", f"/consents/effect?site={SOUTH}&purpose=heart").text
    assert "heart version 1" in effect and "heart@champion points" in effect
    neighbours = door.ask("auditor", "/graph/neighbours?node=model/heart/1").json()
    assert neighbours["node"]["digest"] == state.run("run-1").current_model.hex()
    assert {"run/run-1/round/2/model", "run/run-1"} <= {node["id"] for node in neighbours["nodes"]}


def test_a_new_block_is_seen_at_once(door: Door) -> None:
    """What is committed after a page was made is on the next one."""
    from ledger.types import GrantConsent

    before = door.ask("auditor", "/consents").text
    dataset = door.written.ledger.state().run("run-1").dataset_of(SOUTH)
    door.written.authors[SOUTH].send(GrantConsent(dataset, "lungs"))
    assert "lungs" not in before and "lungs" in door.ask("auditor", "/consents").text


def test_verification_lists_what_was_looked_at(door: Door) -> None:
    """Each check by itself: what holds, and what nobody could look at, such as bytes that are not on this machine."""
    answer = door.ask("auditor", "/verify", "POST", data={"model": "heart@1"})
    assert answer.status_code == 200
    height = door.written.ledger.head().height
    assert f"{height} blocks: links" in answer.text and "Everything that was checked holds" in answer.text
    assert answer.text.count('class="held"') == 6 and answer.text.count('class="open"') == 2
    assert door.ask("auditor", "/verify", "POST", data={"model": "heart@7"}).status_code == 404
    assert door.ask("engineer", "/verify", "POST", data={"model": "nothing"}).status_code == 404


def test_verification_says_what_does_not_hold(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model's bytes in the store, and an index of another block, are each named; the verdict is no longer that all holds."""
    digest = door.written.ledger.state().model("heart", 1).model.hex()
    path = door.written.home / "artifacts" / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True)
    path.write_bytes(b"another model")
    monkeypatch.setattr("flows.portal.checks.header_digest", lambda _: bytes(32))
    answer = door.ask("auditor", "/verify", "POST", data={"model": "heart@1"})
    path.unlink()
    assert "Something does not hold" in answer.text
    assert answer.text.count('class="broken"') == 2
    assert "the ledger at" in answer.text and "13 bytes" in answer.text


def test_what_was_given_up_is_not_said_to_hold(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where blocks were pruned, the checks that need them are marked as not decided, and none of them as held or broken."""

    def pruned(*_: object) -> None:
        raise PrunedError("block 1 was given up")

    monkeypatch.setattr("flows.portal.checks.verify_ledger", pruned)
    monkeypatch.setattr("flows.portal.checks.prove", pruned)
    text = door.ask("auditor", "/verify", "POST", data={"model": "heart@1"}).text
    assert text.count('class="open"') == 7 and text.count('class="held"') == 1 and 'class="broken"' not in text


def test_a_service_with_a_policy_of_its_own_keeps_it(door: Door) -> None:
    """`cifer up` adds its policy to services that have none, and leaves the portal's as it is."""
    client = TestClient(ContentSecurityPolicy(door.application, 4220), base_url=HOME)
    assert client.get("/health").headers.get_list("content-security-policy") == [POLICY]


def test_another_page_of_a_large_neighbourhood(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more neighbours than a page holds, every one is on exactly one page."""
    monkeypatch.setattr("flows.portal.pages.NEIGHBOURS", 3)
    found, offset, more = [], 0, True
    while more:
        page = door.ask("auditor", f"/graph/neighbours?node=run/run-1&offset={offset}").json()
        found += [json.dumps(link, sort_keys=True) for link in page["links"]]
        offset, more = offset + 3, page["more"]
    assert len(found) == len(set(found)) > 6
    assert "Next 3" in door.ask("auditor", "/graph?node=run/run-1").text


def test_without_a_ledger_the_portal_says_what_to_do(tmp_path: Any) -> None:
    """`cifer up` in an empty folder: the page says what to run, and the next page after the first run is there."""
    portal = Portal(tmp_path)
    from flows.access import Role

    _, token = portal.access.grant("maria", Role.AUDITOR, 1)
    answer = TestClient(portal.application(), base_url=HOME).get("/", headers={**TEXT, "authorization": f"Bearer {token}"})
    assert answer.status_code == 503
    assert "cifer run" in answer.text


def test_the_port_is_the_one_that_others_link_to() -> None:
    """MLflow's tags and Prefect's artifacts lead to where `cifer up` starts the portal."""
    from cifer_tasks.tracking import tracker
    from flows import ui

    assert tracker.PORTAL == ui.PORTAL == f"http://127.0.0.1:{KINDS['portal'].default_port}"


def test_the_record_follows_another_ledger(door: Door, tmp_path: Any) -> None:
    """A folder whose ledger was replaced is opened again instead of being answered from the old one."""
    import shutil

    from ledger.backends.embedded import EmbeddedLedger
    from ledger.backends.network import create_network
    from ledger.crypto import SigningKey

    shutil.copytree(door.written.home / "ledger", tmp_path / "ledger")
    record = LiveRecord(tmp_path)
    ledger, index = record.now()
    assert questions.timeline(index, "run-1").run.label == "run-1"
    shutil.rmtree(tmp_path / "ledger")
    (tmp_path / "provenance.sqlite").unlink()
    setup = create_network("other", [SigningKey.generate().public])
    with EmbeddedLedger.create(tmp_path / "ledger", setup.genesis, setup.keys):
        again, index = record.now()
        assert again.genesis.name == "other" and again is not ledger
        with pytest.raises(NotOnRecordError):
            questions.timeline(index, "run-1")
    record.close()


def test_rights_are_asked_nowhere_else() -> None:
    """Each page names its rights in the one table: those with records of sites are marked so, and the access page is for ACCESS alone."""
    by_path = {page.path: page for page in PAGES}
    assert by_path["/access"].rights == {Right.ACCESS}
    for path in (
        "/graph",
        "/graph/neighbours",
        "/consents",
        "/consents/effect",
        "/transactions/{id}",
        "/runs/{run}",
        "/models/{name}/{version}",
    ):
        assert by_path[path].site_level

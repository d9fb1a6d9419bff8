"""The portal in a headless Chromium: log in, read, walk the graph, verify, log out; with the keyboard, in the dark, on paper."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from flows.portal.app import COOKIE
from flows.portal.pages import NEIGHBOURS
from flows.synthetic_record import SyntheticRecord
from ledger.provenance.index import Index

Seen = Any

DRAWN = """new Promise((done) => {
  const look = () => document.getElementById("graph").ariaBusy === "false" ? done(walk.nodes().length) : requestAnimationFrame(look);
  look();
})"""
"""How many nodes are drawn, once the drawing stands still."""


def test_logging_in_leads_to_where_one_wanted_to_go(seen: Seen) -> None:
    """The page that was asked for is shown, and no script can read the cookie."""
    assert seen.tab.ask("location.pathname") == "/runs/run-1"
    assert COOKIE not in seen.tab.ask("document.cookie")
    assert seen.written.tokens["auditor"] not in seen.tab.ask("location.href + document.documentElement.outerHTML")


def test_the_graph_is_walked_by_clicking(seen: Seen) -> None:
    """The drawing starts at the model, a click on a node opens what is beside it, and the lists hold the same without it."""
    seen.tab.go(f"{seen.url}/graph?node=model/heart/1")
    drawn = seen.tab.ask(DRAWN)
    assert drawn == 1 + seen.tab.ask("new Set([...document.querySelectorAll('.links > li > a')].map((a) => a.href)).size") > 1
    for node in ("model", "aggregate", "submission/clinic-north"):
        known = "run/run-1/round/2" if node != "model" else "run/run-1/round/2/model"
        seen.tab.ask(f"walk.getElementById('{known}').emit('tap'); undefined")
        seen.tab.ask(DRAWN)
        seen.tab.ask(f"walk.getElementById('run/run-1/round/2/{node}').emit('tap'); undefined")
        before, drawn = drawn, seen.tab.ask(DRAWN)
        assert drawn > before, node
        assert f"{drawn} drawn" in seen.tab.ask("document.getElementById('said').textContent")
    data = seen.tab.ask("walk.edges(`[basis = 'data']`).map((e) => [e.source().position('x'), e.target().position('x')])")
    assert len(data) >= 5 and all(target < source for source, target in data)
    places = seen.tab.ask("walk.nodes().map((n) => JSON.stringify(n.position()))")
    assert len(places) == len(set(places))


def test_ten_thousand_nodes_are_walked_on_demand(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a graph with more than 10,000 nodes only what was opened is fetched and drawn, at most a page of neighbours a click."""
    record = SyntheticRecord(9000)
    ledger, _ = seen.portal.record.now()
    with Index.open(tmp_path / "large.sqlite", record.genesis) as index:
        index.update(record)
        assert index.rows("SELECT count(*) FROM nodes")[0][0] > 10_000
        monkeypatch.setattr(seen.portal.record, "now", lambda: (ledger, index))
        seen.tab.go(f"{seen.url}/graph?node=model/study/1")
        drawn = seen.tab.ask(DRAWN)
        for _ in range(12):
            seen.tab.ask("walk.nodes('[!opened]').last().emit('tap'); undefined")
            before, drawn = drawn, seen.tab.ask(DRAWN)
            assert before <= drawn <= before + NEIGHBOURS
        assert 10 < drawn < 1200


def test_every_page_is_usable_without_a_mouse_and_by_a_reader(seen: Seen) -> None:
    """The skip link comes first, each field has a label, each table column a header, each page one title, each picture a text; and what
    the browser tells a screen reader of each link, button, field and picture has a name.
    """
    for path in (
        "/",
        "/runs/run-1",
        "/runs/run-1/rounds/2",
        "/models/heart/1",
        "/graph?node=run/run-1",
        "/consents",
        "/blocks",
        "/verify?model=heart@1",
    ):
        seen.tab.go(seen.url + path)
        found = seen.tab.ask(
            """({
              first: document.querySelector('a, button, input').className,
              titles: document.querySelectorAll('h1').length,
              bare: [...document.querySelectorAll('input:not([type=hidden]), textarea, svg, #graph')]
                .filter((e) => !(e.labels?.length || e.getAttribute('aria-label'))).length,
              headless: [...document.querySelectorAll('table')].filter((t) => !t.querySelector('th[scope=col]')).length,
              skipped: [...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1]).some((n, i, all) => i && n > all[i - 1] + 1),
              wide: document.documentElement.scrollWidth > innerWidth,
              language: document.documentElement.lang,
            })"""
        )
        assert found == {"first": "skip", "titles": 1, "bare": 0, "headless": 0, "skipped": False, "wide": False, "language": "en"}, path
        told = _told(seen)
        assert {"link", "button"} <= {role for role, _ in told} and not [role for role, name in told if not name], path
    seen.tab.ask("document.querySelector('nav a').textContent = ''")
    assert ("link", "") in _told(seen)  # the search finds a link without a name


def _told(seen: Seen) -> list[tuple[str, str]]:
    """Role and name of what a screen reader stops at, by the browser's own accessibility tree (WAI-ARIA 1.2, Accessible Name 1.2)."""
    roles = {"link", "button", "textbox", "searchbox", "combobox", "checkbox", "radio", "image", "graphics-document", "navigation"}
    nodes = seen.tab.call("Accessibility.getFullAXTree")["nodes"]
    found = [(node["role"]["value"], node.get("name", {}).get("value", "").strip()) for node in nodes if not node["ignored"]]
    return [item for item in found if item[0] in roles]


FOCUSED = "(({ tagName, href, name, id }) => [tagName, href || name || id])(document.activeElement)"


def _press(seen: Seen, key: str) -> None:
    """A key, as from a keyboard."""
    text = {"text": "\r"} if key == "Enter" else {}
    codes = {"Tab": 9, "Enter": 13}
    seen.tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=codes[key], **text)
    seen.tab.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=codes[key])


@pytest.mark.parametrize("path", ["/graph?node=run/run-1", "/verify?model=heart@1"])
def test_the_tab_key_reaches_everything_and_enter_follows(seen: Seen, path: str) -> None:
    """Pressing Tab visits every link, button, field and group of choices in the order of the page, each time visibly; Enter on the skip
    link skips the menu, and on a link goes there.
    """
    seen.tab.go(seen.url + path)
    wanted = seen.tab.ask(
        """[...document.querySelectorAll('a[href], button, input:not([type=hidden]), textarea, select, summary, [tabindex="0"]')]
        .filter((e) => e.tabIndex >= 0 && !e.disabled && !(e.type === 'radio' && !e.checked) && e.checkVisibility())
        .map(({ tagName, href, name, id }) => [tagName, href || name || id])"""
    )
    reached = []
    for _ in wanted:
        _press(seen, "Tab")
        reached.append(seen.tab.ask(FOCUSED))
        ring = seen.tab.ask("(({ outlineStyle, outlineWidth }) => [outlineStyle, outlineWidth])(getComputedStyle(document.activeElement))")
        assert ring[0] != "none" and ring[1] != "0px", (wanted, reached)
    assert reached == wanted and len(wanted) > 10
    seen.tab.go(seen.url + path)
    _press(seen, "Tab")
    _press(seen, "Enter")
    _press(seen, "Tab")
    assert seen.tab.ask("document.querySelector('main').contains(document.activeElement)")
    seen.tab.ask("document.querySelector('nav a').focus()")
    there, before = seen.tab.ask("document.activeElement.href"), len(seen.tab.events)
    _press(seen, "Enter")
    seen.tab.loaded(before)
    assert seen.tab.ask("location.href") == there


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(seen: Seen, scheme: str) -> None:
    """Every colour of text has a contrast of 4.5 to 1 with both grounds (WCAG 2.2, 1.4.3), in light and in dark."""
    seen.tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    seen.tab.go(f"{seen.url}/")
    contrasts = seen.tab.ask(
        """(() => {
          const style = getComputedStyle(document.documentElement);
          const light = (name) => {
            const hex = style.getPropertyValue(name).trim().slice(1);
            const full = hex.length === 3 ? [...hex].map((c) => c + c).join("") : hex;
            const parts = [0, 2, 4].map((i) => parseInt(full.slice(i, i + 2), 16) / 255);
            const [r, g, b] = parts.map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          const ground = ["--ground", "--panel"].map(light);
          const names = ["--ink", "--soft", "--accent", "--good", "--bad", "--warn"];
          return names.flatMap((name) => ground.map((g) => ratio(light(name), g)));
        })()"""
    )
    seen.tab.call("Emulation.setEmulatedMedia", features=[])
    assert len(contrasts) == 12 and min(contrasts) >= 4.5, contrasts


def test_a_page_for_the_file(seen: Seen) -> None:
    """On paper there are no menus and buttons, the digests are whole, and it says how to check the page elsewhere."""
    seen.tab.go(f"{seen.url}/models/heart/1")
    seen.tab.call("Emulation.setEmulatedMedia", media="print")
    hidden, shown, cut = seen.tab.ask(
        """[["nav", ".actions", ".who"].map((s) => document.querySelector(s).checkVisibility()),
            document.querySelector(".print-only").checkVisibility(),
            [...document.querySelectorAll("code.digest")].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).length]"""
    )
    document = base64.b64decode(seen.tab.call("Page.printToPDF")["data"])
    seen.tab.call("Emulation.setEmulatedMedia", media="")
    assert (hidden, shown, cut) == ([False] * 3, True, 0)
    assert document.startswith(b"%PDF")


def test_the_server_verifies_at_a_button(seen: Seen) -> None:
    """The server's own button leads to the list of what it checked, named as its word."""
    seen.tab.go(f"{seen.url}/verify?model=heart@1")
    seen.tab.press("document.querySelector('main form:not(#here)').requestSubmit()")
    assert "its word" in seen.tab.ask("document.querySelectorAll('h2')[1].textContent")
    assert seen.tab.ask("document.querySelectorAll('.checks > li').length") == 8
    assert seen.tab.ask("document.querySelector('section:nth-of-type(2) [role=status]').textContent").startswith(
        "Everything that was checked holds"
    )


def test_the_browser_refused_nothing_and_asked_nobody_else(seen: Seen) -> None:
    """After all that: no error, no blocked style or script, no request to another host; and logging out closes the door."""
    assert seen.tab.errors() == []
    assert seen.tab.hosts() == {seen.url.partition("//")[2]}
    seen.tab.press("document.querySelector('.who').requestSubmit()")
    assert seen.tab.ask("location.pathname") == "/login"
    seen.tab.go(f"{seen.url}/consents")
    assert seen.tab.ask("location.pathname") == "/login"

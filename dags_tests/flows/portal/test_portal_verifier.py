"""The verifier that runs in the browser, in a headless Chromium: golden bundles, signatures on the edge, and the page around it."""

from __future__ import annotations

import base64
import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from starlette.staticfiles import StaticFiles

import flows.portal
from ledger.provenance import bundle_bytes, genesis_to_json, make_bundle

Seen = Any
VECTORS = Path(__file__).parents[2] / "vectors"
GOLDEN = VECTORS / "bundles"
INDEX = json.loads((GOLDEN / "index.json").read_text())
VERIFIER = Path(flows.portal.__file__).parent / "static" / "verifier"
BATCH = 10
"""Bundles in one question to the browser, which has a minute for each."""
SPEC = (Path(flows.portal.__file__).parents[2] / "ledger" / "SPEC.md").read_text(encoding="utf-8")


@cache
def _bytes(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def _file(case: dict[str, Any]) -> bytes:
    """The file of a golden case, edits applied."""
    data = _bytes(case["file"] if "file" in case else case["of"])
    for offset, count, put in reversed(case.get("edits", [])):
        data = data[:offset] + bytes.fromhex(put) + data[offset + count :]
    return data


def _verdicts(seen: Seen, cases: list[dict[str, Any]], where: str = "/static/verifier") -> list[str]:
    """What the verifier at `where` says of each: the rule it refuses by, or the digest of the head it accepts."""
    if len(cases) > BATCH:
        return _verdicts(seen, cases[:BATCH], where) + _verdicts(seen, cases[BATCH:], where)
    asked = [[base64.b64encode(_file(case)).decode(), _bytes(case["genesis"]).decode()] for case in cases]
    script = f"""(async () => {{
      const {{ verifyBundle }} = await import("{where}/verifier.js");
      const said = [];
      for (const [file, genesis] of {json.dumps(asked)}) {{
        const bytes = Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0));
        said.push(await verifyBundle(bytes, genesis).then((shown) => shown.block, (error) => error.rule ?? String(error)));
      }}
      return said;
    }})()"""
    return list(seen.tab.ask(script))


def test_the_layouts_are_those_of_the_specification() -> None:
    """The table of records in the script is the table of ledger/SPEC.md, row for row."""
    table = SPEC[SPEC.index("<!-- layouts -->") : SPEC.index("<!-- end of layouts -->")]
    rows = re.findall(r"^\| (\S+) \| (.*) \|$", table, re.MULTILINE)[1:]
    script = (VERIFIER / "records.js").read_text().split("`")[1].strip().split("\n")
    assert script == [f"{name.strip('`')} | {fields}" for name, fields in rows]


def test_every_golden_bundle_is_judged_as_it_should_be(seen: Seen) -> None:
    """Valid ones are accepted with their head; every invalid one is refused by the very rule it breaks."""
    assert _verdicts(seen, INDEX["valid"]) == [case["block"] for case in INDEX["valid"]]
    wanted = {case["name"]: case["rule"] for case in INDEX["invalid"]}
    found = dict(zip(wanted, _verdicts(seen, INDEX["invalid"]), strict=True))
    assert found == wanted
    assert {f"Z{number}" for number in range(1, 19)} == set(wanted.values())


def test_what_a_site_says_of_others_is_counted(seen: Seen) -> None:
    """Of the site's two lines in one golden bundle, the browser tells that one is not the site's own, and of the other bundles nothing."""
    cases = [[base64.b64encode(_file(case)).decode(), _bytes(case["genesis"]).decode()] for case in INDEX["valid"]]
    script = f"""(async () => {{
      const {{ verifyBundle }} = await import("/static/verifier/verifier.js");
      return Promise.all({json.dumps(cases)}.map(async ([file, genesis]) => {{
        const shown = await verifyBundle(Uint8Array.from(atob(file), (letter) => letter.charCodeAt(0)), genesis);
        return shown.unchecked.filter((one) => one.includes("speaks of what it did not do")).map((one) => Number.parseInt(one, 10));
      }}));
    }})()"""
    assert seen.tab.ask(script) == [[1] if case["file"] == "rotated.cifer" else [] for case in INDEX["valid"]]


@pytest.mark.parametrize("rule", ["Z4", "Z5", "Z6", "Z9", "Z11", "Z14", "Z15", "Z16"])
def test_a_verifier_without_a_rule_accepts_what_breaks_it(seen: Seen, tmp_path: Path, rule: str) -> None:
    """A mutant that never refuses by one rule takes a golden bundle that breaks it for valid, so the test above would notice it."""
    folder = tmp_path / rule
    shutil.copytree(VERIFIER, folder)
    script = folder / "chain.js"
    script.write_text(script.read_text().replace("if (!holds) throw", f'if (!holds && rule !== "{rule}") throw'))
    seen.application.application.mount(f"/mutant-{rule}", StaticFiles(directory=folder))
    cases = [case for case in INDEX["invalid"] if case["rule"] == rule]
    assert any(len(said) == 64 for said in _verdicts(seen, cases, f"/mutant-{rule}"))


def test_signatures_are_judged_as_by_the_ledger(seen: Seen) -> None:
    """Of the 32 signatures on which libraries differ, the browser accepts those that libsodium accepts, and no others."""
    edge = json.loads((VECTORS / "ed25519_edge.json").read_text())
    script = f"""(async () => {{
      const [{{ holds }}, {{ unhex }}] = [await import("/static/verifier/verifier.js"), await import("/static/verifier/encoding.js")];
      return Promise.all({json.dumps(edge)}.map((one) => holds(one.public, unhex(one.message), one.signature)));
    }})()"""
    assert seen.tab.ask(script) == [case["accepted"] for case in edge]


RESULT = """new Promise((done) => {
  const look = () => part("result").ariaBusy === "false" ? done({
    verdict: part("verdict").textContent, standing: part("verdict").className,
    held: document.querySelectorAll("#found .held").length,
    broken: [...document.querySelectorAll("#found .broken")].map((e) => e.textContent),
    open: [...document.querySelectorAll("#found .open")].map((e) => e.textContent), shown: part("shown").textContent })
    : requestAnimationFrame(look);
  const part = (name) => document.getElementById(name);
  part("result").ariaBusy = "true";
  document.getElementById("here").requestSubmit();
  look();
})"""
GIVE = """(() => {{
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob("{data}"), (letter) => letter.charCodeAt(0))], "{name}"));
  const field = document.getElementById("{field}");
  field.files = files.files;
  field.dispatchEvent(new Event("input", {{ bubbles: true }}));
}})()"""


def _give(seen: Seen, field: str, name: str, data: bytes) -> None:
    seen.tab.ask(GIVE.format(field=field, name=name, data=base64.b64encode(data).decode()))


def test_the_button_verifies_here_against_a_genesis_of_ones_own(seen: Seen) -> None:
    """With a genesis from elsewhere everything holds, it is kept for next time, and the server's bundle is recorded as read."""
    seen.tab.go(f"{seen.url}/models/heart/1")
    seen.tab.press("document.querySelector('.actions a').click()")
    assert "give a genesis" in seen.tab.ask(RESULT)["verdict"]
    before = seen.portal.access.check_log()[0]
    _give(seen, "genesis-file", "genesis.json", genesis_to_json(seen.written.ledger.genesis).encode())
    found = seen.tab.ask(RESULT)
    assert (found["standing"], found["broken"]) == ("verdict held", []), found
    assert found["held"] == 8 and "Verified in this browser" in found["verdict"] and "heart version 1" in found["shown"]
    assert seen.portal.access.reads(1)[0].what == "/models/heart/1/bundle" and seen.portal.access.check_log()[0] == before + 1
    seen.tab.go(f"{seen.url}/verify?model=heart@1")
    assert "Kept in this browser" in seen.tab.ask("document.getElementById('pinned').textContent")
    assert seen.tab.ask(RESULT)["held"] == 9


def test_another_networks_genesis_is_refused(seen: Seen) -> None:
    """The server's bundle does not hold against the genesis of another network, and the page says which rule."""
    seen.tab.go(f"{seen.url}/verify?model=heart@1")
    _give(seen, "genesis-file", "genesis.json", _bytes("genesis.json"))
    found = seen.tab.ask(RESULT)
    assert found["standing"] == "verdict broken" and "Rule Z3" in found["broken"][0], found


def test_a_bundle_of_ones_own_that_was_tampered_with_is_refused(seen: Seen) -> None:
    """A file with one byte changed is refused, the honest one is not, on the page itself."""
    data = bundle_bytes(make_bundle(seen.written.ledger, "heart", 1).bundle)
    seen.tab.go(f"{seen.url}/verify")
    for file, standing in ((data, "verdict held"), (data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], "verdict broken")):
        _give(seen, "genesis-file", "genesis.json", genesis_to_json(seen.written.ledger.genesis).encode())
        _give(seen, "bundle-file", "model.cifer", file)
        assert seen.tab.ask(RESULT)["standing"] == standing


def test_the_servers_own_genesis_proves_nothing_and_the_page_says_so(seen: Seen) -> None:
    """Against what the server serves as genesis the verdict is not green, and whose word it is stands beside the network."""
    seen.tab.go(f"{seen.url}/verify?model=heart@1")
    seen.tab.ask("document.querySelector('[value=server]').click()")
    found = seen.tab.ask(RESULT)
    assert found["standing"] == "verdict open" and "agrees with itself" in found["verdict"]
    assert "this server's word" in found["open"][0]


def test_an_older_bundle_than_was_seen_is_noticed(seen: Seen) -> None:
    """The browser remembers the latest block it saw: a bundle that ends before is marked, another block of that height refused."""
    network = json.loads(genesis_to_json(seen.written.ledger.genesis))["network"]
    height = seen.written.ledger.head().height
    for kept, standing, word in ((height + 1, "verdict held", "ends before it"), (height, "verdict broken", "two histories")):
        seen.tab.go(f"{seen.url}/verify?model=heart@1")
        head = json.dumps({"height": kept, "block": "00" * 32, "at": "2026-01-01"})
        seen.tab.ask(f"localStorage.setItem('cifer-head-{network}', {json.dumps(head)})")
        _give(seen, "genesis-file", "genesis.json", genesis_to_json(seen.written.ledger.genesis).encode())
        found = seen.tab.ask(RESULT)
        assert found["standing"] == standing and word in " ".join(found["open"] + found["broken"]), found
    seen.tab.ask("localStorage.clear()")


def test_a_browser_without_ed25519_says_that_nothing_was_verified(seen: Seen) -> None:
    """Where WebCrypto lacks the algorithm the page verifies nothing, and names what the server says as its word."""
    seen.tab.go(f"{seen.url}/verify?model=heart@1")
    seen.tab.ask("crypto.subtle.importKey = () => Promise.reject(new DOMException('no', 'NotSupportedError')); undefined")
    found = seen.tab.ask(RESULT)
    assert found["standing"] == "verdict open" and "Nothing was verified here" in found["verdict"] and found["held"] == 0


def test_nothing_was_blocked_or_asked_of_others(seen: Seen) -> None:
    """After all that: no exception, no script or style refused by the policy, no request to another host."""
    assert [error for error in seen.tab.errors() if error.get("source") != "network"] == []
    assert seen.tab.hosts() == {seen.url.partition("//")[2]}

"""A headless Chromium, driven over its DevTools protocol: as much of it as the portal's tests need, without a package of its own."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
SECONDS = 60


class Tab:
    """One page. Every message of the protocol that is no answer is kept in `events`."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self._number = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser something, and wait for the answer."""
        self._number += 1
        self.socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=SECONDS))
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                return dict(message["result"])
            self.events.append(message)

    def wait(self, event: str) -> None:
        """Wait for an event that comes after those already seen."""
        while True:
            message = json.loads(self.socket.recv(timeout=SECONDS))
            self.events.append(message)
            if message.get("method") == event:
                return

    def go(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        before = len(self.events)
        self.call("Page.navigate", url=url)
        self.loaded(before)

    def loaded(self, before: int) -> None:
        """Wait for a page to be loaded, unless that happened since there were `before` events."""
        if not any(item.get("method") == "Page.loadEventFired" for item in self.events[before:]):
            self.wait("Page.loadEventFired")

    def ask(self, script: str) -> Any:
        """What a JavaScript expression comes to, promises awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, script: str) -> None:
        """Do something that loads another page, and wait for that."""
        before = len(self.events)
        self.ask(f"{script}; undefined")
        self.loaded(before)

    def errors(self) -> list[Any]:
        """What the browser complained about: exceptions, refused styles and scripts, failed requests."""
        thrown = [item["params"] for item in self.events if item.get("method") == "Runtime.exceptionThrown"]
        logged = [item["params"]["entry"] for item in self.events if item.get("method") == "Log.entryAdded"]
        return thrown + [entry for entry in logged if entry["level"] in {"error", "warning"}]

    def hosts(self) -> set[str]:
        """Every host that a request went to."""
        sent = [item["params"]["request"]["url"] for item in self.events if item.get("method") == "Network.requestWillBeSent"]
        return {url.split("/")[2] for url in sent if not url.startswith("data:")}

    def picture(self, path: Path) -> None:
        """What the page looks like."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def tab(width: int = 1200, height: int = 900) -> Iterator[Tab]:
    """A browser with a profile of its own and one empty page, gone afterwards."""
    from websockets.sync.client import connect

    assert BROWSER is not None
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0", "--hide-scrollbars"]
        size = f"--window-size={width},{height}"
        process = subprocess.Popen(
            [BROWSER, *flags, size, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            address = next(line.split()[-1] for line in process.stderr if line.startswith("DevTools listening on"))
            with connect(address, max_size=None, open_timeout=SECONDS) as browser:
                browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
                targets = json.loads(browser.recv(timeout=SECONDS))["result"]["targetInfos"]
            page = next(item["targetId"] for item in targets if item["type"] == "page")
            with connect(f"ws://{address.split('/')[2]}/devtools/page/{page}", max_size=None, open_timeout=SECONDS) as socket:
                yield Tab(socket)
        finally:
            process.kill()
            process.communicate()
            shutil.rmtree(profile, ignore_errors=True)

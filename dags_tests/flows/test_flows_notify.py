"""A webhook is told what happened in a few words, and neither its silence nor its address gets in a run's way."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from cifer_tasks.errors import ConfigError, FailureError
from flows import launch
from flows.notify import notify, webhook_of
from flows.services.processes import listen


class Hook(HTTPServer):
    """Remembers what it was sent."""

    said: list[Any]


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook on this machine that answers 200."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.said.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    made = Hook(("127.0.0.1", 0), Answer)
    made.said = []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_what_happened_is_posted(lab: Any, hook: Hook) -> None:
    """One document, with a line for people and its parts for programs."""
    settings = lab.settings(notify__webhook=f"http://127.0.0.1:{hook.server_port}/hook")
    notify(settings, "lab-1", "failed", "north, round 2, train: no such column")
    (said,) = hook.said
    assert said["text"] == "Cifer run lab-1: failed: north, round 2, train: no such column"
    assert (said["run"], said["scenario"], said["event"]) == ("lab-1", "lab", "failed")


def test_without_an_address_nobody_is_told(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default tells nobody: no connection is opened."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("a connection"))
    notify(lab.settings(), "lab-1", "failed", "x")


def test_a_webhook_that_is_not_there_stops_nothing(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody listens: one line on standard error that does not show the address, which may be a secret."""
    with listen(0) as gone:
        port = gone.getsockname()[1]
    notify(lab.settings(notify__webhook=f"http://127.0.0.1:{port}/token-abc"), "lab-1", "failed", "x")
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "nobody was told that lab-1 is failed" in err and "token-abc" not in err


@pytest.mark.parametrize(
    ("given", "value", "says"),
    [
        ("ftp://example.org", None, "no http or https address"),
        ("example.org/hook", None, "no http or https address"),
        ("file:///etc/passwd", None, "no http or https address"),
        ("env:CIFER_TEST_HOOK", None, "CIFER_TEST_HOOK is not set"),
        ("env:CIFER_TEST_HOOK", "file:///etc/token", "env:CIFER_TEST_HOOK is no http"),
    ],
)
def test_an_address_that_is_none_is_refused_before_a_run_starts(
    lab: Any, given: str, value: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the address, or an unset variable, shows before anything is trained, and a secret is not repeated."""
    if value is not None:
        monkeypatch.setenv("CIFER_TEST_HOOK", value)
    settings = lab.settings(notify__webhook=given)
    with pytest.raises(ConfigError, match=says) as caught:
        launch.new_run(settings, lab.folder)
    assert "token" not in str(caught.value)
    assert not (lab.home / "runs").exists()


def test_an_address_can_stay_in_the_environment(lab: Any, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """`env:NAME` keeps an address that is a secret out of the settings, which are published."""
    monkeypatch.setenv("CIFER_TEST_HOOK", f"http://127.0.0.1:{hook.server_port}/secret")
    settings = lab.settings(notify__webhook="env:CIFER_TEST_HOOK")
    assert b"secret" not in settings.canonical() and webhook_of(settings).endswith("/secret")
    notify(settings, "lab-1", "awaiting-approval", "model 00")
    assert hook.said[0]["event"] == "awaiting-approval"


@pytest.mark.parametrize(("error", "detail"), [(FailureError("safe to say"), "safe to say"), (ValueError("row 17: 42.5"), "ValueError")])
def test_a_run_that_fails_tells_without_quoting_data(
    trainer: Any, hook: Hook, error: Exception, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a training ends, the webhook hears of it; the message of a foreign exception may quote data and is not sent."""

    def fails(run: Any) -> None:
        raise error

    ref = trainer.open(trainer.settings(notify__webhook=f"http://127.0.0.1:{hook.server_port}/hook"))
    monkeypatch.setattr("flows.training.training", fails)
    with pytest.raises(type(error)):
        trainer.train(ref)
    (said,) = hook.said
    assert (said["event"], said["detail"], said["run"]) == ("failed", detail, ref.run)

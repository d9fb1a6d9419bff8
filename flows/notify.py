"""Telling somebody outside how a run stands: one JSON document by HTTP POST to `notify.webhook`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Final, Literal
from urllib.parse import urlsplit

from cifer_tasks.config import Settings
from cifer_tasks.errors import ConfigError
from cifer_tasks.logs import complain

TIMEOUT_SECONDS: Final = 10.0
_FROM_ENVIRONMENT: Final = "env:"


def webhook_of(settings: Settings) -> str:
    """The address to tell, "" when nobody is to be told. Raises `ConfigError` when it is none, or its variable is not set."""
    given = settings.notify.webhook
    url = given
    if given.startswith(_FROM_ENVIRONMENT):
        name = given.removeprefix(_FROM_ENVIRONMENT)
        url = os.environ.get(name, "")
        if not url:
            msg = f"notify.webhook is {given}, and {name} is not set; export it where runs are started"
            raise ConfigError(msg)
    if url and (urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc):
        what = given if given.startswith(_FROM_ENVIRONMENT) else "what is given"  # the address may be a secret
        msg = f"notify.webhook: {what} is no http or https address; give one such as https://example.org/hook"
        raise ConfigError(msg)
    return url


def notify(settings: Settings, run: str, event: Literal["failed", "awaiting-approval"], detail: str) -> None:
    """Post what happened: `text` for chat programs, and its parts. Not being heard is said on standard error, and stops nothing.

    detail: safe to record; nobody's rows or updates are in it.
    """
    url = webhook_of(settings)
    if not url:
        return
    text = f"Cifer run {run}: {event.replace('-', ' ')}: {detail}"
    body = json.dumps({"text": text, "run": run, "scenario": settings.name, "event": event, "detail": detail}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - http or https
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310 - http or https
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        complain(f"nobody was told that {run} is {event}: the webhook does not answer ({reason})")

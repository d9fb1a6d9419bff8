"""Site names as a reader may see them: their own, or a keyed pseudonym that stays the same as long as the deployment's secret does."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Any, Final

from ledger import NotOnRecordError

_DOMAIN: Final = b"cifer/pseudonym/1:"
_DIGITS: Final = 12


def pseudonym(secret: bytes, network: bytes, site: str) -> str:
    """``site-`` and 48 bits of HMAC-SHA256 (RFC 2104) of network and name: nobody without the secret can try names out."""
    return f"site-{hmac.digest(secret, _DOMAIN + network + site.encode(), 'sha256').hex()[:_DIGITS]}"


class Names:
    """Hides names in whatever is shown, and finds them again in what comes back.

    One place for all text: a reason, a table's name or a node of the graph may hold a site's name anywhere, so every string is searched.
    """

    def __init__(self, hidden: Iterable[str], secret: bytes, network: bytes) -> None:
        """hidden: the names to hide; none to show everything. Raises ValueError should two have the same pseudonym."""
        self._shown = {name: pseudonym(secret, network, name) for name in hidden}
        self._real = {shown: name for name, shown in self._shown.items()}
        if len(self._real) != len(self._shown):
            msg = "two sites have the same pseudonym: the deployment needs another secret"
            raise ValueError(msg)
        self._names = _any_of(self._shown)
        self._pseudonyms = _any_of(self._real)

    def hide(self, value: Any) -> Any:
        """Plain values (text, numbers, lists, dictionaries with text as keys) with every hidden name replaced, in keys too.

        Raises TypeError for anything else, so that nothing is shown that was not looked at.
        """
        if isinstance(value, str):
            return str(self._names.sub(lambda found: self._shown[found[0].lower()], value)) if self._names else value
        if isinstance(value, dict):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        msg = f"{type(value).__name__} is no plain value"
        raise TypeError(msg)

    def find(self, text: str) -> str:
        """What a reader's text means: pseudonyms become names again.

        Raises `NotOnRecordError` for a hidden name itself: an answer to it would say whose pseudonym is whose.
        """
        if self._names and self._names.search(text):
            raise NotOnRecordError("nothing of this name is shown to you: use the pseudonym")
        return str(self._pseudonyms.sub(lambda found: self._real[found[0]], text)) if self._pseudonyms else text


def _any_of(words: Iterable[str]) -> re.Pattern[str] | None:
    """Any of the words, whole, the longest first: ``north`` is not found in ``northern``."""
    longest = sorted(words, key=lambda word: (-len(word), word))
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, longest))})(?![a-z0-9])", re.IGNORECASE) if longest else None

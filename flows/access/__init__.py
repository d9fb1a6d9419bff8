"""Who may see what of the record: roles, tokens, the log of what was read, and pseudonyms. docs/access.md shows the table."""

from __future__ import annotations

from flows.access.limits import RateLimit
from flows.access.names import Names, pseudonym
from flows.access.roles import RIGHTS, Right, Role
from flows.access.store import Access, Grant, Read

__all__ = ["RIGHTS", "Access", "Grant", "Names", "RateLimit", "Read", "Right", "Role", "pseudonym"]

"""Tokens, sessions and the log of what was read: ``<home>/access/``, readable by its owner alone.

A token is shown once and never kept: at rest there is its BLAKE2b hash (RFC 7693), keyed with a secret that lies in a file beside the
database. The log is a chain: each entry's hash covers the one before, so that an entry cannot be changed, dropped or put in between
without changing the last hash, which `head` shows for keeping elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cifer_tasks.errors import AccessError, IntegrityError, StorageError, UsageError
from cifer_tasks.files import write_once
from flows.access.roles import RIGHTS, Right, Role

SESSION_SECONDS: Final = 12 * 3600
MOST_DAYS: Final = 366
TOKEN: Final = re.compile(r"cifer_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SECRET_BYTES: Final = 32
_FIRST: Final = bytes(32)
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS grants (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, site TEXT NOT NULL, hash BLOB NOT NULL,
    issued INTEGER NOT NULL, expires INTEGER NOT NULL, revoked INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS sessions (hash BLOB PRIMARY KEY, grant_id TEXT NOT NULL REFERENCES grants, expires INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS reads (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, grant_id TEXT NOT NULL, name TEXT NOT NULL, role TEXT NOT NULL, what TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS reads_stay BEFORE UPDATE ON reads BEGIN SELECT raise(ABORT, 'the log is append-only'); END;
CREATE TRIGGER IF NOT EXISTS reads_remain BEFORE DELETE ON reads BEGIN SELECT raise(ABORT, 'the log is append-only'); END;
"""
_GRANT: Final = "id, name, role, site, issued, expires, revoked"


@dataclass(frozen=True, slots=True)
class Grant:
    """A token without what makes it one. site: whose records, for role ``site``. Times are seconds since 1970; revoked: 0 for never."""

    id: str
    name: str
    role: Role
    site: str
    issued: int
    expires: int
    revoked: int

    @property
    def rights(self) -> frozenset[Right]:
        """What it lets somebody do."""
        return RIGHTS[self.role]

    def standing(self, now: int) -> str:
        """``live``, ``expired`` or ``revoked``."""
        if self.revoked:
            return "revoked"
        return "live" if now < self.expires else "expired"


@dataclass(frozen=True, slots=True)
class Read:
    """One entry of the log: who read what, when. hash: 32 bytes over this entry and the hash before it."""

    number: int
    at: int
    grant: str
    name: str
    role: str
    what: str
    hash: bytes


class Access:
    """Who may come in. Safe to share between threads and processes; what one writes, the others see at once."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        """home: CIFER_HOME; secret and database are made on first use. Raises `StorageError`, `IntegrityError`."""
        self.folder = home / "access"
        self.path = self.folder / "access.sqlite"
        self._clock = clock
        self._writing = threading.Lock()
        self.secret = _secret(self.folder)
        with self._open() as database:
            database.executescript(_SCHEMA)

    # ------------------------------------------------------------------------------------------------------------ tokens

    def grant(self, name: str, role: Role, days: int, site: str = "") -> tuple[Grant, str]:
        """A new grant and its token, which is not kept. Raises `UsageError`."""
        if NAME.fullmatch(name) is None:
            msg = f"{name!r} is no name for a holder: use a to z, 0 to 9, '.', '_' and '-', 64 at most"
            raise UsageError(msg)
        if not 1 <= days <= MOST_DAYS:
            msg = f"--days {days}: a token lives 1 to {MOST_DAYS} days; grant another one when it has expired"
            raise UsageError(msg)
        if (role is Role.SITE) != bool(site):
            msg = "--role site needs --site NAME, and no other role takes it"
            raise UsageError(msg)
        now = int(self._clock())
        made = Grant(secrets.token_hex(8), name, role, site, now, now + days * 86400, 0)
        token = f"cifer_{made.id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        with self._change() as database:
            row = (made.id, name, role, site, self._hash(b"token", token), now, made.expires)
            database.execute("INSERT INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
        return made, token

    def grants(self) -> tuple[Grant, ...]:
        """Every grant there ever was, oldest first."""
        with self._open() as database:
            return tuple(_grant(row) for row in database.execute(f"SELECT {_GRANT} FROM grants ORDER BY rowid"))  # noqa: S608

    def revoke(self, which: str) -> tuple[Grant, ...]:
        """End the live grants of this identifier or name at once, sessions included. Raises `UsageError` when there is none."""
        now = int(self._clock())
        found = tuple(grant for grant in self.grants() if which in {grant.id, grant.name} and grant.standing(now) == "live")
        if not found:
            msg = f"{which!r} has no live token; `cifer access list` shows those there are"
            raise UsageError(msg)
        with self._change() as database:
            for grant in found:
                database.execute("UPDATE grants SET revoked = ? WHERE id = ?", (now, grant.id))
                database.execute("DELETE FROM sessions WHERE grant_id = ?", (grant.id,))
        return found

    def holder(self, token: str) -> Grant:
        """Whose token it is. Raises `AccessError`, the same for a wrong, an expired and a revoked one."""
        shape = TOKEN.fullmatch(token)
        given = self._hash(b"token", token)
        with self._open() as database:
            row = database.execute(f"SELECT {_GRANT}, hash FROM grants WHERE id = ?", (shape[1] if shape else "",)).fetchone()  # noqa: S608
        # An unknown identifier takes the same comparison as a wrong secret.
        if not hmac.compare_digest(given, row[-1] if row else _FIRST) or row is None:
            raise AccessError(_REFUSED)
        return self._live(_grant(row[:-1]))

    # ---------------------------------------------------------------------------------------------------------- sessions

    def log_in(self, token: str) -> str:
        """A session for a browser, 12 hours at most: its secret, of which a hash is kept. Raises `AccessError`."""
        grant, now = self.holder(token), int(self._clock())
        session = secrets.token_urlsafe(_SECRET_BYTES)
        with self._change() as database:
            database.execute("DELETE FROM sessions WHERE expires <= ?", (now,))
            expires = min(grant.expires, now + SESSION_SECONDS)
            database.execute("INSERT INTO sessions VALUES (?, ?, ?)", (self._hash(b"session", session), grant.id, expires))
        return session

    def visitor(self, session: str) -> Grant:
        """Whose session it is. Raises `AccessError`."""
        with self._open() as database:
            # Found by its keyed hash: what is compared is nothing that a client can choose.
            row = database.execute(
                f"SELECT {_GRANT} FROM grants WHERE id = (SELECT grant_id FROM sessions WHERE hash = ? AND expires > ?)",  # noqa: S608
                (self._hash(b"session", session), int(self._clock())),
            ).fetchone()
        if row is None:
            raise AccessError(_REFUSED)
        return self._live(_grant(row))

    def log_out(self, session: str) -> None:
        """End a session."""
        with self._change() as database:
            database.execute("DELETE FROM sessions WHERE hash = ?", (self._hash(b"session", session),))

    # ----------------------------------------------------------------------------------------------------------- the log

    def record(self, grant: Grant, what: str) -> Read:
        """Note a read before it is answered; durable when this returns. Raises `StorageError` when it cannot be noted."""
        with self._change() as database:
            number, previous = _head(database)
            entry = (number + 1, int(self._clock()), grant.id, grant.name, str(grant.role), what)
            read = Read(*entry, _chained(previous, entry))
            database.execute("INSERT INTO reads VALUES (?, ?, ?, ?, ?, ?, ?)", (*entry, read.hash))
        return read

    def reads(self, last: int = 200) -> tuple[Read, ...]:
        """The last entries, newest first."""
        with self._open() as database:
            return tuple(Read(*row) for row in database.execute("SELECT * FROM reads ORDER BY number DESC LIMIT ?", (last,)))

    def check_log(self) -> tuple[int, bytes]:
        """How many entries the log has and its last hash, 32 zero bytes for none.

        Raises `IntegrityError` naming the first entry that does not hold. A log that lost its end holds all the same:
        `flows.access_anchors` compares it with what the ledger was told of it.
        """
        number, previous = 0, _FIRST
        with self._open() as database:
            for row in database.execute("SELECT * FROM reads ORDER BY number"):
                entry, found = row[:-1], row[-1]
                if entry[0] != number + 1 or not hmac.compare_digest(found, _chained(previous, entry)):
                    msg = f"{self.path}: entry {number + 1} of the access log is not what was written; keep the file and ask who changed it"
                    raise IntegrityError(msg)
                number, previous = entry[0], found
        return number, previous

    def hash_of(self, number: int) -> bytes | None:
        """The hash of entry `number`, None when the log has no such entry."""
        with self._open() as database:
            row = database.execute("SELECT hash FROM reads WHERE number = ?", (number,)).fetchone()
        return bytes(row[0]) if row else None

    # ------------------------------------------------------------------------------------------------------------- below

    def _live(self, grant: Grant) -> Grant:
        if grant.standing(int(self._clock())) != "live":
            raise AccessError(_REFUSED)
        return grant

    def _hash(self, what: bytes, text: str) -> bytes:
        return hashlib.blake2b(text.encode(errors="replace"), digest_size=32, key=self.secret, person=b"cifer/" + what).digest()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as database:
                yield database
        except sqlite3.DatabaseError as error:
            msg = f"{self.path}: {error}; free or unlock it, or restore it from a backup"
            raise StorageError(msg) from None

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._writing, self._open() as database:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")


_REFUSED: Final = "this token is unknown, expired or revoked; ask for another one: cifer access grant NAME --role ROLE"


def _secret(folder: Path) -> bytes:
    path = folder / "secret"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chmod(folder, 0o700)
        write_once(path, secrets.token_bytes(_SECRET_BYTES))
        found = path.read_bytes()
    except OSError as error:
        msg = f"{path}: cannot be read or written: {error.strerror}; set CIFER_HOME to a folder of your own"
        raise StorageError(msg) from None
    if len(found) != _SECRET_BYTES:
        msg = f"{path}: has {len(found)} bytes instead of {_SECRET_BYTES}; restore it, or delete the folder and grant all tokens again"
        raise IntegrityError(msg)
    return found


def _grant(row: tuple[str, str, str, str, int, int, int | None]) -> Grant:
    id_, name, role, site, issued, expires, revoked = row
    return Grant(id_, name, Role(role), site, issued, expires, revoked or 0)


def _head(database: sqlite3.Connection) -> tuple[int, bytes]:
    number, previous = database.execute("SELECT number, hash FROM reads ORDER BY number DESC LIMIT 1").fetchone() or (0, _FIRST)
    return int(number), bytes(previous)


def _chained(previous: bytes, entry: tuple[int | str, ...]) -> bytes:
    """SHA-256 over the hash before and the entry as a JSON array, under a tag of its own."""
    line = json.dumps(list(entry), ensure_ascii=True, separators=(",", ":")).encode()
    return hashlib.sha256(b"cifer/access-log/1:" + previous + line).digest()

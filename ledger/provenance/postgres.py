"""The index in a schema of a PostgreSQL database, for many readers on many machines: the tables and statements of the embedded one.

What SQLite says otherwise is translated, word for word, and its functions `json_extract`, `json_each` and `json_patch` and its full-text
table are defined in the schema. Text is compared by code point, as SQLite does. PostgreSQL's text holds no NUL: one in a name that
an event claims becomes U+FFFD.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, cast

from ledger.errors import LockedError, StorageError
from ledger.provenance.engines import Connection, Rows

SCHEMA: Final = "cifer_provenance"
_OPTIONS: Final = f"-c search_path={SCHEMA} -c lock_timeout=5s -c synchronous_commit=off"
"""A cache may lose its last commits in a power cut: they are derived again."""
_LOCK: Final = 0x63696665
"""One writer at a time, also before there is a table to lock."""

_WORDS: Final = """CREATE TABLE words (rowid BIGINT PRIMARY KEY, text TSVECTOR NOT NULL);
CREATE INDEX words_by_text ON words USING gin (text);
CREATE OR REPLACE FUNCTION json_extract(given text, path text) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT given::jsonb ->> substr(path, 3) $$;
CREATE OR REPLACE FUNCTION json_each(given text) RETURNS TABLE (value text) LANGUAGE sql IMMUTABLE AS
    $$ SELECT jsonb_array_elements_text(given::jsonb) $$;
CREATE OR REPLACE FUNCTION json_patch(before text, given text) RETURNS text LANGUAGE sql IMMUTABLE AS
    $$ SELECT (before::jsonb || given::jsonb)::text $$;
CREATE OR REPLACE FUNCTION words_of(given text) RETURNS tsvector LANGUAGE sql IMMUTABLE AS
    $$ SELECT array_to_tsvector(array_remove(regexp_split_to_array(
        regexp_replace(normalize(lower(given), NFD), '[\u0300-\u036f]', '', 'g'), '[^[:alnum:]_]+'), '')) $$;
CREATE OR REPLACE FUNCTION words_asked(given text) RETURNS tsquery LANGUAGE sql IMMUTABLE AS
    $$ SELECT replace(replace(replace(lower(given), '"* "', ''':* & '''), '"*', ''':*'), '"', '''')::tsquery $$"""

_WHOLE: Final = {
    "BEGIN IMMEDIATE": f"BEGIN; SELECT pg_advisory_xact_lock({_LOCK})",
    "INSERT INTO words (rowid, text) VALUES (?, ?)": "INSERT INTO words (rowid, text) VALUES (?, words_of(?))",
}
_RULES: Final = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"\bINTEGER\b", "BIGINT"),
        (r"\bBLOB\b", "BYTEA"),
        (r"\bTEXT\b", 'TEXT COLLATE "C"'),
        (r"\)\s*WITHOUT ROWID", ")"),
        (r"\bCROSS JOIN\b", "JOIN"),
        (r"\bLIKE\b", "ILIKE"),
        (r"\bIS NOT \?", "IS DISTINCT FROM ?"),
        (r"\+(?=(n\.)?kind\b)", ""),
        (r"\bINDEXED BY \w+", ""),
        (r"json_group_array\((\w+)\)", r"json_agg(\1)::text"),
        (r"json_each\((\?\d*)\)", r"json_each(\1::text)"),
        (r"words MATCH \?", "text @@ words_asked(?)"),
        (r"%", "%%"),
    )
)


@lru_cache(maxsize=512)
def translated(query: str) -> tuple[str, tuple[int, ...] | None]:
    """A statement as PostgreSQL's driver takes it, and, where parameters are numbered, which of them stands at each place."""
    if query.startswith("CREATE VIRTUAL TABLE words"):
        return _WORDS, None
    text = _WHOLE.get(query, query)
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    places = re.findall(r"\?(\d*)", text)
    order = tuple(int(place) - 1 for place in places) if any(places) else None
    return re.sub(r"\?\d*", "%s", text), order


class _Session:
    """A `Connection`: psycopg's, told SQLite's words."""

    def __init__(self, connection: Any) -> None:
        self.driver = connection

    def execute(self, query: str, parameters: Sequence[object] = (), /) -> Rows:
        """See `Connection`."""
        text, order = translated(query)
        return cast(Rows, self.driver.execute(text, _bound(parameters, order) or None))

    def executemany(self, query: str, parameters: Iterable[Sequence[object]], /) -> object:
        """See `Connection`."""
        text, order = translated(query)
        with self.driver.cursor() as cursor:
            cursor.executemany(text, [_bound(one, order) for one in parameters])
        return None

    def rollback(self) -> None:
        """See `Connection`."""
        if not self.driver.closed:
            self.driver.rollback()

    def close(self) -> None:
        """See `Connection`."""
        self.driver.close()


class Postgres:
    """An `Engine`: the schema ``cifer_provenance`` of a database. The password comes from PGPASSFILE or PGPASSWORD, as libpq reads them."""

    def __init__(self, url: str) -> None:
        """url: ``postgresql://user@host:port/database``, without a password: it is shown. Raises `StorageError` without psycopg."""
        try:
            import psycopg
        except ImportError:
            raise StorageError(f"{url}: the driver of PostgreSQL is not installed: pip install 'cifer[postgres]'") from None
        self._psycopg = psycopg
        self._url, self.place, self.remedy = url, f"{url}, schema {SCHEMA}", f"drop the schema {SCHEMA}"

    def connect(self, *, bulk: bool = False) -> Connection:
        """See `Engine`. Makes the schema when it is not there."""
        connection = self._psycopg.connect(self._url, autocommit=True, options=_OPTIONS, connect_timeout=10)
        found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (SCHEMA,)).fetchone()
        if found is None:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        return _Session(connection)

    def alive(self, connection: Connection) -> bool:
        """See `Engine`."""
        return isinstance(connection, _Session) and not connection.driver.closed

    def tables(self, connection: Connection) -> frozenset[str]:
        """See `Engine`."""
        return frozenset(name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = ?", (SCHEMA,)))

    def clear(self, connection: Connection) -> None:
        """See `Engine`."""
        for name in self.tables(connection):
            connection.execute(f'DROP TABLE "{name}"')

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See `Engine`."""
        try:
            yield
        except self._psycopg.OperationalError as error:
            raise self._unreachable(error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Engine`."""
        try:
            yield
        except self._psycopg.errors.LockNotAvailable as error:
            raise LockedError(f"{self.place} is being built by another process: ask again when it is done") from error
        except self._psycopg.Error as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> StorageError:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        return StorageError(f"{self.place}: {reason}; check that the server runs, and PGPASSFILE and the role's rights")


def _bound(parameters: Sequence[object], order: tuple[int, ...] | None) -> tuple[object, ...]:
    given = tuple(item.replace("\x00", "\ufffd").replace("\\u0000", "\ufffd") if isinstance(item, str) else item for item in parameters)
    return given if order is None else tuple(given[place] for place in order)

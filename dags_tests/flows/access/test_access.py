"""Tokens, sessions, the log of reads, pseudonyms and rate limits, by themselves."""

from __future__ import annotations

import hmac
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks.errors import AccessError, IntegrityError, UsageError
from flows.access import RIGHTS, Access, Names, RateLimit, Right, Role, pseudonym, store
from flows.cli import cli
from ledger import NotOnRecordError

NETWORK = bytes(32)
DAY = 86400
site_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Access:
    return Access(tmp_path, clock)


def _alter(access: Access, *statements: str) -> None:
    """Edit the log as its host could: without the triggers."""
    with closing(sqlite3.connect(access.path)) as database:
        database.executescript("DROP TRIGGER reads_stay; DROP TRIGGER reads_remain;" + ";".join(statements))


# ------------------------------------------------------------------------------------------------------------ tokens


def test_a_token_is_not_at_rest(access: Access) -> None:
    """Neither a token's secret half nor a session's is in any file beside the database; what they open is."""
    grant, token = access.grant("maria", Role.AUDITOR, 30)
    session = access.log_in(token)
    files = b"".join(path.read_bytes() for path in access.folder.iterdir())
    assert token.split("_", 2)[2].encode() not in files
    assert session.encode() not in files
    assert grant.id.encode() in files
    assert access.holder(token) == access.visitor(session) == grant
    assert (access.folder / "secret").stat().st_mode & 0o777 == 0o600
    assert access.folder.stat().st_mode & 0o777 == 0o700


def test_a_token_holds_256_bits_and_is_never_given_twice(access: Access) -> None:
    """The secret half is 43 characters of base64url, 32 random bytes, and differs every time."""
    tokens = {access.grant("maria", Role.AUDITOR, 1)[1] for _ in range(20)}
    assert len({token.split("_", 2)[2] for token in tokens}) == 20
    assert all(store.TOKEN.fullmatch(token) for token in tokens)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_another_token_opens_nothing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One character changed, dropped or added anywhere, and the token is refused in the same words as an unknown one."""
    access = Access(tmp_path_factory.getbasetemp() / "others")
    _, token = access.grant("maria", Role.AUDITOR, 1)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(
        st.sampled_from([token[:at] + token[at + 1 :], token[:at] + "é" + token[at:], token[:at] + "~" + token[at + 1 :], "", " " + token])
    )
    with pytest.raises(AccessError) as changed:
        access.holder(other)
    with pytest.raises(AccessError) as unknown:
        access.holder(f"cifer_{'0' * 16}_{'A' * 43}")
    assert str(changed.value) == str(unknown.value)


def test_the_database_alone_opens_nothing(access: Access, tmp_path: Path) -> None:
    """A copy of the database under another secret refuses every token: hashes are keyed with a file that was not copied."""
    _, token = access.grant("maria", Role.AUDITOR, 30)
    other = Access(tmp_path / "elsewhere", access._clock)
    other.path.write_bytes(access.path.read_bytes())
    assert len(other.grants()) == 1
    with pytest.raises(AccessError):
        other.holder(token)


def test_expiry_and_revocation_end_tokens_and_sessions(access: Access, clock: Clock, tmp_path: Path) -> None:
    """A token ends at its day, a session after 12 hours or with its token; revoking, in another process too, ends both at once."""
    _, short = access.grant("maria", Role.AUDITOR, 1)
    _, long = access.grant("john", Role.OPERATOR, 30)
    session = access.log_in(long)
    clock.now += store.SESSION_SECONDS
    with pytest.raises(AccessError):
        access.visitor(session)
    clock.now += DAY
    with pytest.raises(AccessError):
        access.holder(short)
    session = access.log_in(long)
    Access(tmp_path, clock).revoke("john")
    for call, secret in ((access.holder, long), (access.visitor, session), (access.log_in, long)):
        with pytest.raises(AccessError):
            call(secret)
    assert [grant.standing(int(clock.now)) for grant in access.grants()] == ["expired", "revoked"]
    with pytest.raises(UsageError, match="no live token"):
        access.revoke("john")


def test_a_session_ends_when_its_holder_leaves(access: Access) -> None:
    """Logging out ends that session and no other."""
    _, token = access.grant("maria", Role.AUDITOR, 1)
    first, second = access.log_in(token), access.log_in(token)
    access.log_out(first)
    with pytest.raises(AccessError):
        access.visitor(first)
    assert access.visitor(second).name == "maria"


@pytest.mark.parametrize(
    ("name", "role", "days", "site"),
    [
        ("", "auditor", 1, ""),
        ("A b", "auditor", 1, ""),
        ("x", "auditor", 0, ""),
        ("x", "auditor", 400, ""),
        ("x", "site", 1, ""),
        ("x", "admin", 1, "s"),
    ],
)
def test_what_cannot_be_granted(access: Access, name: str, role: str, days: int, site: str) -> None:
    """A holder has a name, a token a lifetime, and a site is named for the role that needs one and no other."""
    with pytest.raises(UsageError):
        access.grant(name, Role(role), days, site)


def test_no_role_has_more_than_it_needs() -> None:
    """Only an auditor sees what was signed, only an administrator who has tokens; engineers see no names, sites only their own records."""
    having = {right: {role for role in Role if right in RIGHTS[role]} for right in Right}
    assert having[Right.RAW] == {Role.AUDITOR}
    assert having[Right.ACCESS] == {Role.ADMIN}
    assert having[Right.NAMES] == {Role.AUDITOR, Role.OPERATOR}
    assert having[Right.SITES] == {Role.AUDITOR, Role.OPERATOR, Role.ENGINEER}
    assert having[Right.OWN] == {Role.SITE}


# ----------------------------------------------------------------------------------------------------------- the log


def _log(access: Access, entries: int = 6) -> None:
    grant, _ = access.grant("maria", Role.AUDITOR, 1)
    for number in range(entries):
        access.record(grant, f"/runs/run-{number}")


def test_the_log_outlives_its_process(access: Access, tmp_path: Path, clock: Clock) -> None:
    """Another process goes on with the chain where the first one left it."""
    _log(access)
    again = Access(tmp_path, clock)
    again.record(again.grants()[0], "/consents")
    assert again.check_log()[0] == 7
    assert [item.what for item in again.reads(2)] == ["/consents", "/runs/run-5"]


TAMPERING = {
    "another path": ("UPDATE reads SET what = '/' WHERE number = 3",),
    "another holder": ("UPDATE reads SET name = 'john' WHERE number = 1",),
    "another time": ("UPDATE reads SET at = at + 1 WHERE number = 6",),
    "one dropped": ("DELETE FROM reads WHERE number = 3",),
    "one dropped, closed up": ("DELETE FROM reads WHERE number = 3", "UPDATE reads SET number = number - 1 WHERE number > 3"),
    "first dropped": ("DELETE FROM reads WHERE number = 1",),
    "two exchanged": (
        "UPDATE reads SET number = 99 WHERE number = 2",
        "UPDATE reads SET number = 2 WHERE number = 3",
        "UPDATE reads SET number = 3 WHERE number = 99",
    ),
}


@pytest.mark.parametrize("statements", TAMPERING.values(), ids=TAMPERING)
def test_an_edited_log_is_found_out(access: Access, statements: tuple[str, ...]) -> None:
    """Whatever is changed, dropped or moved, the log no longer holds."""
    _log(access)
    _alter(access, *statements)
    with pytest.raises(IntegrityError, match="access log"):
        access.check_log()


def test_a_log_without_chain_would_let_a_dropped_entry_pass(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant whose hashes cover neither the entry before nor the number does not notice what the tests above do."""
    monkeypatch.setattr(store, "_chained", lambda _, entry: sha256(repr(entry[1:]).encode()).digest())
    _log(access)
    _alter(access, *TAMPERING["one dropped, closed up"])
    assert access.check_log()[0] == 5


def test_the_end_of_a_log_is_held_by_its_last_hash(access: Access) -> None:
    """A log that lost its end still holds, and its last hash is not the one that was shown before."""
    _log(access)
    _, head = access.check_log()
    _alter(access, "DELETE FROM reads WHERE number = 6")
    count, now = access.check_log()
    assert (count, now == head) == (5, False)


def test_the_database_itself_refuses_to_change_the_log(access: Access) -> None:
    """Its triggers stop an accident: no entry is updated or deleted through an ordinary connection."""
    _log(access, 1)
    for statement in ("UPDATE reads SET what = ''", "DELETE FROM reads"):
        with closing(sqlite3.connect(access.path)) as database, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute(statement)


# ------------------------------------------------------------------------------------------------------- pseudonyms


@given(st.lists(site_names, min_size=1, max_size=8, unique=True), st.text(max_size=40), st.data())
def test_no_hidden_name_is_shown_and_every_pseudonym_is_found(sites: list[str], text: str, data: st.DataObject) -> None:
    """Names in any text, list or key are gone from what is shown, and what is shown leads back to what was meant."""
    names = Names(sites, b"k" * 32, NETWORK)
    chosen = data.draw(st.sampled_from(sites))
    shown = names.hide({f"site/{chosen}": [f"{chosen} left: {text}", 7, None]})
    (key,) = shown
    assert key == f"site/{pseudonym(b'k' * 32, NETWORK, chosen)}"
    if chosen not in {"site", key[5:]}:
        assert names.find(key) == f"site/{chosen}"
    if chosen != "site":
        with pytest.raises(NotOnRecordError):
            names.find(f"site/{chosen}")


def test_a_name_inside_a_word_is_another_word() -> None:
    """``north`` is hidden beside any mark, also in capitals, and is not found in ``northern``; the longest name counts."""
    names = Names(["north", "north-2"], b"k" * 32, NETWORK)
    first, second = (pseudonym(b"k" * 32, NETWORK, name) for name in ("north", "north-2"))
    assert names.hide("run/x/submission/north North, northern north-2.csv") == f"run/x/submission/{first} {first}, northern {second}.csv"


def test_pseudonyms_are_keyed_and_stable() -> None:
    """The same secret and network give the same pseudonym; another secret, network or site another one."""
    made = {pseudonym(secret * 32, network, site) for secret in (b"a", b"b") for network in (NETWORK, b"n" * 32) for site in ("x", "y")}
    assert len(made) == 8
    keyed = hmac.new(b"a" * 32, b"cifer/pseudonym/1:" + NETWORK + b"x", sha256).hexdigest()
    assert pseudonym(b"a" * 32, NETWORK, "x") == f"site-{keyed[:12]}"
    assert Names([], b"", NETWORK).hide({"site": ["north"]}) == {"site": ["north"]}


def test_what_was_not_looked_at_is_not_shown() -> None:
    """A value that is no plain one is refused instead of passed through."""
    with pytest.raises(TypeError, match="bytes"):
        Names(["north"], b"k" * 32, NETWORK).hide([b"north"])


# ------------------------------------------------------------------------------------------------------------ limits


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 300)), max_size=80))
def test_nobody_gets_more_than_the_burst_and_the_rate(asked: list[tuple[str, int]]) -> None:
    """Over any time, a key is let through at most `burst` plus rate times seconds; a refusal names a wait that is enough."""
    now = 0.0
    limit = RateLimit(5, 0.5, lambda: now)
    passed = {"a": 0, "b": 0}
    for key, tenths in asked:
        now += tenths / 10
        wait = limit.wait(key)
        passed[key] += wait == 0
        assert passed[key] <= 5 + now * 0.5 + 1e-9
        assert wait <= 2
    for key in "ab":
        now += limit.wait(key)
        now += 2
        assert limit.wait(key) == 0


# ---------------------------------------------------------------------------------------------------------- commands


def test_the_commands_show_a_token_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cifer access grant` prints the token; `list`, `revoke` and `log` never do."""
    monkeypatch.setenv("CIFER_HOME", str(tmp_path))

    def run(*words: str) -> str:
        done = CliRunner().invoke(cli, ["access", *words], catch_exceptions=False)
        return done.output

    token = run("grant", "maria", "--role", "auditor").split()[1]
    assert Access(tmp_path).holder(token).role is Role.AUDITOR
    secret = token.split("_", 2)[2]
    listed, ended, log = run("list"), run("revoke", "maria"), run("log", "--json")
    assert "maria" in listed and "live" in listed and "revoked" in run("list")
    assert secret not in listed + ended + log
    assert '"entries": 0' in log

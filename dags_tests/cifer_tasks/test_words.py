"""A site's word holds: said once, durable before it counts, whatever dies in between."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks import words
from cifer_tasks.errors import StorageError
from cifer_tasks.words import JOURNAL, say_once


def test_the_first_word_of_a_name_counts(tmp_path: Path) -> None:
    """Saying the same again is fine, another thing under the same name is not what was said, and other names are others."""
    assert say_once([(tmp_path, "round-1.opens", b"x"), (tmp_path, "round-2.opens", b"y")]) == [True, True]
    assert say_once([(tmp_path, "round-1.opens", b"x"), (tmp_path, "round-1.opens", b"y")]) == [True, False]
    assert say_once([(tmp_path, "round-1", b"z")]) == [True]
    assert say_once([(tmp_path, "round-1.opens", b"z"), (tmp_path, "round-2.opens", b"y")]) == [False, True]
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 3
    assert (tmp_path / JOURNAL).stat().st_mode & 0o777 == 0o600


def test_a_word_is_durable_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal and its folder are flushed before anything is returned, also for a word that somebody else wrote and did not flush."""
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")))
    for process in range(2):
        words._named.clear()
        for time in range(2):  # what the folder is called is flushed once by each process
            flushed.clear()
            say_once([(tmp_path, "a", b"x")])
            assert sorted(flushed) == [*([] if time else [str(tmp_path)]), str(tmp_path / JOURNAL)], process
    (tmp_path / JOURNAL).unlink()
    flushed.clear()
    say_once([(tmp_path, "a", b"x")])
    assert sorted(flushed) == [str(tmp_path), str(tmp_path / JOURNAL)]


@settings(deadline=None, max_examples=60)
@given(kept=st.integers(0, 200), said=st.lists(st.sampled_from([b"x", b"y"]), min_size=1, max_size=3))
def test_what_a_power_cut_left_of_a_line_is_no_word(tmp_path_factory: pytest.TempPathFactory, kept: int, said: list[bytes]) -> None:
    """Cut anywhere, a journal keeps its whole lines, and what is appended later reads back."""
    folder = tmp_path_factory.mktemp("cut")
    say_once([(folder, f"round-{number}", b"x") for number in (1, 2)])
    whole = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(whole[:kept])
    lasting = [number for number in (1, 2) if kept >= len(whole) * number // 2 - 1]
    for number in (1, 2):
        for at, word in enumerate(said):
            first = b"x" if number in lasting else said[0]
            assert say_once([(folder, f"round-{number}", word)]) == [word == first], (at, lasting)


def test_of_many_who_speak_at_once_one_is_heard(tmp_path: Path) -> None:
    """Threads, as processes, that say different things under one name: exactly one is told that it said it."""
    for turn in range(20):
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda word, turn=turn: say_once([(tmp_path, f"round-{turn}", bytes((word,)))])[0], range(8)))
        assert sum(told) == 1


def test_a_line_that_is_not_there_afterwards_is_not_relied_upon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes only a part of a line, or loses it: a clear error and no word."""
    with monkeypatch.context() as patch:
        patch.setattr(words, "_append", lambda path, line: path.write_bytes(line[:-9]))
        with pytest.raises(StorageError, match="run again"):
            say_once([(tmp_path, "a", b"x")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: len(line) - 1)
        with pytest.raises(StorageError, match="the disk is full; free space there"):
            say_once([(tmp_path, "a", b"x")])
    (tmp_path / JOURNAL).unlink()
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        say_once([(tmp_path, "a", b"x")])

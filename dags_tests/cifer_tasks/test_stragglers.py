"""The schedule of simulated stragglers, and the settings that make it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifer_tasks import stragglers
from cifer_tasks.config import Settings, parse
from cifer_tasks.errors import ConfigError
from cifer_tasks.stragglers import Schedule, Stragglers, delay

SITES = tuple(f"s{number}" for number in range(6))
ROUNDS = 12


def made(**changes: Any) -> Settings:
    """Settings of six sites."""
    data = {"files": {site: f"{site}.csv" for site in SITES}, "target": "ill"}
    return parse({"name": "lab", "data": data, **changes}, "test")


@st.composite
def choices(draw: st.DrawFn) -> Settings:
    """Settings with any delays, deadline, buffer and staleness."""
    bounds = st.tuples(st.integers(0, 9000), st.integers(0, 9000)).map(sorted)
    delays = draw(st.dictionaries(st.sampled_from([*SITES, "others"]), bounds))
    buffer = draw(st.sampled_from([0, 2, 3, 6]))
    return made(
        seed=draw(st.integers(0, 9)),
        rounds={
            "mode": "buffered" if buffer else "synchronous",
            "buffer": buffer,
            "late": draw(st.sampled_from(["refuse", "carry"])),
            "max_staleness": draw(st.integers(1, 4)),
        },
        simulation={"delays": {site: [low / 1000, high / 1000] for site, (low, high) in delays.items()}},
        sites={"deadline_seconds": draw(st.sampled_from([0.5, 4.0, 60.0])), "fraction": draw(st.sampled_from([0.4, 1.0]))},
    )


def broken(chosen: Settings, rounds: list[Schedule]) -> list[str]:
    """What is wrong with a schedule, by the definition alone."""
    wrong = []
    sent: set[tuple[str, int]] = set()
    for before, found in pairwise([Schedule(0, 0, 0, (), ()), *rounds]):
        deadline = found.opens + chosen.sites.deadline_seconds * 1000
        names = [work.site for work in (*found.arrivals, *found.late)]
        if not (found.opens == before.closes <= found.closes <= deadline):
            wrong.append("time")
        if len(set(names)) != len(names) or sent & {(work.site, work.began) for work in found.arrivals}:
            wrong.append("twice")
        if any(not 0 <= found.round - work.began <= chosen.rounds.staleness for work in (*found.arrivals, *found.late)):
            wrong.append("too old")
        if any(work.ends > found.closes for work in found.arrivals):
            wrong.append("before it was done")
        if found.late and len(found.arrivals) != chosen.rounds.buffer and found.closes != deadline:
            wrong.append("closed too early")
        if chosen.rounds.buffer and len(found.arrivals) > chosen.rounds.buffer:
            wrong.append("more than the buffer")
        sent |= {(work.site, work.began) for work in found.arrivals}
    return wrong


def schedule(chosen: Settings) -> list[Schedule]:
    simulated = Stragglers(chosen, SITES)
    return [simulated.round(number) for number in range(1, ROUNDS + 1)]


@given(choices())
@settings(max_examples=150, deadline=None)
def test_every_schedule_keeps_its_rules_and_follows_from_the_settings_alone(chosen: Settings) -> None:
    """Nobody is in twice, too late, too early or beyond the buffer; rounds follow each other; asked again, in any order, it is the same."""
    rounds = schedule(chosen)
    assert broken(chosen, rounds) == []
    backwards = Stragglers(chosen, SITES)
    assert [backwards.round(number) for number in range(ROUNDS, 0, -1)] == rounds[::-1]


def test_a_schedule_that_takes_updates_of_any_age_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: with a simulation that forgets `late: refuse`, the rules above find an update that is too old."""
    chosen = made(simulation={"delays": {"s1": [5, 5]}}, sites={"deadline_seconds": 3.0})
    assert broken(chosen, schedule(chosen)) == []
    forgetful = chosen.model_copy(update={"rounds": chosen.rounds.model_copy(update={"late": "carry"})})
    assert "too old" in broken(chosen, schedule(forgetful))


def test_without_delays_everybody_is_in_at_once() -> None:
    """A synchronous run without a simulation: all sites, no time, no lag; also where only some are drawn."""
    for found in schedule(made()):
        assert {work.site for work in found.arrivals} == set(SITES) and not found.late
        assert (found.opens, found.closes) == (0, 0) and all(work.began == found.round for work in found.arrivals)


def test_a_tie_does_not_favour_a_name() -> None:
    """Six sites of equal speed and a buffer of two: over fifty rounds each of them is in."""
    simulated = Stragglers(made(rounds={"mode": "buffered", "buffer": 2}), SITES)
    seen = {work.site for number in range(1, 51) for work in simulated.round(number).arrivals}
    assert seen == set(SITES)


@given(st.integers(0, 99), st.integers(1, 999))
def test_a_delay_lies_between_its_bounds_and_depends_on_seed_site_and_round(seed: int, number: int) -> None:
    """Drawn in whole milliseconds; who is not named takes what `others` take, or no time."""
    chosen = made(seed=seed, simulation={"delays": {"s0": [1.5, 2.25], "others": [0.001, 0.001]}})
    assert 1500 <= delay(chosen, "s0", number) <= 2250 and delay(chosen, "s1", number) == 1
    assert delay(made(seed=seed), "s0", number) == 0
    spread = {delay(chosen, "s0", at) for at in range(200)}
    assert len(spread) > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": {"mode": "buffered"}}, "rounds.buffer is the number of updates"),
        ({"rounds": {"buffer": 3}}, "set both or neither"),
        ({"rounds": {"mode": "buffered", "buffer": 1}}, "rounds.buffer=1 closes a round below sites.minimum=2; raise it, or lower that"),
        ({"rounds": {"max_staleness": 0}}, "rounds.max_staleness"),
        ({"simulation": {"delays": {"s0": [2, 1]}}}, "s0 takes 2 to 1 seconds; give the shorter first"),
        ({"simulation": {"delays": {"s9": [1, 2]}}}, "simulation.delays: s9 is no site of data.files; name one of others, s0"),
        (
            {
                "simulation": {"delays": {"s0": [1, 2]}},
                "execution": "sites",
                "ledger": {"backend": "processes"},
                "data": {"files": {"s0": "a.csv"}, "holdout_file": "h.csv", "target": "ill"},
            },
            "under execution: sites the sites take the time they take",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    """Each says which key it is about, and what to do."""
    with pytest.raises(ConfigError) as caught:
        made(**changes)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_module_reads_no_clock() -> None:
    """The simulation's time is counted, not taken."""
    assert not {"time", "datetime"} & set(vars(stragglers))

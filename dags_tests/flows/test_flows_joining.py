"""Sites that join a run under way: from the next round on, under every scheme, as far as there is room; resumed, late, replayed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cifer_tasks import replay as replaying
from cifer_tasks import tasks
from cifer_tasks.encryption.encoding import Encoding
from cifer_tasks.errors import IntegrityError, UsageError
from cifer_tasks.network import author
from cifer_tasks.site_home import Offer, SiteHome
from cifer_tasks.workspace import SiteFailed, SiteJoined, StepStarted, Workspace
from flows.station import missed
from ledger import GrantConsent, WithdrawConsent
from ledger.provenance import genesis_from_json, read_bundle, verify_bundle

ALL, TWO = ["east", "north", "west"], ["east", "north"]


class Killed(BaseException):
    """Stands for the death of the process: no handler sees it."""


def away(trainer: Any, settings: Any) -> Any:
    """A new run before which west has taken its consent back, so that it starts without it."""
    ref = trainer.open(settings)
    with trainer.here():
        plain = {name: getattr(tasks, name).fn for name in ("prepare", "enrol")}
        workspace = Workspace.of(ref)
        plain["enrol"](ref, plain["prepare"](ref))
        consent = workspace.record.state.consent(bytes.fromhex(workspace.dataset("west").sha256), "lab")
        if consent is not None and consent.live:
            decide(ref, WithdrawConsent, "not yet")
        Workspace.close_all()
    return ref


def decide(ref: Any, kind: Any, *reason: str) -> None:
    """West grants or withdraws its consent."""
    workspace = Workspace.of(ref)
    body = kind(bytes.fromhex(workspace.dataset("west").sha256), "lab", *reason)
    author("west", workspace.ledger, workspace.keys).send(body)


def at(ref: Any, step: str, number: int, act: Callable[[], None]) -> Callable[[Any], None]:
    """A listener that does something when a step begins, once."""
    done: list[int] = []

    def listen(progress: Any) -> None:
        if isinstance(progress, StepStarted) and (progress.step, progress.round) == (step, number) and not done:
            done.append(1)
            act()

    return listen


def joins(ref: Any, number: int = 1) -> Callable[[Any], None]:
    """West grants its consent while round `number` is sealed."""
    return at(ref, "seal", number, lambda: decide(ref, GrantConsent))


def strike() -> None:
    """The process dies here."""
    raise Killed


def sealed(trainer: Any, run: str) -> list[list[str]]:
    """Whose updates are in each round's sum."""
    return [list(found.sealed_sites) for found in trainer.history(run).rounds]


def test_a_site_that_joins_takes_part_from_the_next_round_under_every_scheme(trainer: Any, tmp_path: Path) -> None:
    """West joins while round 1 is sealed and is in round 2: one digest under threshold, ckks, and plain, there killed twice and resumed.

    Bundles verify and replay; with key holders, a bound or rows that are not the round's own they do not (the mutants). It begins with a
    newcomer's reputation and is judged in its own rounds alone.
    """
    digests, bundles = set(), {}
    for scheme in ("ckks", "threshold", "plain"):
        encryption = {"scheme": scheme, "error_feedback": True, "bits": 12}
        ref = away(trainer, trainer.settings(gate__margin=1.0, rounds__max_sites=3, encryption=encryption))
        trainer.progress.clear()
        join = joins(ref)
        for step in ("open_round", "seal") if scheme == "plain" else ():
            with pytest.raises(Killed):
                trainer.train(ref, [join, at(ref, step, 2, strike)])
        trainer.train(ref, [join])
        assert [item for item in trainer.progress if isinstance(item, SiteJoined)] == [SiteJoined(2, "west")]
        assert sealed(trainer, ref.run) == [TWO, ALL]
        run = trainer.state().run(ref.run)
        assert [(one.site, one.since) for one in run.joined] == [("west", 2)] and len(run.datasets) == 2
        digests.add(run.current_model)
        path = tmp_path / f"{scheme}.cifer"
        assert trainer.cifer("export", "lab@champion", "-o", path, "--with-artifacts").code == 0
        file = read_bundle(path)
        verified = verify_bundle(file.bundle, genesis_from_json(trainer.cifer("ledger", "genesis").out, "genesis"))
        assert [list(item.sites) for item in replaying.replay(verified, file.artifact).rounds] == [TWO, ALL]
        bundles[scheme] = verified, file
    assert len(digests) == 1

    west, north = (trainer.state().reputation(site) for site in ("west", "north"))
    assert (west.judgements, west.level, north.judgements) == (3, "normal", 6)
    said = json.loads(trainer.cifer("audit", "run", ref.run, "--json").out)
    assert [(item["site"], item["since"]) for item in said["sites"]] == [("east", 1), ("north", 1), ("west", 2)]
    assert "west joined" in trainer.cifer("audit", "run", ref.run).out

    verified, file = bundles["threshold"]
    holders = [json.loads(file.artifact(found.public_context) or b"")["holders"] for found in verified.history.run.rounds]
    assert [[name for name, _ in found] for found in holders] == [TWO, ALL]
    grown = Encoding.joined_by
    mutants: list[tuple[str, Any, str, Any, str]] = [
        ("threshold", replaying._Replaying, "_members", lambda self, found: set(TWO), "the public context of round 2 is"),
        ("threshold", Encoding, "joined_by", lambda self, rows: self, "made for bound '2051', expected '2050'"),
        (
            "plain",
            Encoding,
            "joined_by",
            lambda self, rows: grown(self, [*rows[:-1], rows[-1] + 1] if rows else rows),
            "round 2: the model is",
        ),
    ]
    for scheme, owner, name, broken, message in mutants:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, broken)
            with pytest.raises(IntegrityError, match=message):
                replaying.replay(bundles[scheme][0], bundles[scheme][1].artifact)


def test_beyond_the_room_a_site_is_turned_away_by_name(trainer: Any) -> None:
    """Without `rounds.max_sites` nobody joins: who gets ready is named, once, with what to do, and the run goes on as it was. A site in a
    place of its own hears the same when it starts.
    """
    ref = away(trainer, trainer.settings(training__rounds=3))
    heard: list[tuple[str, ...]] = []

    def start() -> None:
        state = Workspace.of(ref).record.state
        homes = (
            SiteHome(site, "/", offers=(Offer(purpose, ""),)) for site, purpose in (("west", "lab"), ("east", "lab"), ("west", "wine"))
        )
        heard.extend(missed(state, home) for home in homes)

    trainer.progress.clear()
    trainer.train(ref, [joins(ref), at(ref, "seal", 2, start)])
    places = "with places for 2 sites, all taken (rounds.max_sites=0); west may take part in the next run"
    assert heard == [(f"run {ref.run} for lab is under way without west, {places}",), (), ()]
    said = [item.detail for item in trainer.progress if isinstance(item, SiteFailed)]
    reason = "stays with the sites of its start (rounds.max_sites=0); west may take part in the next run"
    assert said == [f"west does not join: run {ref.run} {reason}"]
    assert sealed(trainer, ref.run) == [TWO] * 3 and trainer.state().run(ref.run).joined == ()


def test_a_maximum_below_those_who_begin_is_refused_before_the_run_is_declared(trainer: Any) -> None:
    """`rounds.max_sites=2` with three sites that can take part is a mistake, and says so."""
    ref = trainer.open(trainer.settings(rounds__max_sites=2))
    with pytest.raises(UsageError, match=r"rounds.max_sites=2, and 3 sites can take part from the start"):
        trainer.train(ref)
    assert trainer.state().run(ref.run) is None


def test_a_newcomer_may_be_a_straggler_and_may_leave_again(trainer: Any) -> None:
    """West, slow, joins in round 2 of a run that carries late updates: its first update comes to round 3; then it leaves, for good.

    The bundle replays.
    """
    settings = trainer.settings(
        training__rounds=4,
        gate__margin=1.0,
        rounds={"late": "carry", "max_sites": 3},
        sites={"deadline_seconds": 3.0},
        simulation={"delays": {"west": [3.5, 3.5]}},
    )
    ref = away(trainer, settings)
    trainer.train(ref, [joins(ref), at(ref, "aggregate", 3, lambda: decide(ref, WithdrawConsent, "the study is over"))])
    rounds = trainer.history(ref.run).rounds
    assert [[(item.site, item.lag) for item in found.submissions] for found in rounds] == [
        [("east", 0), ("north", 0)],
        [("east", 0), ("north", 0)],
        [("east", 0), ("north", 0), ("west", 1)],
        [("east", 0), ("north", 0)],
    ]
    without = [[(item.site, item.step) for item in found.exclusions] for found in rounds]
    assert without == [[], [("west", "deadline")], [], [("west", "consent")]]
    path = trainer.folder / "lab.cifer"
    assert trainer.cifer("export", "lab@champion", "-o", path, "--with-artifacts").code == 0
    genesis = trainer.folder / "genesis.json"
    genesis.write_text(trainer.cifer("ledger", "genesis").out)
    assert trainer.cifer("verify", path, "--genesis", genesis, "--replay").code == 0

"""Whole runs under the threshold scheme: drop-outs after the seal, a wrong share, resuming, and the site's own refusals."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cifer_tasks import files, saying, selecting, tasks
from cifer_tasks.aggregation import plan as plans
from cifer_tasks.artifacts import ArtifactStore
from cifer_tasks.encryption import sharing
from cifer_tasks.encryption._bodies import dispute_bytes, released_bytes, released_share
from cifer_tasks.encryption.envelopes import Address, Envelopes
from cifer_tasks.encryption.scheme import PublicContext
from cifer_tasks.encryption.threshold import ThresholdScheme
from cifer_tasks.errors import FailureError, IntegrityError, SiteStepError
from cifer_tasks.records import SealedSet, Submission
from cifer_tasks.run_record import RunRecord
from cifer_tasks.suspects import search
from cifer_tasks.workspace import SiteFailed, StepStarted, Workspace
from flows import away
from ledger import RegisterKey, ReleaseOpening, SubmitUpdate
from ledger import author as authors

SITES = ("east", "north", "south", "west")


def settings_of(lab: Any, scheme: str, **changes: Any) -> Any:
    rows = [line.split(",") for line in (lab.folder / "west.csv").read_text().splitlines()[1:]]
    lab.table("south", [(float(age) + 1, dose, pulse, ill) for age, dose, pulse, ill in rows])
    files = {site: f"{site}.csv" for site in SITES}
    return lab.settings(data__files=files, encryption__scheme=scheme, **changes)


@dataclass
class Trouble:
    """Takes encryption keys of sites away when their release is near, and gives them back."""

    home: Path
    sites: tuple[str, ...] = ()

    def __call__(self, progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == "aggregate":
            for site in self.sites:
                self._key(site).rename(self._away(site))

    def restore(self, *sites: str) -> None:
        for site in sites:
            self._away(site).rename(self._key(site))
        self.sites = ()

    def _key(self, site: str) -> Path:
        return self.home / "keys" / f"{site}.encryption.secret"

    def _away(self, site: str) -> Path:
        return self.home / "keys" / f"{site}.away"


def lying(release: Callable[..., Any], liar: str, number: int) -> Callable[..., Any]:
    """A release that is not what the holder has: a share of something else, correctly framed and signed."""

    def released(self: Any, submissions: Any, opener: str, public: Any, secret: Any) -> Any:
        opening = release(self, submissions, opener, public, secret)
        if opener != liar or opening.binding.round != number:
            return opening
        share = released_share(opening, self._roster(public).shape)
        return replace(opening, data=released_bytes((share + np.arange(share.size)) % sharing.FIELD))

    return released


@pytest.mark.parametrize("most_in_full", [8, 0], ids=["shown", "together"])
def test_a_run_survives_lost_keys_lying_holders_and_being_resumed(trainer: Any, monkeypatch: pytest.MonkeyPatch, most_in_full: int) -> None:
    """Two of four holders gone: the round waits. One gone: it completes on resuming. One lies: it is named. The model is plain's.

    Sites as steps of their own, and as tasks of several, which send together.
    """
    monkeypatch.setattr("flows.site.MOST_SITES_IN_FULL", most_in_full)
    monkeypatch.setattr("flows.site.MOST_GROUPS", 2)
    plain = trainer.train_all(settings_of(trainer, "plain"))
    expected = trainer.history(plain.run).current_model

    ref = trainer.open(settings_of(trainer, "threshold"))
    trouble = Trouble(trainer.home, ("south", "west"))
    with pytest.raises(IntegrityError, match="2 of 4 holders answered and 3 are needed"):
        trainer.train(ref, [trouble])
    stopped = trainer.history(ref.run).rounds[0]
    assert stopped.status == "sealed" and [item.site for item in stopped.releases] == ["east", "north"]

    trouble.restore("west")
    refuses_another_sum(trainer, ref)
    trainer.progress.clear()
    monkeypatch.setattr(ThresholdScheme, "release", lying(ThresholdScheme.release, "north", 2))

    def restored(progress: Any) -> None:
        if isinstance(progress, StepStarted) and (progress.step, progress.round) == ("open_round", 2):
            trouble.restore("south")

    trainer.train(ref, [restored])
    told = [progress for progress in trainer.progress if isinstance(progress, SiteFailed)]
    assert [(item.round, item.site) for item in told] == [(1, "south"), (2, "north")]
    assert "no encryption secret of south here" in told[0].detail
    assert "the share does not fit those of the others" in told[1].detail

    history = trainer.history(ref.run)
    assert history.status == "completed" and history.current_model == expected
    assert [[item.site for item in found.releases] for found in history.rounds] == [["east", "north", "west"], list(SITES)]
    first_opened = {release.opening for release in stopped.releases}
    assert first_opened <= {release.opening for release in history.rounds[0].releases}


def refuses_another_sum(lab: Any, ref: Any) -> None:
    """An aggregate of three of the four sealed sites is not opened, though the set is named right."""
    with lab.here():
        workspace = Workspace.of(ref)
        sealed = sealed_set(workspace)
        three = list(workspace.submissions(sealed).values())[:3]
        total = workspace.store.put("aggregate", workspace.scheme.add(three, workspace.round_context(1)).to_bytes())
        with pytest.raises(SiteStepError, match="it is not the sum over the sealed set"):
            tasks.answer(ref, 1, "west", sealed, total)
        assert workspace.record.release(1, "west") is None
        Workspace.close_all()


@pytest.fixture(scope="module")
def finished(shared_trainer: Any) -> Any:
    """A laboratory with one completed run, and the run."""
    with shared_trainer.here():
        ref = shared_trainer.train_all(settings_of(shared_trainer, "threshold", training__rounds=1))
    return shared_trainer, ref


def sealed_set(workspace: Workspace) -> SealedSet:
    record = workspace.record
    found = [record.submission(1, site) for site in SITES]
    return SealedSet(1, tuple(item for item in found if isinstance(item, Submission)), found[0].committed)


def test_a_site_opens_no_second_set(finished: Any) -> None:
    """Its own folder holds the set it opened: another set of the same round is refused whatever the ledger might say."""
    lab, ref = finished
    with lab.here():
        workspace = Workspace.of(ref)
        whole = sealed_set(workspace)
        saying._promise(workspace, 1, ["east"], whole, plans.whole(SITES))
        smaller = msgspec.structs.replace(whole, submissions=whole.submissions[:3])
        with pytest.raises(IntegrityError, match="east has released for another set of submissions in this round"):
            saying._promise(workspace, 1, ["east"], smaller, plans.whole(SITES[:3]))
        with pytest.raises(IntegrityError, match="east has released for another set of submissions in this round"):
            saying._promise(workspace, 1, ["east"], whole, plans.bucketed(SITES, 2, bytes(32)))
        Workspace.close_all()


def test_without_its_promise_a_site_would_open_a_second_set(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant whose folder forgets gives shares for a second set, and the two sums differ by one site's update."""
    lab, ref = finished
    with lab.here():
        workspace = Workspace.of(ref)
        public = workspace.round_context(1)

        def opened(names: tuple[str, ...]) -> np.ndarray:
            every = workspace.submissions(sealed_set(workspace))
            chosen = {site: every[site] for site in names}
            total = workspace.scheme.add(list(chosen.values()), public)
            releases = [workspace.scheme.release(chosen, site, public, workspace.secret_context(site, 1)) for site in SITES]
            return workspace.scheme.open(total, releases, public)

        update = opened(SITES) - opened(SITES[:3])
        assert update.any() and int(np.abs(update).max()) <= workspace.encoding(1).site_bound(workspace.dataset("west").rows)
        Workspace.close_all()


def test_stale_rounds_and_sets_off_the_ledger_are_refused(finished: Any) -> None:
    """A committed round is over, and a set that is not the sealed one is not opened."""
    lab, ref = finished
    with lab.here():
        workspace = Workspace.of(ref)
        whole = sealed_set(workspace)
        with pytest.raises(FailureError, match="refusing to open it: it is over"):
            workspace.record.check_sealed(1, whole)
        Workspace.close_all()


def test_a_submission_that_does_not_read_is_named(finished: Any) -> None:
    """Cut short, or a share in its place: the site that signed it is in the message."""
    lab, ref = finished
    with lab.here():
        workspace = Workspace.of(ref)
        whole = sealed_set(workspace)
        good = workspace.store.get(whole.submissions[2].ciphertext)
        for wrong in (good[:-1], workspace.store.get(workspace.record.release(1, "east").opening)):
            cut = msgspec.structs.replace(whole.submissions[2], ciphertext=workspace.store.put("ciphertext", wrong))
            sealed = msgspec.structs.replace(whole, submissions=(*whole.submissions[:2], cut, whole.submissions[3]))
            with pytest.raises(IntegrityError, match="round 1: what south submitted: ciphertext refused"):
                workspace.submissions(sealed)
        Workspace.close_all()


@pytest.mark.parametrize(("disputing", "asked"), [("", [SITES]), ("east", [SITES, ("west",)])])
def test_a_round_waits_for_all_sites_before_it_stays_closed(
    finished: Any, monkeypatch: pytest.MonkeyPatch, disputing: str, asked: list[tuple[str, ...]]
) -> None:
    """Of sites elsewhere t are enough; where one of them disputes a dealer the rest is asked once more, and opens the sum."""
    lab, ref = finished
    with lab.here():
        workspace = Workspace.of(ref)
        on_record = {site: workspace.record.release(1, site) for site in SITES}
        said, calls = dict[str, Any](), list[tuple[str, ...]]()
        if disputing:
            released, _ = selecting.read_releases(workspace, workspace.binding(1), (on_record[disputing],), 1)
            (opening,) = released[disputing]
            data = replace(opening, data=dispute_bytes(["north"])).to_bytes()
            on_record[disputing] = msgspec.structs.replace(on_record[disputing], opening=workspace.store.put("opening", data))

        def ask(workspace: Any, flow: str, sites: Any, given: Any, number: int, *, enough: int | None = None) -> dict[str, Any]:
            calls.append(tuple(sites))
            said.update({site: on_record[site] for site in tuple(sites)[:enough]})
            return {}

        monkeypatch.setattr(away, "_ask", ask)
        monkeypatch.setattr(away, "flows_around", lambda: ("flow", "flow"))  # outside of one here
        monkeypatch.setattr(RunRecord, "release", lambda self, number, site: said.get(site))
        total = workspace.store.find("aggregate", workspace.record.round(1).outcome.aggregate.hex())
        found = away.Away().release(ref, 1, sealed_set(workspace), total, SITES)
        assert calls == asked and [item.site for item in found] == list(SITES[: 4 if disputing else 3])
        assert not selecting.stays_closed(workspace, 1, total, found)
        Workspace.close_all()


def test_a_roster_that_the_ledger_does_not_give_is_refused(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that changes counts from the next round on; a roster with a key that nobody registered before the round is dealt no shares."""
    lab, ref = finished
    with lab.here():
        workspace = Workspace.of(ref)
        before, fresh = workspace.public_context(2), ThresholdScheme().generate()[0].data
        workspace.author("east").send(RegisterKey(fresh))
        assert workspace.checked_context(1).digest() == workspace.round_context(1).digest()
        after = workspace.public_context(2)
        assert after.digest != before.digest and fresh.hex().encode() in workspace.store.get(after)
        workspace.author("east").send(RegisterKey(ThresholdScheme().generate()[0].data))
        monkeypatch.setattr(workspace, "round_context", lambda _: PublicContext("threshold", workspace.store.get(after)))
        with pytest.raises(IntegrityError, match="somebody else would receive the shares"):
            workspace.checked_context(1)
        Workspace.close_all()


def test_nothing_in_a_sites_folder_or_the_store_is_its_key(finished: Any) -> None:
    """What a site keeps of a round is the set it opened: no plaintext, no key of the round."""
    lab, ref = finished
    kept = {path.name for site in SITES for path in (lab.home / "runs" / ref.run / "sites" / site).iterdir()}
    assert kept == {"words"}


def test_one_site_is_told_before_anything_starts(trainer: Any) -> None:
    """A scenario of one site is refused under the threshold scheme, saying why."""
    shutil.rmtree(trainer.home, ignore_errors=True)
    path = trainer.write(data__files={"east": "east.csv"}, encryption__scheme="threshold", sites__minimum=1)
    said = trainer.cifer("run", path)
    assert said.code == 2 and "needs at least 2 sites, and the scenario has 1" in said.err


def verified(lab: Any, name: str) -> list[dict[str, Any]]:
    """What a replay of a bundle of the first model of a laboratory says of each round."""
    bundle, genesis = lab.home.parent / f"{name}.cifer", lab.home.parent / "genesis.json"
    assert lab.cifer("export", "lab@1", "-o", bundle, "--with-artifacts").code == 0
    genesis.write_text(lab.cifer("ledger", "genesis").out)
    said = lab.cifer("verify", bundle, "--genesis", genesis, "--replay", "--json")
    rounds: list[dict[str, Any]] = json.loads(said.out)["replay"]["rounds"]
    return rounds


def dealing_badly(dealer: str, victims: dict[int, set[str]]) -> Callable[..., list[bytes]]:
    """What seals shares at a site that gives some holders of some rounds a share that is none."""
    seal = Envelopes.seal

    def bent(data: bytes, address: Address) -> bytes:
        off = address.sender == dealer and address.receiver in victims.get(address.round, ())
        return sharing.share_bytes((np.frombuffer(data, "<u2").astype(np.int64) + off) % sharing.FIELD)

    def sealed(self: Envelopes, shares: Iterable[bytes], addresses: Iterable[Address], *rest: Any) -> list[bytes]:
        known = tuple(addresses)
        return seal(self, [bent(*pair) for pair in zip(shares, known, strict=True)], known, *rest)

    return sealed


def test_a_bad_dealer_is_named_costs_one_round_and_is_left_out(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """North cheats one holder: the round completes without that one's share. Two: the round has no step, says so, and the next ones are
    without north. Others make every round again from a bundle, the closed one too."""
    victims = {1: {"west"}, 2: {"east", "west"}, 3: {"east", "west"}}
    monkeypatch.setattr(Envelopes, "seal", dealing_badly("north", victims))
    ref = trainer.train_all(settings_of(trainer, "threshold", training__rounds=3, gate__margin=1.0, compute={"fused": True}))

    first, second, third = trainer.history(ref.run).rounds
    told = [(item.round, item.site, item.detail) for item in trainer.progress if isinstance(item, SiteFailed)]
    assert told == [(1, "west", "west, round 1, release: it disputes what north dealt to it; the others open the sum without it")]
    assert first.outcome.accepted and first.sealed_sites == SITES and len(first.releases) == 4
    assert not second.outcome.accepted and second.outcome.candidate == second.base_model == third.base_model
    assert second.outcome.reason == (
        "the sum stays closed: 4 of 4 holders answered, 2 with a share of it, and 3 are needed; "
        "east: it disputes what north dealt to it; west: it disputes what north dealt to it"
    )
    assert [(item.site, item.step, item.reason) for item in third.exclusions] == [
        ("north", "disputed", "round 2 stayed closed: in dispute with east, west")
    ]
    assert third.outcome.accepted and third.sealed_sites == ("east", "south", "west") and len(third.releases) == 4

    replayed = verified(trainer, "disputed")
    assert [(item["accepted"], item["opened"], bool(item["closed"])) for item in replayed] == [
        (True, True, False),
        (False, False, True),
        (True, True, False),
    ]


def test_what_a_site_signs_is_on_the_disk_before(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site's ciphertext, a holder's release and its promise survive a power cut: they are flushed before the site signs.

    Alone in the first round, together in the second; in the third a store that does not flush is noticed.
    """
    flushed: set[Path] = set()
    signed, early = Counter[int](), list[tuple[int, str]]()
    flush, sign, shelf = files.flush, authors._sign, trainer.home / "artifacts"

    def flushing(path: Path) -> None:
        flush(path)
        flushed.add(path)

    def signing(ledger: Any, said: Any) -> Any:
        for author, body in said:
            if isinstance(body, SubmitUpdate | ReleaseOpening):
                digest = (body.ciphertext if isinstance(body, SubmitUpdate) else body.opening).hex()
                rests_on = [shelf / digest[:2] / digest[2:]]
                if isinstance(body, ReleaseOpening):
                    site = ledger.state().identity_of(author.public).name
                    rests_on.append(trainer.home / "runs" / body.run / "sites" / site / "words")
                    assert f"round-{body.round}.opens " in rests_on[-1].read_text()
                signed[body.round] += 1
                lost = [path for path in rests_on if not path.exists() or not {path, path.parent} <= flushed]
                early.extend((body.round, path.suffix) for path in lost)
        return sign(ledger, said)

    def listen(progress: Any) -> None:
        if isinstance(progress, StepStarted) and progress.step == "open_round" and progress.round > 1:
            monkeypatch.setattr("flows.site.MOST_SITES_IN_FULL", 0)
            if progress.round > 2:
                monkeypatch.setattr(ArtifactStore, "flush", lambda *_: None)

    monkeypatch.setattr(files, "flush", flushing)
    monkeypatch.setattr(authors, "_sign", signing)
    trainer.train(trainer.open(settings_of(trainer, "threshold", training__rounds=3)), [listen])
    assert signed == dict.fromkeys((1, 2, 3), 2 * len(SITES))
    assert early == [(3, "")] * 2 * len(SITES)


def dealing_another_key(culprit: str, rounds: range) -> Callable[..., Any]:
    """What deals shares at sites, one of which deals those of another key than it encrypts under: every one of them fits."""
    deal = ThresholdScheme._dealt

    def dealt(self: Any, secret: Any, binding: Any, public: Any, sender: str) -> Any:
        return deal(self, -secret if sender == culprit and binding.round in rounds else secret, binding, public, sender)

    return dealt


def left_aside_in_turn(run: str) -> tuple[list[str], str]:
    """Whom each round of a run is without while all of them stay closed, and the last suspect."""
    closed, aside = [(1, frozenset(SITES))], list[str]()
    while not (found := search(closed, ())).named:
        aside += found.aside(run, [], b"", 1)
        closed.append((len(closed) + 1, frozenset(SITES) - {aside[-1]}))
    return aside, min(found.named)


def test_who_encrypts_under_another_key_than_it_deals_is_named(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four sites one keeps every sum closed that it is in. Three rounds are without one other each; it is the last suspect, and out: the
    fifth makes a step. Who was left out on the way loses no reputation. Others make every round again from a bundle."""
    settings = settings_of(trainer, "threshold", training__rounds=5, gate__margin=1.0, compute={"fused": True})
    ref = trainer.open(settings)
    aside, culprit = left_aside_in_turn(ref.run)
    monkeypatch.setattr(ThresholdScheme, "_dealt", dealing_another_key(culprit, range(1, 6)))
    trainer.train(ref)

    rounds = trainer.history(ref.run).rounds
    assert [item.outcome.accepted for item in rounds] == [False, False, False, False, True]
    assert all("encrypted under another key than it dealt" in item.outcome.reason for item in rounds[:4])
    left_out = [[(found.site, found.step) for found in item.exclusions] for item in rounds]
    assert left_out == [[], *([(site, "search")] for site in aside), [(culprit, "suspect")]]
    assert rounds[1].exclusions[0].reason == "one of east, north, south, west kept round 1 closed; each is left out in turn"
    assert rounds[4].exclusions[0].reason == "nobody else was in every sum that stayed closed, of round 1, 2, 3, 4"
    scores = {site: trainer.state().reputation(site).score for site in SITES}
    assert scores == {site: 550 if site == culprit else 610 for site in SITES}
    replayed = verified(trainer, "closed")
    assert [(item["accepted"], item["opened"], bool(item["closed"])) for item in replayed] == [
        *([(False, False, True)] * 4),
        (True, True, False),
    ]


def test_nobody_is_left_out_of_a_model_that_a_sum_was_opened_of(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate is rejected, and the next sum to the same model stays closed: the third round is with everybody all the same."""
    settings = settings_of(trainer, "threshold", training__rounds=3, compute={"fused": True})
    verdicts = iter(["no better", ""])
    monkeypatch.setattr("cifer_tasks.learning.gate.judge", lambda *given, **named: next(verdicts))
    monkeypatch.setattr(ThresholdScheme, "_dealt", dealing_another_key("north", range(2, 3)))
    rounds = trainer.history(trainer.train_all(settings).run).rounds
    assert [item.outcome.accepted for item in rounds] == [False, False, True]
    assert [len(item.sealed_sites) for item in rounds] == [4, 4, 4]


def test_of_three_sites_nobody_is_suspected(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With t = K any holder can keep a sum closed that it is not in: nobody is left out, and the next round makes its step."""
    monkeypatch.setattr(ThresholdScheme, "_dealt", dealing_another_key("north", range(1, 2)))
    changes: dict[str, Any] = {"training__rounds": 2, "gate__margin": 1.0, "compute": {"fused": True}}
    ref = trainer.train_all(trainer.settings(encryption={"scheme": "threshold"}, sites={"minimum": 2}, **changes))
    rounds = trainer.history(ref.run).rounds
    assert [item.outcome.accepted for item in rounds] == [False, True] and [len(item.sealed_sites) for item in rounds] == [3, 3]

"""Enrolment on a real embedded ledger: who is admitted, whose consent counts, and that nobody's decision is overruled."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cifer_tasks import network
from cifer_tasks.config import LedgerSettings
from cifer_tasks.errors import KeyMismatchError, UsageError
from cifer_tasks.run_record import RunRecord
from cifer_tasks.workspace import Workspace, create_run
from ledger import GrantConsent, SigningKey, WithdrawConsent


@pytest.fixture
def workspace(lab: Any) -> Iterator[Workspace]:
    """A run's workspace with prepared tables and a ledger of its own; nothing is enrolled."""
    from cifer_tasks import data

    settings = lab.settings()
    data.prepare(settings, lab.folder, lab.home)
    yield Workspace.of(create_run(settings, lab.folder, lab.home, "run-1"))
    Workspace.close_all()


def decide(workspace: Workspace, site: str, body: type[GrantConsent] | type[WithdrawConsent]) -> None:
    dataset = bytes.fromhex(workspace.dataset(site).sha256)
    workspace.author(site).send(WithdrawConsent(dataset, "lab", "no more") if body is WithdrawConsent else GrantConsent(dataset, "lab"))


def mutant(old: str, new: str) -> ModuleType:
    """`cifer_tasks.network` with one rule changed."""
    source = inspect.getsource(network)
    assert source.count(old) == 1
    module = ModuleType("mutant")
    module.__dict__["__file__"] = network.__file__
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)  # noqa: S102 - our own source with one line changed
    return module


def test_enrolment_registers_everybody_once(workspace: Workspace) -> None:
    """The first enrolment puts coordinator, sites, tables and consents on the ledger; repeating it adds nothing."""
    enrolment = network.enrol_sites(workspace, workspace.scenario)
    assert enrolment.sites == ("east", "north", "west")
    assert enrolment.left_out == ()
    state = workspace.ledger.state()
    assert {name: found.role for name in ("coordinator", "east") if (found := state.identity(name))} == {
        "coordinator": "coordinator",
        "east": "site",
    }
    for dataset in workspace.scenario.datasets:
        registered = state.dataset(bytes.fromhex(dataset.sha256))
        assert registered is not None
        assert (registered.owner, registered.rows, registered.dvc_hash) == (dataset.site, dataset.rows, dataset.dvc_hash)
    height = state.height
    assert network.enrol_sites(workspace, workspace.scenario) == enrolment
    assert workspace.ledger.state().height == height


def test_what_a_site_says_of_itself_takes_two_blocks_at_most(workspace: Workspace) -> None:
    """All sites are admitted in one block; each then offers key, table and consent in one, and their lineage in another, side by side."""
    before = workspace.ledger.state().height
    sites = network.enrol_sites(workspace, workspace.scenario).sites
    coordinator, admitted, said = 1, 1, 2
    assert workspace.ledger.state().height - before <= coordinator + admitted + said * len(sites)
    admissions = {found.origin.height for site in sites if (found := workspace.ledger.state().identity(site)) is not None}
    assert len(admissions) == 1


def test_a_site_whose_key_is_not_here_is_left_out_and_the_others_enrol(workspace: Workspace) -> None:
    """A key that the ledger does not know costs its site its place, with the reason, and nobody else theirs."""
    network.enrol_sites(workspace, workspace.scenario)
    (workspace.home / "keys" / "north.signing.secret").unlink()
    enrolment = network.enrol_sites(workspace, workspace.scenario)
    assert enrolment.sites == ("east", "west")
    assert "signing key of north is not the one" in dict(enrolment.left_out)["north"]


def never_renews(module: Any, workspace: Workspace) -> bool:
    """Whether a withdrawn consent is still withdrawn after enrolling again."""
    module.enrol_sites(workspace, workspace.scenario)
    decide(workspace, "north", WithdrawConsent)
    enrolment = module.enrol_sites(workspace, workspace.scenario)
    consent = workspace.ledger.state().consent(bytes.fromhex(workspace.dataset("north").sha256), "lab")
    assert consent is not None
    return not consent.live and "north" not in enrolment.sites and dict(enrolment.left_out)["north"].endswith("no more")


def test_a_withdrawn_consent_is_never_renewed(workspace: Workspace) -> None:
    """A site that withdrew is left out with its reason, however often the run enrols; only the site itself can consent again."""
    assert never_renews(network, workspace)
    decide(workspace, "north", GrantConsent)
    assert network.enrol_sites(workspace, workspace.scenario).sites == ("east", "north", "west")


def test_mutant_that_renews_consents_is_caught(workspace: Workspace) -> None:
    """Mutant: granting wherever there is no live consent would overrule the site; the same check catches it."""
    assert not never_renews(mutant("if consent is None:", "if consent is None or not consent.live:"), workspace)


def test_two_sites_may_not_offer_the_same_rows(lab: Any) -> None:
    """A table that another site has registered is not counted twice: the second site is left out, naming the first."""
    from cifer_tasks import data

    (lab.folder / "west.csv").write_text((lab.folder / "east.csv").read_text())
    (lab.folder / "held.csv").write_text((lab.folder / "north.csv").read_text())
    settings = lab.settings(data__holdout_file="held.csv")
    data.prepare(settings, lab.folder, lab.home)
    workspace = Workspace.of(create_run(settings, lab.folder, lab.home, "run-1"))
    try:
        enrolment = network.enrol_sites(workspace, workspace.scenario)
    finally:
        Workspace.close_all()
    assert enrolment.sites == ("east", "north")
    assert enrolment.left_out == (("west", "its table is registered as east's: two sites may not offer the same rows"),)


def test_a_coordinator_with_another_key_is_refused(workspace: Workspace) -> None:
    """The ledger knows the coordinator by a key that is not here any more: refused, and no key is made in its place."""
    network.enrol_sites(workspace, workspace.scenario)
    path = workspace.home / "keys" / "coordinator.signing.secret"
    path.unlink()
    with pytest.raises(KeyMismatchError, match=r"key of coordinator is not the one the ledger registered, [0-9a-f]{16}; restore"):
        network.enrol_sites(workspace, workspace.scenario)
    assert not path.exists()


def test_the_number_of_validators_is_the_networks(workspace: Workspace) -> None:
    """Settings that ask for other validators than the network was founded with are a usage error that names both numbers."""
    _ = workspace.ledger
    with pytest.raises(UsageError, match=r"ledger.validators is 7, and the network in \S+ was founded with 4"):
        network.connect(LedgerSettings(validators=7), workspace.home, workspace.keys)


def test_founding_again_elsewhere_makes_another_network(lab: Any, tmp_path: Path) -> None:
    """Two homes never share a network identity, even with the same keys: the genesis is salted."""
    from cifer_tasks.encryption.keys import Keystore

    keys = Keystore.open(lab.home / "keys")
    found = []
    for name in ("one", "other"):
        ledger = network.connect(LedgerSettings(), tmp_path / name, keys)
        found.append(ledger.network)
        ledger.close()
    assert found[0] != found[1]


# ------------------------------------------------------------------------------------------------------- run record


def test_a_record_before_the_run_is_declared(workspace: Workspace) -> None:
    """Before the declaration every question is answered by absence or by a `FailureError` that says so."""
    from cifer_tasks.errors import FailureError

    record: RunRecord = workspace.record
    assert not record.exists
    assert not record.has_round(1)
    assert record.submission(1, "east") is None
    assert record.exclusion(1, "east") is None
    assert record.registered_model() is None
    assert record.next_version() == 1
    for ask in (lambda: record.declared, lambda: record.sites, record.remaining_rounds, record.accepted_round):
        with pytest.raises(FailureError, match="run-1 is not on the ledger"):
            ask()
    with pytest.raises(FailureError, match="round 1 of run run-1 is not on the ledger"):
        record.round(1)


def test_a_record_is_a_snapshot(workspace: Workspace) -> None:
    """What was asked for earlier does not change under the reader; a fresh record shows what happened since."""
    before = workspace.record
    network.enrol_sites(workspace, workspace.scenario)
    assert before.state.identity("east") is None
    assert workspace.record.state.identity("east") is not None


# -------------------------------------------------------------------------------------------------------- workspace


def test_a_run_is_created_once(lab: Any, workspace: Workspace) -> None:
    """A second run of the same name is refused with the way to resume it; the folder is private."""
    with pytest.raises(UsageError, match=r"run run-1 exists already .*cifer run --resume run-1"):
        create_run(lab.settings(), lab.folder, lab.home, "run-1")
    assert (lab.home / "runs" / "run-1").stat().st_mode & 0o777 == 0o700
    assert Workspace.of(workspace.ref) is workspace
    assert workspace.settings == lab.settings()


def test_a_site_without_a_table_is_named(workspace: Workspace) -> None:
    """Asking for a site that the prepared scenario does not have names both."""
    from cifer_tasks.errors import FailureError

    with pytest.raises(FailureError, match="south has no table in scenario lab"):
        workspace.dataset("south")


def test_a_binding_ties_a_ciphertext_to_its_round() -> None:
    """Network, run and round are all part of what a ciphertext is bound to: changing any makes another binding."""
    from cifer_tasks.encryption.scheme import Binding

    base = Binding("ab" * 32, "run-1", 1, 8, 1000)
    assert (
        len(
            {
                base,
                Binding("cd" * 32, "run-1", 1, 8, 1000),
                Binding("ab" * 32, "run-2", 1, 8, 1000),
                Binding("ab" * 32, "run-1", 2, 8, 1000),
            }
        )
        == 4
    )


def test_the_code_commit_is_a_name_that_the_ledger_takes(tmp_path: Path) -> None:
    """In a clean checkout, an edited one, and outside any repository, what goes on record as the code fits the ledger's names."""
    import subprocess

    from cifer_tasks.workspace import provenance
    from ledger.state.checks import NAME

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    def recorded() -> str:
        commit = provenance(tmp_path).code_commit
        assert NAME.match(commit), commit
        return commit

    recorded()
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    clean = recorded()
    assert len(clean) == 40
    (tmp_path / "file").write_text("two")
    assert recorded() == f"{clean}-dirty"


def test_a_key_is_bound_to_its_network(workspace: Workspace) -> None:
    """A site's key is sealed for this network and does not open for another; the administrator's is older than any."""
    network.enrol_sites(workspace, workspace.scenario)
    assert isinstance(workspace.keys.signing_key("east", workspace.ledger.network.hex()), SigningKey)
    with pytest.raises(KeyMismatchError, match="belongs to network"):
        workspace.keys.signing_key("east", "ff" * 32)
    assert isinstance(workspace.keys.signing_key(network.ADMINISTRATOR), SigningKey)

"""`cifer keys`: keys are made once for this home's network, shown by their public halves, and never in full."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.encryption.threshold import ThresholdScheme
from ledger.backends.network import create_network, read_genesis, start_folder
from ledger.crypto import SigningKey
from ledger.digests import network_id


@pytest.fixture
def home(lab: Any) -> Any:
    """A laboratory whose home belongs to a network."""
    setup = create_network("keys", [SigningKey.from_seed(bytes(32)).public])
    (lab.home / "ledger").mkdir(parents=True)
    start_folder(lab.home / "ledger", setup.genesis)
    return lab


def network(home: Any) -> str:
    return network_id(read_genesis(home.home / "ledger")).hex()


def test_keys_are_created_listed_and_exported(home: Any) -> None:
    """What is created is what a run of this network uses, and what export shows; the listing names network and kind."""
    made = json.loads(home.cifer("keys", "create", "hospital-e", "--json").out)
    keys = Keystore.open(home.home / "keys")
    assert made == json.loads(home.cifer("keys", "export-public", "hospital-e", "--json").out)
    assert made["network"] == network(home) and made["signing_ed25519"] == keys.signing_key("hospital-e", network(home)).public.hex()
    assert made["encryption_x25519"] == keys.encryption_contexts("hospital-e", network(home), ThresholdScheme())[0].data.hex()
    listed = json.loads(home.cifer("keys", "list", "--json").out)
    assert listed == [{"name": "hospital-e", "kind": kind, "network": network(home)} for kind in ("encryption", "signing")]


def test_no_command_shows_a_secret(home: Any) -> None:
    """Neither the seed nor the private key appears in any output."""
    spoken = [home.cifer("keys", *words) for words in (("create", "hospital-e"), ("list",), ("export-public", "hospital-e"))]
    keys = Keystore.open(home.home / "keys")
    secrets = [
        keys.get("hospital-e", "signing", network(home)).hex(),
        keys.secret_context("hospital-e", network(home), ThresholdScheme()).reveal().hex(),
    ]
    assert all(one.code == 0 for one in spoken)
    assert not any(secret in one.out + one.err for one in spoken for secret in secrets)


def test_mistakes_are_one_line(home: Any, lab: Any) -> None:
    """A name twice, a reserved or impossible name, nobody's keys: exit 2; no network: exit 1."""
    assert home.cifer("keys", "create", "a").code == 0
    for words, fault in (
        (("create", "a"), "a has keys in"),
        (("create", "coordinator"), "'coordinator' cannot name a site"),
        (("create", "../x"), "'../x' cannot name a site"),
        (("export-public", "nobody"), "no signing key of nobody"),
    ):
        spoken = home.cifer("keys", *words)
        assert spoken.code == 2 and len(spoken.lines) == 1 and fault in spoken.err, spoken
    (home.home / "ledger" / "genesis.bin").unlink()
    for path in (home.home / "ledger").glob("*.sqlite*"):
        path.unlink()
    spoken = home.cifer("keys", "create", "b")
    assert spoken.code == 1 and "there is no ledger in" in spoken.err

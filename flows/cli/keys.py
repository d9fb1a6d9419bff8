"""`cifer keys create | list | export-public | rotate | revoke | admit`."""

from __future__ import annotations

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report


@cli.group(context_settings=CONTEXT)
def keys() -> None:
    """Make, show and change the keys in this folder. Secrets stay sealed; CIFER_PASSPHRASE or CIFER_KEYRING=1 says under what."""


@command(keys, "create", "cifer keys create hospital-e")
@click.argument("name")
@as_json
def keys_create(name: str, as_json: bool) -> None:
    """Make a signing key (Ed25519) and an encryption key (X25519) for the site NAME, and print their public halves."""
    from flows.keys import create_keys

    print_report(create_keys(name), as_json)


@command(keys, "list", "cifer keys list --json")
@as_json
def keys_list(as_json: bool) -> None:
    """Whose secrets are here, of which kind and for which network; nothing is opened."""
    from flows.keys import list_keys

    print_report(list_keys(), as_json)


@command(keys, "export-public", "cifer keys export-public hospital-a --json > hospital-a.json")
@click.argument("name")
@as_json
def keys_export_public(name: str, as_json: bool) -> None:
    """The public halves of NAME's keys: what an administrator registers and others check against."""
    from flows.keys import export_public

    print_report(export_public(name), as_json)


@command(keys, "rotate", "cifer keys rotate hospital-a")
@click.argument("name")
@as_json
def keys_rotate(name: str, as_json: bool) -> None:
    """Replace NAME's signing key, and a site's encryption key, by new ones that the ledger has first.

    The ledger takes it by the word of both keys. From the next block on the earlier signing key speaks for nobody; tables, consents and
    reputation are the name's and go on. A round under way is opened with the encryption key it was begun under. Cut short, the same
    command finishes what was begun. Where the key was revoked, a new one is made for an administrator to register.

    Validators and administrators: their keys are fixed by the genesis. An administrator's transaction validator.change replaces a validator
    or its key, from two blocks later.
    """
    from flows.rotation import rotate

    print_report(rotate(name), as_json)


@command(keys, "revoke", 'cifer keys revoke hospital-a --reason "the laptop was stolen"')
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="What happened; it stays on the ledger.")
@as_json
def keys_revoke(name: str, reason: str, as_json: bool) -> None:
    """Have the signing key of NAME, stolen or lost, speak for nobody any more; said by the administrator here, or by NAME itself."""
    from flows.rotation import revoke

    print_report(revoke(name, reason), as_json)


@command(keys, "admit", "cifer keys admit hospital-a 6c2f0c0f6e2f7a53d2a44bd9b5d9b6c8a5e6b1c0d8b94b8f7f6f2f0a1c3e5d71")
@click.argument("name")
@click.argument("public_key")
@as_json
def keys_admit(name: str, public_key: str, as_json: bool) -> None:
    """Register the PUBLIC_KEY that NAME made in place of a revoked one. Compare it with NAME by another way first."""
    from flows.rotation import admit

    print_report(admit(name, public_key), as_json)

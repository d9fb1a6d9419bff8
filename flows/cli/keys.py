"""`cifer keys create | list | export-public`."""

from __future__ import annotations

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report


@cli.group(context_settings=CONTEXT)
def keys() -> None:
    """Make and show the keys in this folder. Secrets stay sealed; CIFER_PASSPHRASE or CIFER_KEYRING=1 says under what."""


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

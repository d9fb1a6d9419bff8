"""`cifer ledger init`, `join`, `start`, `stop`, `restart` and `status DIR`: validators as processes."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from cifer_tasks.encryption.keys import Keystore
from cifer_tasks.errors import UsageError
from cifer_tasks.home import mark
from cifer_tasks.network import ADMINISTRATOR
from cifer_tasks.records import to_plain
from cifer_tasks.workspace import home_folder
from flows.documents import Report
from ledger.backends.network import create_network, has_ledger
from ledger.digests import network_id
from ledger.node import control
from ledger.node.control import ValidatorStatus
from ledger.node.folder import Place, create_folders, is_client, read_client, read_validator
from ledger.node.membership import copy_client


def init_network(directory: Path, validators: int, host: str, port: int, store: str = "sqlite") -> Report:
    """Found a network whose administrator is this folder's, and join it. Raises `UsageError`: it has one already, or a port is taken."""
    home = home_folder()
    _require_no_ledger(home)
    administrator = Keystore.open(home / "keys").signing_key(ADMINISTRATOR)
    setup = create_network("cifer", [administrator.public], validators)
    places = {name: Place(host, port + 2 * number, port + 2 * number + 1) for number, name in enumerate(setup.keys)}
    _require_free(host, [taken for place in places.values() for taken in (place.port, place.health_port)])
    create_folders(directory, setup, administrator, places, store)
    join(directory / "client")
    faults = (validators - 1) // 3
    lines = [
        f"network      {network_id(setup.genesis).hex()}",
        *(f"{name:<12} {place.host}:{place.port}, health and metrics on port {place.health_port}" for name, place in places.items()),
        f"faults       {faults} of {validators} validators may fail or lie" + ("; use 4 or more to survive one" if not faults else ""),
        f"next         cifer ledger start {directory}",
    ]
    document = {"network": network_id(setup.genesis).hex(), "validators": list(setup.keys), "tolerated_faults": faults}
    return Report(document, tuple(lines))


def join(client: Path) -> Report:
    """Copy a client's folder to where this folder's ledger is. Raises `UsageError` when there is a ledger already or it is no client's."""
    home = home_folder()
    _require_no_ledger(home)
    if not is_client(client):
        msg = f"{client} is no client's folder: name the one that `cifer ledger init` made"
        raise UsageError(msg)
    found = read_client(client)
    target = home / "ledger"
    copy_client(client, target)
    mark(home)
    text = f"{target} is a client of network {found.network.hex()[:16]}; use it with ledger.backend: processes"
    return Report({"network": found.network.hex(), "folder": str(target)}, (text,))


def start(directory: Path) -> Report:
    """Start what does not run."""
    return _report(control.start(control.validators_in(directory)))


def stop(directory: Path) -> Report:
    """Stop what runs."""
    stopped = control.stop(control.validators_in(directory))
    return Report(list(stopped), (f"stopped {', '.join(stopped)}" if stopped else "nothing was running",))


def restart(directory: Path) -> Report:
    """A rolling restart."""
    return _report(control.restart(control.validators_in(directory)))


def status(directory: Path) -> Report:
    """How each validator is."""
    return _report([control.status_of(read_validator(path)) for path in control.validators_in(directory)])


def _report(found: Sequence[ValidatorStatus]) -> Report:
    lines = [
        f"{one.name:<12} {one.state:<12} height {'-' if one.height is None else one.height:<8} {one.address:<22} {one.health}"
        for one in found
    ]
    return Report(to_plain(tuple(found)), tuple(lines))


def _require_no_ledger(home: Path) -> None:
    if has_ledger(home / "ledger"):
        msg = f"{home / 'ledger'} belongs to a network already; set CIFER_HOME to a new folder for a new network"
        raise UsageError(msg)


def _require_free(host: str, ports: Sequence[int]) -> None:
    for port in ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, port))
            except (OSError, OverflowError) as error:
                msg = f"port {port} of {host} cannot be used ({error}); choose others with --port"
                raise UsageError(msg) from None

"""Real validators under SIGKILL, SIGSTOP, partitions and slow disks while clients write: what was acknowledged stays, in one order.

    python dags_tests/ledger/chaos.py --kills 1000 [--validators 7] [--seed 3]

Every connection between validators passes through a proxy that can cut it. At most f validators are disturbed at a time, each until the
clients have written on. Checked: every acknowledged transaction is where its receipt says, at a quorum of validators; the chains are one;
nobody was seen to sign twice; a write that began after another was acknowledged is behind it, and a read that began after it sees it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Condition, Event, Thread

from ledger.author import Author
from ledger.backends.base import Receipt
from ledger.backends.network import create_network
from ledger.backends.processes import ProcessesLedger
from ledger.crypto import SigningKey
from ledger.digests import transaction_id
from ledger.errors import UnavailableError
from ledger.node import control
from ledger.node.folder import PEERS_FILE, Place, create_folders, read_validator, validator_store
from ledger.state.transition import decode_transaction
from ledger.storage import open_reader
from ledger.types import RegisterDataset, RegisterIdentity

PATIENCE_SECONDS = 60.0
WRITERS = 2
HOST = "127.0.0.1"
KINDS = ("kill", "stop", "cut", "slow")
SLOW = Path(__file__).with_name("slow_validator.py")


class Proxies:
    """A listener for every ordered pair of validators, on an event loop of its own; `cut` names who is cut off from all others."""

    def __init__(self, targets: dict[tuple[int, int], tuple[int, int]]) -> None:
        """`targets`: by (from, to), the port to listen on and the port to pass on to."""
        self.cut: frozenset[int] = frozenset()
        self._open: dict[asyncio.StreamWriter, tuple[int, int]] = {}
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        for pair, ports in targets.items():
            asyncio.run_coroutine_threadsafe(self._listen(pair, *ports), self.loop).result(10)

    def isolate(self, validators: frozenset[int]) -> None:
        """Cut these off, and end what is open; nobody with an empty set."""

        def apply() -> None:
            self.cut = validators
            for writer, pair in tuple(self._open.items()):
                if validators & set(pair):
                    writer.transport.abort()

        self.loop.call_soon_threadsafe(apply)

    def close(self) -> None:
        """Stop passing anything on."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)

    async def _listen(self, pair: tuple[int, int], port: int, target: int) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self.cut & set(pair):
                writer.transport.abort()
                return
            try:
                onward_reader, onward = await asyncio.open_connection(HOST, target)
            except OSError:
                writer.transport.abort()
                return
            self._open[writer] = self._open[onward] = pair
            await asyncio.gather(self._pass(reader, onward), self._pass(onward_reader, writer))
            self._open.pop(writer, None)
            self._open.pop(onward, None)

        await asyncio.start_server(accept, HOST, port)

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@dataclass
class Written:
    """One acknowledged write: when it began and was acknowledged (monotonic seconds), and where it is."""

    began: float
    ended: float
    receipt: Receipt


@dataclass
class History:
    """What the clients saw."""

    writes: list[Written] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    unanswered: int = 0
    news: Condition = field(default_factory=Condition)

    def wait_for_more(self, count: int) -> None:
        """Return once so many more writes were acknowledged. Raises TimeoutError."""
        with self.news:
            goal = len(self.writes) + count
            if not self.news.wait_for(lambda: len(self.writes) >= goal, PATIENCE_SECONDS):
                raise TimeoutError(f"no progress for {PATIENCE_SECONDS:g} s behind {len(self.writes)} writes")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind((HOST, 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Chaos:
    """A network, its proxies and its clients."""

    def __init__(self, directory: Path, validators: int, seed: int) -> None:
        """Folders, proxies and processes; nothing is written yet."""
        self.random = Random(seed)
        self.administrator = SigningKey.generate()
        setup = create_network("chaos", [self.administrator.public], validators)
        self.names = list(setup.keys)
        pairs = [(one, two) for one in range(validators) for two in range(validators) if one != two]
        ports = free_ports(2 * validators + len(pairs))
        places = {name: Place(HOST, ports[2 * n], ports[2 * n + 1]) for n, name in enumerate(self.names)}
        create_folders(directory, setup, self.administrator, places)
        through = dict(zip(pairs, ports[2 * validators :], strict=True))
        self.proxies = Proxies({(one, two): (port, ports[2 * two]) for (one, two), port in through.items()})
        for one, name in enumerate(self.names):
            path = directory / name / PEERS_FILE
            raw = json.loads(path.read_text())
            for two, entry in enumerate(raw["peers"]):
                entry["port"] = through.get((one, two), entry["port"])
            path.write_text(json.dumps(raw))
        self.directory = directory
        self.folders = [directory / name for name in self.names]
        self.faults = (validators - 1) // 3
        self.history = History()
        self.done = Counter[str]()
        self.stopping = Event()

    def run(self, actions: int, kinds: tuple[str, ...] = KINDS) -> None:
        """Disturb so many times while clients write; raises AssertionError for a broken promise, with the seed's history."""
        control.start(self.folders)
        writers = [Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        try:
            clients = [self.directory / f"client-{number}" for number in range(WRITERS)]
            for client in clients:
                shutil.copytree(self.directory / "client", client)
            keys = [SigningKey.from_seed(b"%032d" % number) for number in range(WRITERS)]
            with ProcessesLedger.open(clients[0], PATIENCE_SECONDS) as ledger:
                bodies = [RegisterIdentity(f"writer-{number}", "site", key.public) for number, key in enumerate(keys)]
                Author(self.administrator, ledger).send_all(bodies)
            for writer in writers:
                writer.start()
            self.history.wait_for_more(WRITERS)
            for _ in range(actions):
                self._disturb(self.random.choice(kinds))
            self.history.wait_for_more(2 * WRITERS)
        except KeyboardInterrupt:
            sys.stderr.write("stopped early: checking what was done so far\n")
        finally:
            self.stopping.set()
            for writer in writers:
                if writer.ident is not None:
                    writer.join(PATIENCE_SECONDS)
            control.stop(self.folders)
            self.proxies.close()
        self.check()

    def _disturb(self, kind: str) -> None:
        """One disturbance of up to f validators, until the clients have written on."""
        chosen = self.random.sample(range(len(self.names)), self.random.randint(1, self.faults))
        if kind == "cut":
            self.proxies.isolate(frozenset(chosen))
            self.history.wait_for_more(3)
            self.proxies.isolate(frozenset())
        if kind == "slow":
            for number in chosen:
                control.stop([self.folders[number]])
                control.launch(self.folders[number], (str(SLOW),))
            control.start([self.folders[number] for number in chosen])  # waits until each answers
            self.history.wait_for_more(3)
        for number in chosen if kind in {"kill", "stop", "slow"} else ():
            process = control.running(self.folders[number])
            assert process is not None, f"{self.names[number]} ended by itself: see {self.folders[number] / 'log.jsonl'}"
            process.send_signal(signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
        if kind in {"kill", "slow"}:
            if self.random.random() < 0.5:
                self.history.wait_for_more(2)
            control.start([self.folders[number] for number in chosen])
        elif kind == "stop":
            self.history.wait_for_more(2)
            for number in chosen:
                process = control.running(self.folders[number])
                assert process is not None
                process.send_signal(signal.SIGCONT)
                while control.health_of(read_validator(self.folders[number])) is None:
                    process.send_signal(signal.SIGCONT)  # some kernels lose one that comes close behind the stop
        self.history.wait_for_more(1)
        self.done[kind] += len(chosen)

    def _write(self, number: int) -> None:
        """One client: writes, and now and then checks that it sees what was acknowledged to anyone before."""
        with ProcessesLedger.open(self.directory / f"client-{number}", PATIENCE_SECONDS) as ledger:
            author, count = Author(SigningKey.from_seed(b"%032d" % number), ledger), 0
            while not self.stopping.is_set():
                count += 1
                body = RegisterDataset(f"d{count}", b"%032d" % (count * WRITERS + number), "md5:0", 1, bytes(32))
                began = time.monotonic()
                try:
                    receipt = author.send(body)
                except UnavailableError:
                    self.history.unanswered += 1
                    count -= ledger.state().dataset(body.sha256) is None
                    continue
                with self.history.news:
                    self.history.writes.append(Written(began, time.monotonic(), receipt))
                    latest = max(one.receipt.height for one in self.history.writes)
                    self.history.news.notify_all()
                if count % 5 == 0 and (seen := ledger.state().height) < latest:
                    self.history.stale.append(f"client {number} read height {seen} behind an acknowledged {latest}")

    def check(self) -> None:
        """Raise AssertionError unless every promise holds."""
        chains = []
        for folder in self.folders:
            store = open_reader(validator_store(folder))
            chains.append(list(store.blocks()))
            store.close()
        longest = max(chains, key=len)
        blocks = [committed.certificate.block for committed in longest]
        for name, chain in zip(self.names, chains, strict=True):
            assert [committed.certificate.block for committed in chain] == blocks[: len(chain)], f"{name} has another chain"
        quorum = 2 * len(self.names) // 3 + 1
        for written in self.history.writes:
            receipt = written.receipt
            held = sum(len(chain) >= receipt.height for chain in chains)
            assert held >= quorum, f"block {receipt.height} was acknowledged and is at {held} validators"
            committed = longest[receipt.height - 1]
            assert committed.certificate.block == receipt.block
            assert transaction_id(decode_transaction(committed.block.transactions[receipt.index])) == receipt.transaction
        ordered = sorted(self.history.writes, key=lambda one: one.began)
        for ended in sorted(self.history.writes, key=lambda one: one.ended):
            later = [one for one in ordered if one.began > ended.ended]
            place = (ended.receipt.height, ended.receipt.index)
            assert all((one.receipt.height, one.receipt.index) > place for one in later[:WRITERS]), (
                "a later write is on record before an earlier"
            )
        assert not self.history.stale, self.history.stale
        for folder in self.folders:
            logs = "".join(path.read_text() for path in folder.glob("log.jsonl*"))
            assert '"accused"' not in logs, f"{folder.name} saw a validator sign twice"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Kill, stop and cut off real validators while clients write.")
    parser.add_argument("--kills", type=int, default=20, help="how many times to disturb")
    parser.add_argument("--validators", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=KINDS, help="one kind of disturbance")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cifer-chaos-") as folder:
        began = time.monotonic()
        chaos = Chaos(Path(folder), given.validators, given.seed)
        chaos.run(given.kills, (given.only,) if given.only else KINDS)
        seconds = time.monotonic() - began
    said = ", ".join(f"{count} x {kind}" for kind, count in sorted(chaos.done.items()))
    sys.stdout.write(
        f"{said}; {len(chaos.history.writes)} writes acknowledged, none lost; {chaos.history.unanswered} unanswered; {seconds:.0f} s\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`cifer bench ledger`: transactions a second beside V, the Ed25519 verifications a core does in this run, and how long single things take.

Every validator has to verify every signature, so a core that plays N of them does V / N transactions a second at most; what comes out is
given as a part of that limit. Rates are given by the wall clock and by processor time: the latter is what a machine of its own would give,
where this one is shared. Each mode is measured in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cifer_tasks.errors import UsageError
from flows.bench_workloads import Workload, opaque, rounds
from flows.documents import Report
from ledger import Author, Domain, SignedTransaction, SigningKey, Transaction, decode, verify
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.types import Anchor

VALIDATORS: Final = 4
BATCH: Final = 1000
SINGLE: Final = 60
PROOFS: Final = 100
KILLS: Final = 3
SAMPLE: Final = 1000


@dataclass(frozen=True, slots=True)
class Sizes:
    """transactions: per workload.  window: under way at a time at validator processes.  chain: transactions of the chain that is opened."""

    transactions: int = 8_000
    window: int = 400
    chain: int = 20_000


def ledger_figures(sizes: Sizes, modes: Sequence[str] = ()) -> Report:
    """Measure the named modes, all of them when none is named. Raises `UsageError` for an unknown one."""
    unknown = set(modes) - set(MODES)
    if unknown:
        raise UsageError(f"{sorted(unknown)[0]!r} is not measured: name some of {', '.join(MODES)}")
    spawn = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for mode in modes or MODES:
            found[mode] = pool.submit(_measured, mode, sizes).result()
    document = {"validators": VALIDATORS, "cores": len(os.sched_getaffinity(0)), "modes": found}
    return Report(document, tuple(line for mode, row in found.items() for line in _lines(mode, row)))


def _measured(mode: str, sizes: Sizes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cifer-bench-") as folder:
        return MODES[mode](Path(folder), sizes)


# ------------------------------------------------------------------------------------------------------ transactions a second


def _embedded(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """All validators in this process; a signature that one of them verified counts for all."""
    return _in_one_process(folder, lambda network, key: opaque(network, key, sizes.transactions, BATCH), share=True)


def _one_core(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """All validators in this process, on one core, each verifying every signature."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    return _in_one_process(folder, lambda network, key: opaque(network, key, sizes.transactions, BATCH), share=False)


def _one_core_rounds(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """As `one-core`, with the transactions of rounds, their rules and the entries they leave in the state."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    return _in_one_process(folder, lambda network, key: rounds(network, key, sizes.transactions), share=False)


def _in_one_process(folder: Path, make: Callable[[bytes, SigningKey], Workload], *, share: bool) -> dict[str, Any]:
    administrator = SigningKey.generate()
    setup = create_network("bench", [administrator.public], VALIDATORS)
    with EmbeddedLedger.create(folder, setup.genesis, setup.keys, share_verification=share) as ledger:
        work = make(ledger.network, administrator)
        for batch in work.founding:
            ledger.submit_all(batch)
        sample = [signed for batch in work.batches for signed in batch][:SAMPLE]
        rates = [_verifications_per_second(sample)]
        height, latencies = ledger.status().height, []
        started, spent = time.perf_counter(), time.process_time()
        for batch in work.batches:
            before = time.perf_counter()
            ledger.submit_all(batch)
            latencies.append(time.perf_counter() - before)
        seconds, processor = time.perf_counter() - started, time.process_time() - spent
        blocks = ledger.status().height - height
    rates.append(_verifications_per_second(sample))
    return _rates(work.size, seconds, processor, statistics.mean(rates), blocks) | {"batch_seconds": _spread(latencies)}


def _processes(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Four validator processes on two cores; the load comes from this process, which counts too."""
    from flows.bench_processes import running_network, send

    administrator = SigningKey.generate()
    with running_network(folder, administrator, VALIDATORS, cores=2) as network:
        work = opaque(network.network, administrator, sizes.transactions, sizes.transactions)
        send(network, work.founding, sizes.window)
        sample = list(work.batches[0][:SAMPLE])
        rates = [_verifications_per_second(sample)]
        before, own = network.cpu_seconds(), time.process_time()
        load = send(network, work.batches, sizes.window)
        processor, own = network.cpu_seconds() - before, time.process_time() - own
        rates.append(_verifications_per_second(sample))
    found = _rates(work.size, load.seconds, processor, statistics.mean(rates), load.blocks)
    return found | {"client_cpu_us_per_transaction": own / work.size * 1e6, "commit_seconds": _spread(load.latencies)}


def _rates(transactions: int, seconds: float, processor: float, verifications: float, blocks: int) -> dict[str, Any]:
    """per_cpu_second: what one core would do that did nothing else, disk aside; part_of_limit: of V / N."""
    limit = verifications / VALIDATORS
    return {
        "transactions": transactions,
        "blocks": blocks,
        "per_second": transactions / seconds,
        "per_cpu_second": transactions / processor,
        "cpu_us_per_transaction": processor / transactions * 1e6,
        "verifications_per_second": verifications,
        "limit_per_second": limit,
        "part_of_limit": transactions / processor / limit,
        "part_of_v": transactions / processor / verifications,
    }


def _verifications_per_second(sample: Sequence[SignedTransaction]) -> float:
    """V: signatures of the workload itself, by the one verifier, per second of processor time."""
    authors = [decode(signed.payload, Transaction).author for signed in sample]
    started = time.process_time()
    good = [verify(author, Domain.TRANSACTION, signed.payload, signed.signature) for author, signed in zip(authors, sample, strict=True)]
    seconds = time.process_time() - started
    if not all(good):
        raise ArithmeticError("a signature of the benchmark does not verify")
    return len(sample) / seconds


# ---------------------------------------------------------------------------------------------------- how long single things take


def _single(folder: Path, _: Sizes) -> dict[str, Any]:
    """One transaction alone, again and again, embedded."""
    administrator = SigningKey.generate()
    setup = create_network("bench", [administrator.public], VALIDATORS)
    with EmbeddedLedger.create(folder, setup.genesis, setup.keys) as ledger:
        author = Author(administrator, ledger)
        return {"submit_seconds": _spread([_timed(lambda: author.send(Anchor(bytes(32)))) for _ in range(SINGLE)])}


def _proofs(folder: Path, _: Sizes) -> dict[str, Any]:
    """Make and check the proof of one of the transactions in a block of 1,000."""
    from ledger.provenance import prove, verify_transaction

    administrator = SigningKey.generate()
    setup = create_network("bench", [administrator.public], VALIDATORS)
    with EmbeddedLedger.create(folder, setup.genesis, setup.keys) as ledger:
        work = opaque(ledger.network, administrator, BATCH, BATCH)
        for batch in (*work.founding, *work.batches):
            receipts = ledger.submit_all(batch)
        proofs = [prove(ledger, receipt.transaction) for receipt in receipts[:PROOFS]]
        making = [_timed(partial(prove, ledger, receipt.transaction)) for receipt in receipts[:PROOFS]]
        checking = [_timed(partial(verify_transaction, proof, setup.genesis)) for proof in proofs]
    return {"prove_seconds": _spread(making), "verify_seconds": _spread(checking)}


def _start(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Open a ledger that holds a chain."""
    administrator = SigningKey.generate()
    setup = create_network("bench", [administrator.public], VALIDATORS)
    with EmbeddedLedger.create(folder, setup.genesis, setup.keys) as ledger:
        work = opaque(ledger.network, administrator, sizes.chain, BATCH)
        for batch in (*work.founding, *work.batches):
            ledger.submit_all(batch)
    started, spent = time.perf_counter(), time.process_time()
    with EmbeddedLedger.open(folder, setup.keys) as ledger:
        seconds, processor = time.perf_counter() - started, time.process_time() - spent
        transactions = ledger.status().transactions
    return {"transactions": transactions, "open_seconds": seconds, "open_cpu_seconds": processor}


def _recovery(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Kill the process that leads the next height, send a transaction to the others, and wait until it is committed."""
    from flows.bench_processes import running_network, send
    from ledger.node import control
    from ledger.node.folder import read_validator

    administrator = SigningKey.generate()
    seconds = []
    with running_network(folder, administrator, VALIDATORS, cores=2) as network:
        work = opaque(network.network, administrator, KILLS, 1)
        send(network, work.founding, sizes.window)
        for batch in work.batches:
            control.start(network.validators)
            network.settle()
            height = max(control.status_of(read_validator(path)).height or 0 for path in network.validators)
            victim = network.validators[height % VALIDATORS]
            process = control.running(victim)
            if process is None:
                raise ChildProcessError(f"{victim.name} is not there to be killed")
            process.send_signal(signal.SIGKILL)
            process.wait()
            seconds.append(_timed(partial(send, network, [batch], 1, frozenset((victim.name,)))))
    return {"commit_seconds": _spread(seconds)}


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {"p50": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], "least": ordered[0]}


MODES: Final[dict[str, Callable[[Path, Sizes], dict[str, Any]]]] = {
    "embedded": _embedded,
    "one-core": _one_core,
    "one-core-rounds": _one_core_rounds,
    "processes": _processes,
    "single": _single,
    "recovery": _recovery,
    "proofs": _proofs,
    "start": _start,
}
"""What can be measured, by name."""


def _lines(mode: str, row: dict[str, Any]) -> list[str]:
    lines = []
    if "per_second" in row:
        lines.append(
            f"{mode:<16} {row['per_second']:>8,.0f} tx/s by the clock, {row['per_cpu_second']:>7,.0f} a cpu second "
            f"({row['cpu_us_per_transaction']:.0f} us each); V {row['verifications_per_second']:,.0f}/s; "
            f"{row['part_of_v']:.2f} V, {row['part_of_limit']:.2f} V/N"
        )
    for name, spread in row.items():
        if isinstance(spread, dict):
            lines.append(
                f"{mode:<16} {name.removesuffix('_seconds'):<8} p50 {spread['p50'] * 1e3:.2f} ms, p99 {spread['p99'] * 1e3:.2f} ms"
            )
    if "open_seconds" in row:
        lines.append(
            f"{mode:<16} {row['transactions']:,} transactions opened in {row['open_seconds']:.2f} s ({row['open_cpu_seconds']:.2f} s cpu)"
        )
    return lines

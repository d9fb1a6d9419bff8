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
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cifer_tasks.errors import UsageError
from flows.bench_workloads import Batch, Workload, opaque, rounds, size_of
from flows.documents import Report
from ledger import Author, Domain, SignedTransaction, SigningKey, Transaction, decode, verify
from ledger.backends.embedded import EmbeddedLedger
from ledger.backends.network import create_network
from ledger.types import Anchor

VALIDATORS: Final = 4
BATCH: Final = 1000
CALLERS: Final = 4
SINGLE: Final = 60
PROOFS: Final = 100
KILLS: Final = 3
SAMPLE: Final = 500


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
    """All validators in this process; a signature that one of them verified counts for all. Some callers, each with a batch under way."""
    amount = sizes.transactions * CALLERS // 2
    return _in_one_process(folder, lambda network, key: opaque(network, key, amount, BATCH, CALLERS, 2), share=True, callers=CALLERS)


def _one_core(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """All validators in this process, on one core, each verifying every signature."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    return _in_one_process(folder, lambda network, key: opaque(network, key, sizes.transactions, BATCH), share=False)


def _one_core_rounds(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """As `one-core`, with the transactions of rounds, their rules and the entries they leave in the state."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    return _in_one_process(folder, lambda network, key: rounds(network, key, sizes.transactions), share=False)


def _in_one_process(folder: Path, make: Callable[[bytes, SigningKey], Workload], *, share: bool, callers: int = 1) -> dict[str, Any]:
    administrator = SigningKey.generate()
    setup = create_network("bench", [administrator.public], VALIDATORS)
    with EmbeddedLedger.create(folder, setup.genesis, setup.keys, share_verification=share) as ledger:
        work = make(ledger.network, administrator)
        for batch in work.founding:
            ledger.submit_all(batch)
        latencies: list[float] = []

        def call(batches: Sequence[Batch]) -> None:
            latencies.extend(_timed(partial(ledger.submit_all, batch)) for batch in batches)

        def play(batches: Sequence[Batch]) -> None:
            list(threads.map(call, [batches[caller::callers] for caller in range(callers)]))

        height = ledger.status().height
        with ThreadPoolExecutor(callers) as threads:
            found = _rates(work, play, _cpu_seconds)
        blocks = ledger.status().height - height
    return found | {"blocks": blocks, "callers": callers, "batch_seconds": _spread(latencies)}


def _processes(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Four validator processes on two cores; the load comes from this process, which counts too."""
    from flows.bench_processes import Load, running_network, send

    administrator = SigningKey.generate()
    with running_network(folder, administrator, VALIDATORS, cores=2) as network:
        work = opaque(network.network, administrator, sizes.transactions, 2 * BATCH)
        send(network, work.founding, sizes.window)
        loads: list[Load] = []

        def play(batches: Sequence[Batch]) -> None:
            loads.append(send(network, batches, sizes.window))

        own = time.process_time()
        found = _rates(work, play, network.cpu_seconds)
        own = time.process_time() - own
    latencies = [seconds for load in loads for seconds in load.latencies]
    blocks = sum(load.blocks for load in loads)
    return found | {"blocks": blocks, "client_cpu_us_per_transaction": own / work.size * 1e6, "commit_seconds": _spread(latencies)}


def _rates(work: Workload, play: Callable[[Sequence[Batch]], None], cpu_seconds: Callable[[], float]) -> dict[str, Any]:
    """Play each repetition, with a count of verifications before each.

    per_second: over all, by the clock.  most_per_second: of the fastest repetition.  cpu_us_per_transaction: of the repetition that took
    least processor time, as others on the machine only ever add to it; per_cpu_second: what a core gives at that.
    verifications_per_second: V, of the fastest count, likewise.  part_of_limit: of V / N.
    """
    seconds, spent, rates = [], [], []
    for batches in work.repetitions:
        rates.append(_verifications_per_second(work.sample(SAMPLE)))
        before = cpu_seconds()
        seconds.append(_timed(partial(play, batches)) / size_of(batches))
        spent.append((cpu_seconds() - before) / size_of(batches))
    verifications, least = max(rates), min(spent)
    return {
        "transactions": work.size,
        "per_second": 1 / statistics.mean(seconds),
        "most_per_second": 1 / min(seconds),
        "per_cpu_second": 1 / least,
        "cpu_us_per_transaction": least * 1e6,
        "mean_cpu_us_per_transaction": statistics.mean(spent) * 1e6,
        "verifications_per_second": verifications,
        "mean_verifications_per_second": statistics.mean(rates),
        "limit_per_second": verifications / VALIDATORS,
        "part_of_limit": VALIDATORS / least / verifications,
        "part_of_v": 1 / least / verifications,
    }


def _cpu_seconds() -> float:
    """What this process has spent, and the one that verifies for it."""
    import psutil

    children = psutil.Process().children()
    return time.process_time() + sum(sum(child.cpu_times()[:2]) for child in children)


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
        for batch in (*work.founding, *work.repetitions[0]):
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
        for batch in (*work.founding, *(batch for batches in work.repetitions for batch in batches)):
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
        for batches in work.repetitions:
            control.start(network.validators)
            network.settle()
            height = max(control.status_of(read_validator(path)).height or 0 for path in network.validators)
            victim = network.validators[height % VALIDATORS]
            process = control.running(victim)
            if process is None:
                raise ChildProcessError(f"{victim.name} is not there to be killed")
            process.send_signal(signal.SIGKILL)
            process.wait()
            seconds.append(_timed(partial(send, network, batches, 1, frozenset((victim.name,)))))
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
            f"{mode:<16} {row['per_second']:>8,.0f} tx/s by the clock, {row['most_per_second']:>7,.0f} at most, "
            f"{row['per_cpu_second']:>7,.0f} a cpu second "
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

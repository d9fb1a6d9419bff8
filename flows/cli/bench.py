"""`cifer bench ...`: what things cost, as ratios within one run."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import CONTEXT, as_json, cli, command, print_report


@cli.group(context_settings=CONTEXT)
def bench() -> None:
    """Measure what Cifer costs, as ratios within one run."""


@command(bench, "round", "cifer bench round\ncifer bench round --sites 4,16,64 --fused --json")
@click.option("--sites", default="4,16", show_default=True, metavar="N,N", help="Numbers of sites to measure.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=2), help="Rounds per training; the first does not count.")
@click.option(
    "--scheme", default="threshold", show_default=True, type=click.Choice(["threshold", "ckks", "plain"]), help="Encryption of both."
)
@click.option("--fused", is_flag=True, help="A task for a site, not five, as under compute.fused.")
@click.option("--holders", default=0, show_default=True, metavar="N", help="Sites that hold shares, as encryption.holders; 0: all.")
@click.option("--repeats", default=2, show_default=True, type=click.IntRange(min=1), help="Trainings with and without Cifer, in turn.")
@as_json
def bench_round(sites: str, rounds: int, scheme: str, fused: bool, holders: int, repeats: int, as_json: bool) -> None:
    """What a round costs beside the bare loop with the same training and encryption."""
    from flows.bench import round_costs

    try:
        counts = [int(part) for part in sites.split(",")]
    except ValueError:
        raise click.BadParameter(f"{sites!r} is not a list of numbers such as 4,16", param_hint="--sites") from None
    print_report(round_costs(counts, rounds, scheme, fused, holders, repeats), as_json)


@command(bench, "schemes", "cifer bench schemes configs/quickstart.yaml\ncifer bench schemes configs/medpar.yaml --rounds 6 --json")
@click.argument("settings", type=click.Path(path_type=Path))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=2), help="Rounds per training; the first does not count.")
@click.option("--repeats", default=2, show_default=True, type=click.IntRange(min=1), help="Trainings with and without, in turn.")
@as_json
def bench_schemes(settings: Path, rounds: int, repeats: int, as_json: bool) -> None:
    """Whole rounds under a settings file's encryption, beside the same rounds in the clear."""
    from cifer_tasks.config import load
    from flows.bench_schemes import scheme_costs

    found = load(settings)
    if found.encryption.scheme == "plain" or found.execution != "local":
        raise click.BadParameter(f"{settings} has to encrypt, with all sites here, to be compared with plain rounds", param_hint="SETTINGS")
    print_report(scheme_costs(found, settings.resolve().parent, rounds, repeats), as_json)


@command(bench, "encryption", "cifer bench encryption\ncifer bench encryption --params 25e6 --family threshold-16 --json")
@click.option("--params", default="1e6", show_default=True, metavar="N", help="Parameters of the model, e.g. 1e6.")
@click.option("--clients", default=16, show_default=True, type=click.IntRange(2, 1000), help="Sites in the sum.")
@click.option(
    "--family", "families", multiple=True, metavar="NAME", help="Measure only this family; may be repeated. CKKS needs 1 GB a site at 25e6."
)
@as_json
def bench_encryption(params: str, clients: int, families: tuple[str, ...], as_json: bool) -> None:
    """Encrypt, add and open with every scheme and with NVFlare's default preset: speed, bytes, memory, error."""
    from flows.bench_encryption import FAMILIES, encryption_costs

    try:
        parameters = int(float(params))
    except (ValueError, OverflowError):
        parameters = 0
    if parameters < 1:
        raise click.BadParameter(f"{params!r} is not a number of parameters such as 1e6", param_hint="--params")
    if unknown := set(families) - set(FAMILIES):
        raise click.BadParameter(f"{sorted(unknown)[0]!r} is not one of {', '.join(FAMILIES)}", param_hint="--family")
    print_report(encryption_costs(parameters, clients, families or FAMILIES), as_json)


@command(
    bench,
    "ledger",
    "cifer bench ledger\ncifer bench ledger --mode processes --mode single --json\ncifer bench ledger --mode start --chain 1000000",
)
@click.option("--mode", "modes", multiple=True, metavar="NAME", help="Measure only this; may be repeated. A wrong name lists them.")
@click.option("--transactions", default=8_000, show_default=True, type=click.IntRange(100), help="Transactions per workload.")
@click.option("--window", default=400, show_default=True, type=click.IntRange(1, 8_000), help="Under way at a time at validator processes.")
@click.option("--chain", default=20_000, show_default=True, type=click.IntRange(100), help="Transactions of the chain that is opened.")
@as_json
def bench_ledger(modes: tuple[str, ...], transactions: int, window: int, chain: int, as_json: bool) -> None:
    """Transactions a second beside the machine's own limit, latency, recovery, proofs and start of the ledger."""
    from flows.bench_ledger import Sizes, ledger_figures

    print_report(ledger_figures(Sizes(transactions, window, chain), modes), as_json)


@command(bench, "audit", "cifer bench audit\ncifer bench audit --events 10000,100000,1000000 --json")
@click.option("--events", default="10000,100000", show_default=True, metavar="N,N", help="Numbers of OpenLineage events on the record.")
@as_json
def bench_audit(events: str, as_json: bool) -> None:
    """How long the provenance index takes to build, and each question to answer."""
    from flows.bench_audit import audit_costs

    try:
        sizes = [int(part) for part in events.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"{events!r} is not a list of numbers such as 10000,100000", param_hint="--events")
    print_report(audit_costs(sizes), as_json)


@command(bench, "leakage", "cifer bench leakage\ncifer bench leakage --sites 8 --fractions 0.1,0.3 --json")
@click.option("--sites", default=16, show_default=True, type=click.IntRange(3, 64), help="Sites in the sum, a row each.")
@click.option(
    "--fractions", default="0.1,0.3,0.5,0.9", show_default=True, metavar="F,F", help="Shares of an update that encryption.selective hides."
)
@click.option("--victims", default=3, show_default=True, type=click.IntRange(1), help="Sites whose rows are sought.")
@as_json
def bench_leakage(sites: int, fractions: str, victims: int, as_json: bool) -> None:
    """Gradient inversion on plain updates, on the sum that the default opens, and on updates under encryption.selective."""
    from flows.bench_leakage import leakage

    try:
        shares = [float(part) for part in fractions.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise click.BadParameter(f"{fractions!r} is not a list of shares such as 0.1,0.3", param_hint="--fractions")
    if victims > sites:
        raise click.BadParameter(f"{victims} victims are more than {sites} sites", param_hint="--victims")
    print_report(leakage(sites, shares, victims, progress=lambda text: click.echo(text, err=True)), as_json)

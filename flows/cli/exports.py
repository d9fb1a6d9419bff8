"""`cifer export`, `cifer verify`: a model's history as a file, and what it is worth to somebody who trusts nobody."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import as_json, cli, command, print_report, report
from flows.cli.bench import bench
from flows.exports import BUNDLE, FORMATS, Asked, verify_file


@command(
    cli,
    "export",
    """cifer export breast-cancer@champion -o model.cifer
    cifer export breast-cancer@1 -o model.cifer --with-artifacts
    cifer export breast-cancer@champion --format card -o card.html
    cifer export breast-cancer@champion --format in-toto -o model.intoto.json""",
)
@click.argument("model", metavar="NAME@ALIAS|NAME@VERSION")
@click.option("--format", "format_", type=click.Choice(sorted(FORMATS)), default=BUNDLE, show_default=True, help="What to write.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE", help="Where to write it.")
@click.option("--with-artifacts", is_flag=True, help="Bundle: put ciphertexts, openings, sums and models in, so that it can be replayed.")
@as_json
def export(model: str, format_: str, output: Path, with_artifacts: bool, as_json: bool) -> None:
    """Write a model's history to FILE: a bundle holds all the evidence and verifies without this folder.

    The other formats are for readers who have them already: `prov` (W3C PROV-JSON), `cyclonedx` (ML-BOM), `in-toto` (SLSA provenance
    in a DSSE envelope signed by the run's coordinator), `card` (a model card: Markdown, or HTML when FILE ends in .html).
    """
    if with_artifacts and format_ != BUNDLE:
        raise click.UsageError(f"--with-artifacts is for --format {BUNDLE}, not {format_}")
    if with_artifacts:
        from flows.bundles import export_bundle

        print_report(export_bundle(model, output, with_artifacts=True, quiet=as_json), as_json)
        return
    print_report(FORMATS[format_](model, output), as_json)


@command(
    cli,
    "verify",
    """cifer verify model.cifer --genesis genesis.json
    cifer verify model.cifer --genesis genesis.json --not-before 200 --model model.safetensors
    cifer verify model.cifer --genesis genesis.json --replay --json""",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--genesis", type=click.Path(path_type=Path), required=True, metavar="FILE", help="What you know the network by.")
@click.option("--model", type=click.Path(path_type=Path), metavar="FILE", help="Check that this file is the model.")
@click.option("--statement", type=click.Path(path_type=Path), metavar="FILE", help="Check what this in-toto statement says of it.")
@click.option("--head", default="", metavar="HEX", help="Check that the last block's digest begins so.")
@click.option("--not-before", default=0, type=click.IntRange(min=0), metavar="HEIGHT", help="Refuse an older last block.")
@click.option("--replay", is_flag=True, help="Add the ciphertexts, open the sums and make the model again, digest for digest.")
@report
@as_json
def verify(
    file: Path,
    genesis: Path,
    model: Path | None,
    statement: Path | None,
    head: str,
    not_before: int,
    replay: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Check FILE, which `cifer export` wrote, against a genesis: no network, no database, no folder of Cifer's is needed."""
    asked = Asked(genesis, model, statement, head.lower(), not_before, replay, quiet=as_json)
    print_report(verify_file(file, asked), as_json, report)


@command(bench, "bundle", "cifer bench bundle\ncifer bench bundle --sites 4,16,64 --rounds 10 --json")
@click.option("--sites", default="4,16", show_default=True, metavar="N,N", help="Numbers of sites to measure.")
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(min=1), help="Rounds behind the model.")
@as_json
def bench_bundle(sites: str, rounds: int, as_json: bool) -> None:
    """How large a model's bundle is, and what making and verifying it costs."""
    from flows.bench_bundle import bundle_costs

    counts = [int(part) if part.isascii() and part.isdecimal() else 0 for part in sites.split(",")]
    if not all(0 < count <= 4096 for count in counts):
        raise click.BadParameter(f"{sites!r} is not a list of numbers from 1 to 4096 such as 4,16", param_hint="--sites")
    print_report(bundle_costs(counts, rounds), as_json)

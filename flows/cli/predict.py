"""`cifer predict`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import as_json, cli, command, print_report

EXAMPLES = """cifer predict breast-cancer@champion patients.csv
cifer predict breast-cancer@champion --encrypted patients.csv
cifer predict breast-cancer@1 --encrypted patients.csv --server http://127.0.0.1:4210 --json"""


@command(cli, "predict", EXAMPLES)
@click.argument("model", metavar="NAME@ALIAS|NAME@VERSION")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--encrypted", is_flag=True, help="Encrypt the rows here; a server evaluates the model without seeing rows or results.")
@click.option("--server", default="", metavar="URL", help="The server of --encrypted; by default the one that `cifer up` started.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write the predictions to FILE as CSV.")
@as_json
def predict_command(model: str, file: Path, encrypted: bool, server: str, output: Path | None, as_json: bool) -> None:
    """Apply a registered model to the rows of FILE (CSV or Parquet); with its target column, say how accurate that is."""
    from flows.predict import predict_encrypted, predict_plain

    if encrypted:
        print_report(predict_encrypted(model, file, server, output, lambda text: click.echo(f"cifer: {text}", err=True)), as_json)
        return
    if server:
        raise click.UsageError("--server is for --encrypted; leave it out, or add --encrypted")
    print_report(predict_plain(model, file, output), as_json)

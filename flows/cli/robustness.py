"""`cifer bench robustness` and `cifer bench frontier`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.base import as_json, command, print_report
from flows.cli.bench import bench


@command(
    bench,
    "robustness",
    """cifer bench robustness
    cifer bench robustness --data medpar --plot medpar.svg --json
    cifer bench robustness --rules score_gate,median --attacks label_flip,scaling --fractions 0.2 --seeds 1,2,3""",
)
@click.option("--rules", default="", metavar="NAME,NAME", help="Rules to compare with the plain mean.  [default: all]")
@click.option("--attacks", default="", metavar="NAME,NAME", help="Attacks to run.  [default: all]")
@click.option("--fractions", default="0.1,0.2,0.4", show_default=True, metavar="F,F", help="Shares of the sites that are malicious.")
@click.option("--seeds", default="1,2,3", show_default=True, metavar="N,N", help="Seeds; scores are means over them.")
@click.option("--data", default="mnist", show_default=True, type=click.Choice(["mnist", "digits", "medpar"]), help="What is learnt.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of each training.  [default: as the data needs]")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the accuracies as well: FILE.svg or FILE.png."
)
@as_json
def bench_robustness(
    rules: str, attacks: str, fractions: str, seeds: str, data: str, rounds: int | None, plot: Path | None, as_json: bool
) -> None:
    """Accuracy and attack success of every rule under every attack, simulated beside the plain mean.

    What is finished stays in .cifer/bench: the same command goes on where it was stopped.
    """
    from flows.bench_robustness import ATTACKS, draw, robustness, rule_names

    names, known = _names(rules), rule_names(data)
    _refuse_unknown(names, known, "--rules")
    _refuse_unknown(_names(attacks), tuple(ATTACKS), "--attacks")
    try:
        shares = tuple(float(part) for part in fractions.split(","))
        numbers = tuple(int(part) for part in seeds.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{error}; write numbers such as 0.1,0.2 and 1,2,3", param_hint="--fractions or --seeds") from None
    if not all(0 <= share < 1 for share in shares) or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise click.BadParameter("fractions are from 0 to below 1, seeds are different numbers from 0", param_hint="--fractions or --seeds")
    _refuse_other_plots(plot)
    found = robustness(data, names or known, _names(attacks) or tuple(ATTACKS), shares, numbers, rounds)
    if plot is not None:
        draw(found.document, plot)
    print_report(found, as_json)


@command(bench, "frontier", "cifer bench frontier --plot frontier.png\ncifer bench frontier --attack label_flip --fraction 0.4 --json")
@click.option("--attack", default="backdoor", show_default=True, metavar="NAME", help="What the malicious sites do.")
@click.option("--fraction", default=0.2, show_default=True, type=click.FloatRange(0, 1, True, True), help="Share that is malicious.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1), metavar="N", help="Scores are means over seeds 1 to N.")
@click.option("--data", default="mnist", show_default=True, type=click.Choice(["mnist", "digits", "medpar"]), help="What is learnt.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds of each training.  [default: as the data needs]")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw the frontier as well: FILE.svg or FILE.png."
)
@as_json
def bench_frontier(attack: str, fraction: float, seeds: int, data: str, rounds: int | None, plot: Path | None, as_json: bool) -> None:
    """What accuracy costs an attack's success, over the clip bound and over FLAME's noise.

    What is finished stays in .cifer/bench: the same command goes on where it was stopped.
    """
    from flows.bench_robustness import ATTACKS, draw_frontier, frontier

    _refuse_unknown((attack,), tuple(ATTACKS), "--attack")
    _refuse_other_plots(plot)
    found = frontier(data, attack, fraction, range(1, seeds + 1), rounds)
    if plot is not None:
        draw_frontier(found.document, plot)
    print_report(found, as_json)


def _refuse_other_plots(plot: Path | None) -> None:
    if plot is not None and plot.suffix not in {".svg", ".png"}:
        raise click.BadParameter(f"{plot} does not end in .svg or .png", param_hint="--plot")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _refuse_unknown(names: tuple[str, ...], known: tuple[str, ...], option: str) -> None:
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(known)}", param_hint=option)

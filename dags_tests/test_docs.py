"""The documents tell the truth: the README's code runs, its commands exist, every command is documented, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from cifer_tasks.config import all_keys
from flows.cli import cli
from flows.scaffold import scaffold

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CIFER = Path(sys.executable).parent / "cifer"


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, item in group.commands.items():
        if isinstance(item, click.Group):
            yield from commands(item, (*prefix, name))
        else:
            yield (*prefix, name)


def study() -> str:
    return re.search(r"```python\n(# study\.py\n.*?)```", README, re.DOTALL).group(1)


def test_own_data_and_model_take_under_thirty_lines_in_one_file() -> None:
    """The bring-your-own example stays shorter than its peers': under 30 lines, one file."""
    assert len(study().strip().splitlines()) < 30


def test_the_readme_study_trains_and_is_on_the_ledger(tmp_path: Path, furnish: Callable[[Path, Path], None]) -> None:
    """Exactly the README's file, beside tables as `cifer init` writes them, trains a model that `cifer audit` finds."""
    scaffold(tmp_path / "my-study")
    folder = tmp_path / "my-study"
    furnish(folder, folder / ".cifer")
    (folder / "study.py").write_text(study(), encoding="utf-8")
    trained = subprocess.run([sys.executable, "study.py"], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    audit = [CIFER, "audit", "model", "wine@champion"]
    audited = subprocess.run(audit, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert audited.returncode == 0, audited.stderr
    assert "wine version 1 @champion" in audited.stdout


def test_every_command_is_in_the_readme_and_every_readme_command_exists() -> None:
    """The README's table and the command line agree, in both directions."""
    mentioned = {tuple(found.split()) for found in re.findall(r"cifer ((?:[a-z]+)(?: [a-z]+)?)", README)}
    known = set(commands(cli))
    for command in known:
        in_table = re.search(rf"`cifer {command[0]}\b", README) and all(re.search(rf"\b{word}\b", README) for word in command)
        assert in_table, f"cifer {' '.join(command)} is not in the README"
    first_words = {command[0] for command in known}
    for words in mentioned:
        assert words[0] in first_words, f"the README names cifer {words[0]}, which does not exist"


@pytest.mark.parametrize("command", sorted(commands(cli)), ids=" ".join)
def test_every_command_explains_itself_with_an_example(command: tuple[str, ...]) -> None:
    """`--help` of every command ends with an example that begins with the command itself."""
    shown = subprocess.run([CIFER, *command, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"cifer {' '.join(command)}" in shown.split("Examples:")[1]


def test_links_between_documents_lead_somewhere() -> None:
    """Every relative link in the README and docs/ names a file that is in the repository."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_settings_key_is_documented() -> None:
    """Each dotted key's last part is explained in the docstrings of the settings' modules or shown in a shipped settings file."""
    explained = "".join((ROOT / "cifer_tasks" / name).read_text(encoding="utf-8") for name in ("config.py", "config_rounds.py"))
    shown = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "configs").glob("*.yaml"))
    for key in all_keys():
        name = key.rsplit(".", 1)[-1]
        docstrings = "".join(re.findall(r'"""(.*?)"""', explained, re.DOTALL))
        assert re.search(rf"\b{name}\b", docstrings) or re.search(rf"^\s*{name}:", shown, re.MULTILINE), f"{key} is explained nowhere"

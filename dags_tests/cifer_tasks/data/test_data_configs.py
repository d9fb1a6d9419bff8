"""The shipped settings files."""

from __future__ import annotations

from pathlib import Path

import pytest

from cifer_tasks.config import load

FILES = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_value_is_explained_on_its_line(path: Path) -> None:
    """Each file loads, asks for encryption, and says beside every value what it means."""
    assert load(path).encryption.scheme == "threshold"
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip() and not line.startswith("#") and not line.split("#")[0].rstrip().endswith(":"):
            assert "  # " in line or " # " in line, f"{path.name}:{number}: {line}"


def test_the_three_scenarios_are_there() -> None:
    """Names differ, so that their data and models do not meet."""
    names = [load(path).name for path in FILES]
    assert len(set(names)) == len(names)
    assert {"quickstart", "digits", "medpar"} <= {path.stem for path in FILES}

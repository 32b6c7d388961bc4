"""Every script of docs/examples and every Python block of the README run, and learn something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
README_BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def run(script: Path) -> float:
    """Run a script; return the test score that it prints."""
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    match = re.search(r"test (?:accuracy|AUROC) (\d\.\d+)", done.stdout)
    assert match, done.stdout
    return float(match[1])


@pytest.mark.spawn
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_example_runs(script: Path) -> None:
    assert run(script) > 0.75


@pytest.mark.spawn
@pytest.mark.parametrize("number", range(len(README_BLOCKS)))
def test_readme_block_runs(number: int, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(README_BLOCKS[number])
    assert run(script) > 0.75


def test_there_is_something_to_run() -> None:
    assert EXAMPLES
    assert README_BLOCKS

"""Every script and notebook of docs/examples runs and learns."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from graphtheta.cli import main

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "docs" / "examples").glob("*.ipynb"))

# As a script has it: only pytest turns warnings into errors.
pytestmark = pytest.mark.filterwarnings("ignore")


def run(script: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a script in this process, where torch is loaded already; return what it prints."""
    runpy.run_path(str(script), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_example_learns(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    match = re.search(r"test (?:accuracy|AUROC) (\d\.\d+)", run(script, capsys))
    assert match
    assert float(match[1]) > 0.75


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook_learns(
    notebook: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the cells in this process, and so their lines that begin with !graphtheta."""
    monkeypatch.chdir(notebook.parent)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path / "cache"))

    def graphtheta(line: str) -> None:
        assert main(shlex.split(line)) == 0

    names = {"graphtheta": graphtheta}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"]).replace("\\\n", "")
            exec(re.sub(r"(?m)^!graphtheta (.*)", lambda m: f"graphtheta({m[1]!r})", text), names)
    match = re.search(r"average precision (\d\.\d+)", capsys.readouterr().out)
    assert match
    assert float(match[1]) > 0.4


def test_there_is_something_to_run() -> None:
    assert EXAMPLES
    assert NOTEBOOKS

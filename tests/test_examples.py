"""Every script and notebook of docs/examples, and every Python block of README and docs, runs."""

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
DOCS = (
    *("getting-started", "features", "batches", "links", "deep-models", "writing-a-layer"),
    *("training-loop", "coming-from", "losses"),
)
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in DOCS)]
BLOCKS = {
    f"{page.stem}-{number}": block
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    )
}

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


@pytest.mark.parametrize("name", BLOCKS)
def test_block_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where it may write files
    script = tmp_path / f"{name}.py"
    script.write_text(BLOCKS[name])
    output = run(script, capsys)
    accuracy = re.search(r"test accuracy (\d\.\d+)", output)
    assert accuracy is None or float(accuracy[1]) > 0.75
    assert output


def test_there_is_something_to_run() -> None:
    assert EXAMPLES
    assert NOTEBOOKS
    assert len(BLOCKS) >= len(PAGES)

"""The code of README and documents: every option exists, and every block runs.

With `make test` blocks run in this process, see `tests.pages`; with `make test-all` the shell
blocks of a page also run as they are written.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.integration.cli import Run, command  # noqa: F401  # a fixture
from tests.jobs import run
from tests.pages import (
    DATA,
    PAGES,
    PYTHON,
    ROOT,
    SHELL,
    Block,
    PageRunner,
    blocks_of,
    commands_of,
    prepare,
)

QUICK = ("README.md",)  # the shell blocks of other pages run as they are written with make test-all
BLOCKS = {page: blocks_of(page) for page in PAGES}
EVERY = [block for blocks in BLOCKS.values() for block in blocks]
RUNNING = [page for page, blocks in BLOCKS.items() if any(block.runs for block in blocks)]
AS_WRITTEN = {  # a server runs until it is stopped
    page: text
    for page, blocks in BLOCKS.items()
    if (
        text := "\n".join(
            block.text
            for block in blocks
            if block.runs and block.language in SHELL and "graphtheta serve" not in block.text
        )
    )
}


def options_in(words: list[str]) -> set[str]:
    return {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)}


@pytest.mark.parametrize(
    "block", [block for block in EVERY if block.language in SHELL], ids=lambda block: block.name
)
def test_options_exist(command: Run, block: Block) -> None:
    for line in block.lines():
        words = shlex.split(line, comments=True)
        if "graphtheta" in words:
            words = words[words.index("graphtheta") + 1 :]
            if words[0] == "launch" and "train" in words:  # it runs another command
                of_launch = options_in(words[: words.index("train")])
                assert all(f"{option} " in command("launch", "--help").out for option in of_launch)
                words = words[words.index("train") :]
            subcommand = [word for word in words[:3] if re.fullmatch("[a-z]+", word)]
            nested = {"bench": 2, "schedule": 2, "datasets": 3 if "make" in words[:2] else 2}
            path = subcommand[: nested.get(subcommand[0], 1)] if subcommand else []
            shown = command(*path, "--help").out
            missing = {option for option in options_in(words) if f"{option} " not in shown + " "}
            assert not missing, line
        elif script := next((word for word in words if word.startswith("benchmarks/")), None):
            sources = [(ROOT / script).read_text()]
            sources += [path.read_text() for path in (ROOT / "benchmarks").rglob("*.py")]
            after = words[words.index(script) + 1 :]
            assert all(f'"{option}"' in "".join(sources) for option in options_in(after)), line
        elif words[0] == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert set(words[1:]) <= set(targets), line


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    prepare(folder)
    return folder


@pytest.fixture
def prepared(tables: Path, tmp_path: Path) -> Path:
    """A folder with what the pages suppose."""
    return shutil.copytree(tables, tmp_path / "page", copy_function=os.link)


# As a script has it: only pytest turns warnings into errors.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", RUNNING)
def test_page_runs(
    page: str,
    tables: Path,
    prepared: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tables / "cache"))
    with PageRunner() as runner:
        for block in BLOCKS[page]:
            if block.runs:
                capsys.readouterr()
                runner.run(block)
                output = capsys.readouterr().out
                accuracy = re.search(r"test accuracy (\d\.\d+)", output)
                if block.language in PYTHON and accuracy is not None:
                    assert float(accuracy[1]) > 0.75, block.name


def test_every_block_runs_or_says_why_not() -> None:
    wrong = [
        f"{block.name}: ```{block.language}"
        for block in EVERY
        if block.language not in SHELL | PYTHON | DATA and not block.is_marked
    ]
    assert not wrong, "mark what does not run: <!-- not run: REASON -->"
    fences = sum(len(re.findall(r"^ *```", (ROOT / page).read_text(), re.M)) for page in PAGES)
    assert fences == 2 * len(EVERY)


@pytest.mark.spawn
@pytest.mark.parametrize(
    "page", [p if p in QUICK else pytest.param(p, marks=pytest.mark.slow) for p in AS_WRITTEN]
)
def test_page_runs_as_written(page: str, prepared: Path) -> None:
    script = prepared / "page.sh"
    script.write_text(f"set -euo pipefail\ncd {prepared}\n{AS_WRITTEN[page]}\n")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {"PATH": path, "GRAPHTHETA_CACHE": str(prepared / "cache"), "OMP_NUM_THREADS": "1"}
    done = run(["bash", script], timeout_s=280, env=env)
    assert done.code == 0, done.output


def test_other_commands_are_refused() -> None:
    loop = "for n in a b; do\n  mpiexec -n 2 graphtheta train $n \\\n --epochs 3\ndone"
    assert commands_of(loop) == [["train", name, "--epochs", "3"] for name in "ab"]
    assert commands_of("graphtheta launch -n 2 train x  # why") == [["train", "x"]]
    for other in ("ls -l | graphtheta train y", "/bin/ls", "ls", "graphtheta train x > file"):
        with pytest.raises(ValueError, match="Mark the block"):
            commands_of(f"graphtheta train x\n{other}\n")


def test_every_page_has_been_read() -> None:
    assert len(EVERY) > 15
    assert set(QUICK) <= set(RUNNING)

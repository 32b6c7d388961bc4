"""The table of environment variables in docs/environment.md is that of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")


def names_in_code() -> set[str]:
    """Return the strings that look like variables, in modules that read the environment."""
    names = set()
    for package in ("graphtheta", "partition", "engine"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            if "environ" not in text and "getenv" not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    name = node.value.partition("=")[0]
                    names |= {name} if VARIABLE.fullmatch(name) else set()
    return names


def names_in_table() -> set[str]:
    page = (ROOT / "docs" / "environment.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \|", page.partition("## What changes")[0], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_table_and_code_agree() -> None:
    assert names_in_table() == names_in_code()


def test_variables_of_the_slurm_script_are_listed() -> None:
    page = (ROOT / "docs" / "environment.md").read_text()
    script = (ROOT / "docs" / "deploy" / "slurm.sh").read_text()
    assert all(name in page for name in re.findall(r"GRAPHTHETA_\w+", script))

"""The versions installed here, those pinned, and those recorded as tested agree."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from graphtheta.runtime.versions import TESTED, installed_version, untested_version

ROOT = Path(__file__).parents[2]
PINS = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("package", TESTED)
def test_installed_version_is_tested(package: str) -> None:
    assert untested_version(package, installed_version(package)) == ""


@pytest.mark.parametrize("package", TESTED)
def test_pinned_version_is_the_last_tested(package: str) -> None:
    assert f"{PINS[package]}.".startswith(f"{TESTED[package][1]}.")


def test_requirement_of_torch_admits_what_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "torch>=2.4,<3" in project["dependencies"]
    assert all((2, 4) <= tuple(map(int, v.split("."))) < (3,) for v in TESTED["torch"])


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("2.3.1", "torch 2.3.1 is older than the tested 2.13"),
        ("2.13.9+cu130", ""),
        ("2.14.0a0+git1", "torch 2.14.0a0+git1 is newer than the tested 2.13"),
        ("missing", ""),
    ],
)
def test_untested_versions_are_named(version: str, found: str) -> None:
    assert untested_version("torch", version) == found


def test_packages_without_a_range_are_not_compared() -> None:
    assert untested_version("rich", "1.0") == ""
    assert installed_version("no-such-package") == "missing"

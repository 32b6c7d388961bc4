"""Versions of the libraries that GraphTheta depends on most, and those it is tested with.

Never imports the libraries.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping

__all__ = ["TESTED", "installed_version", "installed_versions", "untested_version"]

# First and last release on which all tests pass. Continuous integration runs the last one, which
# constraints.txt pins; a test checks that. Other releases that pyproject.toml admits are expected
# to work, and `graphtheta doctor` says that they are not tested.
TESTED: Mapping[str, tuple[str, str]] = {
    "grpcio": ("1.85", "1.85"),
    "numba": ("0.68", "0.68"),
    "numpy": ("2.4", "2.4"),
    "pyarrow": ("26.0", "26.0"),
    "torch": ("2.13", "2.13"),
}


def installed_version(package: str) -> str:
    """Return the version of an installed package, or "missing"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of Python, and those of the packages that are installed, by name."""
    found = {package: installed_version(package) for package in packages}
    known = {package: version for package, version in found.items() if version != "missing"}
    return {"python": platform.python_version(), **known}


def untested_version(package: str, version: str) -> str:
    """Return how a version relates to the tested ones, such as "torch 3.1 is newer than ...".

    Returns:
        One sentence without a full stop; empty if the version is in the tested range, or if no
        range is recorded for the package.
    """
    numbers = _release(version)
    if package not in TESTED or not numbers:
        return ""
    first, last = TESTED[package]
    tested = first if first == last else f"{first} to {last}"
    if numbers[: len(_release(first))] < _release(first):
        return f"{package} {version} is older than the tested {tested}"
    if numbers[: len(_release(last))] > _release(last):
        return f"{package} {version} is newer than the tested {tested}"
    return ""


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers at the start of a version: (2, 13, 0) of "2.13.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()

"""What holds of the whole repository: names, exports, layers, size, and the way it is laid out."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import graphtheta
from graphtheta import errors

ROOT = Path(__file__).parents[1]
PACKAGES = ("graphtheta", "partition", "engine", "proto")
SYMLINKS = ("partition", "engine", "proto")

# From the ground up. A package imports from itself and from the lines above its own.
FLOORS = (
    ("errors", "proto", "rng", "wording"),
    ("runtime",),
    ("data", "loss_law"),
    ("comm",),
    ("exchange", "partition"),
    ("shard", "datasets", "export"),
    ("tgar",),
    ("nn", "strategy"),
    ("inference", "optim"),
    ("task",),
    ("train",),
    ("run", "bench"),
    ("report", "sweep"),
    ("engine",),
    ("cli",),
    ("__main__",),
)
# The same inside a package of several folders.
INSIDE = {
    "partition": (
        ("core",),
        ("methods", "ooc"),
        ("placement", "store"),
        ("pipeline",),
        ("analysis",),
    ),
    "engine": (("kernels", "wire"), ("client", "server"), ("pyg",)),
    "tgar": (
        ("arguments", "expression", "aggregator_base", "mixed_precision", "worker_independent"),
        ("moments",),
        ("aggregators",),
        ("check_aggregator", "trace", "batch"),
        ("chunked", "view_module"),
        ("compiler",),
        ("explain",),
        ("layer",),
    ),
    "tgar.compiler": (
        ("ir", "openmp"),
        ("operators",),
        ("lowering", "codegen"),
        ("passes",),
        ("runner",),
        ("executor", "row_sums"),
        ("pair_products",),
        ("relation_sums",),
        ("relation_executor",),
    ),
}
LARGEST_FOLDER = 17  # modules: a folder's files fit on a screen
WITHOUT_TORCH = (
    *("data.adjacency", "data.graph", "datasets", "datasets.store_cache", "export.dgl_chunked"),
    *("runtime.atomic", "runtime.malloc", "runtime.paths"),
    *("shard.local_graph", "shard.merged_edges"),
    *("partition", "engine", "engine.server.server", "exchange.rows", "report.page", "sweep.plan"),
    *(f"bench.{name}" for name in ("compare", "memory", "partition", "record", "timing")),
    *(f"comm.{name}" for name in ("single", "threads", "mpi", "watchdog", "launch", "doctor")),
)


def module_names() -> list[str]:
    """Return every module of ours, without the prefix `graphtheta.`."""
    files = [file.relative_to(ROOT / "graphtheta") for file in (ROOT / "graphtheta").rglob("*.py")]
    for name in SYMLINKS:  # rglob does not follow links
        files += [file.relative_to(ROOT) for file in (ROOT / name).rglob("*.py")]
    written = (file for file in files if "_pb2" not in file.name)  # the others are generated
    names = {".".join(file.with_suffix("").parts).removesuffix("__init__") for file in written}
    return sorted(name.rstrip(".") for name in names)


MODULES = [name for name in module_names() if name]


def source(module: str) -> ast.Module:
    path = ROOT / "graphtheta" / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text())


def python_files() -> list[Path]:
    files = (file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))
    return sorted(file for file in files if "_pb2" not in file.name)


def imported_names(node: ast.AST) -> Iterator[str]:
    """Yield the modules imported anywhere below, those that only type checkers read too."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                name = f"{child.module}.{alias.name}"
                yield name if name.removeprefix("graphtheta.") in MODULES else child.module


def imports(module: str) -> set[str]:
    """Return the modules of ours that a module imports."""
    names = {name.removeprefix("graphtheta.") for name in imported_names(source(module))}
    return (names & {*MODULES}) - {module}


IMPORTS = {module: imports(module) for module in MODULES}


def upward(floors: Sequence[Sequence[str]], package: str = "") -> list[str]:
    """Return the imports inside a package that do not run down its floors.

    What stands on one floor does not import each other. The package's `__init__` is above all.
    """
    floor_of = {name: height for height, names in enumerate(floors) for name in names}
    prefix = f"{package}." if package else ""

    def place(module: str) -> tuple[int, str]:
        name = module.removeprefix(prefix).split(".")[0]
        if module == package:
            return len(floors), ""
        assert name in floor_of, f"graphtheta.{module}: expected a floor, got none. Add one."
        return floor_of[name], name

    found = []
    for module in MODULES:
        if module == package or module.startswith(prefix):
            height, name = place(module)
            for other in IMPORTS[module]:
                if other == package or other.startswith(prefix):
                    below, its_name = place(other)
                    if below > height or (below == height and name != its_name):
                        found.append(f"{module} imports {other}")
    return found


# -- layers ---------------------------------------------------------------------------------------


def test_imports_run_downward() -> None:
    assert not upward(FLOORS)


@pytest.mark.parametrize("package", INSIDE)
def test_imports_inside_a_package_run_downward(package: str) -> None:
    assert not upward(INSIDE[package], package)


def test_no_imports_run_in_circles() -> None:
    graph = {module: set(names) for module, names in IMPORTS.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names it


def test_folders_fit_on_a_screen() -> None:
    folders = Counter(file.parent for file in python_files() if file.name != "__init__.py")
    assert not {str(f): n for f, n in folders.items() if n > LARGEST_FOLDER}


def test_partition_never_imports_torch() -> None:
    ours = [module for module in MODULES if module.startswith("partition")]
    torch_users = [
        module
        for module in ours
        if "torch" in {name.split(".")[0] for name in imported_names(source(module))}
    ]
    assert not torch_users


@pytest.mark.spawn
def test_what_needs_no_torch_does_not_load_it() -> None:
    names = ", ".join(f"graphtheta.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


# -- exports --------------------------------------------------------------------------------------


def isort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions: the order that ruff keeps."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name


def exports(module: str) -> list[str]:
    return list(getattr(importlib.import_module(f"graphtheta.{module}"), "__all__", ()))


def test_all_is_sorted() -> None:
    assert not [m for m in MODULES if exports(m) != sorted(exports(m), key=isort_key)]


def test_all_holds_every_public_class_and_function() -> None:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    missing = [
        f"{module}.{node.name}"
        for module in MODULES
        for node in source(module).body
        if isinstance(node, kinds) and not node.name.startswith("_")
        if node.name not in exports(module)
    ]
    assert not missing


def test_all_holds_only_what_exists() -> None:
    gone = [
        f"{module}.{name}"
        for module in MODULES
        for name in exports(module)
        if not hasattr(importlib.import_module(f"graphtheta.{module}"), name)
    ]
    assert not gone


def classes() -> Iterator[type]:
    for module in MODULES:
        for node in source(module).body:
            if isinstance(node, ast.ClassDef):
                yield getattr(importlib.import_module(f"graphtheta.{module}"), node.name)


def test_public_methods_are_documented() -> None:
    """What overrides a method of a base class or of a protocol needs no docstring of its own."""
    every = list(classes())
    protocols = [cls for cls in every if getattr(cls, "_is_protocol", False)]
    missing = [
        f"{cls.__module__}.{cls.__qualname__}.{name}"
        for cls in every
        if not cls.__name__.startswith("_")
        for name, member in vars(cls).items()
        if inspect.isroutine(member) or isinstance(member, property | functools.cached_property)
        if not name.startswith("_") and not inspect.getdoc(member)
        if not any(name in vars(base) for base in [*cls.__mro__[1:], *protocols] if base is not cls)
    ]
    assert not missing


def test_package_exports_resolve() -> None:
    assert set(dir(graphtheta)) == {*graphtheta.__all__, "__version__"}
    for name in graphtheta.__all__:
        assert getattr(graphtheta, name) is not None


# -- errors ---------------------------------------------------------------------------------------


def test_drawing_of_errors_is_true() -> None:
    drawing = (errors.__doc__ or "").split("```")[1].strip().splitlines()
    drawn: dict[str, tuple[str, ...]] = {}
    above: list[str] = []
    for line in drawing:
        match = re.match(r"([│ ]*(?:[├└]── )?)(\w+)(?: \((\w+)\))?", line)
        assert match, line
        depth = len(match[1]) // 4
        above[depth:] = [match[2]]
        parent = above[depth - 1] if depth else "Exception"
        drawn[match[2]] = (parent, match[3]) if match[3] else (parent,)
    real = {
        name: tuple(base.__name__ for base in getattr(errors, name).__bases__)
        for name in errors.__all__
    }
    assert drawn == real


# -- files ----------------------------------------------------------------------------------------


def test_no_file_is_long() -> None:
    long = {str(f): n for f in python_files() if (n := len(f.read_text().splitlines())) > 450}
    assert not long


def test_names_of_files_say_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [str(file) for file in python_files() if vague & set(file.with_suffix("").parts)]


def test_no_module_unpickles() -> None:
    unsafe = re.compile(r"^\s*(?:import|from) c?pickle\b|allow_pickle=True|torch\.load\(", re.M)
    found = [str(f.relative_to(ROOT)) for f in python_files() if unsafe.search(f.read_text())]
    assert not found


@pytest.mark.parametrize("name", SYMLINKS)
def test_top_level_package_is_linked(name: str) -> None:
    assert os.readlink(ROOT / "graphtheta" / name) == f"../{name}"


@pytest.mark.spawn
def test_stubs_are_current(tmp_path: Path) -> None:
    """What `make proto` would write is what is committed."""
    pytest.importorskip("grpc_tools")
    (tmp_path / "graphtheta").mkdir()
    protos = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "proto").rglob("*.proto"))
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-Igraphtheta/proto=proto"]
    subprocess.run([*protoc, *outs, *protos], cwd=ROOT, timeout=60, check=True)
    made = {file.name: file.read_text() for file in tmp_path.rglob("*_pb2*")}
    committed = {file.name: file.read_text() for file in (ROOT / "proto").glob("v*/*_pb2*")}
    assert made == committed


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == graphtheta.__version__
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "page",
    ["README.md", "CONTRIBUTING.md", "benchmarks/README.md", *(ROOT / "docs").rglob("*.md")],
    ids=str,
)
def test_links_lead_somewhere(page: str | Path) -> None:
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (path.parent / target).exists()]

"""Cache of machine code: one process compiles and others load; writable folders are not used."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphtheta.tgar.compiler.codegen import native
from graphtheta.tgar.compiler.ir.kernel import Accumulator, Kernel, Output, Pass, Update
from graphtheta.tgar.compiler.ir.terms import Leaf, TermFactory

_PROGRAM = """
import graphtheta as gt
from graphtheta.nn import GATConv
from graphtheta.tgar import View
from graphtheta.tgar.compiler.codegen import native
from tests.graphs import power_law, to_graph

shard = gt.open_shard(to_graph(power_law(30, 90)))
view = View(shard)
(GATConv(3, 5, heads=3)(view[0], shard.features).sum() + view.token).backward()
print(native.statistics.compiled, native.statistics.loaded)
"""


def start(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "GRAPHTHETA_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def counts(process: subprocess.Popen[str]) -> tuple[int, int]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    compiled, loaded = out.split()
    return int(compiled), int(loaded)


@pytest.mark.spawn
def test_one_process_compiles_and_all_others_load(tmp_path: Path) -> None:
    together = [start(tmp_path) for _ in range(2)]
    found = [counts(process) for process in together]
    kernels = sum(found[0])
    assert kernels == 3  # forward, and backward over in-edges and over out-edges
    assert [sum(f) for f in found] == [kernels, kernels]
    assert sum(compiled for compiled, _ in found) == kernels
    assert counts(start(tmp_path)) == (0, kernels)  # a second start compiles nothing
    assert not list((tmp_path / "kernels").glob("*.lock"))


def kernel(width: int) -> Kernel:
    terms = TermFactory()
    value = terms.leaf(Leaf("source", "source0", "float32", width), (width,))
    total = terms.leaf(Leaf("row", "total", "float32", width), (width,))
    return Kernel(
        "in",
        "float32",
        (Pass((Update("total", value),)),),
        (Accumulator("total", (width,)),),
        (Output("total", (width,), total),),
    )


def test_only_equal_kernels_have_equal_texts() -> None:
    assert kernel(5).text() == kernel(5).text()
    assert kernel(5).text() != kernel(6).text()


_EMIT = """
from graphtheta.tgar.compiler.codegen.emit import emit
from graphtheta.tgar.compiler.ir.kernel import Kernel, Pass, Save
from graphtheta.tgar.compiler.ir.terms import Leaf, TermFactory

value = TermFactory().leaf(Leaf("source", "source0", "float32", 3), (3,))
saves = tuple(Save(Leaf("edge", name, "float32", 3), value) for name in "abcdefgh")
print(emit(Kernel("in", "float32", (Pass(saves=saves),), (), ()), 32))
"""


@pytest.mark.spawn
def test_every_process_generates_the_same_code() -> None:
    texts = {
        subprocess.run(
            [sys.executable, "-c", _EMIT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            timeout=120,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_ready", {})
    folder = tmp_path / "kernels"
    folder.mkdir()
    folder.chmod(0o777)
    assert native.compile_kernel(kernel(7)).address
    assert not list(folder.iterdir())
    folder.chmod(0o700)
    monkeypatch.setattr(native, "_ready", {})
    assert native.compile_kernel(kernel(7)).address
    assert len(list(folder.glob("*.o"))) == 1


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EROFS, errno.ENOSPC])
def test_without_locks_or_space_nothing_is_kept(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_ready", {})
    where = (Path, "write_bytes") if code == errno.ENOSPC else (fcntl, "flock")
    with monkeypatch.context() as patch:
        patch.setattr(*where, fail)
        assert native.compile_kernel(kernel(11)).address
    assert not [path for path in (tmp_path / "kernels").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("cache", ["/proc/none", "/dev/null/cache"])
def test_cache_that_cannot_be_made_is_not_used(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", cache)
    monkeypatch.setattr(native, "_ready", {})
    assert native.compile_kernel(kernel(12)).address


def test_a_damaged_file_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_ready", {})
    assert native.compile_kernel(kernel(9)).address
    (file,) = (tmp_path / "kernels").glob("*.o")
    file.write_bytes(file.read_bytes()[:100])
    monkeypatch.setattr(native, "_ready", {})
    assert native.compile_kernel(kernel(9)).address
    assert np.all(file.stat().st_size > 100)

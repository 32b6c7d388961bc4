"""Machine code: LLVM compiles each kernel once per host, and a cache on disk keeps the result.

Object code is in `$GRAPHTHETA_CACHE/kernels`, in files named by a digest of the kernel, the
processor, the version of llvmlite and the sources of the code generator: after a change of these
sources, old code is not found. One process compiles a kernel while others wait, and then load it.
The folder is not used if other users may write to it, because code is loaded from it. Where no file
can be written or locked, code is not kept.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import llvmlite
import llvmlite.binding as llvm
import xxhash

from graphtheta.runtime.atomic import atomic_file
from graphtheta.runtime.lock import FileLock
from graphtheta.runtime.paths import private_cache
from graphtheta.tgar.compiler.codegen.emit import emit
from graphtheta.tgar.compiler.ir.kernel import Kernel

__all__ = ["CompiledKernel", "Statistics", "compile_kernel", "statistics"]

# Sources that machine code depends on, in addition to the text of the kernel.
_SOURCES = tuple(Path(__file__).parents[1] / name for name in ("ir", "operators", "codegen"))


@dataclass
class Statistics:
    """Counters of this process.

    Attributes:
        compiled: Number of kernels compiled by LLVM.
        loaded: Number of kernels loaded from the cache.
    """

    compiled: int = 0
    loaded: int = 0


statistics = Statistics()


@dataclass(frozen=True)
class CompiledKernel:
    """Function that takes a pointer to an array of pointers.

    Attributes:
        address: Address of the function.
        arguments: Names of the arrays that the pointers point to, in order.
    """

    address: int
    arguments: tuple[str, ...]

    def bind(self, pointers: Sequence[int]) -> Any:
        """Return the array of pointers that is passed to the function."""
        return (ctypes.c_void_p * len(pointers))(*pointers)


@dataclass(frozen=True)
class _Machine:
    vector_bytes: int
    target: Any
    fingerprint: str


@functools.cache
def _machine() -> _Machine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    flags = llvm.get_host_cpu_features()
    features, cpu = flags.flatten(), llvm.get_host_cpu_name()
    width = 64 if flags.get("avx512f") else 32 if flags.get("avx2") else 16
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=features, opt=3
    )
    digest = xxhash.xxh3_128()
    for path in sorted(path for folder in _SOURCES for path in folder.glob("*.py")):
        digest.update(path.read_bytes())
    for text in (cpu, features, target.triple, llvmlite.__version__, str(width)):
        digest.update(text.encode())
    return _Machine(width, target, digest.hexdigest())


_lock = threading.Lock()
_ready: dict[str, CompiledKernel] = {}
_of_kernel: WeakKeyDictionary[Kernel, CompiledKernel] = WeakKeyDictionary()
_engines: list[Any] = []  # machine code is freed with its engine


def compile_kernel(kernel: Kernel) -> CompiledKernel:
    """Return the machine code of a kernel, from memory, the cache on disk or the compiler."""
    with _lock:
        if kernel not in _of_kernel:
            text = kernel.text()
            if text not in _ready:
                _ready[text] = CompiledKernel(_address(kernel, text), tuple(kernel.arguments()))
            _of_kernel[kernel] = _ready[text]
        return _of_kernel[kernel]


def _address(kernel: Kernel, text: str) -> int:
    machine = _machine()
    digest = xxhash.xxh3_128(text.encode() + machine.fingerprint.encode()).hexdigest()
    code = _from_cache(kernel, digest)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine.target)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    address: int = engine.get_function_address("kernel")
    return address


def _from_cache(kernel: Kernel, digest: str) -> bytes:
    folder = private_cache("kernels")
    if folder is None:
        return _compile(kernel)
    file = folder / f"{digest}.o"
    code = _read(file)
    if code is not None:
        return code
    with ExitStack() as locked:
        try:
            held = locked.enter_context(FileLock(folder / f"{digest}.lock", wait=True)).held
        except OSError:  # a folder that can only be read
            held = False
        code = _read(file)  # another process may have written it meanwhile
        if code is None:
            code = _compile(kernel)
            if held:
                with suppress(OSError), atomic_file(file) as partial:  # the disk may be full
                    partial.write_bytes(xxhash.xxh3_128_digest(code) + code)
    return code


def _read(file: Path) -> bytes | None:
    """Return the code in a file of the cache, or None if it is missing or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    checksum, code = content[:16], content[16:]
    if xxhash.xxh3_128_digest(code) != checksum:
        return None
    statistics.loaded += 1
    return code


def _compile(kernel: Kernel) -> bytes:
    machine = _machine()
    module = llvm.parse_assembly(str(emit(kernel, machine.vector_bytes)))
    module.triple, module.data_layout = machine.target.triple, str(machine.target.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    builder = llvm.create_pass_builder(machine.target, options)
    builder.getModulePassManager().run(module, builder)
    statistics.compiled += 1
    code: bytes = machine.target.emit_object(module)
    return code

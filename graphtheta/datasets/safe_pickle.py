"""Reader of data sets that are published as pickles, without Python's unpickler.

A pickle is a program: Python's unpickler can be made to run any function, and to change the state
of the objects that it is allowed to make. This reader interprets the few operations that arrays,
sparse matrices, dicts and lists are written with. A name in a pickle is never imported, only looked
up in `ALLOWED`; arrays are made from a plain type, a shape and bytes whose number is checked; and
only lists and dicts change after they were made.
"""

from __future__ import annotations

import enum
import math
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse
from numpy.lib import format as npy
from numpy.typing import NDArray

from graphtheta.errors import GraphFormatError

__all__ = [
    "ALLOWED",
    "MATRIX",
    "check_fits_memory",
    "matrix_of",
    "read_npz",
    "sparse_matrix",
    "unpickle",
]


MATRIX = ("data", "indices", "indptr", "shape")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class _Name(enum.Enum):
    """Meaning of a name in a pickle."""

    RECONSTRUCT = enum.auto()
    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    MATRIX = enum.auto()
    DEFAULT_DICT = enum.auto()
    LIST = enum.auto()
    ENCODE = enum.auto()
    BYTES = enum.auto()


# Names that older and newer versions of Python, NumPy and SciPy write.
ALLOWED: dict[tuple[str, str], _Name] = {
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("numpy.core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Name.RECONSTRUCT,
    ("scipy.sparse.csr", "csr_matrix"): _Name.MATRIX,
    ("scipy.sparse._csr", "csr_matrix"): _Name.MATRIX,
    ("collections", "defaultdict"): _Name.DEFAULT_DICT,
    ("__builtin__", "list"): _Name.LIST,
    ("builtins", "list"): _Name.LIST,
    ("_codecs", "encode"): _Name.ENCODE,
    ("__builtin__", "bytes"): _Name.BYTES,
}


def unpickle(file: IO[bytes], where: str) -> Any:
    """Return the object in a pickle of arrays, sparse matrices, dicts and lists.

    Args:
        file: Pickle of any protocol. Strings of Python 2 are read as latin1.
        where: Name of the file in messages.

    Raises:
        GraphFormatError: If the pickle uses any other function or class, which is not imported, or
            is damaged.
    """
    try:
        return _Interpreter(where).run(file.read())
    except GraphFormatError:
        raise
    except Exception as error:
        # A damaged pickle may raise any exception: operations are applied to what it contains.
        raise _damaged(where, error) from None


class _Unfinished:
    """Object between the operation that makes it and the operation that gives its state.

    Attributes:
        finish: Function from the state to the object.
        memo_keys: Keys of the memo under which it is kept.
    """

    def __init__(self, finish: Callable[[Any], Any]) -> None:
        self.finish = finish
        self.memo_keys: list[int] = []


class _Interpreter:
    """Stack machine for the operations of a pickle."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, stream: bytes) -> Any:
        """Return the object that a pickle describes."""
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in _VALUES:
                self._stack.append(argument)
            elif opcode.name in _OPERATIONS:
                _OPERATIONS[opcode.name](self, argument)
            else:
                raise GraphFormatError(
                    f"{self._where}: expected a pickle of arrays, sparse matrices and lists, "
                    f"got one with the operation {opcode.name}. Do not trust this file."
                )
        (value,) = self._stack
        return value

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_to_mark(self) -> list[Any]:
        first = self._marks.pop()
        values = self._stack[first:]
        del self._stack[first:]
        return values

    def _pop_tuple(self, size: int) -> None:
        first = len(self._stack) - size
        if first < 0:
            raise ValueError("a tuple has too few items")
        self._stack[first:] = [tuple(self._stack[first:])]

    def _extend(self, values: list[Any]) -> None:
        _typed(self._stack[-1], list).extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = _typed(self._stack[-1], dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (int, str, bytes):
                raise ValueError("a key of a dict is neither a number nor text")
            target[key] = value

    def _make_dict(self) -> None:
        values = self._pop_to_mark()
        self._push({})
        self._set_items(values)

    def _remember(self, key: int) -> None:
        value = self._stack[-1]
        self._memo[key] = value
        if isinstance(value, _Unfinished):
            value.memo_keys.append(key)

    def _look_up(self, module: str, name: str) -> None:
        if (module, name) not in ALLOWED:
            raise GraphFormatError(
                f"{self._where}: expected a pickle of arrays, sparse matrices and lists, "
                f"got one that names {_shown(f'{module}.{name}')}. Do not trust this file."
            )
        self._push(ALLOWED[module, name])

    def _look_up_popped(self) -> None:
        name, module = _typed(self._stack.pop(), str), _typed(self._stack.pop(), str)
        self._look_up(module, name)

    def _call(self) -> None:
        arguments, function = _typed(self._stack.pop(), tuple), self._stack.pop()
        match function, arguments:
            case _Name.RECONSTRUCT, (_Name.NDARRAY, (0,), "b" | b"b"):
                self._push(_Unfinished(_array))
            case _Name.DTYPE, (str(code), *_):
                self._push(_Unfinished(lambda state: _dtype(code, state, self._where)))
            case _Name.MATRIX, ():
                self._push(_Unfinished(_matrix))
            case _Name.DEFAULT_DICT, () | (_Name.LIST,):
                self._push({})
            case _Name.ENCODE, (str(text), "latin1"):
                self._push(text.encode("latin1"))
            case _Name.BYTES, ():
                self._push(b"")
            case _:
                raise ValueError("a call has other arguments than those of an array or matrix")

    def _build(self) -> None:
        state, unfinished = self._stack.pop(), _typed(self._stack.pop(), _Unfinished)
        finished = unfinished.finish(state)
        for key in unfinished.memo_keys:
            self._memo[key] = finished
        self._push(finished)


_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_OPERATIONS: dict[str, Callable[[_Interpreter, Any], object]] = {
    "PROTO": lambda self, _: None,
    "FRAME": lambda self, _: None,
    "STOP": lambda self, _: None,
    "NONE": lambda self, _: self._push(None),
    "NEWTRUE": lambda self, _: self._push(True),
    "NEWFALSE": lambda self, _: self._push(False),
    "EMPTY_LIST": lambda self, _: self._push([]),
    "EMPTY_DICT": lambda self, _: self._push({}),
    "EMPTY_TUPLE": lambda self, _: self._push(()),
    "MARK": lambda self, _: self._marks.append(len(self._stack)),
    "LIST": lambda self, _: self._push(self._pop_to_mark()),
    "TUPLE": lambda self, _: self._push(tuple(self._pop_to_mark())),
    "TUPLE1": lambda self, _: self._pop_tuple(1),
    "TUPLE2": lambda self, _: self._pop_tuple(2),
    "TUPLE3": lambda self, _: self._pop_tuple(3),
    "DICT": lambda self, _: self._make_dict(),
    "APPEND": lambda self, _: self._extend([self._stack.pop()]),
    "APPENDS": lambda self, _: self._extend(self._pop_to_mark()),
    "SETITEM": lambda self, _: self._set_items([self._stack.pop(-2), self._stack.pop()]),
    "SETITEMS": lambda self, _: self._set_items(self._pop_to_mark()),
    "PUT": _Interpreter._remember,
    "BINPUT": _Interpreter._remember,
    "LONG_BINPUT": _Interpreter._remember,
    "MEMOIZE": lambda self, _: self._remember(len(self._memo)),
    "GET": lambda self, key: self._push(self._memo[key]),
    "BINGET": lambda self, key: self._push(self._memo[key]),
    "LONG_BINGET": lambda self, key: self._push(self._memo[key]),
    "GLOBAL": lambda self, names: self._look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda self, _: self._look_up_popped(),
    "REDUCE": lambda self, _: self._call(),
    "NEWOBJ": lambda self, _: self._call(),
    "BUILD": lambda self, _: self._build(),
}


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} takes the place of a {kind.__name__}")
    return value


def _dtype(code: str, state: Any, where: str) -> np.dtype[Any]:
    """Return a type of numbers or objects from its code, such as f8, and its pickled state."""
    match state:
        case (int(), str(order), None, None, None, *_) if order in ("<", ">", "|", "="):
            if re.fullmatch(r"b1|[iu][1248]|f[248]|O[48]?", code):
                return np.dtype(code[0] if code[0] == "O" else order + code)
    raise _no_numbers(where, _shown(code))


def _array(state: Any) -> NDArray[Any]:
    """Return an array from its pickled state: version, shape, type, order, and bytes or objects."""
    version, shape, dtype, fortran, content = _typed(state, tuple)
    if any(_typed(size, int) < 0 for size in _typed(shape, tuple)) or version != 1:
        raise ValueError("an array has no valid shape")
    if not isinstance(dtype, np.dtype):
        raise ValueError("an array has no type")
    if isinstance(content, str):
        content = content.encode("latin1")
    if dtype.hasobject:
        values = np.empty(len(_typed(content, list)), object)
        for index, value in enumerate(content):
            values[index] = value
    else:
        values = np.frombuffer(_typed(content, bytes), dtype)
        values = values.astype(dtype.newbyteorder("="), copy=False)
    # In Fortran order, the first dimension varies fastest.
    return values.reshape(shape[::-1]).T if _typed(fortran, bool) else values.reshape(shape)


def _matrix(state: Any) -> scipy.sparse.csr_matrix:
    """Return a sparse matrix from its pickled attributes."""
    shape = state["_shape"]
    data, indices, indptr = (_typed(state[n], np.ndarray) for n in ("data", "indices", "indptr"))
    if len([_typed(size, int) for size in _typed(shape, tuple)]) != 2:
        raise ValueError("a matrix has no valid shape")
    return _checked(data, indices, indptr, shape)


def _checked(data: Any, indices: Any, indptr: Any, shape: Any) -> scipy.sparse.csr_matrix:
    if not all(a.ndim == 1 for a in (data, indices, indptr)) or len(shape) != 2:
        raise ValueError("the arrays of a matrix have another number of dimensions")
    if data.dtype.kind not in "biuf" or not {indices.dtype.kind, indptr.dtype.kind} <= set("iu"):
        raise ValueError("a matrix holds other values than numbers")
    matrix = scipy.sparse.csr_matrix((data, indices, indptr), shape=shape)
    matrix.check_format(full_check=True)
    return matrix


def sparse_matrix(value: Any, where: str) -> scipy.sparse.csr_matrix:
    """Check that an unpickled object is a sparse matrix with valid indices, and return it.

    Raises:
        GraphFormatError: If it is another object, or its arrays do not fit together.
    """
    try:
        return _checked(value.data, value.indices, value.indptr, value.shape)
    except (AttributeError, TypeError, ValueError) as error:
        raise _damaged(where, error) from None


def matrix_of(members: Mapping[str, Any], prefix: str, where: str) -> scipy.sparse.csr_matrix:
    """Return the sparse matrix of the arrays `MATRIX`, as `scipy.sparse.save_npz` stores them.

    Args:
        members: Members of an npz file.
        prefix: Beginning of the names of the arrays.
        where: Name of the matrix in messages.

    Raises:
        GraphFormatError: If the arrays do not fit together.
    """
    try:
        data, indices, indptr, shape = (
            _typed(members.get(prefix + name), np.ndarray) for name in MATRIX
        )
        return _checked(data, indices, indptr, tuple(int(size) for size in shape))
    except (TypeError, ValueError, OverflowError) as error:
        raise _damaged(where, error) from None


def check_fits_memory(shape: tuple[int, ...], where: str) -> None:
    """Raise a GraphFormatError if a float32 array of a shape has more bytes than this host."""
    needed, memory = 4 * math.prod(shape), _PAGE_BYTES * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise GraphFormatError(
            f"{where}: expected features that fit {memory:,} bytes of memory, got a matrix of "
            f"shape {shape}. Fetch the file again, or convert it to Arrow tables."
        )


def read_npz(path: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Return those of the named members that an `npz` file contains.

    Arrays of objects are read by `unpickle`; an array without dimensions is returned as its object.

    Raises:
        GraphFormatError: If the file is not an `npz` file, is damaged, or contains a pickle that
            `unpickle` refuses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = [name for name in names if f"{name}.npy" in archive.namelist()]
            return {name: _member(archive, name, f"{path}: {name}") for name in present}
    except GraphFormatError:
        raise
    except Exception as error:
        # Damaged archives raise what zipfile, its decompressors and NumPy's headers raise.
        raise _damaged(str(path), error) from None


def _member(archive: zipfile.ZipFile, name: str, where: str) -> Any:
    with archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"array format {version} is not known")
        shape, _, dtype = read_header[version](file)
        if dtype.hasobject:
            value = unpickle(file, where)
            return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
        # NumPy allocates what the header claims, before it reads.
        claimed = math.prod(shape) * dtype.itemsize
        found = archive.getinfo(f"{name}.npy").file_size - file.tell()
        if dtype.kind not in "biufSU":
            raise _no_numbers(where, dtype)
        if min(shape, default=0) < 0 or claimed != found:
            raise _damaged(where, ValueError(f"{shape} {dtype} in {found:,} bytes"))
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def _no_numbers(where: str, kind: object) -> GraphFormatError:
    return GraphFormatError(
        f"{where}: expected an array of numbers or texts, got the type {kind}. Convert it."
    )


def _shown(text: str) -> str:
    """Return a text of a file for a message: one line of limited length."""
    return text if len(text) <= 80 and text.isprintable() else repr(text[:60])


def _damaged(where: str, error: Exception) -> GraphFormatError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return GraphFormatError(
        f"{where}: expected a whole, readable file, got {reason!r}. Fetch the file again."
    )

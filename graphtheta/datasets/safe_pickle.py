"""The only unpickler in GraphTheta, for data sets published as pickles.

A pickle is a program. This one may name a few constructors of arrays, sparse matrices and lists
and nothing else, so that the worst a file can do is to be refused or to be large.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse
from numpy.lib import format as npy

from graphtheta.errors import GraphFormatError

__all__ = ["ALLOWED", "read_npz", "sparse_matrix", "unpickle"]

# NumPy's and SciPy's constructors under the names that older and newer versions write.
_reconstruct = np.empty(0).__reduce__()[0]
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("scipy.sparse.csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("scipy.sparse._csr", "csr_matrix"): scipy.sparse.csr_matrix,
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
}


class _Restricted(pickle.Unpickler):
    def __init__(self, file: IO[bytes], where: str) -> None:
        # latin1 is how Python 2's byte strings, and so NumPy's buffers in them, are read.
        super().__init__(file, encoding="latin1")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise GraphFormatError(
                f"{self._where}: expected a pickle of arrays, sparse matrices and lists, "
                f"got one that names {module}.{name}. Do not trust this file."
            ) from None


def unpickle(file: IO[bytes], where: str) -> Any:
    """Return what a pickle holds, if it is made of arrays, sparse matrices, dicts and lists.

    Args:
        file: A pickle of any protocol; strings of Python 2 are read as latin1.
        where: Names the file in messages.

    Raises:
        GraphFormatError: If it names anything else, before that is looked up, or is damaged.
    """
    try:
        return _Restricted(file, where).load()
    except GraphFormatError:
        raise
    except Exception as error:
        # A damaged pickle fails in any way: its opcodes call constructors with what it holds.
        raise _damaged(where, error) from None


def sparse_matrix(value: Any, where: str) -> scipy.sparse.csr_matrix:
    """Return an unpickled sparse matrix once its indices are known to be in range.

    Raises:
        GraphFormatError: If it is something else, or its arrays do not fit together.
    """
    try:
        matrix = scipy.sparse.csr_matrix(
            (value.data, value.indices, value.indptr), shape=value.shape
        )
        matrix.check_format(full_check=True)
    except (AttributeError, TypeError, ValueError) as error:
        raise _damaged(where, error) from None
    return matrix


def read_npz(path: str | Path, names: Sequence[str]) -> dict[str, Any]:
    """Return those of the named members of an `npz` file that it has.

    Arrays are read as they are; arrays of objects go through `unpickle`, and one of no dimension
    is returned as its object.

    Raises:
        GraphFormatError: If it is no `npz` file, is damaged, or holds a pickle `unpickle` refuses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = [name for name in names if f"{name}.npy" in archive.namelist()]
            return {name: _member(archive, name, f"{path}: {name}") for name in present}
    except GraphFormatError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(str(path), error) from None


def _member(archive: zipfile.ZipFile, name: str, where: str) -> Any:
    with archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"array format {version} is not known")
        _, _, dtype = read_header[version](file)
        if dtype.hasobject:
            value = unpickle(file, where)
            return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)


def _damaged(where: str, error: Exception) -> GraphFormatError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return GraphFormatError(
        f"{where}: expected a whole, readable file, got {reason!r}. Fetch the file again."
    )

"""Restricted unpickler for data sets that are published as pickles.

A pickle can run any function. Here it may only use a few constructors of arrays, sparse matrices
and lists, so that a malicious file is refused. No other module of GraphTheta unpickles.
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

# Constructors of NumPy and SciPy, under the names that older and newer versions write.
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
        # latin1 reads byte strings of Python 2, which contain the buffers of NumPy arrays.
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
    """Return the object in a pickle of arrays, sparse matrices, dicts and lists.

    Args:
        file: Pickle of any protocol. Strings of Python 2 are read as latin1.
        where: Name of the file in messages.

    Raises:
        GraphFormatError: If the pickle uses any other function or class, which is not imported, or
            is damaged.
    """
    try:
        return _Restricted(file, where).load()
    except GraphFormatError:
        raise
    except Exception as error:
        # A damaged pickle may raise any exception, as it calls constructors with its data.
        raise _damaged(where, error) from None


def sparse_matrix(value: Any, where: str) -> scipy.sparse.csr_matrix:
    """Check that an unpickled object is a sparse matrix with valid indices, and return it.

    Raises:
        GraphFormatError: If it is another object, or its arrays do not fit together.
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

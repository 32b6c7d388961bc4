import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import scipy.sparse

from graphtheta.datasets.safe_pickle import read_npz, sparse_matrix, unpickle
from graphtheta.errors import GraphFormatError


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [3, 4])
def test_reads_arrays_and_matrices(protocol):
    matrix = scipy.sparse.csr_matrix(np.eye(3))
    given = {"m": matrix, "a": np.arange(4.0), "o": np.array([[1], None], object)}
    back = unpickle(io.BytesIO(pickle.dumps(given, protocol)), "file")
    assert np.array_equal(back["a"], given["a"])
    assert back["o"].tolist() == [[1], None]
    assert np.array_equal(sparse_matrix(back["m"], "file").toarray(), np.eye(3))


@pytest.mark.parametrize("protocol", range(6))
def test_reads_plain_values(protocol):
    plain = {1: [2, 3], "x": (1.5, None, True)}
    assert unpickle(io.BytesIO(pickle.dumps(plain, protocol)), "file") == plain


def test_reads_python_2_default_dicts_of_lists():
    stream = pickle.dumps(defaultdict(list, {0: [1, 2]}), 2, fix_imports=True)
    assert b"__builtin__\nlist" in stream
    assert unpickle(io.BytesIO(stream), "file") == {0: [1, 2]}


def test_malicious_pickle_is_refused_and_not_run(tmp_path):
    target = tmp_path / "made"
    stream = pickle.dumps(Malicious(str(target)))
    with pytest.raises(GraphFormatError, match=r"file: .* got one that names \w+\.mkdir"):
        unpickle(io.BytesIO(stream), "file")
    assert not target.exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy\nf2py.run_main\n(S'x'\ntR.",
        pickle.dumps(OrderedDict()),
        pickle.dumps(io.BytesIO),
    ],
    ids=["system", "eval", "np_load", "dotted", "OrderedDict", "BytesIO"],
)
def test_every_other_name_is_refused(stream):
    with pytest.raises(GraphFormatError, match="got one that names"):
        unpickle(io.BytesIO(stream), "file")


@pytest.mark.parametrize(
    "stream",
    [b"", b"not a pickle", pickle.dumps(np.arange(100))[:60], b"cnumpy\nndarray\n(S'x'\ntR."],
    ids=["empty", "text", "truncated", "wrong_arguments"],
)
def test_damaged_pickle_is_refused_in_one_line(stream):
    with pytest.raises(GraphFormatError, match="file: expected a whole, readable file") as caught:
        unpickle(io.BytesIO(stream), "file")
    assert "\n" not in str(caught.value)


def test_matrix_with_indices_out_of_range_is_refused():
    matrix = scipy.sparse.csr_matrix(np.eye(3))
    matrix.indices[1] = 1_000_000
    with pytest.raises(GraphFormatError, match="expected a whole, readable file"):
        sparse_matrix(matrix, "file")
    with pytest.raises(GraphFormatError, match="expected a whole, readable file"):
        sparse_matrix([1, 2], "file")


def test_npz_members_are_read_by_name(tmp_path):
    matrix = scipy.sparse.csr_matrix(np.eye(2))
    path = tmp_path / "g.npz"
    np.savez(path, plain=np.arange(3), boxed=np.array(matrix, object), unread=np.array(1))
    found = read_npz(path, ["plain", "boxed", "absent"])
    assert list(found) == ["plain", "boxed"]
    assert found["plain"].tolist() == [0, 1, 2]
    assert np.array_equal(found["boxed"].toarray(), np.eye(2))


def test_malicious_npz_is_refused_and_not_run(tmp_path):
    target = tmp_path / "made"
    path = tmp_path / "g.npz"
    np.savez(path, boxed=np.array(Malicious(str(target)), object))
    with pytest.raises(GraphFormatError, match=r"boxed: .*mkdir"):
        read_npz(path, ["boxed"])
    assert not target.exists()


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "g.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(GraphFormatError, match=r"g\.npz: expected a whole"):
        read_npz(path, ["x"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"not an array")
    with pytest.raises(GraphFormatError, match=r"g\.npz: expected a whole"):
        read_npz(path, ["x"])

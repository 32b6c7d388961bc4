import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import scipy.sparse

from graphtheta.datasets.safe_pickle import ALLOWED, read_npz, sparse_matrix, unpickle
from graphtheta.errors import GraphFormatError


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_arrays_and_matrices(protocol):
    matrix = scipy.sparse.csr_matrix(np.eye(3))
    given = {
        "m": matrix,
        "a": np.arange(4.0),
        "o": np.array([[1], None], object),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        "empty": np.empty((0, 3), np.uint8),
        "swapped": np.arange(3, dtype=">f4"),
    }
    back = unpickle(io.BytesIO(pickle.dumps(given, protocol)), "file")
    assert np.array_equal(back["a"], given["a"])
    assert back["o"].tolist() == [[1], None]
    for name in ("fortran", "empty", "swapped"):
        assert back[name].dtype == given[name].dtype.newbyteorder("=")
        assert np.array_equal(back[name], given[name]), name
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


class Changed:
    """A type that is changed to have objects over raw bytes, and an array of it."""

    def __reduce__(self):
        names = {"a": (np.dtype(object), 0)}
        return np.dtype, ("V8", False, True), (3, "|", None, ("a",), names, 8, 1, 27)


class Array:
    """Array with a type, a shape and bytes of one's choice."""

    def __init__(self, dtype, shape, content):
        self.state = 1, shape, dtype, False, content

    def __reduce__(self):
        reconstruct, arguments, _ = np.empty(0).__reduce__()
        return reconstruct, arguments, self.state


HOSTILE = {
    "type_changed_by_build": pickle.dumps(Array(Changed(), (1,), b"A" * 8)),
    "objects_from_bytes": pickle.dumps(Array(np.dtype(object), (1,), b"A" * 8)),
    "structured_type": pickle.dumps(Array(np.dtype([("a", "O")]), (1,), b"A" * 8)),
    "shape_beyond_bytes": pickle.dumps(Array(np.dtype("f8"), (10**13,), b"A" * 8)),
    "negative_shape": pickle.dumps(Array(np.dtype("f8"), (-1, -1), b"A" * 8)),
    "build_of_a_name": b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.",
    "build_of_a_list": b"\x80\x02]}U\x01aK\x01sb.",
    "append_to_an_array": pickle.dumps(np.arange(2), 4)[:-1] + b"K\x01a.",
    "items_of_an_array": pickle.dumps(np.arange(2), 4)[:-1] + b"K\x00K\x01s.",
    "type_without_state": b"\x80\x02cnumpy\ndtype\nU\x02f8\x85R]b.",
    "deep_key": b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.",
    "length_beyond_file": b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00abc.",
    "instance": b"(ios\nsystem\n.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"\x80\x02U\x01aQ.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickle_is_refused_in_one_line(name):
    with pytest.raises(GraphFormatError, match="file: expected") as caught:
        unpickle(io.BytesIO(HOSTILE[name]), "file")
    assert "\n" not in str(caught.value)


def test_a_pickle_changes_no_name():
    before = {name: vars(type(value)).copy() for name, value in ALLOWED.items()}
    for stream in HOSTILE.values():
        with pytest.raises(GraphFormatError):
            unpickle(io.BytesIO(stream), "file")
    assert {name: vars(type(value)) for name, value in ALLOWED.items()} == before


def test_npz_that_claims_more_than_it_holds_is_refused(tmp_path):
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (10**13, 2)}
    np.lib.format.write_array_header_1_0(header, described)
    path = tmp_path / "g.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"A" * 16)
    with pytest.raises(GraphFormatError, match=r"x: expected .*10000000000000, 2") as caught:
        read_npz(path, ["x"])
    assert "\n" not in str(caught.value)


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "g.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(GraphFormatError, match=r"g\.npz: expected a whole"):
        read_npz(path, ["x"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"not an array")
    with pytest.raises(GraphFormatError, match=r"g\.npz: expected a whole"):
        read_npz(path, ["x"])

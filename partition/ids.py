"""Original ids and node keys: a directory spread over the ranks by a hash of the id.

A rank holds about 1 / size of the directory, and asks for each different id once.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.columns import refuse, some, whole
from graphtheta.comm.communicator import Communicator
from graphtheta.partition.columns import column_numpy
from graphtheta.partition.shuffle import shuffle
from graphtheta.random import Purpose, hash_keys

__all__ = ["IdDirectory", "hash_ids", "sorted_unique"]

_SAMPLES = 64  # a rank's sample of its ids, from which the ranges of a sort are chosen


class IdDirectory:
    """Where the node key of an original id is found. Making and asking are collective.

    Args:
        ids: The ids of this rank's nodes, int64 or string.
        first_key: Node key of the first of them; the others follow.
        comm: The ranks.

    Raises:
        GraphFormatError: If two nodes have the same id.

    Communication:
        8 bytes and an id for each node, in one all-to-all.
    """

    def __init__(self, ids: pa.Array, first_key: int, comm: Communicator) -> None:
        keys = np.arange(first_key, first_key + len(ids), dtype=np.int64)
        rows = pa.table({"id": ids, "key": keys})
        rows = shuffle(rows, _bucket(ids, comm), comm, stage="directory of ids")
        self._comm = comm
        self._ids = whole(rows["id"])
        self._keys = column_numpy(rows, "key")
        _check_unique(self._ids)

    def lookup(self, ids: pa.Array, where: str, first_row: int) -> NDArray[np.int64]:
        """Return the node key of each id.

        Args:
            ids: Ids, in any order, repeated or not.
            where: Names the column in messages.
            first_row: Number of the first row, for messages.

        Raises:
            GraphFormatError: If an id is of another type or unknown.

        Communication:
            12 bytes and the id for each different id, in two all-to-alls.
        """
        if ids.type != self._ids.type:
            raise refuse(
                where, f"ids of type {self._ids.type} as in the nodes", ids.type, "Convert one."
            )
        encoded = ids.dictionary_encode()
        asked = encoded.dictionary
        bucket = _bucket(asked, self._comm)
        order = np.argsort(bucket, kind="stable")
        origin = np.full(len(asked), self._comm.rank, np.int32)
        questions = pa.table({"id": asked.take(pa.array(order)), "origin": origin})
        questions = shuffle(questions, bucket[order], self._comm, stage=f"look up {where}")
        found = pc.index_in(whole(questions["id"]), value_set=self._ids)
        known = found.is_valid().to_numpy(zero_copy_only=False)
        key_of_question = np.full(len(found), -1, np.int64)
        key_of_question[known] = self._keys[found.drop_null().to_numpy()]
        answers = shuffle(
            pa.table({"key": key_of_question}),
            column_numpy(questions, "origin"),
            self._comm,
            stage=f"look up {where}",
        )
        key_of_asked = np.empty(len(asked), np.int64)
        key_of_asked[order] = column_numpy(answers, "key")
        keys: NDArray[np.int64] = key_of_asked[encoded.indices.to_numpy()]
        _check_known(keys, ids, where, first_row)
        return keys


def hash_ids(ids: pa.Array) -> NDArray[np.uint64]:
    """Return 64 well-mixed bits of each id; the same in every process and version.

    Shape:
        ids: (R,) int64 or string. Returns (R,) uint64.
    """
    if pa.types.is_int64(ids.type):
        words: NDArray[np.int64] = ids.to_numpy()
    else:
        text = ids.cast(pa.large_string())
        _, offsets, data = text.buffers()
        bounds = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
        words = np.empty(len(text), np.int64)
        _fnv1a(bounds, np.frombuffer(data or b"", np.uint8), words)
    return hash_keys(words, 0, Purpose.PLACEMENT)


def sorted_unique(ids: pa.Array, comm: Communicator) -> tuple[pa.Array, int, int]:
    """Return this rank's range of all ranks' ids, sorted and without repeats (a sample sort).

    Returns:
        The range; how many ids are before it; how many there are.

    Communication:
        A sample of ids to every rank, then each rank's different ids in one all-to-all.
    """
    ids = pc.unique(ids)
    ids = ids.take(pc.sort_indices(ids))
    if comm.size > 1:
        cuts = _cuts(ids, comm)
        bounds = [bisect_left(ids, cut, key=lambda scalar: scalar.as_py()) for cut in cuts]
        counts = np.diff([0, *bounds, len(ids)])
        rank_of_row = np.repeat(np.arange(comm.size), counts)
        ids = pc.unique(shuffle(pa.table({"id": ids}), rank_of_row, comm, stage="sort ids")["id"])
        ids = ids.take(pc.sort_indices(ids))
    counts = comm.all_gather_int(len(ids), stage="count ids")
    return ids, int(counts[: comm.rank].sum()), int(counts.sum())


def _cuts(ids: pa.Array, comm: Communicator) -> list[Any]:
    """Return size - 1 ids that cut all ids into ranges of nearly equal size."""
    picks = np.linspace(0, len(ids) - 1, min(_SAMPLES, len(ids))).astype(np.int64)
    sample = pa.table({"id": ids.take(pa.array(picks))})
    everywhere = pa.concat_tables([sample] * comm.size)
    to = np.repeat(np.arange(comm.size), sample.num_rows)
    samples = sorted(shuffle(everywhere, to, comm, stage="sample ids")["id"].to_pylist())
    return [samples[len(samples) * r // comm.size] for r in range(1, comm.size)] if samples else []


def _bucket(ids: pa.Array, comm: Communicator) -> NDArray[np.int64]:
    if comm.size == 1:
        return np.zeros(len(ids), np.int64)
    return (hash_ids(ids) % np.uint64(comm.size)).astype(np.int64)


def _check_unique(ids: pa.Array) -> None:
    if len(pc.unique(ids)) == len(ids):
        return
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    raise refuse(
        "nodes: id",
        "every id once",
        f"{some(twice.slice(0, 3).to_pylist(), len(twice))} more than once",
        "Remove the duplicate rows.",
    )


def _check_known(keys: NDArray[np.int64], ids: pa.Array, where: str, first_row: int) -> None:
    unknown = np.flatnonzero(keys < 0)
    if not unknown.shape[0]:
        return
    names = pc.unique(ids.take(pa.array(unknown)))
    raise refuse(
        where,
        "ids of the node table",
        f"unknown {some(names.slice(0, 3).to_pylist(), len(names))} "
        f"(first in row {first_row + int(unknown[0])})",
        "Add these nodes or drop their edges.",
    )


@numba.njit(cache=True, nogil=True)
def _fnv1a(
    bounds: NDArray[np.int64], data: NDArray[np.uint8], out: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    # Fowler, Noll, Vo; one word a string, mixed afterwards.
    for i in range(out.shape[0]):
        word = np.uint64(0xCBF29CE484222325)
        for j in range(bounds[i], bounds[i + 1]):
            word = (word ^ np.uint64(data[j])) * np.uint64(0x100000001B3)
        out[i] = np.int64(word)

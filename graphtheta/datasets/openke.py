"""Reader of knowledge graphs in the layout of OpenKE: triples of numbers, and a list of names.

`entity2id.txt` and `relation2id.txt` have a count, then a name and its number in each line;
`train2id.txt`, `valid2id.txt` and `test2id.txt` have a count, then head, tail and relation. The id
of a node is the name of the entity, the edge column `type` has the relation with its name, and the
split `split` of edges has the file of a triple.

Source: Han, Cao, Lv, Lin, Liu, Sun, Li, "OpenKE: an open toolkit for knowledge embedding", EMNLP
2018. FB15k-237 and WN18RR are published in this layout.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.graph import Graph
from graphtheta.data.schema import refuse, with_classes

__all__ = ["read", "recognises"]

_ENTITIES, _RELATIONS = "entity2id.txt", "relation2id.txt"
_TRIPLES = ("train2id.txt", "valid2id.txt", "test2id.txt")
_CORRECT = "Correct the file, or fetch it again."


def recognises(path: str) -> bool:
    """Return whether `path` is a folder with entities, relations and training triples."""
    return all((Path(path) / name).is_file() for name in (_ENTITIES, _RELATIONS, _TRIPLES[0]))


def read(path: str) -> Graph:
    """Read a folder of OpenKE.

    Args:
        path: Folder with the files; the validation and test triples may be missing.

    Returns:
        The graph: an edge for each triple, in the order of the files, with `type` and the split
        `split`. Reverse edges are not added.

    Raises:
        GraphFormatError: If a file is damaged, or a number is not that of an entity or relation.
    """
    folder = Path(path)
    entities, relations = _names(folder / _ENTITIES), _names(folder / _RELATIONS)
    present = [folder / name for name in _TRIPLES if (folder / name).is_file()]
    parts = [_triples(file, len(entities), len(relations)) for file in present]
    codes = [_TRIPLES.index(file.name) + 1 for file in present]
    head, tail, relation = np.ascontiguousarray(np.concatenate(parts).T)
    fields = [
        pa.field("src", pa.int64()),
        pa.field("dst", pa.int64()),
        with_classes(pa.field("type", pa.int64()), relations),
        pa.field("split:split", pa.int8()),
    ]
    split = np.repeat(np.array(codes, np.int8), [len(part) for part in parts])
    edges = pa.table([head, tail, relation, split], schema=pa.schema(fields))
    return Graph(pa.table({"id": pa.array(entities, pa.string())}), edges)


def _names(path: Path) -> list[str]:
    """Return names in the order of their numbers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(str(path), "readable text", str(error).splitlines()[0], _CORRECT) from None
    rows = [line.rsplit(maxsplit=1) for line in lines[1:] if line.strip()]
    count = _count(lines[0] if lines else "", len(rows), path)
    odd = next((i for i, row in enumerate(rows) if len(row) != 2 or not row[1].isdecimal()), None)
    if odd is not None:
        got = repr(" ".join(rows[odd])[:60])
        raise refuse(f"{path}: line {odd + 2}", "a name and its number", got, _CORRECT)
    names = {int(number): name for name, number in rows}
    if sorted(names) != list(range(count)):
        raise refuse(str(path), f"each number from 0 to {count - 1:,} once", "others", _CORRECT)
    if len(set(names.values())) < count:
        raise refuse(str(path), "different names", "a name more than once", _CORRECT)
    return [names[number] for number in range(count)]


def _triples(path: Path, num_entities: int, num_relations: int) -> NDArray[np.int64]:
    """Return rows of head, tail and relation: (R, 3)."""
    try:
        with warnings.catch_warnings(), path.open(encoding="utf-8") as file:
            warnings.simplefilter("ignore")  # of a file without triples
            first = file.readline()
            rows = np.loadtxt(file, np.int64, ndmin=2)
    except (OSError, ValueError, OverflowError) as error:
        got = str(error).splitlines()[0][:200]
        raise refuse(str(path), "three integers a line", got, _CORRECT) from None
    if not rows.size:
        rows = np.empty((0, 3), np.int64)
    if rows.shape[1] != 3:
        raise refuse(str(path), "three integers a line", f"{rows.shape[1]}", _CORRECT)
    _count(first, len(rows), path)
    for column, (what, limit) in enumerate(
        (("entities", num_entities), ("entities", num_entities), ("relations", num_relations))
    ):
        outside = np.flatnonzero((rows[:, column] < 0) | (rows[:, column] >= limit))
        if len(outside):
            got = f"{rows[outside[0], column]} in line {outside[0] + 2}"
            raise refuse(str(path), f"{what} from 0 to {limit - 1:,}", got, _CORRECT)
    return rows


def _count(line: str, found: int, path: Path) -> int:
    text = line.strip().removeprefix("\ufeff")
    if not text.isdecimal() or int(text) != found:
        expected = f"the number of lines below ({found:,}) in its first line"
        raise refuse(str(path), expected, repr(text[:60]), _CORRECT)
    return found

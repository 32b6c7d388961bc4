r"""Reader of WordNet: synsets, typed pointers between them, and the lexicographer files as labels.

Nodes are synsets. Their id is the part of speech and the offset, such as `n00001740`. Edges are
pointers, from the synset that contains them, with `type` = the index of their symbol in `POINTERS`.
Label `y` is the number of the lexicographer file (45 classes), which is a topic such as noun.food
or verb.motion. Each part of speech has its own classes (26 for nouns, 15 for verbs, 3 for
adjectives, 1 for adverbs). It is not a feature, but words of the gloss often imply it.

Features are the words of the lemmas and the gloss of a synset, hashed into 128 counts. Each count
is replaced by its square root, and the vector is scaled to length 1.

Source: Fellbaum (ed.), "WordNet: an electronic lexical database", MIT Press 1998.
Format: wndb(5WN).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from graphtheta.data.graph import Graph
from graphtheta.data.schema import node_table, refuse
from graphtheta.datasets.splits import random_split

__all__ = ["POINTERS", "read", "recognises"]

POINTERS = (
    *("!", "@", "@i", "~", "~i", "#m", "#s", "#p", "%m", "%s", "%p", "=", "+"),
    *(";c", "-c", ";r", "-r", ";u", "-u", "*", ">", "^", "$", "&", "<", "\\"),
)

_WIDTH = 128
_FILES = {"n": "data.noun", "v": "data.verb", "a": "data.adj", "r": "data.adv"}
_WORD = re.compile(r"[a-z]+")


def recognises(path: str) -> bool:
    """Return whether `path` is a folder with the data files of WordNet."""
    return all((Path(path) / name).is_file() for name in _FILES.values())


def read(path: str, *, seed: int = 0) -> Graph:
    """Read the four data files of WordNet.

    Lines are parsed in Python; the fields are then processed by columns.

    Args:
        path: Folder with `data.noun`, `data.verb`, `data.adj` and `data.adv`.
        seed: Random seed of the split: 60 % of each class are for training, 20 % for validation,
            20 % for test.

    Returns:
        The graph, with label `y` and split `split`.

    Raises:
        GraphFormatError: If a line has a wrong format, or the target of a pointer does not exist.
    """
    found = _Synsets()
    for letter, name in _FILES.items():
        found.parse(Path(path) / name, letter)
    ids = pa.array(found.ids)
    labels = np.array(found.labels, np.int64)
    split = random_split(len(ids), labels, train=0.6, val=0.2, seed=seed, per_class=True)
    nodes = node_table(ids, _hashed(found.words, found.num_words), labels, split)
    kinds = pc.index_in(pa.array(found.symbols), pa.array(POINTERS))
    if kinds.null_count:
        odd = found.symbols[int(np.flatnonzero(kinds.is_null())[0])]
        raise refuse(path, f"pointers among {' '.join(POINTERS)}", repr(odd), "See wndb(5WN).")
    edges = {
        "src": np.repeat(ids.to_numpy(zero_copy_only=False), found.num_pointers),
        "dst": pc.binary_join_element_wise(found.target_letters, found.target_offsets, ""),
        "type": kinds.cast(pa.int64()),
    }
    return Graph.from_arrow(nodes, pa.table(edges))


class _Synsets:
    """Columns with one entry per synset, pointer or word, to which lines are added."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.labels: list[int] = []
        self.num_pointers: list[int] = []
        self.symbols: list[str] = []
        self.target_letters: list[str] = []
        self.target_offsets: list[str] = []
        self.num_words: list[int] = []
        self.words: list[str] = []

    def parse(self, path: Path, letter: str) -> None:
        with path.open(encoding="latin1") as file:
            for number, line in enumerate(file, start=1):
                if line[0] != " ":  # lines of the licence, above the data, are indented
                    try:
                        self._add(line, letter)
                    except (ValueError, IndexError):
                        raise refuse(
                            f"{path}: line {number}", "a synset", repr(line[:40]), "See wndb(5WN)."
                        ) from None

    def _add(self, line: str, letter: str) -> None:
        head, _, gloss = line.partition("|")
        fields = head.split()
        lemmas = 4 + 2 * int(fields[3], 16)  # word and sense, in turn
        first = lemmas + 1
        end = first + 4 * int(fields[lemmas])  # symbol, offset, part of speech, words, in turn
        if len(fields) < end:
            raise ValueError
        words = _WORD.findall(f"{' '.join(fields[4:lemmas:2])} {gloss}".lower())
        self.ids.append(letter + fields[0])
        self.labels.append(int(fields[1]))
        self.num_pointers.append((end - first) // 4)
        self.symbols += fields[first:end:4]
        self.target_offsets += fields[first + 1 : end : 4]
        self.target_letters += fields[first + 2 : end : 4]
        self.num_words.append(len(words))
        self.words += words


def _hashed(words: list[str], num_words: list[int]) -> NDArray[np.float32]:
    coded = pa.array(words).dictionary_encode()
    hashes = [xxhash.xxh3_64_intdigest(word.encode()) for word in coded.dictionary.to_pylist()]
    buckets = (np.array(hashes, np.uint64) % np.uint64(_WIDTH)).astype(np.int64)
    rows = np.repeat(np.arange(len(num_words)), num_words)
    positions = rows * _WIDTH + buckets[coded.indices.to_numpy()]
    counts = np.bincount(positions, minlength=len(num_words) * _WIDTH).reshape(-1, _WIDTH)
    roots = np.sqrt(counts).astype(np.float32)
    # Counts are integers, so that a length less than 1 is 0.
    length = np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1)
    return np.asarray(roots / length, np.float32)

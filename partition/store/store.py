"""Store: a partitioned graph in a directory of Arrow files.

```
manifest.json               description of the graph
book.arrow                  partition book: first_new_id, masters, mirrors, edges, digest of a part
index/bucket-00003/         node_key.arrow, original_id-0.arrow, bucket.json
part-00003/                 masters.arrow, replicas.arrow, in_indptr.arrow, out_indptr.arrow,
                            in_edges.arrow, out_edges.arrow, plan.arrow, part.json,
                            masters-0.arrow, in_edges-0.arrow
```
Files with a number have the columns of the node type, or relation, at that position of the
manifest. A relation without columns has no such file.

A store is written under a temporary name and renamed when complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition.store.check_part import check_layout, check_values
from graphtheta.partition.store.community_files import list_communities, read_communities
from graphtheta.partition.store.files import (
    check_folder,
    damaged,
    open_table,
    read_text,
    record_digest,
    write_table,
)
from graphtheta.partition.store.index import Index
from graphtheta.partition.store.manifest import (
    FORMAT_VERSION,
    SPARSE_VERSION,
    Book,
    Manifest,
    checksum,
)
from graphtheta.partition.store.part import TABLES, PartTables, table_names
from graphtheta.partition.store.quality import PartCounts, count_part, measure
from graphtheta.partition.store.tables import column_numpy
from graphtheta.wording import counted

__all__ = [
    "PART_RECORD",
    "Store",
    "open_store",
    "part_folder",
    "write_description",
]

PART_RECORD = "part.json"


@dataclass(frozen=True, slots=True)
class Store:
    """Opened store. Reading a part maps its files.

    Attributes:
        path: Directory of the store.
        manifest: Description of the graph.
        book: Partition book.
    """

    path: Path
    manifest: Manifest
    book: Book

    def __repr__(self) -> str:
        manifest = self.manifest
        counts = {"part": self.num_parts, "node": manifest.num_nodes, "edge": manifest.num_edges}
        sizes = ", ".join(counted(count, noun) for noun, count in counts.items())
        return f"Store({str(self.path)!r}, {sizes})"

    @property
    def num_parts(self) -> int:
        """Number of parts (P)."""
        return self.manifest.num_parts

    @property
    def checksum(self) -> str:
        """Hash of the content, independent of the path and of the number of ranks that wrote it."""
        return self.manifest.checksum

    @property
    def index(self) -> Index:
        """Index from original ids and node keys to new ids."""
        return Index(self.path, self.manifest)

    def part(self, part: int, *, verified: bool = False) -> PartTables:
        """Return the tables of a part, memory-mapped, after checking what indexes memory.

        Args:
            part: Index of the part.
            verified: Whether to compare the hashes of the files, too, which reads them completely.

        Raises:
            ConfigError: If the part does not exist.
            StoreError: If a file of the part is missing or damaged.
        """
        tables = self._map_part(part, verified=verified)
        check_values(tables, part_folder(self.path, part), self.manifest, self.book)
        return tables

    def verify(self) -> None:
        """Check the content of every file, communities included.

        Raises:
            StoreError: If a file is missing or was changed; the message names it.
        """
        counts, index = self.zero_counts(), self.index
        for part in range(self.num_parts):
            count_part(self.part(part, verified=True), counts)
            index.verify(part)
        found = measure(counts)
        if found != self.manifest.quality:
            raise damaged(self.path / "manifest.json", f"{found}", f"{self.manifest.quality}")
        for name in list_communities(self.path):
            read_communities(self.path, name, self.manifest, self.book).verify()

    def zero_counts(self) -> PartCounts:
        """Return counts of zero for all parts, node types and relations."""
        manifest = self.manifest
        return PartCounts.zeros(self.num_parts, len(manifest.node_types), len(manifest.relations))

    def describe(self) -> dict[str, Any]:
        """Return what `graphtheta info` prints, as JSON-serialisable values."""
        rows = zip(self.book.masters, self.book.mirrors, self.book.edges, strict=True)
        return {
            "path": str(self.path),
            **self.manifest.model_dump(mode="json"),
            "bytes": sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file()),
            "parts": [
                {"part": part, "masters": int(m), "mirrors": int(h), "edges": int(e)}
                for part, (m, h, e) in enumerate(rows)
            ],
        }

    def _map_part(self, part: int, *, verified: bool) -> PartTables:
        if not 0 <= part < self.num_parts:
            raise ConfigError(
                f"{self.path}: expected a part in [0, {self.num_parts}), got {part}. "
                "Choose one of these."
            )
        folder, digest = part_folder(self.path, part), self.book.digests[part]
        manifest = self.manifest
        with_columns = [bool(relation.columns) for relation in manifest.relations]
        names = table_names(len(manifest.node_types), with_columns)
        record = check_folder(folder, PART_RECORD, part, names)
        found = record_digest(read_text(folder / PART_RECORD))
        if found != digest or record.num_interior is None:
            raise damaged(folder / PART_RECORD, f"content of hash {digest}", found)
        tables = {}
        for name in names:
            file = f"{name}.arrow"
            tables[name] = open_table(folder / file, record.files[file] if verified else None)
        mapped = PartTables(
            part=part,
            num_interior=record.num_interior,
            node_columns=tuple(tables[f"masters-{i}"] for i in range(len(manifest.node_types))),
            edge_columns=tuple(tables.get(f"in_edges-{i}") for i in range(len(with_columns))),
            first_node_keys=manifest.first_node_keys,
            first_edge_keys=manifest.first_edge_keys,
            **{name: tables[name] for name in TABLES},
        )
        check_layout(mapped, folder, self.manifest, self.book)
        return mapped


def write_description(path: Path, manifest: Manifest, book: Book) -> None:
    """Write the partition book and then the manifest, without which a store does not open."""
    write_table(_book_table(book), path / "book.arrow")
    text = manifest.model_dump_json(indent=2, exclude_none=True) + "\n"
    (path / "manifest.json").write_text(text)


def open_store(path: Path | str, *, parts: Iterable[int] | None = None) -> Store:
    """Open a store, and check that its files exist and fit the manifest.

    `Store.part` checks the values that index memory, too, and `Store.verify` all content.

    Args:
        path: Directory of the store.
        parts: Parts to check; a worker passes its own. If None, all parts and the index.

    Raises:
        StoreError: If the store is missing or damaged, or has another format.
    """
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise StoreError(
            f"{path}: expected a store (a directory with manifest.json), got "
            f"{'a directory without one' if path.is_dir() else 'none'}. "
            "Choose a store, or make one with `graphtheta partition`."
        )
    manifest = _read_manifest(path / "manifest.json")
    store = Store(path, manifest, _read_book(path / "book.arrow", manifest))
    for part in range(store.num_parts) if parts is None else parts:
        store._map_part(part, verified=False)
        if parts is None:
            store.index.check(part)
    return store


def part_folder(path: Path, part: int) -> Path:
    """Return the folder of a part in the directory of a store."""
    return path / f"part-{part:05d}"


class _Version(BaseModel):
    format_version: int


def _read_manifest(path: Path) -> Manifest:
    text = read_text(path)
    try:
        version = _Version.model_validate_json(text).format_version
        if version not in (FORMAT_VERSION, SPARSE_VERSION):
            remedy = "Partition the graph again."
            if version > SPARSE_VERSION:
                remedy = "Upgrade graphtheta, or partition the graph again."
            raise StoreError(
                f"{path}: expected format version {FORMAT_VERSION} or {SPARSE_VERSION}, got "
                f"{version}. {remedy}"
            )
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(
            path, "a manifest", f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


_BOOK_COUNTS = ("first_new_id", "masters", "mirrors", "edges")


def _book_table(book: Book) -> pa.Table:
    columns: dict[str, Any] = {name: getattr(book, name) for name in _BOOK_COUNTS}
    return pa.table(columns | {"digest": pa.array(book.digests, pa.string())})


def _read_book(path: Path, manifest: Manifest) -> Book:
    table = open_table(path)
    if table.schema != _BOOK or any(column.null_count for column in table.columns):
        raise damaged(path, "a partition book", f"columns {', '.join(table.column_names)}")
    if table.num_rows != manifest.num_parts:
        raise damaged(path, f"{manifest.num_parts} rows", f"{table.num_rows}")
    counts = {name: column_numpy(table, name) for name in _BOOK_COUNTS}
    book = Book(**counts, digests=tuple(table["digest"].to_pylist()))
    found = checksum(manifest, book)
    if found != manifest.checksum:
        raise damaged(
            path.with_name("manifest.json"),
            f"and book.arrow of checksum {manifest.checksum}",
            found,
        )
    if (
        min(int(values.min()) for values in counts.values()) < 0
        or (np.cumsum(book.masters) - book.masters != book.first_new_id).any()
        or book.masters.sum() != manifest.num_nodes
        or book.edges.sum() != manifest.num_edges
        or not _are_consecutive(manifest.node_types, manifest.num_nodes)
        or not _are_consecutive(manifest.relations)
    ):
        raise damaged(path, "counts that sum to those of manifest.json", "others")
    return book


def _are_consecutive(ranges: Sequence[Any], stop: int | None = None) -> bool:
    """Return whether ranges of keys follow each other from 0 on, up to `stop` if it is given."""
    ends = np.cumsum([of_type.count for of_type in ranges])
    starts = [0, *ends[:-1].tolist()]
    first_keys = [of_type.first_key for of_type in ranges]
    return first_keys == starts and (stop is None or int(ends[-1]) == stop)


_BOOK = pa.schema([*((name, pa.int64()) for name in _BOOK_COUNTS), ("digest", pa.string())])

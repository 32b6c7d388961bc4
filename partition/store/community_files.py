"""Files of the communities of a store, next to its parts and outside its checksum.

```
communities/<name>/part-00003.arrow    one column `community` (int64), one row for each master
communities/<name>/communities.json    `CommunityRecord`
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition.store.files import (
    FileRecord,
    damaged,
    open_table,
    read_text,
)
from graphtheta.partition.store.manifest import Book, Manifest
from graphtheta.partition.store.tables import column_numpy

__all__ = [
    "FOLDER",
    "RECORD",
    "SCHEMA",
    "Communities",
    "CommunityRecord",
    "community_file",
    "list_communities",
    "read_communities",
]

FOLDER = "communities"
RECORD = "communities.json"
SCHEMA = pa.schema([("community", pa.int64())])


class CommunityRecord(BaseModel):
    """Content of `communities.json`.

    Attributes:
        num_communities: Number of communities: the largest one plus one.
        num_nodes: Number of nodes of the graph (N).
        num_parts: Number of parts of the store (P).
        method: How the communities were found, as text.
        store_checksum: Checksum of the store that they belong to.
        files: Size and hash of each file.
        checksum: Hash of the fields above; empty in files of older versions.
    """

    model_config = ConfigDict(frozen=True)

    num_communities: int
    num_nodes: int
    num_parts: int
    method: str
    store_checksum: str
    files: dict[str, FileRecord]
    checksum: str = ""

    def with_checksum(self) -> CommunityRecord:
        """Return the record with the checksum of its other fields."""
        text = self.model_dump_json(exclude={"checksum"})
        return self.model_copy(update={"checksum": str(xxhash.xxh3_128_hexdigest(text.encode()))})


@dataclass(frozen=True, slots=True)
class Communities:
    """Opened communities of a store. Reading a part maps its file.

    Attributes:
        path: Folder of the communities.
        record: Content of `communities.json`.
        masters: Number of masters of each part.
    """

    path: Path
    record: CommunityRecord
    masters: tuple[int, ...]

    def part(self, part: int) -> NDArray[np.int64]:
        """Return the community of each master of a part, memory-mapped.

        Raises:
            ConfigError: If the part does not exist.
            StoreError: If the file is missing or damaged.

        Shape:
            (M,) int64, in [0, num_communities).
        """
        if not 0 <= part < self.record.num_parts:
            raise ConfigError(
                f"{self.path}: expected a part in [0, {self.record.num_parts}), got {part}. "
                "Choose one of these."
            )
        name, limit = community_file(part), self.record.num_communities
        path = self.path / name
        table = open_table(path, self.record.files[name])
        if table.schema != SCHEMA or table.num_rows != self.masters[part]:
            raise damaged(
                path,
                f"one column, community int64, with {self.masters[part]:,} rows",
                f"{table.schema.names} with {table.num_rows:,}",
            )
        values = column_numpy(table, "community")
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            raise damaged(path, f"communities in [0, {limit:,})", "others")
        return values

    def verify(self) -> None:
        """Check all files.

        Raises:
            StoreError: If a file is missing or was changed; the message names it.
        """
        largest = max(int(self.part(part).max(initial=-1)) for part in range(len(self.masters)))
        expected = self.record.num_communities
        if largest + 1 != expected:
            raise damaged(self.path / RECORD, f"{largest + 1:,} communities", f"{expected:,}")


def read_communities(path: Path, name: str, manifest: Manifest, book: Book) -> Communities:
    """Return the communities of a store that are in a folder.

    Args:
        path: Directory of the store.
        name: Name of the folder, which exists.
        manifest: Manifest of the store.
        book: Partition book of the store.

    Raises:
        StoreError: If they are damaged, or belong to another store.
    """
    folder = path / FOLDER / name
    try:
        record = CommunityRecord.model_validate_json(read_text(folder / RECORD))
    except ValidationError:
        raise damaged(folder / RECORD, "a record of communities", "other content") from None
    if record.store_checksum != manifest.checksum:
        raise StoreError(
            f"{folder}: expected communities of the store {manifest.checksum}, got those of "
            f"{record.store_checksum}. Write them again for this store."
        )
    if (
        record.checksum not in ("", record.with_checksum().checksum)
        or (record.num_nodes, record.num_parts) != (manifest.num_nodes, manifest.num_parts)
        or set(record.files) != {community_file(part) for part in range(manifest.num_parts)}
    ):
        raise damaged(folder / RECORD, "a record of this store's communities", "other content")
    return Communities(folder, record, tuple(book.masters.tolist()))


def list_communities(path: Path) -> list[str]:
    """Return the sorted names of the communities in the directory of a store."""
    return sorted(file.parent.name for file in (path / FOLDER).glob(f"[!.]*/{RECORD}"))


def community_file(part: int) -> str:
    """Return the name of the file of a part."""
    return f"part-{part:05d}.arrow"

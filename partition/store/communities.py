"""Communities of the nodes of a store, stored next to its parts and outside its checksum.

```
communities/<name>/part-00003.arrow    one column `community` (int64), one row for each master
communities/<name>/communities.json    `CommunityRecord`
```
Communities can be added to a store at any time, several under different names. Each folder is
written under a temporary name and renamed when complete.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from graphtheta.data.schema import some
from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition.store.files import FileRecord, damaged, open_table, read_text, write_table
from graphtheta.partition.store.store import Store, open_store
from graphtheta.partition.store.tables import column_numpy
from graphtheta.runtime.atomic import atomic_folder

__all__ = [
    "Communities",
    "CommunityRecord",
    "communities_folder",
    "list_communities",
    "open_communities",
    "write_communities",
]

_FOLDER = "communities"
_RECORD = "communities.json"


class CommunityRecord(BaseModel):
    """Content of `communities.json`.

    Attributes:
        num_communities: Number of communities: the largest one plus one.
        num_nodes: Number of nodes of the graph (N).
        num_parts: Number of parts of the store (P).
        method: How the communities were found, as text.
        store_checksum: Checksum of the store that they belong to.
        files: Size and hash of each file.
    """

    model_config = ConfigDict(frozen=True)

    num_communities: int
    num_nodes: int
    num_parts: int
    method: str
    store_checksum: str
    files: dict[str, FileRecord]


@dataclass(frozen=True, slots=True)
class Communities:
    """Opened communities of a store. Reading a part maps its file.

    Attributes:
        path: Folder of the communities.
        record: Content of `communities.json`.
    """

    path: Path
    record: CommunityRecord

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
        path = self.path / _file(part)
        table = open_table(path)
        size, known = path.stat().st_size, self.record.files.get(path.name)
        if known is None or size != known.size:
            raise damaged(path, "the size in communities.json", f"{size:,} bytes")
        if table.schema != _SCHEMA:
            raise damaged(path, "one column, community int64", f"{table.schema.names}")
        return column_numpy(table, "community")


_SCHEMA = pa.schema([("community", pa.int64())])


def write_communities(
    store: Store | Path | str,
    name: str,
    community_of_node: NDArray[np.integer],
    *,
    method: str = "given",
) -> Communities:
    """Write communities of the nodes of a store into the store; not collective.

    Args:
        store: The store, or its path. Its other files are not changed.
        name: Name of the communities, of letters, digits, `_`, `-` and `.`; it must be new.
        community_of_node: Community of each node, from 0, in the order of node keys. A community
            may be empty. The array may be memory-mapped: one part of it is copied at a time.
        method: How the communities were found, for the record.

    Raises:
        ConfigError: If the name is invalid, or the array has the wrong length or type, or a
            negative number.
        StoreError: If the store has communities of that name, or is damaged.

    Shape:
        community_of_node: (N,) integers.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    folder = communities_folder(opened, name)
    _check(opened, community_of_node)
    files = {}
    with atomic_folder(folder) as partial:
        for index in range(opened.num_parts):
            keys = column_numpy(opened.part(index).masters, "node_key")
            values = np.asarray(community_of_node[keys], np.int64)
            table = pa.table({"community": values}, schema=_SCHEMA)
            files[_file(index)] = write_table(table, partial / _file(index))
        record = CommunityRecord(
            num_communities=int(community_of_node.max()) + 1,
            num_nodes=opened.manifest.num_nodes,
            num_parts=opened.num_parts,
            method=method,
            store_checksum=opened.checksum,
            files=files,
        )
        (partial / _RECORD).write_text(record.model_dump_json(indent=2) + "\n")
    return Communities(folder, record)


def open_communities(store: Store | Path | str, name: str) -> Communities:
    """Open the communities `name` of a store.

    Raises:
        ConfigError: If the store has no communities of that name; the message lists its names.
        StoreError: If they are damaged, or belong to another store.
    """
    opened = store if isinstance(store, Store) else open_store(store, parts=())
    folder = communities_folder(opened, name)
    if not folder.is_dir():
        names = list_communities(opened)
        raise ConfigError(
            f"{opened.path}: expected communities {name!r}, got "
            f"{some(names, len(names)) if names else 'none'}. "
            f"{'Choose one of these, or add' if names else 'Add'} some with graphtheta communities."
        )
    try:
        record = CommunityRecord.model_validate_json(read_text(folder / _RECORD))
    except ValidationError:
        raise damaged(folder / _RECORD, "a record of communities", "other content") from None
    if record.store_checksum != opened.checksum:
        raise StoreError(
            f"{folder}: expected communities of the store {opened.checksum}, got those of "
            f"{record.store_checksum}. Write them again for this store."
        )
    return Communities(folder, record)


def list_communities(store: Store | Path | str) -> list[str]:
    """Return the sorted names of the communities of a store."""
    path = store.path if isinstance(store, Store) else Path(store)
    return sorted(file.parent.name for file in (path / _FOLDER).glob(f"[!.]*/{_RECORD}"))


def _file(part: int) -> str:
    return f"part-{part:05d}.arrow"


def communities_folder(store: Store, name: str) -> Path:
    """Return the folder of the communities `name` of a store, which may not exist.

    Raises:
        ConfigError: If the name is invalid.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise ConfigError(
            f"communities: expected a name of letters, digits, '_', '-' and '.', got {name!r}. "
            "Choose another name."
        )
    return store.path / _FOLDER / name


def _check(store: Store, community_of_node: NDArray[np.integer]) -> None:
    num_nodes = store.manifest.num_nodes
    given = f"{community_of_node.shape} {community_of_node.dtype}"
    if community_of_node.shape != (num_nodes,) or community_of_node.dtype.kind not in "iu":
        raise ConfigError(
            f"communities: expected ({num_nodes:,},) integers, one for each node, got {given}. "
            "Pass one community for each node, in the order of the node table."
        )
    if int(community_of_node.min()) < 0:
        raise ConfigError(
            f"communities: expected numbers from 0, got {int(community_of_node.min())}. "
            "Number the communities from 0."
        )

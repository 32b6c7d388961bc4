"""Write and open communities of the nodes of a store.

Communities can be added to a store at any time, several under different names. Each folder is
written under a temporary name and renamed when complete.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.partition.store import community_files
from graphtheta.partition.store.community_files import (
    FOLDER,
    RECORD,
    SCHEMA,
    Communities,
    CommunityRecord,
    community_file,
    read_communities,
)
from graphtheta.partition.store.files import write_table
from graphtheta.partition.store.store import Store, open_store
from graphtheta.partition.store.tables import column_numpy
from graphtheta.runtime.atomic import atomic_folder
from graphtheta.wording import some

__all__ = [
    "Communities",
    "CommunityRecord",
    "communities_folder",
    "list_communities",
    "open_communities",
    "write_communities",
]


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
            table = pa.table({"community": values}, schema=SCHEMA)
            name_of_file = community_file(index)
            files[name_of_file] = write_table(table, partial / name_of_file)
        record = CommunityRecord(
            num_communities=int(community_of_node.max()) + 1,
            num_nodes=opened.manifest.num_nodes,
            num_parts=opened.num_parts,
            method=method,
            store_checksum=opened.checksum,
            files=files,
        ).with_checksum()
        (partial / RECORD).write_text(record.model_dump_json(indent=2) + "\n")
    return Communities(folder, record, tuple(opened.book.masters.tolist()))


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
            f"{'Choose one of these, or add' if names else 'Add'} some: graphtheta communities "
            f"{opened.path} --name {name}"
        )
    return read_communities(opened.path, name, opened.manifest, opened.book)


def list_communities(store: Store | Path | str) -> list[str]:
    """Return the sorted names of the communities of a store."""
    return community_files.list_communities(store.path if isinstance(store, Store) else Path(store))


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
    return store.path / FOLDER / name


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

"""Files of named tensors: weights of a model, or tensors of an optimiser's state.

Sharded tensors, which have one row per master (a `NodeEmbedding` and its optimiser state), are
written by every rank to files of its own, together with the node keys of the rows, and are read by
key. They can therefore be loaded by any number of workers. Rank 0 then writes the replicated
tensors, and the names and hashes of the files with rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import ShardedParameter, row_keys
from graphtheta.runtime.atomic import atomic_file, disk_errors
from graphtheta.runtime.mapped import zero_rows
from graphtheta.shard.shard import Shard
from graphtheta.train.check_state import check_weights, tensors_hash

__all__ = [
    "file_hash",
    "load_tensors",
    "load_weights",
    "read_tensors",
    "save_tensors",
    "save_weights",
    "sharded_names",
    "storage_of",
]

_KEY = "node_key"
_FILE_BYTES = 1 << 28  # of rows in a file: safetensors copies a file's tensors before it writes
# Metadata of a file, as JSON: hash of its tensors, and hashes of its files with rows by name. It is
# one entry, because safetensors writes several in an order that changes from file to file.
_RECORD = "graphtheta"


def save_weights(
    model: nn.Module, shard: Shard, path: Path, state: Mapping[str, Tensor] | None = None
) -> dict[str, str]:
    """Write a model's weights as safetensors, and return the hashes of the files; collective.

    Args:
        model: Model with the weights.
        shard: Graph of the nodes of sharded parameters.
        path: File to write. Sharded parameters go to files in the same directory.
        state: Weights to write; if None, those of the model.

    Raises:
        ConfigError: If a file cannot be written.
    """
    tensors = model.state_dict() if state is None else state
    return save_tensors(tensors, sharded_names(model), shard, path)


def sharded_names(model: nn.Module) -> dict[str, str | None]:
    """Return the names of sharded parameters, with the node type whose masters their rows are."""
    return {
        name: parameter.node_type
        for name, parameter in model.named_parameters()
        if isinstance(parameter, ShardedParameter)
    }


def load_weights(model: nn.Module, shard: Shard, path: Path) -> None:
    """Load weights into a model.

    Raises:
        ConfigError: If the file is missing or damaged, or belongs to another model or graph.
    """
    state = read_tensors(shard, path, storage_of(model))
    check_weights(state, model.state_dict(), path)
    model.load_state_dict(state)


def storage_of(model: nn.Module) -> Path | None:
    """Return the folder that rows of a model are mapped from, or None if they are in memory."""
    sharded = (p for p in model.parameters() if isinstance(p, ShardedParameter))
    return next((parameter.folder for parameter in sharded if parameter.folder), None)


def read_tensors(shard: Shard, path: Path, folder: Path | None) -> dict[str, Tensor]:
    """Return what `load_tensors` does, or raise a ConfigError if a file is missing or damaged."""
    try:
        return load_tensors(shard, path, folder)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path}: expected a file of tensors, got one that cannot be read ({reason}). Use an "
            "earlier checkpoint, or a copy of the file."
        ) from error


def save_tensors(
    state: Mapping[str, Tensor], sharded: Mapping[str, str | None], shard: Shard, path: Path
) -> dict[str, str]:
    """Write tensors as safetensors, and return the hashes of the files by name; collective.

    Args:
        state: Tensors by name.
        sharded: Names of those that have one row per master, and the node type whose masters these
            are, or None for all.
        shard: Graph of the nodes of sharded tensors.
        path: File to write. Sharded tensors go to files in the same directory.

    Returns:
        Hashes of all files on rank 0, of one's own elsewhere.

    Raises:
        ConfigError: If a file cannot be written.
    """
    comm = shard.comm
    hashes: dict[str, str] = {}
    if sharded:
        files = {}
        for node_type in sorted(set(sharded.values()), key=str):
            names = [name for name, other in sharded.items() if other == node_type]
            keys = torch.from_numpy(row_keys(shard, node_type).copy())
            mine = {_KEY: keys, **{name: state[name] for name in names}}
            kind = "" if node_type is None else f"-type-{shard.node_types.index(node_type)}"
            for number, chunk in enumerate(_chunks_of_rows(mine)):
                part = f"{kind}-{number:05d}" if number else kind
                file = path.with_name(f"{path.stem}.rows-{comm.rank:05d}{part}{path.suffix}")
                _write(chunk, file, {}, node_type)
                files[file.name] = file_hash(file)
        text = json.dumps(files).encode()
        for each in comm.all_gather(np.frombuffer(text, np.uint8), stage="save rows"):
            hashes |= json.loads(each.tobytes())
    if comm.rank == 0:
        _write({name: t for name, t in state.items() if name not in sharded}, path, hashes)
        rows = f"{path.stem}.rows-*{path.suffix}"
        for old in (*path.parent.glob(rows), *path.parent.glob(f".{rows}.partial")):
            if old.name not in hashes:  # a run with more workers, or a killed one, left it
                old.unlink()
        hashes[path.name] = file_hash(path)
    comm.barrier(stage="save weights")
    return hashes


def _chunks_of_rows(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield some rows of all tensors at a time, and once none if there are none."""
    row_bytes = sum(t[:1].numel() * t.element_size() for t in tensors.values())
    size = max(1, _FILE_BYTES // max(1, row_bytes))
    for start in range(0, max(1, len(tensors[_KEY])), size):
        yield {name: tensor[start : start + size] for name, tensor in tensors.items()}


def _write(
    state: Mapping[str, Tensor],
    path: Path,
    row_files: Mapping[str, str],
    node_type: str | None = None,
) -> None:
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    content = {"xxh3": tensors_hash(tensors), "rows": dict(row_files)}
    record = json.dumps(content | ({"node_type": node_type} if node_type else {}))
    with disk_errors(path, "tensors", ConfigError), atomic_file(path) as partial:
        try:
            save_file(tensors, partial, {_RECORD: record})
        except SafetensorError as error:  # its type for a full disk, too
            raise OSError(str(error)) from None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file, after checking their hash, and what it records of them."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        record = dict(json.loads((file.metadata() or {}).get(_RECORD, "{}")))
    expected = record.get("xxh3")
    if expected is not None and expected != (found := tensors_hash(tensors)):
        raise ValueError(f"content of hash {found} in place of {str(expected)[:32]}")
    return tensors, record


def file_hash(path: Path) -> str:
    """Return the hash of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def load_tensors(shard: Shard, path: Path, folder: Path | None) -> dict[str, Tensor]:
    """Return the tensors of a file, and the rows of this worker's masters of sharded ones.

    Args:
        shard: Graph of the nodes of sharded tensors.
        path: The file.
        folder: Folder for sharded tensors, which are then mapped from files. If None, they are in
            memory.

    Raises:
        ConfigError: If rows of some masters, or a file with rows, are missing or changed.
    """
    state, record = _read(path)
    row_files = dict(record.get("rows", {}))
    keys_of: dict[str | None, NDArray[np.int64]] = {}  # of this worker's rows, by node type
    found: dict[str | None, NDArray[np.bool_]] = {}  # which of them were in a file
    for name, expected in row_files.items():
        file = path.with_name(name)
        got = file_hash(file) if file.exists() else "no file"
        if got != expected:
            raise ConfigError(
                f"{file}: expected the rows that were saved with {path.name}, of hash {expected}, "
                f"got {got}. Copy the files again, or save them again: graphtheta train --resume"
            )
        theirs, record = _read(file)
        node_type = record.get("node_type")
        if node_type not in keys_of:
            if node_type is not None and node_type not in shard.node_types:
                raise ConfigError(
                    f"{path}: expected rows of {', '.join(shard.node_types)}, got rows of "
                    f"'{node_type}'. Use the graph of that run."
                )
            keys_of[node_type] = row_keys(shard, node_type)
            found[node_type] = np.zeros(len(keys_of[node_type]), np.bool_)
        mine = keys_of[node_type]
        keys = theirs.pop(_KEY).numpy()
        if keys.ndim != 1 or any(len(keys) != (*rows.shape, -1)[0] for rows in theirs.values()):
            raise ValueError(f"{file.name} has another number of rows than keys")
        order = np.argsort(keys)
        position = np.searchsorted(keys[order], mine)
        here = position < len(keys)
        here[here] = keys[order[position[here]]] == mine[here]
        found[node_type] |= here
        target, source = torch.from_numpy(here), torch.from_numpy(order[position[here]])
        for name, rows in theirs.items():
            if name not in state:
                shape = (len(mine), *rows.shape[1:])
                state[name] = zero_rows(shape, rows.dtype, folder)
            state[name][target] = rows[source]
    if missing := sum(np.count_nonzero(~some) for some in found.values()):
        raise ConfigError(
            f"{path}: expected rows of all nodes, got none for {missing:,}. Use the graph of that "
            "run."
        )
    return state

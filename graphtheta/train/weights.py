"""Files of named tensors: weights of a model, or tensors of an optimiser's state.

Rank 0 writes the replicated tensors. Sharded tensors, which have one row per master (a
`NodeEmbedding` and its optimiser state), are written by every rank to a file of its own, together
with the node keys of the rows, and are read by key. They can therefore be loaded by any number of
workers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import is_sharded
from graphtheta.runtime.atomic import atomic_file
from graphtheta.shard.shard import Shard
from graphtheta.train.check_state import check_weights, tensors_hash

__all__ = ["load_tensors", "load_weights", "read_tensors", "save_tensors", "save_weights"]

_KEY = "node_key"
_HASH = "xxh3"  # in the metadata of a file: hash of its tensors


def save_weights(
    model: nn.Module, shard: Shard, path: Path, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model's weights as safetensors; collective.

    Args:
        model: Model with the weights.
        shard: Graph of the nodes of sharded parameters.
        path: File to write. Sharded parameters go to files in the same directory.
        state: Weights to write; if None, those of the model.
    """
    sharded = {name for name, parameter in model.named_parameters() if is_sharded(parameter)}
    save_tensors(model.state_dict() if state is None else state, sharded, shard, path)


def load_weights(model: nn.Module, shard: Shard, path: Path) -> None:
    """Load weights into a model.

    Raises:
        ConfigError: If the file is missing or damaged, or belongs to another model or graph.
    """
    state = read_tensors(shard, path)
    check_weights(state, model.state_dict(), path)
    model.load_state_dict(state)


def read_tensors(shard: Shard, path: Path) -> dict[str, Tensor]:
    """Return what `load_tensors` does, or raise a ConfigError if a file is missing or damaged."""
    try:
        return load_tensors(shard, path)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path}: expected a file of tensors, got one that cannot be read ({reason}). Use an "
            "earlier checkpoint, or a copy of the file."
        ) from error


def save_tensors(
    state: Mapping[str, Tensor], sharded: Collection[str], shard: Shard, path: Path
) -> None:
    """Write tensors as safetensors; collective.

    Args:
        state: Tensors by name.
        sharded: Names of those that have one row per master.
        shard: Graph of the nodes of sharded tensors.
        path: File to write. Sharded tensors go to files in the same directory.
    """
    comm = shard.comm
    if comm.rank == 0:
        for old in _row_files(path):  # a run with more workers may have left some
            old.unlink()
        _write({name: t for name, t in state.items() if name not in sharded}, path)
    comm.barrier(stage="save weights")
    if sharded:
        keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
        mine = {_KEY: keys, **{name: state[name] for name in sharded}}
        _write(mine, path.with_name(f"{path.stem}.rows-{comm.rank:05d}{path.suffix}"))
    comm.barrier(stage="save rows")


def _write(state: Mapping[str, Tensor], path: Path) -> None:
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    with atomic_file(path) as partial:
        save_file(tensors, partial, {_HASH: tensors_hash(tensors)})


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, after comparing their hash with the one in the file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        expected = (file.metadata() or {}).get(_HASH)
    if expected is not None and expected != (found := tensors_hash(tensors)):
        raise ValueError(f"content of hash {found} in place of {expected[:32]}")
    return tensors


def _row_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.rows-*{path.suffix}"))


def load_tensors(shard: Shard, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, and the rows of this worker's masters of sharded ones.

    Raises:
        ConfigError: If rows of some masters are missing.
    """
    state = _read(path)
    mine = shard.node_key_L[: shard.num_masters]
    found = np.zeros(len(mine), np.bool_)
    for file in _row_files(path):
        theirs = _read(file)
        keys = theirs.pop(_KEY).numpy()
        if keys.ndim != 1 or any(len(keys) != (*rows.shape, -1)[0] for rows in theirs.values()):
            raise ValueError(f"{file.name} has another number of rows than keys")
        order = np.argsort(keys)
        position = np.searchsorted(keys[order], mine)
        here = position < len(keys)
        here[here] = keys[order[position[here]]] == mine[here]
        found |= here
        target, source = torch.from_numpy(here), torch.from_numpy(order[position[here]])
        for name, rows in theirs.items():
            whole = state.setdefault(name, rows.new_empty((len(mine), *rows.shape[1:])))
            whole[target] = rows[source]
    if _row_files(path) and not found.all():
        raise ConfigError(
            f"{path}: expected rows of all nodes, got none for {np.count_nonzero(~found):,}. Use "
            "the graph of that run."
        )
    return state

"""Shard with some of its edges removed, as if the graph had never had them.

Degrees and positions are counted again over the edges that stay: neither a message nor a count
reveals anything about a removed edge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from graphtheta.data.adjacency import transposed
from graphtheta.exchange.directory import location_code, rank_and_row
from graphtheta.exchange.plan import ExchangePlan, Role
from graphtheta.exchange.rows import RoutePositions, exchange_rows, send_rows
from graphtheta.shard.shard import Shard

__all__ = ["with_edges"]

_STAGE = "leave out edges"


def with_edges(shard: Shard, kept: NDArray[np.bool_]) -> Shard:
    """Return a shard of the same masters and mirrors with some of the edges; collective.

    It shares the communicator and the node columns with the original, and copies the columns of the
    edges that stay. Its manifest counts those edges.

    Args:
        shard: The original.
        kept: (E,) which of this worker's edges stay.

    Communication:
        24 bytes per mirror; in a vertex-cut also 8 bytes for each removed edge and each worker with
        in-edges of its destination.
    """
    local, plan = shard.local, shard.plan
    num_edges = int(shard.comm.all_gather_int(int(kept.sum()), stage=_STAGE).sum())
    in_position = _new_positions(shard, kept)
    ends, edge_columns = local.edges.kept(kept)
    ends["in_position"] = in_position
    in_indptr = np.append(0, np.cumsum(kept))[local.in_indptr]
    out_edges = transposed(in_indptr, ends["src"], plan.num_masters, plan.num_mirrors)
    in_degree, out_degree = np.diff(in_indptr), np.diff(out_edges.indptr)
    masters = local.masters
    for name, degree, route in (
        ("in_degree", in_degree, plan.destinations),
        ("out_degree", out_degree, plan.sources),
    ):
        (total,) = shard.channel.sum_at_masters([torch.from_numpy(degree)], route)
        column = masters.column_names.index(name)
        masters = masters.set_column(column, name, pa.array(total.numpy()))
    return shard.with_local_graph(
        replace(
            local,
            masters=masters,
            in_indptr=in_indptr,
            out_edges=out_edges,
            ends=ends,
            edge_columns=edge_columns,
            plan=_new_plan(shard, in_degree > 0, out_degree > 0),
        ),
        num_edges,
    )


def _new_plan(shard: Shard, has_in: NDArray[np.bool_], has_out: NDArray[np.bool_]) -> ExchangePlan:
    """Return the exchange plan of the edges that stay.

    A mirror without edges stays in the plan, in its old role.
    """
    plan = shard.plan
    role_L = has_out * np.int8(Role.SOURCE) + has_in * np.int8(Role.DESTINATION)
    role_H = role_L[plan.num_masters :].astype(np.int8)
    role_H = np.where(role_H == 0, plan.role_H, role_H)
    peer_role_X = np.empty_like(plan.peer_role_X)
    exchange_rows(shard.comm, role_H, peer_role_X, plan.mirrors, to_mirrors=False, stage=_STAGE)
    return replace(plan, role_H=role_H, peer_role_X=peer_role_X)


def _new_positions(shard: Shard, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the position of each edge that stays among those of its destination."""
    indptr = shard.topology.indptr
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    removed = location_code(row[~kept], shard.in_position[~kept])
    if shard.is_vertex_cut:
        removed = _removed_everywhere(shard, removed)
    removed.sort()
    row, position = row[kept], shard.in_position[kept]
    first_of_row = np.searchsorted(removed, location_code(row, np.zeros_like(row)))
    before = np.searchsorted(removed, location_code(row, position)) - first_of_row
    return np.asarray(position - before, np.int64)


def _removed_everywhere(shard: Shard, removed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the edges that any worker removed from the rows held here; collective.

    Workers send them to the master of the row, which sends them on to its mirrors.

    Args:
        shard: The original.
        removed: (R,) edges that this worker removed, as `location_code` of row and position.
    """
    plan, comm = shard.plan, shard.comm
    row, position = rank_and_row(removed)
    is_own = row < plan.num_masters
    mirror = row[~is_own] - plan.num_masters
    _, master = rank_and_row(shard.owner_locations[plan.num_masters :][mirror])
    to_owners = location_code(master, position[~is_own])[:, None]
    received = send_rows(comm, plan.owner_H[mirror], to_owners, stage=_STAGE)
    at_masters = np.concatenate([removed[is_own], np.concatenate(received)[:, 0]])

    master, position = rank_and_row(at_masters)
    route = plan.destinations
    in_route, index = RoutePositions(route, plan.num_masters).of(master)
    peers = np.array(list(route.master_slices), np.int64)
    starts = np.array([rows.start for rows in route.master_slices.values()], np.int64)
    peer = np.searchsorted(starts, in_route, side="right") - 1
    to_mirrors = location_code(in_route - starts[peer], position[index])[:, None]
    at_mirrors = []
    for rank, codes in enumerate(send_rows(comm, peers[peer], to_mirrors, stage=_STAGE)):
        if len(codes):
            in_slice, position = rank_and_row(codes[:, 0])
            mirror = route.mirror_R[route.mirror_slices[rank].start + in_slice]
            at_mirrors.append(location_code(plan.num_masters + mirror, position))
    return np.concatenate([at_masters, *at_mirrors])

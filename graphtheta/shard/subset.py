"""A shard with some of its edges left out, as if the graph had never had them.

Degrees and positions are counted anew, over the edges that stay: of what is left out nothing can be
learned, neither from a message nor from how many there are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from graphtheta.data.adjacency import outwards
from graphtheta.exchange.directory import location_code
from graphtheta.exchange.plan import ExchangePlan, Role
from graphtheta.exchange.rows import RoutePositions, exchange_rows, send_rows
from graphtheta.shard.shard import Shard, sum_at_masters

__all__ = ["with_edges"]

_STAGE = "leave out edges"


def with_edges(shard: Shard, kept: NDArray[np.bool_]) -> Shard:
    """Return a shard of the same masters and mirrors with some of the edges; collective.

    It shares the communicator and the node columns with the other, and holds a copy of the columns
    of the edges that stay; its manifest counts them.

    Args:
        shard: Where the edges are from.
        kept: (E,) which of this worker's edges stay.

    Communication:
        24 bytes a mirror; in a vertex-cut also 8 bytes for each edge that is left out and each
        worker with in-edges of its destination.
    """
    local, plan = shard._local, shard.plan
    num_edges = int(shard.comm.all_gather_int(int(kept.sum()), stage=_STAGE).sum())
    position = _positions(shard, kept)
    edges = {name: column[kept] for name, column in local.edges.items()}
    edges["in_position"] = position
    in_indptr = np.append(0, np.cumsum(kept))[local.in_indptr]
    out_edges = outwards(in_indptr, edges["src"], plan.num_masters, plan.num_mirrors)
    in_degree, out_degree = np.diff(in_indptr), np.diff(out_edges.indptr)
    masters = local.masters
    for name, degree, route in (
        ("in_degree", in_degree, plan.destinations),
        ("out_degree", out_degree, plan.sources),
    ):
        (total,) = sum_at_masters([torch.from_numpy(degree)], route, shard.channel)
        column = masters.column_names.index(name)
        masters = masters.set_column(column, name, pa.array(total.numpy()))
    return shard.replaced(
        replace(
            local,
            masters=masters,
            in_indptr=in_indptr,
            out_edges=out_edges,
            edges=edges,
            plan=_plan(shard, in_degree > 0, out_degree > 0),
        ),
        num_edges,
    )


def _plan(shard: Shard, has_in: NDArray[np.bool_], has_out: NDArray[np.bool_]) -> ExchangePlan:
    """Return who mirrors what for. A mirror without an edge keeps its role, for it is still one."""
    plan = shard.plan
    role_L = has_out * np.int8(Role.SOURCE) + has_in * np.int8(Role.DESTINATION)
    role_H = role_L[plan.num_masters :].astype(np.int8)
    role_H = np.where(role_H == 0, plan.role_H, role_H)
    peer_role_X = np.empty_like(plan.peer_role_X)
    exchange_rows(shard.comm, role_H, peer_role_X, plan.mirrors, to_mirrors=False, stage=_STAGE)
    return replace(plan, role_H=role_H, peer_role_X=peer_role_X)


def _positions(shard: Shard, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where each edge that stays stands among those of its destination, on all workers."""
    indptr = shard.topology.indptr
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    gone = location_code(row[~kept], shard.in_position[~kept])
    if shard.is_vertex_cut:
        gone = _told_all(shard, gone)
    row, position = row[kept], shard.in_position[kept]
    gone = np.sort(gone)
    before = np.searchsorted(gone, location_code(row, position)) - np.searchsorted(gone, row << 32)
    return np.asarray(position - before, np.int64)


def _told_all(shard: Shard, gone: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tell every replica of a destination which positions are left out, through its master."""
    plan, comm = shard.plan, shard.comm
    row, position = gone >> 32, gone & 0xFFFFFFFF
    is_own = row < plan.num_masters
    mirror = row[~is_own] - plan.num_masters
    at_owner = shard.owner_locations[plan.num_masters :][mirror] & 0xFFFFFFFF
    to_owners = location_code(at_owner, position[~is_own])[:, None]
    told = np.concatenate(send_rows(comm, plan.owner_H[mirror], to_owners, stage=_STAGE))[:, 0]
    whole = np.concatenate([gone[is_own], told])
    route = plan.destinations
    place, which = RoutePositions(route, plan.num_masters).of(whole >> 32)
    peers = np.array(list(route.master_slices), np.int64)
    starts = np.array([block.start for block in route.master_slices.values()], np.int64)
    slot = np.searchsorted(starts, place, side="right") - 1
    codes = location_code(place - starts[slot], whole[which] & 0xFFFFFFFF)[:, None]
    blocks = send_rows(comm, peers[slot], codes, stage=_STAGE)
    heard = [
        location_code(
            plan.num_masters
            + route.mirror_R[route.mirror_slices[peer].start + (block[:, 0] >> 32)],
            block[:, 0] & 0xFFFFFFFF,
        )
        for peer, block in enumerate(blocks)
        if len(block)
    ]
    return np.concatenate([whole, *heard])
